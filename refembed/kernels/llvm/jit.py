"""Numba versions of the definitions in activations and attention: same names, float32, compiled and cached.

Numba (0.3 s) is imported here and by what builds on this file: for `fast` and `ggml`, and for `exact` where BLAS mixes
rows. Kernels release the GIL and take a range of rows, so that `fast` can give each core its share; no row reads
another's, so the shares change no bits. Where LLVM may re-order a sum, its order depends on the row's length alone.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from refembed.kernels.llvm import compiling
from refembed.kernels.llvm.disk_cache import LockedCache

compiling.watch()

if hasattr(os, "register_at_fork"):  # a fork waits for what is being compiled: in the child the lock would never open
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )

f32 = np.float32


def njit(**options: Any) -> Any:
    """`numba.njit` with the compiled code kept on disk, where there is a folder that can be written to."""

    def compile_(function: Any) -> Any:
        compiled = numba.njit(nogil=True, error_model="numpy", **options)(function)
        compiled._cache = LockedCache(function)  # as `cache=True` does, with a lock
        return compiled

    return compile_


def out_of_line(kernel: Any) -> Any:
    """call(arguments, begin, end): `kernel(*arguments, begin, end)`, which LLVM may not move into its caller.

    So a function that calls many kernels has of each the code that it has by itself. MiniLM's 8 tokens took 2.6 ms, but
    up to 4.2 ms once the function that dispatches them had 20 kernels inside instead of 14 (Zen 5, two cores).
    """

    @intrinsic
    def call(typing_context, arguments, begin, end):
        kind = numba.typeof(kernel)
        found = typing_context.resolve_function_type(kind, (*arguments.types, begin, end), {})

        def generate(context, builder, signature, args):
            values, first, last = args
            given = [builder.extract_value(values, n) for n in range(len(arguments.types))]
            block = builder.block  # it ends with the call: what comes next depends on whether the kernel raised
            there = len(block.instructions)
            result = context.get_function(kind, found)(builder, [*given, first, last])
            for instruction in block.instructions[there:]:
                if isinstance(instruction, ir.CallInstr):
                    instruction.attributes.add("noinline")
            return result

        return found.return_type(arguments, begin, end), generate

    return call


@intrinsic
def float_of_bits(typing_context, bits):
    """The float32 whose bit pattern is this int32."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


LOG2_E = f32(1.4426950408889634)
LN2_HIGH, LN2_LOW = f32(0.693359375), f32(-2.12194440e-4)  # ln 2 in two parts: n LN2_HIGH is exact
ROUND = f32(12582912.0)  # 1.5 x 2^23: adding it rounds a float32 to an integer


@njit(inline="always", fastmath={"contract"})
def expf(x):
    """e^x in float32 to 8e-8 relative, without a branch, so that LLVM can vectorize a loop of it.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial (Cody & Waite 1980; coefficients: Moshier, Cephes expf).
    Below -87.3 it stays at 1.2e-38 instead of going subnormal; above 88.37, where n would be 128, at 2.4e38; NaN stays
    NaN.
    """
    y = min(max(x, f32(-87.3)), f32(88.37))
    n = (y * LOG2_E + ROUND) - ROUND
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    e = (p * (r * r) + r) + f32(1)
    bits = (np.int32(n) + np.int32(127)) << np.int32(23)
    result = e * float_of_bits(bits)  # type: ignore[call-arg]  # Numba passes the typing context
    return result if x == x else x


@njit(fastmath={"reassoc", "contract"})
def sum_of(x):
    """The numbers of a row, added in double, in as many parts as LLVM likes: always as many for one length."""
    total = 0.0
    for j in range(len(x)):
        total += x[j]
    return total


@njit()
def largest(x):
    """The largest number of a row, found among whole numbers of the same order, which LLVM takes many at a time.

    The bits of a float32, those of negative numbers but for the sign turned over, are ordered as the numbers are.
    """
    bits, high = x.view(np.int32), np.int32(-0x80000000)
    for j in range(len(bits)):
        high = max(high, bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return float_of_bits(high ^ ((high >> np.int32(31)) & np.int32(0x7FFFFFFF)))  # type: ignore[call-arg]  # by Numba


@njit(fastmath={"contract"})
def gelu(x, out, begin, end):
    """The tanh form of GELU, through tanh(u) = 1 - 2/(1 + e^2u): y = x / (1 + e^-2u). x, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(x.shape[1]):
            a = x[t, j]
            u = f32(0.7978845608028654) * a * (f32(1) + f32(0.044715) * a * a)
            out[t, j] = a / (f32(1) + expf(-(u + u)))


@njit()
def softmax(x, scale):
    """exp(scale x) / sum(exp(scale x)) of one row (n), in place."""
    high = largest(x) * scale
    for j in range(len(x)):
        x[j] = expf(x[j] * scale - high)
    share = f32(1 / sum_of(x))
    for j in range(len(x)):
        x[j] *= share


@njit()
def softmax_rows(x, begin, end):
    """`softmax` of rows begin:end of x (T, n), in place."""
    for t in range(begin, end):
        softmax(x[t], f32(1))


@njit()
def tanh(x):
    """Hyperbolic tangent of every number of a row, in place."""
    for j in range(len(x)):
        x[j] = math.tanh(x[j])
