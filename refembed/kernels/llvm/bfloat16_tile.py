"""One tile of a product of bfloat16 numbers, in registers: microkernel.py for pairs.

    out[t, j] = sum over pairs:  (out + x[t, 2k+1] w[j, 2k+1]) + x[t, 2k] w[j, 2k]     t: some rows, j: some lanes

A word of 32 bits is a pair of channels, the first in its low half. VDPBF16PS multiplies two pairs in each lane and adds
both products; without it the halves become float32 by shifts, and two multiply-adds do the same, to the bit, since
the products are exact (exact/bfloat16.py). An element is one chain in order of k, at any place in a tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from refembed.kernels.llvm import simd
from refembed.kernels.llvm.microkernel import (
    FUSED,
    WIDTH,
    features,
    in_every_lane,
    intrinsic,
    lanes_below,
    masked,
    multiply_add,
)

I32, I64 = ir.IntType(32), ir.IntType(64)
ROUNDED_TO_LEAST = int(np.float32(2.0**-55 * (1 - 2.0**-9)).view(np.uint32))  # half a step below `bfloat16.LEAST`


class Road(NamedTuple):
    """How a CPU adds products of pairs: the instruction or not, the rows of a tile, and its vectors."""

    instruction: bool
    rows: int
    vectors: int


def road(have: set[str]) -> Road:
    """The road of a CPU with these features, in LLVM's words: what fits into its registers."""
    if {"avx512bf16", "avx512f"} <= have:
        return Road(True, 8, 3)
    return Road(False, 6, 2) if "avx512f" in have or "neon" in have else Road(False, 3, 2)


ROAD = road(features())
ROWS, VECTORS = ROAD.rows, ROAD.vectors
LANES = WIDTH // 4
P = VECTORS * LANES  # outputs of a panel
INTS, REALS = ir.VectorType(I32, LANES), ir.VectorType(ir.FloatType(), LANES)


def add_product(builder, a, b, c):
    """a b + c, rounded once, of bfloat16 numbers a and b.

    Without a fused multiply-add that is a product and a sum: the product is exact, unless it is beyond float32 and c
    brings the sum back. Then all is computed 2^64 times smaller, where only a much smaller c would lose bits.
    """
    if FUSED:
        return multiply_add(builder, REALS, a, b, c)
    smaller, larger = (ir.Constant(REALS, [2.0**n] * LANES) for n in (-64, 64))
    magnitude, infinite = (ir.Constant(INTS, [n] * LANES) for n in (0x7FFFFFFF, 0x7F800000))
    product = builder.fmul(a, b)
    beyond = builder.icmp_unsigned("==", builder.and_(builder.bitcast(product, INTS), magnitude), infinite)
    scaled = builder.fadd(builder.fmul(a, builder.fmul(b, smaller)), builder.fmul(c, smaller))
    return builder.select(beyond, builder.fmul(scaled, larger), builder.fadd(product, c))


def add_pairs(builder, sums, w, x):
    """sums + the products of both halves of w and x, words in all lanes."""
    if ROAD.instruction:
        kind = ir.FunctionType(REALS, [REALS, INTS, INTS])
        dot = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}")
        return builder.call(dot, [sums, w, x])
    sixteen, high = (ir.Constant(INTS, [n] * LANES) for n in (16, 0xFFFF0000))
    for half in (lambda v: builder.and_(v, high), lambda v: builder.shl(v, sixteen)):
        a, b = (builder.bitcast(half(v), REALS) for v in (w, x))
        sums = add_product(builder, a, b, sums)
    return sums


