"""Numba versions of dequant_kquants.py: the same names and formulas, 16 weights at a time. See
dequant_jit_legacy.py.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd import float_of_bits, half, i8, put, real, u8, u32

f32 = np.float32


@njit()
def q2_k(raw, out, begin, end):
    """w = (d sc) q - dmin m. Block: scales, qs, d, dmin."""
    for b in range(begin, end):
        at, y = 84 * b, 256 * b
        d, dmin = half(raw, at + 80), half(raw, at + 82)
        for part in range(0, 16, 8):  # 128 weights from 32 bytes, eight scales: four runs of two groups of 16
            for group in range(2):
                q = u8(raw, at + 16 + 4 * part + 16 * group)
                for run in range(4):
                    j = part + 2 * run + group
                    sc = raw[at + j]
                    put(out, y + 16 * j, real(q >> 2 * run & 3) * (d * f32(sc & 15)) - dmin * f32(sc >> 4))


@njit()
def q3_k(raw, out, begin, end):
    """w = (d (sc - 32)) q. Block: hmask, qs, scales, d."""
    for b in range(begin, end):
        at, y = 110 * b, 256 * b
        d, scales = half(raw, at + 108), at + 96
        for part in range(2):  # as in q2_k
            for group in range(2):
                q, high = u8(raw, at + 32 + 32 * part + 16 * group), u8(raw, at + 16 * group) >> 4 * part
                for run in range(4):
                    i = 2 * run + group
                    sc = raw[scales + i] >> 4 * part & 15 | (raw[scales + 8 + i % 4] >> 4 * part + i // 4 * 2 & 3) << 4
                    code = (q >> 2 * run & 3 | (high >> run & 1) << 2) - 4
                    put(out, y + 128 * part + 16 * i, real(code) * (d * f32(sc - 32)))


@njit(inline="always")
def signed(byte):
    """A byte as a signed number, float32."""
    return f32(np.int8(byte))


@njit(inline="always")
def scale_and_least(raw, at, j):
    """The j-th of the 8 scales and minima of six bits in 12 bytes; see `q4_k_scales`."""
    if j < 4:
        return raw[at + j] & 63, raw[at + 4 + j] & 63
    low = raw[at + 4 + j]
    return low & 15 | raw[at + j - 4] >> 6 << 4, low >> 4 | raw[at + j] >> 6 << 4


@njit()
def q4_k(raw, out, begin, end):
    """w = (d sc) q - dmin m. Block: d, dmin, scales, qs."""
    for b in range(begin, end):
        at, y = 144 * b, 256 * b
        d, dmin = half(raw, at), half(raw, at + 2)
        for j in range(8):  # of 32 weights: the low or the high halves of 32 bytes
            sc, m = scale_and_least(raw, at + 4, j)
            scale, least = d * f32(sc), dmin * f32(m)
            qs, shift = at + 16 + j // 2 * 32, j % 2 * 4
            put(out, y + 32 * j, real(u8(raw, qs) >> shift & 15) * scale - least)
            put(out, y + 32 * j + 16, real(u8(raw, qs + 16) >> shift & 15) * scale - least)


@njit()
def q5_k(raw, out, begin, end):
    """w = (d sc) q - dmin m. Block: d, dmin, scales, qh, qs."""
    for b in range(begin, end):
        at, y = 176 * b, 256 * b
        d, dmin = half(raw, at), half(raw, at + 2)
        for j in range(8):  # as in q4_k; bit j of qh
            sc, m = scale_and_least(raw, at + 4, j)
            scale, least = d * f32(sc), dmin * f32(m)
            for k in range(0, 32, 16):
                q = u8(raw, at + 48 + j // 2 * 32 + k) >> j % 2 * 4 & 15
                high = u8(raw, at + 16 + k) >> j & 1
                put(out, y + 32 * j + k, real(q | high << 4) * scale - least)


@njit()
def q6_k(raw, out, begin, end):
    """w = (d sc) (q - 32). Block: ql, qh, scales, d."""
    for b in range(begin, end):
        at, y = 210 * b, 256 * b
        d = half(raw, at + 208)
        for part in range(2):  # 128 weights from 64 and 32 bytes, eight scales: four runs of two groups of 16
            for group in range(2):
                low = at + 64 * part + 16 * group
                low0, low1, high = u8(raw, low), u8(raw, low + 32), u8(raw, at + 128 + 32 * part + 16 * group)
                scales, to = at + 192 + 8 * part + group, y + 128 * part + 16 * group
                put(out, to, real((low0 & 15 | high << 4 & 48) - 32) * (d * signed(raw[scales])))
                put(out, to + 32, real((low1 & 15 | high << 2 & 48) - 32) * (d * signed(raw[scales + 2])))
                put(out, to + 64, real((low0 >> 4 | high & 48) - 32) * (d * signed(raw[scales + 4])))
                put(out, to + 96, real((low1 >> 4 | high >> 2 & 48) - 32) * (d * signed(raw[scales + 6])))


@njit()
def q8_k(raw, out, begin, end):
    """w = d q. Block: d (float32), qs, bsums."""
    for b in range(begin, end):
        at, y = 292 * b, 256 * b
        d = float_of_bits(np.int32(u32(raw, at)))
        for j in range(0, 256, 16):
            put(out, y + j, real(i8(raw, at + 4 + j)) * d)
