"""Registers as llama.cpp's kernels use them: fused multiply-add, sums across lanes, libm's functions, in Numba.

Numba contracts nothing of its own accord, so `a * b + c` rounds twice and `fma(a, b, c)` once, on every machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from refembed.kernels.llvm.jit import float_of_bits, njit

f32 = np.float32


@intrinsic
def _fma(typing_context, a, b, c):
    """a * b + c in float32 with one rounding (llvm.fma.f32)."""

    def generate(context, builder, signature, args):
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _bits_of(typing_context, x):
    """The int32 whose bits are this float32's."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


fma: Any = _fma  # Numba passes the typing context, which mypy would ask for
bits_of: Any = _bits_of


@njit(inline="always")
def half(x):
    """A float32 rounded to the nearest float16, ties to even, and back (F16C, on any machine)."""
    bits = bits_of(x)
    magnitude = bits & np.int32(0x7FFFFFFF)
    ties = (magnitude >> np.int32(13)) & np.int32(1)
    rounded = (magnitude + np.int32(0xFFF) + ties) & np.int32(~0x1FFF)
    small = bits_of((abs(x) + f32(0.5)) - f32(0.5))  # below 2^-14 float16's steps are those of float32 at 0.5
    rounded = small if magnitude < np.int32(0x38800000) else rounded
    rounded = np.int32(0x7F800000) if rounded >= np.int32(0x47800000) else rounded  # 65520 and more: infinite
    rounded = magnitude if magnitude > np.int32(0x7F800000) else rounded  # NaN
    return float_of_bits(rounded | (bits & np.int32(-0x80000000)))  # type: ignore[call-arg]  # by Numba


@njit(inline="always")
def hsum8(a):
    """The sum of 8 lanes as hsum_float_8 takes it: t_i = a_i+4 + a_i, (t0 + t2) + (t1 + t3)."""
    t0, t1, t2, t3 = a[4] + a[0], a[5] + a[1], a[6] + a[2], a[7] + a[3]
    return (t0 + t2) + (t1 + t3)


@njit(inline="always")
def reduce16(a):
    """The sum of 16 lanes as GCC's _mm512_reduce_add_ps takes it: halves, quarters, then as `hsum8` ends."""
    u0, u1, u2, u3 = a[8] + a[0], a[9] + a[1], a[10] + a[2], a[11] + a[3]
    u4, u5, u6, u7 = a[12] + a[4], a[13] + a[5], a[14] + a[6], a[15] + a[7]
    t0, t1, t2, t3 = u4 + u0, u5 + u1, u6 + u2, u7 + u3
    return (t0 + t2) + (t1 + t3)


@njit(inline="always")
def hsum(a):
    """The sum of 8 or 16 lanes."""
    return reduce16(a) if len(a) == 16 else hsum8(a)


# glibc's float functions, which llama.cpp calls; Numba compiles math.f on float32 to a call of the same ones.


@njit(inline="always")
def expf(x):
    """libm's expf."""
    return math.exp(f32(x))


@njit(inline="always")
def logf(x):
    """libm's logf."""
    return math.log(f32(x))


@njit(inline="always")
def tanhf(x):
    """libm's tanhf."""
    return math.tanh(f32(x))


@njit(inline="always")
def erff(x):
    """libm's erff."""
    return math.erf(f32(x))
