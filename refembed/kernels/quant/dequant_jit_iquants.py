"""Numba versions of dequant_iquants.py: the same names and formulas, 16 weights at a time. See dequant_jit_legacy.py.

    kernel(raw, grid, out, begin, end)

takes the type's `codebook` besides, flat: int8. iq4_xs has none.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd import (
    broadcast,
    float_of_half_bits,
    half,
    i8_four_times,
    i8_twice,
    look_up,
    negate,
    put,
    real,
    u8,
    u16,
    u32,
)
from refembed.kernels.quant.dequant_iquants import SIGNS
from refembed.kernels.quant.dequant_legacy import NL

f32 = np.float32
DELTA = f32(0.125)


@njit(inline="always")
def quarter(d, s):
    """d (1/2 + s) / 4."""
    return d * (f32(0.5) + f32(s)) * f32(0.25)


@njit(inline="always")
def signs(word, k):
    """16 signs from the k-th and next seven of a word."""
    return SIGNS[word >> 7 * k & 127] | SIGNS[word >> 7 * k + 7 & 127] << 8


@njit()
def iq2_xxs(raw, grid, out, begin, end):
    """w = (d (1/2 + s) / 4) grid sign. Block: d, then for each 32 weights four places, a word of signs and s."""
    for b in range(begin, end):
        at, y = 66 * b, 256 * b
        d = half(raw, at)
        for j in range(8):
            q = at + 2 + 8 * j
            word = u32(raw, q + 4)
            scale = quarter(d, word >> 28)
            for k in range(0, 4, 2):
                w = real(i8_twice(grid, raw[q + k] * 8, raw[q + k + 1] * 8)) * scale
                put(out, y + 32 * j + 8 * k, negate(w, signs(word, k)))


@njit()
def iq2_xs(raw, grid, out, begin, end):
    """w = (d (1/2 + s) / 4) grid sign. Block: d, qs, scales."""
    for b in range(begin, end):
        at, y = 74 * b, 256 * b
        d = half(raw, at)
        for j in range(16):
            first, second = u16(raw, at + 2 + 4 * j), u16(raw, at + 4 + 4 * j)
            s = raw[at + 66 + j // 2] >> j % 2 * 4 & 15
            w = real(i8_twice(grid, (first & 511) * 8, (second & 511) * 8)) * quarter(d, s)
            put(out, y + 16 * j, negate(w, SIGNS[first >> 9] | SIGNS[second >> 9] << 8))


@njit()
def iq2_s(raw, grid, out, begin, end):
    """w = (d (1/2 + s) / 4) grid sign. Block: d, qs (places, signs), qh, scales."""
    for b in range(begin, end):
        at, y = 82 * b, 256 * b
        d = half(raw, at)
        for j in range(16):
            q, high = at + 2 + 2 * j, raw[at + 66 + j // 2] >> j % 2 * 4
            s = raw[at + 74 + j // 2] >> j % 2 * 4 & 15
            first, second = raw[q] | (high & 3) << 8, raw[q + 1] | (high >> 2 & 3) << 8
            w = real(i8_twice(grid, first * 8, second * 8)) * quarter(d, s)
            put(out, y + 16 * j, negate(w, u16(raw, q + 32)))


@njit()
def iq3_xxs(raw, grid, out, begin, end):
    """w = (d (1/2 + s) / 2) grid sign. Block: d, qs (places, then words of signs and s)."""
    for b in range(begin, end):
        at, y = 98 * b, 256 * b
        d = half(raw, at)
        for j in range(8):
            word = u32(raw, at + 66 + 4 * j)
            scale = d * (f32(0.5) + f32(word >> 28)) * f32(0.5)
            for k in range(0, 4, 2):
                q = at + 2 + 8 * j + 2 * k
                places = i8_four_times(grid, raw[q] * 4, raw[q + 1] * 4, raw[q + 2] * 4, raw[q + 3] * 4)
                put(out, y + 32 * j + 8 * k, negate(real(places) * scale, signs(word, k)))


@njit()
def iq3_s(raw, grid, out, begin, end):
    """w = (d (1 + 2 s)) grid sign. Block: d, qs, qh, signs, scales."""
    for b in range(begin, end):
        at, y = 110 * b, 256 * b
        d = half(raw, at)
        for j in range(16):
            q, high = at + 2 + 4 * j, raw[at + 66 + j // 2] >> j % 2 * 4
            s = raw[at + 106 + j // 4] >> j // 2 % 2 * 4 & 15
            places = i8_four_times(
                grid,
                (raw[q] | (high & 1) << 8) * 4,
                (raw[q + 1] | (high >> 1 & 1) << 8) * 4,
                (raw[q + 2] | (high >> 2 & 1) << 8) * 4,
                (raw[q + 3] | (high >> 3 & 1) << 8) * 4,
            )
            put(out, y + 16 * j, negate(real(places) * (d * f32(1 + 2 * s)), u16(raw, at + 74 + 2 * j)))


@njit()
def iq1_s(raw, grid, out, begin, end):
    """w = (d (2 s + 1)) (grid + delta). Block: d, qs, qh."""
    for b in range(begin, end):
        at, y = 50 * b, 256 * b
        d = half(raw, at)
        for j in range(8):
            high = u16(raw, at + 34 + 2 * j)
            scale = d * f32(2 * (high >> 12 & 7) + 1)
            delta = -DELTA if high >> 15 else DELTA
            for k in range(0, 4, 2):
                q = at + 2 + 4 * j + k
                first = raw[q] | (high >> 3 * k & 7) << 8
                second = raw[q + 1] | (high >> 3 * k + 3 & 7) << 8
                put(out, y + 32 * j + 8 * k, (real(i8_twice(grid, first * 8, second * 8)) + delta) * scale)


@njit()
def iq1_m(raw, grid, out, begin, end):
    """w = (d (2 s + 1)) (grid + delta). Block: qs, qh, scales, with d in their top digits."""
    for b in range(begin, end):
        at, y = 56 * b, 256 * b
        top = at + 48
        d = float_of_half_bits(
            raw[top + 1] >> 4 | raw[top + 3] >> 4 << 4 | raw[top + 5] >> 4 << 8 | raw[top + 7] >> 4 << 12
        )
        for j in range(16):
            high = raw[at + 32 + j]
            s = u16(raw, top + j // 4 * 2) >> j % 4 * 3 & 7
            first, second = raw[at + 2 * j] | (high & 7) << 8, raw[at + 2 * j + 1] | (high >> 4 & 7) << 8
            delta = negate(broadcast(DELTA), (high >> 3 & 1) * 0x00FF | (high >> 7) * 0xFF00)
            put(out, y + 16 * j, (real(i8_twice(grid, first * 8, second * 8)) + delta) * (d * f32(2 * s + 1)))


@njit()
def iq4_xs(raw, out, begin, end):
    """w = (d (s - 32)) NL[q]. Block: d, scales_h, scales_l, qs."""
    for b in range(begin, end):
        at, y = 136 * b, 256 * b
        d, high = half(raw, at), u16(raw, at + 2)
        for j in range(8):
            s = raw[at + 4 + j // 2] >> j % 2 * 4 & 15 | (high >> 2 * j & 3) << 4
            scale, q = d * f32(s - 32), u8(raw, at + 8 + 16 * j)
            put(out, y + 32 * j, real(look_up(NL, q & 15)) * scale)
            put(out, y + 32 * j + 16, real(look_up(NL, q >> 4)) * scale)
