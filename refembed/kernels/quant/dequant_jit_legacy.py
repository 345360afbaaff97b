"""Numba versions of dequant_legacy.py: the same names and formulas, 16 weights at a time.

    kernel(raw, out, begin, end)

decodes blocks begin:end of raw, uint8, into out, float32, both flat and contiguous. Kernels release the GIL, and
no block reads another's, so threads can share the blocks of a tensor.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd import (
    bits,
    broadcast,
    float_of_bits,
    float_of_half,
    half,
    i8,
    lane,
    look_up,
    negate,
    of_bits,
    put,
    real,
    two_bit_fields,
    u8,
    u8_four_times,
    u8_twice,
    u16,
    u16s,
    u32,
)
from refembed.kernels.quant.dequant_legacy import FP4, NL, POWERS, e8m0, ue4m3

f32 = np.float32
E8M0, UE4M3 = e8m0(np.arange(256)), ue4m3(np.arange(256))  # a scale of one byte is a look-up
EACH_4 = np.repeat(POWERS[:4], 4)  # a power for each four lanes


@njit()
def f16(raw, out, begin, end):
    """w = x. 16 blocks of one weight at a time, then the rest."""
    whole = begin + (end - begin) // 16 * 16
    for b in range(begin, whole, 16):
        put(out, b, float_of_half(u16s(raw, 2 * b)))
    for b in range(whole, end):
        out[b] = half(raw, 2 * b)


@njit()
def bf16(raw, out, begin, end):
    """w = the float32 whose upper half is x. 16 blocks of one weight at a time, then the rest."""
    whole = begin + (end - begin) // 16 * 16
    for b in range(begin, whole, 16):
        put(out, b, of_bits(u16s(raw, 2 * b) << 16))
    for b in range(whole, end):
        out[b] = float_of_bits(np.int32(u16(raw, 2 * b) << 16))


@njit()
def q4_0(raw, out, begin, end):
    """w = (q - 8) d. Block: d, qs."""
    for b in range(begin, end):
        at, y = 18 * b, 32 * b
        d, q = half(raw, at), u8(raw, at + 2)
        put(out, y, real((q & 15) - 8) * d)
        put(out, y + 16, real((q >> 4) - 8) * d)


@njit()
def q4_1(raw, out, begin, end):
    """w = q d + m. Block: d, m, qs."""
    for b in range(begin, end):
        at, y = 20 * b, 32 * b
        d, m, q = half(raw, at), half(raw, at + 2), u8(raw, at + 4)
        put(out, y, real(q & 15) * d + m)
        put(out, y + 16, real(q >> 4) * d + m)


@njit()
def q5_0(raw, out, begin, end):
    """w = (q - 16) d. Block: d, qh, qs."""
    for b in range(begin, end):
        at, y = 22 * b, 32 * b
        d, q = half(raw, at), u8(raw, at + 6)
        put(out, y, real((q & 15 | bits(u16(raw, at + 2)) << 4) - 16) * d)
        put(out, y + 16, real((q >> 4 | bits(u16(raw, at + 4)) << 4) - 16) * d)


@njit()
def q5_1(raw, out, begin, end):
    """w = q d + m. Block: d, m, qh, qs."""
    for b in range(begin, end):
        at, y = 24 * b, 32 * b
        d, m, q = half(raw, at), half(raw, at + 2), u8(raw, at + 8)
        put(out, y, real(q & 15 | bits(u16(raw, at + 4)) << 4) * d + m)
        put(out, y + 16, real(q >> 4 | bits(u16(raw, at + 6)) << 4) * d + m)


@njit()
def q8_0(raw, out, begin, end):
    """w = q d. Block: d, qs."""
    for b in range(begin, end):
        at, y = 34 * b, 32 * b
        d = half(raw, at)
        put(out, y, real(i8(raw, at + 2)) * d)
        put(out, y + 16, real(i8(raw, at + 18)) * d)


@njit()
def q8_1(raw, out, begin, end):
    """w = q d. Block: d, s, qs."""
    for b in range(begin, end):
        at, y = 36 * b, 32 * b
        d = half(raw, at)
        put(out, y, real(i8(raw, at + 4)) * d)
        put(out, y + 16, real(i8(raw, at + 20)) * d)


@njit()
def q1_0(raw, out, begin, end):
    """w = d where the bit is set, else -d. Block: d, qs."""
    for b in range(begin, end):
        at, y = 18 * b, 128 * b
        d = broadcast(half(raw, at))
        for j in range(8):
            put(out, y + 16 * j, negate(d, ~u16(raw, at + 2 + 2 * j)))


@njit()
def q2_0(raw, out, begin, end):
    """w = (q - 1) d. Block: d, qs."""
    for b in range(begin, end):
        at, y = 18 * b, 64 * b
        d = half(raw, at)
        for j in range(4):
            put(out, y + 16 * j, real(two_bit_fields(u32(raw, at + 2 + 4 * j)) - 1) * d)


@njit()
def iq4_nl(raw, out, begin, end):
    """w = d NL[q]. Block: d, qs."""
    for b in range(begin, end):
        at, y = 18 * b, 32 * b
        d, q = half(raw, at), u8(raw, at + 2)
        put(out, y, real(look_up(NL, q & 15)) * d)
        put(out, y + 16, real(look_up(NL, q >> 4)) * d)


@njit()
def mxfp4(raw, out, begin, end):
    """w = FP4[q] 2^(e - 128). Block: e, qs."""
    for b in range(begin, end):
        at, y = 17 * b, 32 * b
        d, q = E8M0[raw[at]], u8(raw, at + 1)
        put(out, y, real(look_up(FP4, q & 15)) * d)
        put(out, y + 16, real(look_up(FP4, q >> 4)) * d)


@njit()
def nvfp4(raw, out, begin, end):
    """w = FP4[q] ue4m3(d). Block: four d, qs; low halves of 8 bytes, then their high halves."""
    for b in range(begin, end):
        at, y = 36 * b, 64 * b
        for j in range(4):
            eight = at + 4 + 8 * j
            q = u8_twice(raw, eight, eight) >> (lane() >> 3) * 4
            put(out, y + 16 * j, real(look_up(FP4, q)) * UE4M3[raw[at + j]])


@njit(inline="always")
def digit(x):
    """The ternary digit that three times a byte carries out of it; see `digits` in dequant_legacy.py."""
    return (x & 255) * 3 >> 8


@njit()
def tq1_0(raw, out, begin, end):
    """w = (q - 1) d. Block: qs, qh, d."""
    for b in range(begin, end):
        at, y = 54 * b, 256 * b
        d = half(raw, at + 52)
        for n in range(5):
            power = POWERS[n]
            put(out, y + 32 * n, real(digit(u8(raw, at) * power) - 1) * d)
            put(out, y + 32 * n + 16, real(digit(u8(raw, at + 16) * power) - 1) * d)
            put(out, y + 16 * n + 160, real(digit(u8(raw, at + 32) * power) - 1) * d)
        last = at + 48
        put(out, y + 240, real(digit(u8_four_times(raw, last, last, last, last) * u8(EACH_4, 0)) - 1) * d)


@njit()
def tq2_0(raw, out, begin, end):
    """w = (q - 1) d. Block: qs, d."""
    for b in range(begin, end):
        at, y = 66 * b, 256 * b
        d = half(raw, at + 64)
        for k in range(8):  # two halves of 128 weights, each from 32 bytes: four runs of 32, one for every two bits
            part, shift = k // 4, 2 * (k % 4)
            q = at + 32 * part
            put(out, y + 32 * k, real((u8(raw, q) >> shift & 3) - 1) * d)
            put(out, y + 32 * k + 16, real((u8(raw, q + 16) >> shift & 3) - 1) * d)
