"""What the blocks with one scale mean, in NumPy: floats of two bytes, Q4_0 ... Q8_1, Q1_0, Q2_0, FP4, ternary.

Each function takes n blocks as a structured array, whose fields are those of the type's row in gguf/quants.py, and
returns (n, weights of a block) float32. Its docstring is the formula: w a weight, q its stored whole number, the rest
fields. Products are taken from left to right and each is rounded to float32, as `dequantize_row_*` of ggml-quants.c
does, so the bits are the same. The compiled versions, by the same names, are in dequant_jit_legacy.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refembed.arrays import F32, U8, Float

# what a code of 4 bits stands for
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # twice an E2M1
NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)  # "non-linear"
POWERS = np.array([1, 3, 9, 27, 81], np.uint8)  # of 3: what brings a ternary digit to the front


def column(x: Any) -> F32:
    """One number a block (n) as float32 (n, 1), to multiply the block's weights with."""
    return np.asarray(x, np.float32)[:, None]


def real(q: Any) -> F32:
    """Whole numbers as float32."""
    return np.asarray(q, np.float32)


def nibbles(qs: U8) -> U8:
    """Bytes (..., k) -> (..., 2k): all low halves, then all high halves."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)


def bits(x: U8) -> U8:
    """Bytes (..., k) -> (..., 8k), lowest bit first."""
    return np.unpackbits(x, axis=-1, bitorder="little")


def two_bit_fields(x: U8) -> U8:
    """Bytes (..., k) -> (..., 4, k): bits 0 and 1 of every byte, then bits 2 and 3 ..."""
    pairs: U8 = x[..., None, :] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    return pairs


def f16(b: Any) -> Float:
    """w = x."""
    return b["x"].astype(np.float32)[:, None]


def bf16(b: Any) -> Float:
    """w = the float32 whose upper half is x."""
    return (b["x"].astype(np.uint32) << 16).view(np.float32)[:, None]


def q4_0(b: Any) -> Float:
    """w = (q - 8) d."""
    return (real(nibbles(b["qs"])) - 8) * column(b["d"])


def q4_1(b: Any) -> Float:
    """w = q d + m."""
    return real(nibbles(b["qs"])) * column(b["d"]) + column(b["m"])


def q5_0(b: Any) -> Float:
    """w = (q - 16) d; the fifth bit of q is in qh."""
    return (real(nibbles(b["qs"]) | bits(b["qh"]) << 4) - 16) * column(b["d"])


def q5_1(b: Any) -> Float:
    """w = q d + m; the fifth bit of q is in qh."""
    return real(nibbles(b["qs"]) | bits(b["qh"]) << 4) * column(b["d"]) + column(b["m"])


def q8_0(b: Any) -> Float:
    """w = q d."""
    return real(b["qs"]) * column(b["d"])


def q8_1(b: Any) -> Float:
    """w = q d; s, the sum of the block, is for dot products. Activations only: ggml decodes none."""
    return real(b["qs"]) * column(b["d"])


def q1_0(b: Any) -> Float:
    """w = d where the bit is set, else -d."""
    d = column(b["d"])
    return np.where(bits(b["qs"]), d, -d)


def q2_0(b: Any) -> Float:
    """w = (q - 1) d; a byte holds four neighbors."""
    q = np.moveaxis(two_bit_fields(b["qs"]), -1, -2).reshape(len(b), 64)
    return (real(q) - 1) * column(b["d"])


def iq4_nl(b: Any) -> Float:
    """w = d NL[q]."""
    return column(b["d"]) * real(NL[nibbles(b["qs"])])


def mxfp4(b: Any) -> Float:
    """w = FP4[q] 2^(e - 128)."""
    return real(FP4[nibbles(b["qs"])]) * column(e8m0(b["e"]))


def e8m0(e: Any) -> F32:
    """2^(e - 128), exact, also where it is subnormal: 0 and 1.

    Half of what the OCP Microscaling formats mean by e, as FP4 is doubled; 255, their NaN, is 2^127 here.
    """
    return np.ldexp(np.float32(1), np.asarray(e, np.int32) - 128)


def nvfp4(b: Any) -> Float:
    """w = FP4[q] ue4m3(d), with a d for each 16 weights; low halves of 8 bytes, then their high halves."""
    q = nibbles(b["qs"].reshape(len(b), 4, 8))  # (n, 4, 16)
    return (real(FP4[q]) * ue4m3(b["d"])[:, :, None]).reshape(len(b), 64)


def ue4m3(x: Any) -> F32:
    """Half of a float of 4 exponent and 3 mantissa bits: 2^(e - 8) (1 + m/8), 2^-7 m/8 for e = 0. The NaN 127 is 0.

    Bit 7 is ignored. (Half, as FP4 is doubled.)
    """
    x = np.asarray(x, np.int32)
    e, m = x >> 3 & 15, real(x & 7)
    value = np.where(e == 0, np.ldexp(m, -10), np.ldexp(1 + m / 8, e - 8))
    return np.where(x == 127, np.float32(0), value)


def digits(x: U8, n: int) -> U8:
    """Bytes (..., k) -> (..., n, k): the first n ternary digits of the fraction x / 256.

    3^i x mod 256 has the digits before i cut off; three times that carries the next one into the ninth bit.
    """
    rest = x[..., None, :] * POWERS[:n, None]  # mod 256
    return (rest.astype(np.uint16) * 3 >> 8).astype(np.uint8)


def tq1_0(b: Any) -> Float:
    """w = (q - 1) d, with q the ternary digits of 52 bytes: five of each in qs, 32 bytes and then 16; four in qh."""
    parts = digits(b["qs"][:, :32], 5), digits(b["qs"][:, 32:], 5), digits(b["qh"], 4)
    q = np.concatenate([part.reshape(len(b), -1) for part in parts], axis=1)
    return (real(q) - 1) * column(b["d"])


def tq2_0(b: Any) -> Float:
    """w = (q - 1) d."""
    q = two_bit_fields(b["qs"].reshape(len(b), 2, 32)).reshape(len(b), 256)
    return (real(q) - 1) * column(b["d"])
