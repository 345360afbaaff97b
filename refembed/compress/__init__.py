"""Vectors in fewer bytes, what that costs, and searching among them without unpacking them.

from refembed.compress import Float32, Stage, fit, quantize, search

codec = fit("int8", corpus)                    # int8 uint8 int8-global int8-vector binary ubinary pq:96
codes = codec.encode(corpus)                   # matryoshka:128 float16 float32
codec.decode(codes)                            # (N, D) float32, within codec's stated bound of corpus
rows, scores = search(Stage(codec, codes), queries, 10, rescore=Stage(Float32(384), corpus))
quantize(corpus, "int8")                       # the bytes of sentence-transformers' quantize_embeddings

codec     what every scheme is         kernels, plain, jit   the inner loops, in NumPy and in Numba
floats    float16, Matryoshka cuts     search                the best k, scored again, and recall
scalar    int8, three ways             file                  codes and codec in one .npz
binary    a bit a number               schemes               a scheme by its name
pq        product quantization         report, sentences     recall and speed of every scheme, measured
"""

from __future__ import annotations

from refembed.compress.binary import Binary
from refembed.compress.codec import Codec, ranges_of
from refembed.compress.file import Compressed, read, save
from refembed.compress.floats import Float16, Float32, Matryoshka
from refembed.compress.pq import ProductQuantizer
from refembed.compress.scalar import PerVector, Ranged
from refembed.compress.schemes import SCHEMES, fit, quantize
from refembed.compress.search import Stage, recall, search

__all__ = [
    "SCHEMES",
    "Binary",
    "Codec",
    "Compressed",
    "Float16",
    "Float32",
    "Matryoshka",
    "PerVector",
    "ProductQuantizer",
    "Ranged",
    "Stage",
    "fit",
    "quantize",
    "ranges_of",
    "read",
    "recall",
    "save",
    "search",
]
