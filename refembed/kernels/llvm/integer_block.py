"""What a block of rounded activations has behind its codes: llvm/integer.py says which words."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from refembed.kernels.llvm.integer_tile import call
from refembed.kernels.llvm.microkernel import features
from refembed.kernels.llvm.simd import INTS, N, intrinsic, pointer, vector

VNNI = {"avx512vnni", "avx512vl"} <= features() or {"avxvnni", "avx2"} <= features()


@intrinsic
def put_sums8(typing_context, out, at, d, a, b):
    """Eight words from out[at] on: d; -128 times the sum of a's lanes, of b's, of both; d times these sums, and d 0.

    a, b  codes of 8 bits
    out   an array of float32, some of whose words are integers then
    """
    return types.void(out, at, types.float32, INTS, INTS), sums_of(by_dots if VNNI else by_halves)


@intrinsic
def put_sums16(typing_context, out, at, d, a, b):
    """`put_sums8` of codes of 16 bits."""
    return types.void(out, at, types.float32, INTS, INTS), sums_of(by_halves)


def by_halves(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Four sums of four lanes of a, and of b."""
    for half in (8, 4):
        a, b = (
            builder.add(pick(builder, x, x, *range(half)), pick(builder, x, x, *range(half, 2 * half))) for x in (a, b)
        )
    return a, b


def by_dots(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """The same by the instruction that adds products of bytes."""
    bytes_, eight = ir.VectorType(ir.IntType(8), N), vector([0] * 8)
    codes = pick(builder, builder.trunc(a, bytes_), builder.trunc(b, bytes_), *range(2 * N))
    ones = vector([0x01010101] * 8)
    sums = call(builder, "llvm.x86.avx512.vpdpbusd.256", eight.type, eight, ones, builder.bitcast(codes, eight.type))
    return pick(builder, sums, sums, 0, 1, 2, 3), pick(builder, sums, sums, 4, 5, 6, 7)


def pick(builder: Any, x: Any, y: Any, *lanes: int) -> Any:
    """Lanes of x and y, one behind the other."""
    return builder.shuffle_vector(x, y, vector(lanes))


def sums_of(quarters: Any) -> Any:
    """The generator of `put_sums8` or `put_sums16`."""

    def generate(context, builder, sig, args):
        d, (a, b) = args[2], quarters(builder, *args[3:])
        four, zeros = ir.VectorType(ir.FloatType(), 4), vector([0] * 4)
        pairs = builder.add(pick(builder, a, b, 0, 1, 4, 5), pick(builder, a, b, 2, 3, 6, 7))
        own = builder.add(pick(builder, pairs, zeros, 0, 2, 0, 4), pick(builder, pairs, zeros, 1, 3, 1, 4))
        sums = builder.add(own, pick(builder, own, zeros, 4, 4, 1, 4))  # of a, of b, of both, 0
        scale = builder.insert_element(ir.Constant(four, ir.Undefined), d, ir.IntType(32)(0))
        products = builder.fmul(builder.sitofp(sums, four), pick(builder, scale, scale, 0, 0, 0, 0))
        lowered = builder.mul(sums, vector([-128] * 4))
        lowered = pick(builder, builder.bitcast(scale, lowered.type), lowered, 0, 4, 5, 6)
        words = pick(builder, lowered, builder.bitcast(products, lowered.type), *range(8))
        builder.store(words, pointer(context, builder, sig, args, 1, words.type), align=4)
        return context.get_dummy_value()

    return generate
