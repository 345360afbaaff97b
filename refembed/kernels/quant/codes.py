"""Quantized weights as products of whole numbers read them: bytes u, and for every 16 or 32 of them a scale and,
where the type has one, a minimum.

    w = s (u - 128)      most types: a weight is a whole number of one byte times its scale
    w = s u + m          with minimum: Q4_1, Q5_1, Q2_K, Q4_K, Q5_K

Here are s and m of each type; the fields they come from are explained in dequant_legacy.py, dequant_kquants.py and
dequant_iquants.py. `codes_of` finds u from the decoded weights. For finite scales that is exact: (w - m) / s is nearer
to u than to any other whole number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import F32, U8
from refembed.gguf import QuantType, Tensor
from refembed.kernels.quant.dequant_iquants import (
    iq1_m_scales,
    iq1_s_scales,
    iq2_xxs_scales,
    iq3_s_scales,
    iq3_xxs_scales,
    iq4_xs_scales,
    quarters,
)
from refembed.kernels.quant.dequant_kquants import q2_k_scales, q3_k_scales, scales_and_minima
from refembed.kernels.quant.dequant_legacy import column, e8m0, real, ue4m3

BLOCK = 32  # weights that meet one block of activations
MIDDLE = 128  # what is added to a signed code to make it a byte


class Scales(NamedTuple):
    """Of n blocks: (n, g) each, one for each of g groups of weights."""

    s: F32
    m: F32 | None = None


def one(b: Any) -> Scales:
    """w = d q."""
    return Scales(column(b["d"]))


def with_minimum(b: Any) -> Scales:
    """w = d q + m."""
    return Scales(column(b["d"]), column(b["m"]))


def lowered(scale: F32, least: F32) -> Scales:
    """w = scale q - least."""
    return Scales(scale, -least)


SCALES: dict[str, Callable[[Any], Scales]] = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0"), one),
    **dict.fromkeys(("Q4_1", "Q5_1"), with_minimum),
    "MXFP4": lambda b: Scales(column(e8m0(b["e"]))),
    "NVFP4": lambda b: Scales(ue4m3(b["d"])),
    "Q2_K": lambda b: lowered(*q2_k_scales(b)),
    "Q3_K": lambda b: Scales(column(b["d"]) * (real(q3_k_scales(b["scales"])) - 32)),
    **dict.fromkeys(("Q4_K", "Q5_K"), lambda b: lowered(*scales_and_minima(b))),
    "Q6_K": lambda b: Scales(column(b["d"]) * real(b["scales"])),
    "IQ1_S": lambda b: Scales(iq1_s_scales(b) * np.float32(0.125)),  # grid + delta is a number of eighths
    "IQ1_M": lambda b: Scales(iq1_m_scales(b) * np.float32(0.125)),
    "IQ2_XXS": lambda b: Scales(iq2_xxs_scales(b)),
    **dict.fromkeys(("IQ2_XS", "IQ2_S"), lambda b: Scales(quarters(b))),
    "IQ3_XXS": lambda b: Scales(iq3_xxs_scales(b)),
    "IQ3_S": lambda b: Scales(iq3_s_scales(b)),
    "IQ4_XS": lambda b: Scales(iq4_xs_scales(b)),
}
HALVES = {"NVFP4", "Q2_K", "Q3_K", "Q6_K", "IQ1_M", "IQ2_XS", "IQ2_S"}  # a scale for each 16 weights, not 32 or more
MINIMA = {"Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"}


def has_codes(w: Tensor) -> bool:
    """Whether w is a matrix of a type that `SCALES` has, in rows of whole blocks."""
    return w.type.name in SCALES and len(w.shape) == 2 and w.shape[1] % BLOCK == 0


def group_of(type: QuantType) -> int:
    """Weights that share a scale, as products read them: 16, or 32 where it is 32 and more."""
    return BLOCK // 2 if type.name in HALVES else BLOCK


def scales_of(w: Tensor, begin: int, end: int) -> Scales:
    """Scales and minima of rows begin:end of w (N, C): (rows, C / group) each.

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q4_1"].block)
    >>> b["d"], b["m"] = 0.5, -1
    >>> s, m = scales_of(Tensor("w", (1, 32), BY_NAME["Q4_1"], b.view(np.uint8), 0, "<"), 0, 1)
    >>> s, m
    (array([[0.5]], dtype=float32), array([[-1.]], dtype=float32))
    """
    step = w.nbytes // w.shape[0]
    raw = np.ascontiguousarray(w.raw[begin * step : end * step])
    blocks = raw.view(w.type.block.newbyteorder(w.byteorder))
    with np.errstate(all="ignore"):  # a damaged scale may be anything
        s, m = SCALES[w.type.name](blocks)
    times = w.type.weights // (s.shape[1] * group_of(w.type))  # groups of 64 and more count as several
    rows = [None if a is None else np.repeat(a, times, axis=1).reshape(end - begin, -1) for a in (s, m)]
    return Scales(np.ascontiguousarray(rows[0], np.float32), None if rows[1] is None else np.ascontiguousarray(rows[1]))


def codes_of(w: Tensor) -> tuple[U8, Scales]:
    """Bytes u (N, C) of a whole matrix, and its scales and minima (N, C / group).

    >>> from refembed.gguf import BY_NAME
    >>> b = np.zeros(1, BY_NAME["Q8_0"].block)
    >>> b["d"], b["qs"][0, :3] = 0.5, [127, -20, 1]
    >>> u, scales = codes_of(Tensor("w", (1, 32), BY_NAME["Q8_0"], b.view(np.uint8), 0, "<"))
    >>> u[0, :4], scales.s  # 128 more than the stored codes
    (array([255, 108, 129, 128], dtype=uint8), array([[0.5]], dtype=float32))
    """
    scales, group = scales_of(w, 0, w.shape[0]), group_of(w.type)
    s = np.repeat(scales.s, group, axis=1)
    above = w.dequantize() if scales.m is None else w.dequantize() - np.repeat(scales.m, group, axis=1)
    u = np.rint(np.divide(above, s, out=np.zeros_like(above), where=s != 0)) + (MIDDLE if scales.m is None else 0)
    return u.clip(0, 255).astype(np.uint8), scales
