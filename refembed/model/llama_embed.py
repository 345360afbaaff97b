"""llama-embed: Llama as an embedder without a cache, such as llama-embed-nemotron.

The graph is Llama's; keys and values of one run are used as they are. A file that sees all says so by
llama-embed.attention.causal = false; without the key tokens look back only. Mirrors llama.cpp's
src/models/llama-embed.cpp.
"""

from __future__ import annotations

from refembed.arrays import Float
from refembed.kernels.ops import Ops, Tap
from refembed.model import llama
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams
from refembed.model.llama import TRAITS, Weights

__all__ = ["TRAITS", "Weights", "forward"]


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return llama.forward(w, hp, batch, ops, taps, cached=False)
