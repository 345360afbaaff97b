"""Activations as 8-bit codes: what llama.cpp's CPU backend makes of x before it meets quantized weights.

A row of x is cut into blocks of 32 (Q8_0, Q8_1) or 256 (Q8_K); each keeps one scale d and whole numbers of at most 127
in magnitude, x ~ d code. The codes come from the exact inverse scale, the stored d is rounded: one never sees the other
(quantize_row_q8_0, _q8_1: ggml-cpu/arch/x86/quants.c and arch/arm/quants.c; quantize_row_q8_K_ref: ggml-quants.c).

`quantize` is the definition; `chains_jit.quantize` its compiled version, which writes straight into the order that
kernels read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32

BLOCK_LENGTHS = {"Q8_0": 32, "Q8_1": 32, "Q8_K": 256}


@dataclass(frozen=True, eq=False)
class Codes:
    """n rows of activations, nb blocks of B each."""

    codes: npt.NDArray[Any]  # (n, nb, B) whole numbers
    d: F32  # (n, nb)
    sums: F32  # (n, nb, S): Q8_1: d times the sum of codes; Q8_K: the sum of each 16 codes; Q8_0: none, S = 0


def quantize(x: F32, kind: str, by_scale: bool = False) -> Codes:
    """x (n, k), k a multiple of the block, as codes of that kind. by_scale: as `q8` has it."""
    blocks = x.reshape(len(x), -1, BLOCK_LENGTHS[kind])
    return q8_k(blocks) if kind == "Q8_K" else q8(blocks, kind == "Q8_1", by_scale)


def q8(x: F32, with_sum: bool, by_scale: bool = False) -> Codes:
    """Q8_0 and Q8_1: x (n, nb, 32); the largest magnitude becomes 127, ties go to even.

    by_scale  x is multiplied by 1/d, rounded twice (ARM), not by 127/max |x|
    """
    amax = np.abs(x).max(axis=-1)  # (n, nb)
    with np.errstate(divide="ignore", over="ignore"):
        d = amax / np.float32(127)
        inverse = np.float32(1) / d if by_scale else np.float32(127) / amax
    inverse[~np.isfinite(inverse)] = 0  # a block of zeros, or so small that its d is stored as 0
    codes = np.rint(x * inverse[..., None])
    with np.errstate(over="ignore"):
        stored = d.astype(np.float16).astype(np.float32)
        s = (d * codes.sum(axis=-1)).astype(np.float16).astype(np.float32)
    return Codes(codes.astype(np.int8), stored, s[..., None] if with_sum else np.empty((*d.shape, 0), np.float32))


def q8_k(x: F32) -> Codes:
    """Q8_K: x (n, nb, 256); the first number of largest magnitude becomes -127, ties go to even; d stays float32."""
    first = np.abs(x).argmax(axis=-1)[..., None]
    extreme = np.take_along_axis(x, first, axis=-1)[..., 0]  # (n, nb)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(-127) / extreme
        d = np.float32(1) / inverse
    d[extreme == 0] = 0
    inverse[~np.isfinite(inverse)] = 0  # as above
    codes = np.minimum(np.rint(x * inverse[..., None]), 127).astype(np.int16)
    sums = codes.reshape(*d.shape, 16, 16).sum(axis=-1)
    return Codes(codes.astype(np.int8), d, sums.astype(np.float32))
