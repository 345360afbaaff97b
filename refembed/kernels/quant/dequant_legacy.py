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
    """w = x.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(2, BY_NAME["F16"].block)
    >>> b["x"] = np.array([0x3C00, 0xC100], "<u2").view("<f2")  # 1, and -2.5 = -2^1 1.25
    >>> f16(b).T
    array([[ 1. , -2.5]], dtype=float32)
    """
    return b["x"].astype(np.float32)[:, None]


def bf16(b: Any) -> Float:
    """w = the float32 whose upper half is x.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(2, BY_NAME["BF16"].block)
    >>> b["x"] = 0x3F80, 0x4049  # 1; pi is 0x40490FDB, and 0x40490000 is 2^1 (1 + 73/128)
    >>> bf16(b).T
    array([[1.      , 3.140625]], dtype=float32)
    """
    return (b["x"].astype(np.uint32) << 16).view(np.float32)[:, None]


def q4_0(b: Any) -> Float:
    """w = (q - 8) d.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q4_0"].block)
    >>> b["d"], b["qs"][0, :3] = 0.5, [0x80, 0x8A, 0x8F]
    >>> q4_0(b)[0, [0, 1, 2, 16]]  # (0 - 8)/2, (10 - 8)/2, (15 - 8)/2; high half: (8 - 8)/2
    array([-4. ,  1. ,  3.5,  0. ], dtype=float32)
    """
    return (real(nibbles(b["qs"])) - 8) * column(b["d"])


def q4_1(b: Any) -> Float:
    """w = q d + m.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q4_1"].block)
    >>> b["d"], b["m"], b["qs"][0, :3] = 1, -1, [0x10, 0x18, 0x1F]
    >>> q4_1(b)[0, [0, 1, 2, 16]]  # 0 - 1, 8 - 1, 15 - 1; high half: 1 - 1
    array([-1.,  7., 14.,  0.], dtype=float32)
    """
    return real(nibbles(b["qs"])) * column(b["d"]) + column(b["m"])


def q5_0(b: Any) -> Float:
    """w = (q - 16) d; the fifth bit of q is in qh.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q5_0"].block)
    >>> b["d"], b["qs"][0, :3], b["qh"][0, 0] = 0.5, [0, 1, 15], 0b110
    >>> q5_0(b)[0, [0, 1, 2]]  # (0 - 16)/2, (16+1 - 16)/2, (16+15 - 16)/2
    array([-8. ,  0.5,  7.5], dtype=float32)
    """
    return (real(nibbles(b["qs"]) | bits(b["qh"]) << 4) - 16) * column(b["d"])


def q5_1(b: Any) -> Float:
    """w = q d + m; the fifth bit of q is in qh.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q5_1"].block)
    >>> b["d"], b["m"], b["qs"][0, :3], b["qh"][0, 0] = 1, -1, [0, 0, 15], 0b110
    >>> q5_1(b)[0, [0, 1, 2]]  # 0 - 1, 16 - 1, 31 - 1
    array([-1., 15., 30.], dtype=float32)
    """
    return real(nibbles(b["qs"]) | bits(b["qh"]) << 4) * column(b["d"]) + column(b["m"])


def q8_0(b: Any) -> Float:
    """w = q d.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q8_0"].block)
    >>> b["d"], b["qs"][0, :3] = 0.5, [127, -20, 1]
    >>> q8_0(b)[0, [0, 1, 2]]  # 127/2, -20/2, 1/2
    array([ 63.5, -10. ,   0.5], dtype=float32)
    """
    return real(b["qs"]) * column(b["d"])


def q8_1(b: Any) -> Float:
    """w = q d; s, the sum of the block, is for dot products. Activations only: ggml decodes none.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q8_1"].block)
    >>> b["d"], b["s"], b["qs"][0, :3] = 0.5, 54, [127, -20, 1]
    >>> q8_1(b)[0, [0, 1, 2]]  # 127/2, -20/2, 1/2
    array([ 63.5, -10. ,   0.5], dtype=float32)
    """
    return real(b["qs"]) * column(b["d"])


def q1_0(b: Any) -> Float:
    """w = d where the bit is set, else -d.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q1_0"].block)
    >>> b["d"], b["qs"][0, 0] = 1.5, 0b101
    >>> q1_0(b)[0, [0, 1, 2]]  # bits 1, 0, 1
    array([ 1.5, -1.5,  1.5], dtype=float32)
    """
    d = column(b["d"])
    return np.where(bits(b["qs"]), d, -d)


def q2_0(b: Any) -> Float:
    """w = (q - 1) d; a byte holds four neighbors.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q2_0"].block)
    >>> b["d"], b["qs"][0, 0] = 2, 0b10_01_00
    >>> q2_0(b)[0, [0, 1, 2]]  # 2 (0 - 1), 2 (1 - 1), 2 (2 - 1)
    array([-2.,  0.,  2.], dtype=float32)
    """
    q = np.moveaxis(two_bit_fields(b["qs"]), -1, -2).reshape(len(b), 64)
    return (real(q) - 1) * column(b["d"])


