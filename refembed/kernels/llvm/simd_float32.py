"""What kernels do with sixteen float32 numbers at a time, beyond what `dequant_lanes` has.

Any machine gives the same bits, whatever its registers' true width: in `ggml` the sixteen are neighboring rows of a
weight matrix, never neighbors in a sum; in `fast` they are neighbors in a row, and a sum over lanes has an order.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from refembed.kernels.llvm.simd import INTS, REALS, VECTOR, N, intrinsic, pointer, vector


@intrinsic
def load(typing_context, x, at):
    """x[at : at + 16] as float32; a flat array of float32, int8 or int16."""

    def generate(context, builder, sig, args):
        stored = ir.VectorType(context.get_data_type(x.dtype), N)
        found = builder.load(pointer(context, builder, sig, args, 1, stored), align=x.dtype.bitwidth // 8)
        return found if x.dtype == types.float32 else builder.sitofp(found, VECTOR[REALS])

    return REALS(x, at), generate


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def generate(context, builder, sig, args):
        name, floats = f"llvm.fma.v{N}f32", VECTOR[REALS]
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(floats, [floats] * 3), name)
        return builder.call(function, args)

    return REALS(REALS, REALS, REALS), generate


@intrinsic
def whole(typing_context, x):
    """Whole numbers in float32 as integers."""

    def generate(context, builder, sig, args):
        return builder.fptosi(args[0], VECTOR[INTS])

    return INTS(REALS), generate


@intrinsic
def larger(typing_context, a, b):
    """b where it is larger than a, else a: so NaN in a stays."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", *args), args[1], args[0])

    return REALS(REALS, REALS), generate


@intrinsic
def smaller(typing_context, a, b):
    """b where it is smaller than a, else a: so NaN in a stays."""

    def generate(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered(">", *args), args[1], args[0])

    return REALS(REALS, REALS), generate


@intrinsic
def first(typing_context, x, n, other):
    """x in the first n lanes, `other` behind them."""

    def generate(context, builder, sig, args):
        count = builder.trunc(args[1], VECTOR[INTS].element)
        every = builder.insert_element(ir.Constant(VECTOR[INTS], ir.Undefined), count, ir.IntType(32)(0))
        every = builder.shuffle_vector(every, every, vector([0] * N))
        return builder.select(builder.icmp_signed("<", vector(range(N)), every), args[0], args[2])

    return REALS(REALS, types.intp, REALS), generate


def halves(builder, x, join):
    """The lanes put together, halves first."""
    for half in (8, 4, 2, 1):
        a, b = (builder.shuffle_vector(x, x, vector(range(i, i + half))) for i in (0, half))
        x = join(a, b)
    return builder.extract_element(x, ir.IntType(32)(0))


@intrinsic
def highest(typing_context, x):
    """The largest lane."""

    def generate(context, builder, sig, args):
        return halves(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))

    return types.float32(REALS), generate


@intrinsic
def total(typing_context, x):
    """The sum of the lanes, in double."""

    def generate(context, builder, sig, args):
        wide = builder.fpext(args[0], ir.VectorType(ir.DoubleType(), N))
        return halves(builder, wide, builder.fadd)

    return types.float64(REALS), generate


@intrinsic
def quotient(typing_context, a, b):
    """a / b."""

    def generate(context, builder, sig, args):
        return builder.fdiv(*args)

    return REALS(REALS, REALS), generate


@intrinsic
def transpose(typing_context, x, at, step, out, to, out_step):
    """Sixteen rows of sixteen float32, `step` apart from x[at] on, as columns: rows `out_step` apart from out[to] on.

    Four times, every two rows that are 8, 4, 2, 1 apart exchange halves, quarters and so on of what they have.
    """

    def generate(context, builder, sig, args):
        source, target = (context.make_array(sig.args[k])(context, builder, args[k]).data for k in (0, 3))

        def row(base, start, apart, i):
            place = builder.add(start, builder.mul(apart, ir.Constant(apart.type, i)))
            return builder.bitcast(builder.gep(base, [place]), VECTOR[REALS].as_pointer())

        rows = [builder.load(row(source, args[1], args[2], i), align=4) for i in range(N)]
        for far in (8, 4, 2, 1):
            low = vector(k if not k & far else N + k - far for k in range(N))
            high = vector(k + far if not k & far else N + k for k in range(N))
            for i in (i for i in range(N) if not i & far):
                a, b = rows[i], rows[i + far]
                rows[i], rows[i + far] = (builder.shuffle_vector(a, b, order) for order in (low, high))
        for i in range(N):
            builder.store(rows[i], row(target, args[4], args[5], i), align=4)
        return context.get_dummy_value()

    i = types.intp
    return types.void(x, i, i, out, i, i), generate


# Whole numbers


@intrinsic
def larger_integer(typing_context, a, b):
    """The larger of two integers, lane by lane."""

    def generate(context, builder, sig, args):
        return builder.select(builder.icmp_signed("<", *args), args[1], args[0])

    return INTS(INTS, INTS), generate


@intrinsic
def highest_integer(typing_context, x):
    """The largest lane."""

    def generate(context, builder, sig, args):
        x, zero = args[0], ir.IntType(32)(0)
        # four lanes at least: LLVM would take a single integer out of its register
        for lanes in (
            range(8, 16),
            range(4, 8),
            (2, 3, 0, 1),
            (1, 0, 3, 2),
        ):
            kept = builder.shuffle_vector(x, x, vector(range(len(lanes))))
            other = builder.shuffle_vector(x, x, vector(lanes))
            x = builder.select(builder.icmp_signed("<", kept, other), other, kept)
        return builder.extract_element(x, zero)

    return types.int32(INTS), generate


@intrinsic
def put_bytes(typing_context, out, at, x):
    """The lowest byte of each lane, from element `at` of an array on, whatever its elements are."""

    def generate(context, builder, sig, args):
        bytes_ = ir.VectorType(ir.IntType(8), N)
        builder.store(builder.trunc(args[2], bytes_), pointer(context, builder, sig, args, 1, bytes_), align=4)
        return context.get_dummy_value()

    return types.void(out, at, x), generate


# Neighbors


@intrinsic
def put_upper_halves(typing_context, out, at, x):
    """The upper 16 bits of each lane, eight words in all, from element `at` of an array of words on."""

    def generate(context, builder, sig, args):
        halves = ir.VectorType(ir.IntType(16), N)
        upper = builder.trunc(builder.lshr(args[2], vector([16] * N)), halves)
        builder.store(upper, pointer(context, builder, sig, args, 1, halves), align=4)
        return context.get_dummy_value()

    return types.void(out, at, x), generate


@intrinsic
def swap_pairs(typing_context, x):
    """Lanes 1, 0, 3, 2 ..."""

    def generate(context, builder, sig, args):
        return builder.shuffle_vector(args[0], args[0], vector([i ^ 1 for i in range(N)]))

    return REALS(REALS), generate
