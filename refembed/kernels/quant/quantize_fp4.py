"""MXFP4 and NVFP4: codes of 4 bits that are floats themselves (E2M1: 0, 1/2, 1, 3/2, 2, 3, 4, 6 and their negatives).

MXFP4: OCP Microscaling Formats 1.0, a power of two for each 32 weights. NVFP4: an eight-bit float for each 16.
Mirrors quantize_row_mxfp4_ref and quantize_row_nvfp4_ref (ggml-quants.c), bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refembed.arrays import F32, I32, U8
from refembed.kernels.quant.quantize_flat import Blocks, nibbles, truncated
from refembed.kernels.quant.quantize_search import f32

# twice the values of E2M1, so that they are integers; the scales below are halved for it: kvalues_mxfp4
DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def best_index_mxfp4(x: F32, d: F32) -> I32:
    """The code that comes nearest to x (N, n) at half scale d (N); the first of two."""
    grid = DOUBLED * d[:, None]  # (N, 16)
    best, least = np.zeros(x.shape, np.int32), np.abs(grid[:, :1] - x)
    for code in range(1, 16):
        error = np.abs(grid[:, code : code + 1] - x)
        nearer = error < least
        best[nearer] = code
        least = np.where(nearer, error, least)
    return best


def mxfp4(x: F32, out: Blocks) -> None:
    """MXFP4: the scale 2^(e - 127) puts the largest magnitude between 4 and 8; what is above 6 comes down to 6.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 32), np.float32)
    >>> x[0, :3] = 2, 24, -24
    >>> out = np.zeros(1, BY_NAME["MXFP4"].block)
    >>> mxfp4(x, out)
    >>> int(out["e"][0]), out["qs"][0, :3].tolist()  # 24 = 2^2 6: e = 127 + 2; E2M1 has 1/2, 6, -6
    (129, [1, 7, 15])
    """
    amax = np.abs(x).max(axis=1)  # (N)
    exponent = np.floor(np.log2(amax.astype(np.float64)).astype(f32))  # log2f: rounded to float before it is cut
    e = np.where(amax > 0, truncated(exponent - f32(2) + f32(127)), 0).astype(np.uint8)
    out["e"] = e
    out["qs"] = nibbles(best_index_mxfp4(x, e8m0_half(e)))


def e8m0_half(e: U8) -> F32:
    """2^(e - 128): ggml_e8m0_to_fp32_half."""
    return np.ldexp(np.ones(e.shape, f32), e.astype(np.int32) - 128)


def nvfp4(x: F32, out: Blocks) -> None:
    """NVFP4: four scales of 16 weights each; a scale puts the largest magnitude at 6.

    >>> from refembed.gguf import BY_NAME
    >>> x = np.zeros((1, 64), np.float32)
    >>> x[0, :3] = 2, 24, -24
    >>> out = np.zeros(1, BY_NAME["NVFP4"].block)
    >>> nvfp4(x, out)
    >>> hex(out["d"][0, 0]), out["qs"][0, :3].tolist()  # 24/6 = 4 = 2^(9 - 7): e = 9, m = 0; E2M1 has 1/2, 6, -6
    ('0x48', [1, 7, 15])
    """
    N = len(x)
    runs = x.reshape(N * 4, 16)
    scale = to_ue4m3(np.abs(runs).max(axis=1) / f32(6))  # (4 N)
    out["d"] = scale.reshape(N, 4)
    out["qs"] = nibbles(best_index_mxfp4(runs, ue4m3_half(scale))).reshape(N, 32)


def to_ue4m3(x: F32) -> U8:
    """The nearest float of four exponent and three mantissa bits, halves up: ggml_fp32_to_ue4m3.

    x  (N), not negative. As in ggml, all from 256 up becomes 448, the largest.
    """
    bits = x.view(np.int32)
    normal = ((bits >> 19) - ((127 - 7) << 4) + 1) >> 1  # exponent and mantissa in one number: a carry is an exponent
    subnormal = np.minimum(truncated(x * f32(512) + f32(0.5)), 7)  # a multiple of 2^-9; never rounds up to normal
    code = np.where((bits >> 23) - 127 + 7 <= 0, subnormal, np.where(normal >= 0x78, 0x7E, normal))
    return np.where(x > 0, code, 0).astype(np.uint8)


def ue4m3_half(code: U8) -> F32:
    """Half of what a code stands for: ggml_ue4m3_to_fp32."""
    exponent, mantissa = (code >> 3).astype(np.int32), (code & 7).astype(f32)
    normal = np.ldexp(f32(1) + mantissa / f32(8), exponent - 7)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), normal)
    half: F32 = np.where(code == 0x7F, f32(0), value) * f32(0.5)
    return half


FP4: dict[str, Any] = {"MXFP4": mxfp4, "NVFP4": nvfp4}
