"""The K-quants: super-blocks of 256 weights in runs of 16 or 32, each with a scale of few bits, themselves scaled.

Every function takes x (N, 256) and fills N blocks, structured arrays of the dtype in gguf/quants.py. First a search
(quantize_search.py) finds each run's scale and codes; then the scales are rounded to the bits they have, and all codes
are rounded once more to fit the scales as stored. Mirrors quantize_row_q*_K_ref (ggml-quants.c), bit for bit.

`search` is where the searches come from: the module that defines them, or its compiled version.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from refembed.arrays import F32, I32, U8
from refembed.kernels.quant.quantize_flat import Blocks
from refembed.kernels.quant.quantize_search import (
    GROUP_MAX_EPS,
    clipped,
    f32,
    finite,
    largest,
    nearest_int,
    sum_in_order,
)


def first_largest(x: F32) -> F32:
    """The largest number above 0 in each row of x (N, n): (N), 0 where there is none."""
    high: F32 = np.maximum(finite(x).max(axis=-1), f32(0))
    return high


def inverse(numerator: float, x: F32) -> F32:
    """numerator / x, and 0 where x is 0."""
    quotient: F32 = np.where(x > 0, f32(numerator) / x, f32(0))
    return quotient


def low_bits_first(codes: I32, bits: int) -> U8:
    """Codes (N, 256) of 2 or 4 bits: each 32 bytes hold four or two runs of 32 codes, one above the other."""
    per_byte = 8 // bits
    runs = codes.reshape(len(codes), -1, per_byte, 32)
    packed: I32 = np.bitwise_or.reduce(runs << (bits * np.arange(per_byte, dtype=np.int32))[:, None], axis=2)
    return packed.reshape(len(codes), -1).astype(np.uint8)


def requantize_codes(x: F32, d: F32, m: F32 | None, codes: I32, low: int, high: int) -> I32:
    """Codes for the scales as stored, (x + m) / d; as they were where d is 0. x, codes (N, runs, n); d, m (N, runs)."""
    d = d[..., None]
    stored = clipped((x if m is None else x + m[..., None]) / d, low, high)
    return np.where(d == 0, codes, stored - np.int32(low))


def q2_k(x: F32, out: Blocks, search: ModuleType) -> None:
    """Q2_K: 16 runs of 16; code 0 ... 3, scale and minimum of 4 bits each.

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> x = 15 * np.resize(np.arange(4, dtype=np.float32), (1, 256))  # every run is 15 times 0, 1, 2, 3
    >>> out = np.zeros(1, BY_NAME["Q2_K"].block)
    >>> with np.errstate(all="ignore"):
    ...     q2_k(x, out, quantize_search)
    >>> float(out["d"][0]), hex(out["scales"][0, 0]), [hex(byte) for byte in out["qs"][0, :4]]  # scale 15, minimum 0
    (1.0, '0xf', ['0x0', '0x55', '0xaa', '0xff'])
    """
    N = len(x)
    runs = x.reshape(N * 16, 16)
    scale, low, codes = search.make_qkx2_quants(runs, np.abs(runs), 3, -0.5, 0.1, 15, True)
    scale, low = scale.reshape(N, 16), low.reshape(N, 16)
    max_scale, max_low = first_largest(finite(scale)), first_largest(low)  # (N)
    sc = nearest_int(inverse(15, max_scale)[:, None] * scale).astype(np.uint8)
    sc |= (nearest_int(inverse(15, max_low)[:, None] * low) << 4).astype(np.uint8)
    out["scales"] = sc
    out["d"], out["dmin"] = max_scale / f32(15), max_low / f32(15)
    d = out["d"].astype(f32)[:, None] * (sc & 15).astype(f32)  # (N, 16)
    m = out["dmin"].astype(f32)[:, None] * (sc >> 4).astype(f32)
    codes = requantize_codes(x.reshape(N, 16, 16), d, m, codes.reshape(N, 16, 16), 0, 3)
    out["qs"] = low_bits_first(codes.reshape(N, 256), 2)


def q3_k(x: F32, out: Blocks, search: ModuleType) -> None:
    """Q3_K: 16 runs of 16; code -4 ... 3, scale of 6 bits. The code's third bit stands apart, in `hmask`.

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> x = 32 * np.resize(np.arange(-4, 4, dtype=np.float32), (1, 256))  # every run is 32 times -4 ... 3
    >>> out = np.zeros(1, BY_NAME["Q3_K"].block)
    >>> with np.errstate(all="ignore"):
    ...     q3_k(x, out, quantize_search)
    >>> float(out["d"][0]), [hex(byte) for byte in out["qs"][0, :4]]  # scale -32 d, stored as 0
    (-1.0, ['0x0', '0x55', '0xaa', '0xff'])
    >>> [hex(byte) for byte in out["hmask"][0, :8]]  # codes 0 ... 3 of eight, then 4 ... 7
    ['0x0', '0x0', '0x0', '0x0', '0xff', '0xff', '0xff', '0xff']
    """
    N = len(x)
    scale, codes = search.make_q3_quants(x.reshape(N * 16, 16), 4)
    scale = scale.reshape(N, 16)
    _, extreme = largest(finite(scale))  # (N)
    iscale = np.where(extreme != 0, f32(-32) / extreme, f32(0))
    sc = nearest_int(iscale[:, None] * scale).astype(np.int8).astype(np.int32)
    sc = np.where(extreme[:, None] != 0, np.clip(sc, -32, 31) + 32, 0)  # (N, 16), 6 bits
    out["scales"][:, :8] = (sc[:, :8] & 15) | ((sc[:, 8:] & 15) << 4)
    out["scales"][:, 8:] = np.bitwise_or.reduce((sc >> 4).reshape(N, 4, 4) << np.array([[0], [2], [4], [6]]), axis=1)
    out["d"] = np.where(extreme != 0, f32(1) / iscale, f32(0))
    d = out["d"].astype(f32)[:, None] * (sc - 32).astype(f32)
    codes = requantize_codes(x.reshape(N, 16, 16), d, None, codes.reshape(N, 16, 16), -4, 3).reshape(N, 256)
    high = (codes > 3).reshape(N, 8, 32).astype(np.int32)  # bit g of hmask: run g of 32
    out["hmask"] = np.bitwise_or.reduce(high << np.arange(8, dtype=np.int32)[:, None], axis=1)
    out["qs"] = low_bits_first(codes & 3, 2)


def q4_k(x: F32, out: Blocks, search: ModuleType) -> None:
    """Q4_K: 8 runs of 32; code 0 ... 15, scale and minimum of 6 bits each.

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> x = 63 * np.resize(np.arange(16, dtype=np.float32), (1, 256))  # every run is 63 times 0 ... 15, twice
    >>> out = np.zeros(1, BY_NAME["Q4_K"].block)
    >>> with np.errstate(all="ignore"):
    ...     q4_k(x, out, quantize_search)
    >>> float(out["d"][0]), hex(out["scales"][0, 0]), [hex(byte) for byte in out["qs"][0, :3]]  # 63 | 63 >> 4 << 6
    (1.0, '0xff', ['0x0', '0x11', '0x22'])
    """
    codes = scales_k4(x, out, search, 15, -1.0, 20)
    out["qs"] = low_bits_first(codes, 4)


def q5_k(x: F32, out: Blocks, search: ModuleType) -> None:
    """Q5_K: 8 runs of 32; code 0 ... 31, scale and minimum of 6 bits each. The codes' fifth bits stand in `qh`.

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> x = 63 * np.resize(np.arange(32, dtype=np.float32), (1, 256))  # every run is 63 times 0 ... 31
    >>> out = np.zeros(1, BY_NAME["Q5_K"].block)
    >>> with np.errstate(all="ignore"):
    ...     q5_k(x, out, quantize_search)
    >>> float(out["d"][0]), hex(out["scales"][0, 0]), [hex(byte) for byte in out["qs"][0, :3]]  # 63 | 63 >> 4 << 6
    (1.0, '0xff', ['0x0', '0x11', '0x22'])
    >>> [hex(byte) for byte in out["qh"][0, 14:18]]  # codes 14, 15, 16, 17
    ['0x0', '0x0', '0xff', '0xff']
    """
    codes = scales_k4(x, out, search, 31, -0.5, 15)
    high = (codes >> 4).reshape(len(x), 8, 32)  # bit g of qh: run g of 32
    out["qh"] = np.bitwise_or.reduce(high << np.arange(8, dtype=np.int32)[:, None], axis=1)
    out["qs"] = low_bits_first(codes & 15, 4)


def scales_k4(x: F32, out: Blocks, search: ModuleType, nmax: int, rmin: float, nstep: int) -> I32:
    """Fill d, dmin and the 12 bytes of scales of Q4_K and Q5_K. x (N, 256); returns the codes (N, 256).

    bytes 0-3    scales 0-3, above them the upper 2 bits of scales 4-7
    bytes 4-7    minimums 0-3, above them the upper 2 bits of minimums 4-7
    bytes 8-11   the lower 4 bits of scales 4-7, above them those of minimums 4-7
    """
    N = len(x)
    runs = x.reshape(N * 8, 32)
    magnitude = np.sqrt(sum_in_order(runs * runs) / f32(32))  # root mean square
    weights = magnitude[:, None] + np.abs(runs)
    scale, low, codes = search.make_qkx2_quants(runs, weights, nmax, rmin, 0.1, nstep, False)
    scale, low = scale.reshape(N, 8), low.reshape(N, 8)
    max_scale, max_low = first_largest(finite(scale)), first_largest(low)  # (N)
    sc = np.minimum(nearest_int(inverse(63, max_scale)[:, None] * scale).astype(np.uint8), np.uint8(63))  # (N, 8)
    mn = np.minimum(nearest_int(inverse(63, max_low)[:, None] * low).astype(np.uint8), np.uint8(63))
    out["scales"][:, 0:4] = sc[:, :4] | (sc[:, 4:] >> 4 << 6)
    out["scales"][:, 4:8] = mn[:, :4] | (mn[:, 4:] >> 4 << 6)
    out["scales"][:, 8:] = (sc[:, 4:] & 15) | (mn[:, 4:] << 4)
    out["d"], out["dmin"] = max_scale / f32(63), max_low / f32(63)
    d = out["d"].astype(f32)[:, None] * sc.astype(f32)  # (N, 8)
    m = out["dmin"].astype(f32)[:, None] * mn.astype(f32)
    return requantize_codes(x.reshape(N, 8, 32), d, m, codes.reshape(N, 8, 32), 0, nmax).reshape(N, 256)


def q6_k(x: F32, out: Blocks, search: ModuleType) -> None:
    """Q6_K: 16 runs of 16; code -32 ... 31, scale of 8 bits. The code's upper two bits stand apart, in `qh`.

    >>> from refembed.gguf import BY_NAME
    >>> from refembed.kernels.quant import quantize_search
    >>> x = 128 * np.resize(np.arange(-32, 32, 4, dtype=np.float32), (1, 256))  # 128 times -32, -28 ... 28
    >>> out = np.zeros(1, BY_NAME["Q6_K"].block)
    >>> with np.errstate(all="ignore"):
    ...     q6_k(x, out, quantize_search)
    >>> float(out["d"][0]), int(out["scales"][0, 0]), [hex(byte) for byte in out["ql"][0, :3]]  # codes 0, 4, 8
    (-1.0, -128, ['0x0', '0x44', '0x88'])
    >>> [hex(byte) for byte in out["qh"][0, [0, 4, 8, 12]]]  # codes 0, 16, 32, 48
    ['0x0', '0x55', '0xaa', '0xff']
    """
    N = len(x)
    scale, codes = search.make_qx_quants(x.reshape(N * 16, 16), 32)
    scale = scale.reshape(N, 16)
    amax, extreme = largest(finite(scale))  # (N)
    zero = amax < GROUP_MAX_EPS
    iscale = f32(-128) / extreme
    sc = np.minimum(nearest_int(iscale[:, None] * scale), np.int32(127)).astype(np.int8)  # (N, 16)
    out["d"] = f32(1) / iscale
    d = out["d"].astype(f32)[:, None] * sc.astype(f32)
    codes = requantize_codes(x.reshape(N, 16, 16), d, None, codes.reshape(N, 16, 16), -32, 31)
    out["scales"] = sc
    halves = codes.reshape(N, 2, 4, 32)  # of each 128 codes, four runs of 32
    out["ql"] = ((halves[:, :, :2] & 15) | ((halves[:, :, 2:] & 15) << 4)).reshape(N, 128)
    shift = np.array([0, 2, 4, 6], np.int32)[:, None]
    out["qh"] = np.bitwise_or.reduce(halves >> 4 << shift, axis=2).reshape(N, 64)
    out[zero] = np.zeros((), out.dtype)


K_QUANTS: dict[str, Any] = {"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
