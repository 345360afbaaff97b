"""From text to vector: `Embedder`.

embedder         loads a model; `embed` and its kin, tokenizing, truncation, traces
images           texts with images
additions        adapters, the published semantics, a vision tower
parts_of_texts   vectors of chunks and of tokens, sparse vectors
pools            several processes; kernels compiled beforehand
base             what these share
"""

from refembed.embedder.embedder import BATCH_TOKENS, FORWARD_TOKENS, Embedder

__all__ = ["BATCH_TOKENS", "FORWARD_TOKENS", "Embedder"]
