"""What I-quants mean, in NumPy: blocks of 256 weights whose numbers are places in a codebook of 8 or 4 weights each.

The codebooks come from the `gguf` package, by llama.cpp's authors. Conventions: dequant_legacy.py. The compiled
versions, by the same names, are in dequant_jit_iquants.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, U8, Float
from refembed.kernels.quant.dequant_legacy import NL, bits, column, nibbles, real

DELTA = np.float32(0.125)  # how far IQ1 shifts the whole numbers of its codebook, up or down
CODEBOOK_OF = {"IQ1_M": "IQ1_S"}  # types that use another type's codebook

# 7 stored signs -> 8: an eighth makes the number of minus signs even
SIGNS = np.array([i | bin(i).count("1") % 2 << 7 for i in range(128)], np.uint8)


@cache
def codebook(name: str) -> npt.NDArray[np.int8]:
    """The grid of a type, e.g. "IQ2_XXS": (places, 8 or 4), read-only.

    >>> codebook("IQ2_XXS").shape, codebook("IQ2_XXS")[1].tolist()  # iq2xxs_grid of ggml-common.h: 0x080808080808082b
    ((256, 8), [43, 8, 8, 8, 8, 8, 8, 8])
    """
    import gguf  # 0.1 s, and only these types need it

    quant = getattr(gguf.quants, CODEBOOK_OF.get(name, name))
    quant.init_grid()
    grid = quant.grid.reshape(quant.grid_shape).astype(np.int8)
    grid.flags.writeable = False
    return grid


def plus_minus(signs: U8) -> F32:
    """Bytes (..., k) -> (..., k, 8): -1 where a bit is set, lowest first, else 1."""
    return 1 - 2 * real(bits(signs[..., None]))


def words(x: U8) -> npt.NDArray[np.uint32]:
    """Bytes (..., 4k) -> (..., k), lowest byte first."""
    return np.ascontiguousarray(x).view("<u4").astype(np.uint32)


def seven_bits(x: npt.NDArray[np.uint32]) -> U8:
    """Words (..., k) -> (..., k, 4): the signs in bits 0-6, 7-13, 14-20 and 21-27, eight each."""
    return SIGNS[x[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127]


def iq2_xxs(b: Any) -> Float:
    """w = (d (1/2 + s) / 4) grid sign. For each 32 weights: four places of 8 bits, four times 7 signs, s of 4 bits.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ2_XXS"].block)
    >>> b["d"], b["qs"][0, [0, 2]] = 8, [1, 1]  # place 1: 43, 8, ..., 8; signs 1: the first, and so the eighth
    >>> iq2_xxs(b)[0, [0, 1, 7]]  # 8 (1/2 + 0) / 4 = 1, times grid and sign
    array([-43.,   8.,  -8.], dtype=float32)
    """
    n = len(b)
    pairs = words(b["qs"].astype("<u2").view(np.uint8)).reshape(n, 8, 2)
    places = pairs[:, :, :1] >> np.array([0, 8, 16, 24], np.uint32) & 255  # (n, 8, 4)
    w = iq2_xxs_scales(b)[:, :, None, None] * real(codebook("IQ2_XXS")[places])  # (n, 8, 4, 8)
    return (w * plus_minus(seven_bits(pairs[:, :, 1]))).reshape(n, 256)


def iq2_xxs_scales(b: Any) -> F32:
    """d (1/2 + s) / 4: (n, 8)."""
    word = words(b["qs"].astype("<u2").view(np.uint8)).reshape(len(b), 8, 2)[:, :, 1]
    return column(b["d"]) * (real(word >> 28) + np.float32(0.5)) * np.float32(0.25)


def iq2_xs(b: Any) -> Float:
    """w = (d (1/2 + s) / 4) grid sign. For each 8 weights a place of 9 bits and 7 signs; s of 4 bits for each 16.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ2_XS"].block)
    >>> b["d"], b["qs"][0, 0] = 8, 1 | 1 << 9  # place 1: 43, 8, ..., 8; signs 1: the first, and so the eighth
    >>> iq2_xs(b)[0, [0, 1, 7]]  # 8 (1/2 + 0) / 4 = 1, times grid and sign
    array([-43.,   8.,  -8.], dtype=float32)
    """
    n = len(b)
    w = quarters(b)[:, :, None] * real(codebook("IQ2_XS")[b["qs"] & 511]).reshape(n, 16, 16)
    return w.reshape(n, 256) * plus_minus(SIGNS[b["qs"] >> 9]).reshape(n, 256)


def iq2_s(b: Any) -> Float:
    """w = (d (1/2 + s) / 4) grid sign. For each 8 weights a place of 10 bits and 8 signs; s of 4 bits for each 16.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ2_S"].block)
    >>> b["d"], b["qs"][0, [0, 32]] = 8, [1, 1]  # place 1 of the grid: 43, 8, ..., 8; the first sign
    >>> iq2_s(b)[0, [0, 1, 7]]  # 8 (1/2 + 0) / 4 = 1, times grid and sign
    array([-43.,   8.,   8.], dtype=float32)
    """
    n = len(b)
    high = (b["qh"][:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(n, 32).astype(np.uint16)
    places = b["qs"][:, :32] | high << 8
    w = quarters(b)[:, :, None] * real(codebook("IQ2_S")[places]).reshape(n, 16, 16)
    return w.reshape(n, 256) * plus_minus(b["qs"][:, 32:]).reshape(n, 256)


def quarters(b: Any) -> F32:
    """d (1/2 + s) / 4 for the 16 halves s of the bytes `scales`, low half first: (n, 16)."""
    s = np.stack([b["scales"] & 15, b["scales"] >> 4], axis=-1).reshape(len(b), 16)
    return column(b["d"]) * (real(s) + np.float32(0.5)) * np.float32(0.25)


def iq3_xxs(b: Any) -> Float:
    """w = (d (1/2 + s) / 2) grid sign. For each 4 weights a place of 8 bits; for each 32 four times 7 signs and s.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ3_XXS"].block)
    >>> b["d"], b["qs"][0, [0, 64]] = 4, [1, 1]  # place 1: 20, 4, 4, 4; signs 1: the first, and so the eighth
    >>> iq3_xxs(b)[0, [0, 1, 7]]  # 4 (1/2 + 0) / 2 = 1, times grid and sign
    array([-20.,   4.,  -4.], dtype=float32)
    """
    n = len(b)
    word = words(b["qs"][:, 64:])  # (n, 8)
    w = iq3_xxs_scales(b)[:, :, None] * real(codebook("IQ3_XXS")[b["qs"][:, :64]]).reshape(n, 8, 32)
    return w.reshape(n, 256) * plus_minus(seven_bits(word)).reshape(n, 256)


def iq3_xxs_scales(b: Any) -> F32:
    """d (1/2 + s) / 2: (n, 8)."""
    return column(b["d"]) * (real(words(b["qs"][:, 64:]) >> 28) + np.float32(0.5)) * np.float32(0.5)


def iq3_s(b: Any) -> Float:
    """w = (d (1 + 2 s)) grid sign. For each 4 weights a place of 9 bits and 4 signs; s of 4 bits for each 32.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ3_S"].block)
    >>> b["d"], b["qs"][0, 0], b["signs"][0, 0], b["scales"][0, 0] = 0.5, 1, 1, 2  # place 1: 3, 1, 1, 1; s = 2
    >>> iq3_s(b)[0, [0, 1, 2]]  # 0.5 (1 + 2*2) = 2.5, times grid and sign
    array([-7.5,  2.5,  2.5], dtype=float32)
    """
    n = len(b)
    places = b["qs"] | bits(b["qh"]).astype(np.uint16) << 8
    w = iq3_s_scales(b)[:, :, None] * real(codebook("IQ3_S")[places]).reshape(n, 8, 32)
    return w.reshape(n, 256) * plus_minus(b["signs"]).reshape(n, 256)


def iq3_s_scales(b: Any) -> F32:
    """d (1 + 2 s): (n, 8)."""
    s = np.stack([b["scales"] & 15, b["scales"] >> 4], axis=-1).reshape(len(b), 8)
    return column(b["d"]) * (1 + 2 * real(s))


def iq1_s(b: Any) -> Float:
    """w = (d (2 s + 1)) (grid + delta). For each 8 weights a place of 11 bits; s and delta's sign for each 32.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ1_S"].block)
    >>> b["d"], b["qs"][0, 0], b["qh"][0, 1] = 8, 1, 1 << 15  # place 1: 1, -1, ..., -1; place 0 is all -1
    >>> iq1_s(b)[0, [0, 1, 32]]  # 8 (1 + 1/8), 8 (-1 + 1/8), 8 (-1 - 1/8)
    array([ 9., -7., -9.], dtype=float32)
    """
    n = len(b)
    high = b["qh"][:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7  # (n, 8, 4)
    places = b["qs"].reshape(n, 8, 4) | high << 8
    delta = np.where(b["qh"] >> 15, -DELTA, DELTA)
    w = iq1_s_scales(b)[:, :, None, None] * (real(codebook("IQ1_S")[places]) + delta[:, :, None, None])
    return w.reshape(n, 256)


def iq1_s_scales(b: Any) -> F32:
    """d (2 s + 1): (n, 8)."""
    return column(b["d"]) * (2 * real(b["qh"] >> 12 & 7) + 1)


def iq1_m(b: Any) -> Float:
    """w = (d (2 s + 1)) (grid + delta). For each 8 weights a place of 11 bits and delta's sign; s for each 16.

    d has no field: its four digits are the top digits of the four two-byte words that hold the scales.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ1_M"].block)
    >>> b["scales"][0, [5, 7]] = 0x80, 0x40  # top digits of four words, 0, 0, 8, 4: d = 0x4800, which is 8
    >>> b["qs"][0, 0], b["qh"][0, 0] = 1, 0x80  # place 1: 1, -1, ..., -1; the second 8 weights have -1/8
    >>> iq1_m(b)[0, [0, 1, 8]]  # 8 (1 + 1/8), 8 (-1 + 1/8), 8 (-1 - 1/8)
    array([ 9., -7., -9.], dtype=float32)
    """
    n = len(b)
    high = np.stack([b["qh"] & 15, b["qh"] >> 4], axis=-1).reshape(n, 32).astype(np.uint16)
    places = b["qs"] | (high & 7) << 8
    delta = np.where(high >> 3, -DELTA, DELTA)
    shifted = real(codebook("IQ1_M")[places]) + delta[:, :, None]  # (n, 32, 8)
    return (iq1_m_scales(b)[:, :, None] * shifted.reshape(n, 16, 16)).reshape(n, 256)


def iq1_m_scales(b: Any) -> F32:
    """d (2 s + 1): (n, 16)."""
    word = np.ascontiguousarray(b["scales"]).view("<u2")  # (n, 4)
    top = word >> 12
    d = (top[:, 0] | top[:, 1] << 4 | top[:, 2] << 8 | top[:, 3] << 12).astype(np.uint16).view(np.float16)
    s = (word[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(len(b), 16)
    return column(d) * (2 * real(s) + 1)


def iq4_xs(b: Any) -> Float:
    """w = (d (s - 32)) NL[q]. For each 32 weights s of six bits: four in scales_l, two in scales_h.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["IQ4_XS"].block)
    >>> b["d"], b["scales_l"][0, 0], b["scales_h"] = 0.5, 2, 2  # s = 2 + (2 << 4) = 34
    >>> b["qs"][0, :3] = [0, 1, 15]
    >>> iq4_xs(b)[0, [0, 1, 2]]  # 0.5 (34 - 32) = 1, times NL
    array([-127., -104.,  113.], dtype=float32)
    """
    n = len(b)
    q = nibbles(b["qs"].reshape(n, 8, 16))
    return (iq4_xs_scales(b)[:, :, None] * real(NL[q])).reshape(n, 256)


def iq4_xs_scales(b: Any) -> F32:
    """d (s - 32): (n, 8)."""
    low = np.stack([b["scales_l"] & 15, b["scales_l"] >> 4], axis=-1).reshape(len(b), 8)
    high = b["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    return column(b["d"]) * (real(low | high << 4) - 32)