@intrinsic
def tile_bf16(
    typing_context, rows, vectors, x, x_at, x_step, w, w_at, w_step, pairs, out, out_at, out_step, width, bias, bias_at,
    biased,
):  # fmt: skip
    """out[t, :width] of `rows` rows t.

    rows, vectors  1 to ROWS, 1 to VECTORS: there is code for each pair
    *_at, *_step   where the first number is, and how far it is to the next row: in words, from the array's start
    pairs          of channels in a row
    width          columns that are stored: the last vector's others are computed, and dropped
    bias           its `width` numbers from bias_at on are added at last, if `biased`
    Nothing is checked; w must be readable for `vectors` whole vectors in every row.
    """

    def generate(context, builder, sig, args):
        starts = [context.make_array(sig.args[k])(context, builder, args[k]).data for k in (2, 5, 9, 13)]
        numbers = [args[k] for k in (3, 4, 6, 7, 8, 10, 11, 12, 14, 15)]
        for R in range(1, ROWS + 1):
            for V in range(1, VECTORS + 1):
                rows_fit, vectors_fit = (builder.icmp_signed("==", a, I64(n)) for a, n in ((args[0], R), (args[1], V)))
                with builder.if_then(builder.and_(rows_fit, vectors_fit)):
                    write(builder, R, V, *starts, *numbers)
        return context.get_dummy_value()

    i = types.intp
    return types.void(i, i, x, i, i, w, i, i, i, out, i, i, i, bias, i, types.boolean), generate


def write(
    b: Any, R: int, V: int, x: Any, w: Any, out: Any, bias: Any, x_at: Any, x_step: Any, w_at: Any, w_step: Any,
    pairs: Any, out_at: Any, out_step: Any, width: Any, bias_at: Any, biased: Any,
) -> None:  # fmt: skip
    """The code of R rows and V vectors of a tile: pair after pair, then the bias, then where the sums go."""
    none = ir.Constant(REALS, None)
    sums = [[cgutils.alloca_once_value(b, none) for _ in range(V)] for _ in range(R)]
    rows = [b.gep(x, [b.add(x_at, b.mul(x_step, I64(r)))]) for r in range(R)]
    panel = b.gep(w, [w_at])

    def vector(base: Any, at: Any, v: int, kind: Any) -> Any:
        """The address of vector v behind word `at`."""
        return b.bitcast(b.gep(base, [b.add(at, I64(v * LANES))]), kind.as_pointer())

    with cgutils.for_range(b, pairs) as loop:
        start = b.mul(loop.index, w_step)
        weights = [b.load(vector(panel, start, v, INTS), align=4) for v in range(V)]
        for r in range(R):
            word = b.load(b.bitcast(b.gep(rows[r], [loop.index]), I32.as_pointer()), align=4)
            pair = in_every_lane(b, INTS, word)
            for v in range(V):
                b.store(add_pairs(b, b.load(sums[r][v]), weights[v], pair), sums[r][v])
    masks = [lanes_below(b, REALS, b.sub(width, I64(v * LANES))) for v in range(V)]
    with b.if_then(biased):
        for v in range(V):
            more = masked(b, "load", REALS, vector(bias, bias_at, v, REALS), I32(4), masks[v], none)
            for r in range(R):
                b.store(b.fadd(b.load(sums[r][v]), more), sums[r][v])
    for r in range(R):
        at = b.add(out_at, b.mul(out_step, I64(r)))
        for v in range(V):
            masked(b, "store", REALS, b.load(sums[r][v]), vector(out, at, v, REALS), I32(4), masks[v])


@intrinsic
def put_bfloat16(typing_context, out, at, x):
    """Sixteen float32, rounded as `bfloat16.rounded` does, as eight words from out[at] on; a NaN keeps its sign.

    For CPUs that have the instruction.
    """

    def generate(context, builder, sig, args):
        integers, halves = ir.VectorType(I32, simd.N), ir.VectorType(ir.IntType(16), simd.N)
        floats = ir.VectorType(ir.FloatType(), simd.N)
        sign, least = (ir.Constant(integers, [n] * simd.N) for n in (0x7FFFFFFF, ROUNDED_TO_LEAST))
        magnitude = builder.and_(builder.bitcast(args[2], integers), sign)
        large = builder.icmp_unsigned(">=", magnitude, least)
        kept = builder.select(large, args[2], ir.Constant(floats, None))
        kind = ir.FunctionType(halves, [floats])
        name = "llvm.x86.avx512bf16.cvtneps2bf16.512"
        found = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [kept])
        builder.store(found, simd.pointer(context, builder, sig, args, 1, halves), align=4)
        return context.get_dummy_value()

    return types.void(out, at, x), generate
