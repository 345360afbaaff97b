"""Blocks of the codebook types as whole numbers: `blocks` for IQ2_*, IQ3_*, IQ1_*.

A weight is d times a whole number over 8, 4 or 1 (IQ3_S): the fraction is no part of what is here. llama.cpp
multiplies by it at the end of a dot product (vec_dot), or has it in d (the tiled kernel).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refembed.kernels.ggml.blocks import Blocks, Ints, blocks, repeat_scales, whole
from refembed.kernels.quant.dequant_iquants import SIGNS, codebook, seven_bits, words
from refembed.kernels.quant.dequant_legacy import bits


def signed(places: Ints, name: str, signs: Ints) -> Ints:
    """Entries of a type's codebook (N, 256), negative where a bit of signs (N, 32) is set."""
    grid = whole(codebook(name)[places]).reshape(-1, 256)
    return grid * (1 - 2 * whole(bits(signs.reshape(-1, 32))))


def odd(s: Ints) -> Ints:
    """2 s + 1."""
    return 2 * whole(s) + 1


def halves(x: Ints) -> Ints:
    """Bytes (N, c) -> (N, 2 c): each low half, then its high half."""
    return np.stack([x & 15, x >> 4], axis=-1).reshape(len(x), -1)


def iq2_xxs(b: Any) -> Blocks:
    """For each 32 weights: four places of 8 bits, then four times 7 signs and a scale of 4 bits."""
    pairs = words(b["qs"].astype("<u2").view(np.uint8)).reshape(-1, 8, 2)
    places = pairs[:, :, :1] >> np.array([0, 8, 16, 24], np.uint32) & 255  # (N, 8, 4)
    return blocks(
        signed(places, "IQ2_XXS", seven_bits(pairs[:, :, 1])) * repeat_scales(odd(pairs[:, :, 1] >> 28)), b["d"]
    )


def iq2_xs(b: Any) -> Blocks:
    """For each 8 weights a place of 9 bits and 7 signs; a scale of 4 bits for each 16."""
    q = signed(b["qs"] & 511, "IQ2_XS", SIGNS[b["qs"] >> 9])
    return blocks(q * repeat_scales(odd(halves(b["scales"]))), b["d"])


def iq2_s(b: Any) -> Blocks:
    """For each 8 weights a place of 10 bits and 8 signs; a scale of 4 bits for each 16."""
    high = (b["qh"][:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1, 32).astype(np.uint16)
    q = signed(b["qs"][:, :32] | high << 8, "IQ2_S", b["qs"][:, 32:])
    return blocks(q * repeat_scales(odd(halves(b["scales"]))), b["d"])


def iq3_xxs(b: Any) -> Blocks:
    """For each 4 weights a place of 8 bits; for each 32 four times 7 signs and a scale of 4 bits."""
    word = words(b["qs"][:, 64:])  # (N, 8)
    return blocks(signed(b["qs"][:, :64], "IQ3_XXS", seven_bits(word)) * repeat_scales(odd(word >> 28)), b["d"])


def iq3_s(b: Any) -> Blocks:
    """For each 4 weights a place of 9 bits and 4 signs; a scale of 4 bits for each 32."""
    places = b["qs"] | bits(b["qh"]).astype(np.uint16) << 8
    return blocks(signed(places, "IQ3_S", b["signs"]) * repeat_scales(odd(halves(b["scales"]))), b["d"])


def iq1_s_parts(b: Any) -> tuple[Ints, Ints, Ints]:
    """Codebook entries (N, 256); scales (N, 8), and the sign of delta times the scale (N, 8), for each 32 weights."""
    high = b["qh"][:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7  # (N, 8, 4)
    grid = whole(codebook("IQ1_S")[b["qs"].reshape(-1, 8, 4) | high << 8]).reshape(-1, 256)
    scales = odd(b["qh"] >> 12 & 7)
    return grid, scales, scales * (1 - 2 * whole(b["qh"] >> 15))


def iq1_s(b: Any) -> Blocks:
    """The shift by delta, up or down for each 32 weights, is apart, like mins; times -d, as mins are taken off."""
    grid, scales, deltas = iq1_s_parts(b)
    return blocks(grid * repeat_scales(scales), b["d"], mins=repeat_scales(deltas, 16), dmin=-b["d"])


def iq1_s_tiled(b: Any) -> Blocks:
    """Eight times the codebook entry, so that delta, 1/8, is 1."""
    grid, scales, deltas = iq1_s_parts(b)
    return blocks(8 * grid * repeat_scales(scales) + repeat_scales(deltas), b["d"])


def iq1_m_parts(b: Any) -> tuple[Ints, Ints, Any]:
    """Codebook entries and delta's signs, both times the scale (N, 256), and d, whose digits lie among the scales'."""
    word = np.ascontiguousarray(b["scales"]).view("<u2")  # (N, 4)
    top = word >> 12
    d = (top[:, 0] | top[:, 1] << 4 | top[:, 2] << 8 | top[:, 3] << 12).astype(np.uint16).view(np.float16)
    scales = repeat_scales(odd((word[:, :, None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 16)))
    high = halves(b["qh"]).astype(np.uint16)  # (N, 32)
    grid = whole(codebook("IQ1_M")[b["qs"] | (high & 7) << 8]).reshape(-1, 256)
    return grid * scales, repeat_scales(1 - 2 * whole(high >> 3)) * scales, d


def iq1_m(b: Any) -> Blocks:
    """The shift by delta, up or down for each 8 weights, is a second set of numbers."""
    q, deltas, d = iq1_m_parts(b)
    return blocks(q, d, deltas=deltas)


def iq1_m_tiled(b: Any) -> Blocks:
    """Eight times the codebook entry, so that delta, 1/8, is 1."""
    q, deltas, d = iq1_m_parts(b)
    return blocks(8 * q + deltas, d)
