"""One tile of a product of bfloat16 numbers, in registers: microkernel.py for pairs.

    out[t, j] = sum over pairs:  (out + x[t, 2k+1] w[j, 2k+1]) + x[t, 2k] w[j, 2k]     t: some rows, j: some lanes

A word of 32 bits is a pair of channels, the first in its low half. VDPBF16PS multiplies two pairs in each lane and adds
both products; without it the halves become float32 by shifts, and two multiply-adds do the same, to the bit, since
the products are exact (exact/bfloat16.py). An element is one chain in order of k, at any place in a tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from refembed.kernels.llvm.microkernel import (
    WIDTH,
    features,
    in_every_lane,
    intrinsic,
    lanes_below,
    masked,
    multiply_add,
)

I32, I64 = ir.IntType(32), ir.IntType(64)


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


def add_pairs(builder, sums, w, x):
    """sums + the products of both halves of w and x, words in all lanes."""
    if ROAD.instruction:
        kind = ir.FunctionType(REALS, [REALS, INTS, INTS])
        dot = cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}")
        return builder.call(dot, [sums, w, x])
    sixteen, high = (ir.Constant(INTS, [n] * LANES) for n in (16, 0xFFFF0000))
    for half in (lambda v: builder.and_(v, high), lambda v: builder.shl(v, sixteen)):
        a, b = (builder.bitcast(half(v), REALS) for v in (w, x))
        sums = multiply_add(builder, REALS, a, b, sums)
    return sums


@intrinsic
def tile_bf16(
    typing_context, rows, x, x_at, x_step, w, w_at, pairs, out, out_at, out_step, width, bias, bias_at, biased,
):  # fmt: skip
    """out[t, :width] of `rows` rows t, 1 to ROWS.

    *_at, *_step  where the first number is, and how far it is to the next row: in words, from the array's start
    pairs         of channels in a row
    width         columns that are stored: the last vector's others are computed, and dropped
    bias          its `width` numbers from bias_at on are added at last, if `biased`
    Nothing is checked.
    """

    def generate(context, builder, sig, args):
        starts = [context.make_array(sig.args[k])(context, builder, args[k]).data for k in (1, 4, 7, 11)]
        numbers = [args[k] for k in (2, 3, 5, 6, 8, 9, 10, 12, 13)]
        for R in range(1, ROWS + 1):
            with builder.if_then(builder.icmp_signed("==", args[0], I64(R))):
                write(builder, R, *starts, *numbers)
        return context.get_dummy_value()

    i = types.intp
    return types.void(i, x, i, i, w, i, i, out, i, i, i, bias, i, types.boolean), generate


def write(
    b: Any, R: int, x: Any, w: Any, out: Any, bias: Any, x_at: Any, x_step: Any, w_at: Any, pairs: Any, out_at: Any,
    out_step: Any, width: Any, bias_at: Any, biased: Any,
) -> None:  # fmt: skip
    """The code of R rows of a tile: pair after pair, then the bias, then where the sums go."""
    none = ir.Constant(REALS, None)
    sums = [[cgutils.alloca_once_value(b, none) for _ in range(VECTORS)] for _ in range(R)]
    rows = [b.gep(x, [b.add(x_at, b.mul(x_step, I64(r)))]) for r in range(R)]
    panel = b.gep(w, [w_at])

    def vector(base: Any, at: Any, v: int, kind: Any) -> Any:
        """The address of vector v behind word `at`."""
        return b.bitcast(b.gep(base, [b.add(at, I64(v * LANES))]), kind.as_pointer())

    with cgutils.for_range(b, pairs) as loop:
        start = b.mul(loop.index, I64(P))
        weights = [b.load(vector(panel, start, v, INTS), align=4) for v in range(VECTORS)]
        for r in range(R):
            word = b.load(b.bitcast(b.gep(rows[r], [loop.index]), I32.as_pointer()), align=4)
            pair = in_every_lane(b, INTS, word)
            for v in range(VECTORS):
                b.store(add_pairs(b, b.load(sums[r][v]), weights[v], pair), sums[r][v])
    masks = [lanes_below(b, REALS, b.sub(width, I64(v * LANES))) for v in range(VECTORS)]
    with b.if_then(biased):
        for v in range(VECTORS):
            more = masked(b, "load", REALS, vector(bias, bias_at, v, REALS), I32(4), masks[v], none)
            for r in range(R):
                b.store(b.fadd(b.load(sums[r][v]), more), sums[r][v])
    for r in range(R):
        at = b.add(out_at, b.mul(out_step, I64(r)))
        for v in range(VECTORS):
            masked(b, "store", REALS, b.load(sums[r][v]), vector(out, at, v, REALS), I32(4), masks[v])
