"""Blocks of quantized weights as whole numbers: what is left of a type once its bits are unpacked.

A weight is d q - dmin min with small whole numbers q and min: q is the stored code times the scale of its group, where
a type has groups, so that every type's dot product is the same sum of products. Only sums of floats differ (`chains`).
Layouts: struct block_* of ggml-common.h, as `refembed.gguf.quants` lists them; formulas:
`refembed.kernels.quant.dequant_*`. Codebook types are in `blocks_iquants`.

Every function takes N blocks as a structured array and returns them as `Blocks` of N rows; `unpack` gives the rows of a
matrix back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.kernels.quant.dequant_kquants import q3_k_scales, q4_k_scales
from refembed.kernels.quant.dequant_legacy import FP4, NL, bits, digits, e8m0, nibbles, two_bit_fields, ue4m3

Ints = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Blocks:
    """m rows of weights, nb blocks of B each; absent parts have a last axis of length 0."""

    q: Ints  # (m, nb, B) int8 or int16
    d: F32  # (m, nb, H); H is 2 where each half of a block has its own; fewer than nb where blocks share one (Q1_0)
    mins: Ints  # (m, nb, 0 or 16) int16, one for each 16 weights
    dmin: F32  # (m, nb, 0 or 1)
    deltas: Ints  # (m, nb, 0 or B): IQ1_M's second set of numbers


def unpack(raw: Any, how: Callable[[Any], Blocks]) -> Blocks:
    """The blocks of a matrix, raw (m, nb), by one of the functions below."""
    m, b = len(raw), how(raw.reshape(-1))
    parts = (b.q, b.d, b.mins, b.dmin, b.deltas)
    return Blocks(*(x.reshape(m, x.shape[0] * x.shape[1] // m, x.shape[2]) for x in parts))


def blocks(q: Ints, d: Any, *, mins: Ints | None = None, dmin: Any = None, deltas: Ints | None = None) -> Blocks:
    """Blocks from q (N, B) or (N, c, B), d (N) or (N, c, 2), mins (N, 16) and so on; a q of bytes is below 128."""
    N, d = len(q), np.asarray(d, np.float32)
    return Blocks(
        q.reshape(N, -1, q.shape[-1]).view(np.int8) if q.dtype == np.uint8 else q.reshape(N, -1, q.shape[-1]),
        d.reshape(N, -1, d.shape[-1] if d.ndim == 3 else 1),
        np.empty((N, 1, 0), np.int16) if mins is None else mins.astype(np.int16)[:, None],
        np.empty((N, 1, 0), np.float32) if dmin is None else np.asarray(dmin, np.float32)[:, None, None],
        np.empty((N, 1, 0), np.int8) if deltas is None else deltas.astype(np.int8)[:, None],
    )


def whole(x: Ints) -> Ints:
    """Stored bits as int16, so that they can be subtracted from and multiplied."""
    return x.astype(np.int16)


def byte(x: Ints) -> Ints:
    """Stored bits, fewer than 8, as int8."""
    return x.astype(np.int8)


def repeat_scales(scales: Ints, weights: int = 256) -> Ints:
    """One number a group (N, G) -> one for each of so many weights, int16."""
    return np.repeat(whole(scales), weights // scales.shape[-1], axis=-1)


# types of one scale a block


def q8_0(b: Any) -> Blocks:
    """The codes as stored."""
    return blocks(b["qs"], b["d"])


def q4_0(b: Any) -> Blocks:
    """4 bits, 8 subtracted."""
    return blocks(byte(nibbles(b["qs"])) - 8, b["d"])


def q4_1(b: Any) -> Blocks:
    """4 bits and an offset m, which meets the sum of the activations."""
    return blocks(nibbles(b["qs"]), b["d"], dmin=b["m"])


def q5_0(b: Any) -> Blocks:
    """4 bits and a fifth, 16 subtracted."""
    return blocks(byte(nibbles(b["qs"]) | bits(b["qh"]) << 4) - 16, b["d"])


def q5_1(b: Any) -> Blocks:
    """4 bits and a fifth, and an offset."""
    return blocks(nibbles(b["qs"]) | bits(b["qh"]) << 4, b["d"], dmin=b["m"])


def iq4_nl(b: Any) -> Blocks:
    """4 bits choose one of sixteen numbers."""
    return blocks(NL[nibbles(b["qs"])], b["d"])


def mxfp4(b: Any) -> Blocks:
    """4-bit floats; the scale is a power of two (E8M0), halved because the table is doubled."""
    return blocks(FP4[nibbles(b["qs"])], e8m0(b["e"]))


def nvfp4(b: Any) -> Blocks:
    """4-bit floats, a scale for each 16 (UE4M3, halved likewise): two blocks of 32 with a scale for each half."""
    q = FP4[nibbles(b["qs"].reshape(-1, 4, 8))]  # (N, 4, 16)
    return blocks(q.reshape(-1, 2, 32), ue4m3(b["d"]).reshape(-1, 2, 2))


def q1_0(b: Any) -> Blocks:
    """Signs alone: four blocks of 32 under one d."""
    return blocks((2 * byte(bits(b["qs"])) - 1).reshape(-1, 4, 32), b["d"])


def q2_0(b: Any) -> Blocks:
    """2 bits, 1 subtracted: two blocks of 32 under one d."""
    q = byte(two_bit_fields(b["qs"])) - 1  # (N, 4, 16): a byte's four numbers are neighbors
    return blocks(q.transpose(0, 2, 1).reshape(-1, 2, 32), b["d"])


# super-blocks: scales and mins of 4, 6 or 8 bits for each 16 or 32 weights


def q2_k(b: Any) -> Blocks:
    """2 bits; a byte for each 16 weights: scale low, min high."""
    q = two_bit_fields(b["qs"].reshape(-1, 2, 32)).reshape(-1, 256)
    return blocks(q * np.repeat(b["scales"] & 15, 16, axis=-1), b["d"], mins=b["scales"] >> 4, dmin=b["dmin"])


def q3_k(b: Any) -> Blocks:
    """2 bits and a third, without which 4 is subtracted; sixteen scales of 6 bits, 32 subtracted."""
    low = whole(two_bit_fields(b["qs"].reshape(-1, 2, 32)).reshape(-1, 256))
    return blocks((low - 4 + 4 * planes(b["hmask"])) * (repeat_scales(q3_k_scales(b["scales"])) - 32), b["d"])


def planes(x: Ints) -> Ints:
    """Bytes (N, 32) -> (N, 256): all lowest bits, then all second ones ..."""
    return whole(np.concatenate([x >> g & 1 for g in range(8)], axis=-1))


def q4_k(b: Any) -> Blocks:
    """4 bits; scales and mins for each 32."""
    scales, mins = q4_k_scales(b["scales"])
    q = whole(nibbles(b["qs"].reshape(-1, 4, 32)).reshape(-1, 256))
    return blocks(q * repeat_scales(scales), b["d"], mins=repeat_scales(mins, 16), dmin=b["dmin"])


def q5_k(b: Any) -> Blocks:
    """4 bits and a fifth; scales and mins for each 32."""
    scales, mins = q4_k_scales(b["scales"])
    low = whole(nibbles(b["qs"].reshape(-1, 4, 32)).reshape(-1, 256))
    q = low + 16 * planes(b["qh"])
    return blocks(q * repeat_scales(scales), b["d"], mins=repeat_scales(mins, 16), dmin=b["dmin"])


def q6_k_codes(b: Any) -> Ints:
    """Q6_K's codes, 0 to 63."""
    low = nibbles(b["ql"].reshape(-1, 2, 64)).reshape(-1, 256)
    return whole(low | two_bit_fields(b["qh"].reshape(-1, 2, 32)).reshape(-1, 256) << 4)