def iq4_nl(b: Any) -> Float:
    """w = d NL[q].

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ4_NL"].block)
    >>> b["d"], b["qs"][0, :3] = 0.5, [0x80, 0x81, 0x8F]
    >>> iq4_nl(b)[0, [0, 1, 2, 16]]  # -127/2, -104/2, 113/2; high half, code 8: 1/2
    array([-63.5, -52. ,  56.5,   0.5], dtype=float32)
    """
    return column(b["d"]) * real(NL[nibbles(b["qs"])])


def mxfp4(b: Any) -> Float:
    """w = FP4[q] 2^(e - 128).

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["MXFP4"].block)
    >>> b["e"], b["qs"][0, :3] = 129, [1, 7, 15]
    >>> mxfp4(b)[0, [0, 1, 2]]  # FP4 is 1, 12, -12; times 2^(129 - 128)
    array([  2.,  24., -24.], dtype=float32)
    """
    return real(FP4[nibbles(b["qs"])]) * column(e8m0(b["e"]))


def e8m0(e: Any) -> F32:
    """2^(e - 128), exact, also where it is subnormal: 0 and 1.

    Half of what the OCP Microscaling formats mean by e, as FP4 is doubled; 255, their NaN, is 2^127 here.

    >>> e8m0([127, 128, 130])
    array([0.5, 1. , 4. ], dtype=float32)
    """
    return np.ldexp(np.float32(1), np.asarray(e, np.int32) - 128)


def nvfp4(b: Any) -> Float:
    """w = FP4[q] ue4m3(d), with a d for each 16 weights; low halves of 8 bytes, then their high halves.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["NVFP4"].block)
    >>> b["d"][0, 0], b["qs"][0, :3] = 0x48, [1, 7, 15]
    >>> nvfp4(b)[0, [0, 1, 2]]  # FP4 is 1, 12, -12; 0x48: e = 9, m = 0, 2^(9 - 8)
    array([  2.,  24., -24.], dtype=float32)
    """
    q = nibbles(b["qs"].reshape(len(b), 4, 8))  # (n, 4, 16)
    return (real(FP4[q]) * ue4m3(b["d"])[:, :, None]).reshape(len(b), 64)


def ue4m3(x: Any) -> F32:
    """Half of a float of 4 exponent and 3 mantissa bits: 2^(e - 8) (1 + m/8), 2^-7 m/8 for e = 0. The NaN 127 is 0.

    Bit 7 is ignored. (Half, as FP4 is doubled.)

    >>> ue4m3([0x40, 0x4C, 0x01])  # 2^(8 - 8); 2^(9 - 8) (1 + 4/8); 2^-7 1/8
    array([1.000000e+00, 3.000000e+00, 9.765625e-04], dtype=float32)
    """
    x = np.asarray(x, np.int32)
    e, m = x >> 3 & 15, real(x & 7)
    value = np.where(e == 0, np.ldexp(m, -10), np.ldexp(1 + m / 8, e - 8))
    return np.where(x == 127, np.float32(0), value)


def digits(x: U8, n: int) -> U8:
    """Bytes (..., k) -> (..., n, k): the first n ternary digits of the fraction x / 256.

    3^i x mod 256 has the digits before i cut off; three times that carries the next one into the ninth bit.

    >>> digits(np.array([71], np.uint8), 5).ravel()  # 71/256 = 0.277 = 0/3 + 2/9 + 1/27 + 1/81 + 1/243 + ...
    array([0, 2, 1, 1, 1], dtype=uint8)
    """
    rest = x[..., None, :] * POWERS[:n, None]  # mod 256
    return (rest.astype(np.uint16) * 3 >> 8).astype(np.uint8)


def tq1_0(b: Any) -> Float:
    """w = (q - 1) d, with q the ternary digits of 52 bytes: five of each in qs, 32 bytes and then 16; four in qh.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["TQ1_0"].block)
    >>> b["d"], b["qs"][0, 0] = 2, 71  # digits 0, 2, 1, 1, 1, each 32 weights after the one before
    >>> tq1_0(b)[0, [0, 32, 64]]  # 2 (0 - 1), 2 (2 - 1), 2 (1 - 1)
    array([-2.,  2.,  0.], dtype=float32)
    """
    parts = digits(b["qs"][:, :32], 5), digits(b["qs"][:, 32:], 5), digits(b["qh"], 4)
    q = np.concatenate([part.reshape(len(b), -1) for part in parts], axis=1)
    return (real(q) - 1) * column(b["d"])


def tq2_0(b: Any) -> Float:
    """w = (q - 1) d.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["TQ2_0"].block)
    >>> b["d"], b["qs"][0, 0] = 2, 0b01_10_00  # each 32 weights after the one before
    >>> tq2_0(b)[0, [0, 32, 64]]  # 2 (0 - 1), 2 (2 - 1), 2 (1 - 1)
    array([-2.,  2.,  0.], dtype=float32)
    """
    q = two_bit_fields(b["qs"].reshape(len(b), 2, 32)).reshape(len(b), 256)
    return (real(q) - 1) * column(b["d"])