def q6_k(b: Any) -> Blocks:
    """6 bits, 32 subtracted; sixteen scales of 8 bits."""
    return blocks((q6_k_codes(b) - 32) * repeat_scales(b["scales"]), b["d"])


def q6_k_apart(b: Any) -> Blocks:
    """Q6_K as vec_dot has it: the 32 taken off later, like mins."""
    return blocks(q6_k_codes(b) * repeat_scales(b["scales"]), b["d"], mins=32 * whole(b["scales"]))


def iq4_xs(b: Any) -> Blocks:
    """4 bits choose one of sixteen numbers; scales of 6 bits for each 32, 32 subtracted."""
    low = np.stack([b["scales_l"] & 15, b["scales_l"] >> 4], axis=-1).reshape(-1, 8)
    high = np.stack([b["scales_h"] >> 2 * g & 3 for g in range(8)], axis=-1)
    q = whole(NL[nibbles(b["qs"].reshape(-1, 8, 16))]).reshape(-1, 256)
    return blocks(q * (repeat_scales(low | high << 4) - 32), b["d"])


# ternary types: digits 0, 1, 2, of which 1 is taken off later, like mins


def tq1_0(b: Any) -> Blocks:
    """Five ternary digits a byte, four in the last bytes."""
    parts = digits(b["qs"][:, :32], 5), digits(b["qs"][:, 32:], 5), digits(b["qh"], 4)
    q = np.concatenate([part.reshape(len(b), -1) for part in parts], axis=-1)
    return blocks(q, b["d"], mins=np.ones((len(b), 16), np.int16))


def tq2_0(b: Any) -> Blocks:
    """2 bits a digit."""
    q = two_bit_fields(b["qs"].reshape(-1, 2, 32)).reshape(-1, 256)
    return blocks(q, b["d"], mins=np.ones((len(b), 16), np.int16))
