"""Sixteen weights at a time in Numba: the vector type that the decoders of `dequant_jit_*` are written in.

A `Lanes` value is an LLVM vector of 16 int32 or 16 float32. LLVM lowers it to what the machine has: one register of
AVX-512, two of AVX2, four of SSE or NEON. Operators work lane by lane, a plain number on the right goes to every lane,
and each operation rounds as the scalar one does; nothing is contracted, so no bits depend on the machine.

    q = u8(raw, at)                      # 16 bytes from raw[at] on
    put(out, y, real((q & 15) - 8) * d)  # out[y : y + 16] = (q - 8) d

Indices are the caller's promise: nothing checks them.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, register_model

from refembed.kernels.llvm import jit
from refembed.kernels.llvm.jit import njit

N = 16
I8, I32, F32 = ir.IntType(8), ir.IntType(32), ir.FloatType()
f32, i32 = np.float32, np.int32
intrinsic: Any = numba_intrinsic  # a caller in a kernel leaves out the typing context, and mypy cannot know
float_of_bits: Any = jit.float_of_bits  # likewise


class Lanes(types.Type):
    """The Numba type of 16 numbers of one kind."""

    def __init__(self, of):
        super().__init__(name=f"Lanes({of})")


INTS, REALS = Lanes("int32"), Lanes("float32")
VECTOR = {INTS: ir.VectorType(I32, N), REALS: ir.VectorType(F32, N)}


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """A Lanes value is its LLVM vector, in registers and in memory."""

    def __init__(self, manager, type):
        super().__init__(manager, type, VECTOR[type])


def vector(numbers):
    """A constant vector of int32."""
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(I32, len(numbers)), numbers)


def in_every_lane(builder, value):
    """One LLVM number in 16 lanes."""
    empty = ir.Constant(ir.VectorType(value.type, N), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(empty, value, I32(0)), empty, vector([0] * N))


def as_lanes(context, builder, type, value):
    """An operand as an LLVM vector: Lanes as they are, a number in every lane."""
    if isinstance(type, Lanes):
        return value
    if isinstance(type, types.Integer):
        value = context.cast(builder, value, type, types.int32)
    return in_every_lane(builder, value)


def define(function, lanes, number, instruction):
    """Teach Numba `lanes o lanes` and `lanes o number`: one LLVM instruction."""

    @infer_global(function)
    class Typing(AbstractTemplate):
        """The types that this operator takes."""

        def generic(self, args, keywords):
            """Lanes and lanes, or lanes and a number."""
            fits = len(args) == 2 and args[0] is lanes and (args[1] is lanes or isinstance(args[1], number))
            return signature(lanes, *args) if fits else None

    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(args[0], as_lanes(context, builder, sig.args[1], args[1]))

    lower_builtin(function, lanes, lanes)(lower)
    lower_builtin(function, lanes, number)(lower)


define(operator.and_, INTS, types.Integer, "and_")
define(operator.or_, INTS, types.Integer, "or_")
define(operator.xor, INTS, types.Integer, "xor")
define(operator.lshift, INTS, types.Integer, "shl")
define(operator.rshift, INTS, types.Integer, "lshr")
define(operator.add, INTS, types.Integer, "add")
define(operator.sub, INTS, types.Integer, "sub")
define(operator.mul, INTS, types.Integer, "mul")
define(operator.add, REALS, types.Float, "fadd")
define(operator.sub, REALS, types.Float, "fsub")
define(operator.mul, REALS, types.Float, "fmul")


# Between memory and lanes


def pointer(context, builder, sig, args, k, to):
    """Where the array, argument 0, has the element whose index is argument k; as a pointer to `to`."""
    data = context.make_array(sig.args[0])(context, builder, args[0]).data
    at = context.cast(builder, args[k], sig.args[k], types.intp)
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


def load(extend):
    """How to fill 16 lanes with bytes from so many places, the same number from each; `extend` is zext or sext."""

    def generate(context, builder, sig, args):
        type = ir.VectorType(I8, N // (len(args) - 1))
        parts = [builder.load(pointer(context, builder, sig, args, k, type), align=1) for k in range(1, len(args))]
        while len(parts) > 1:
            order = vector(range(2 * parts[0].type.count))
            parts = [builder.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return getattr(builder, extend)(parts[0], VECTOR[INTS])

    return generate


@intrinsic
def u8(typing_context, raw, at):
    """16 bytes, 0 to 255, from raw[at] on."""
    return INTS(raw, at), load("zext")


@intrinsic
def i8(typing_context, raw, at):
    """16 bytes, -128 to 127, from raw[at] on."""
    return INTS(raw, at), load("sext")


@intrinsic
def u8_twice(typing_context, raw, a, b):
    """8 bytes, 0 to 255, from raw[a] on and 8 from raw[b] on."""
    return INTS(raw, a, b), load("zext")


@intrinsic
def i8_twice(typing_context, raw, a, b):
    """8 bytes, -128 to 127, from raw[a] on and 8 from raw[b] on."""
    return INTS(raw, a, b), load("sext")


@intrinsic
def u8_four_times(typing_context, raw, a, b, c, d):
    """4 bytes, 0 to 255, from each of raw[a], raw[b], raw[c] and raw[d] on."""
    return INTS(raw, a, b, c, d), load("zext")


@intrinsic
def i8_four_times(typing_context, raw, a, b, c, d):
    """4 bytes, -128 to 127, from each of raw[a], raw[b], raw[c] and raw[d] on."""
    return INTS(raw, a, b, c, d), load("sext")


@intrinsic
def u16s(typing_context, raw, at):
    """16 numbers of two bytes each, lowest first, from raw[at] on."""

    def generate(context, builder, sig, args):
        pairs = builder.load(pointer(context, builder, sig, args, 1, ir.VectorType(I8, 2 * N)), align=1)
        low, high = (
            builder.zext(builder.shuffle_vector(pairs, pairs, vector(range(k, 2 * N, 2))), VECTOR[INTS]) for k in (0, 1)
        )
        return builder.or_(low, builder.shl(high, vector([8] * N)))

    return INTS(raw, at), generate


@intrinsic
def put(typing_context, out, at, x):
    """out[at : at + 16] = x, float32."""

    def generate(context, builder, sig, args):
        builder.store(args[2], pointer(context, builder, sig, args, 1, VECTOR[REALS]), align=4)
        return context.get_dummy_value()

    return types.void(out, at, x), generate


# Between kinds of lanes


@intrinsic
def real(typing_context, x):
    """Integers as float32."""

    def generate(context, builder, sig, args):
        return builder.sitofp(args[0], VECTOR[REALS])

    return REALS(x), generate


@intrinsic
def bits_of(typing_context, x):
    """The bit patterns of float32 numbers."""

    def generate(context, builder, sig, args):
        return builder.bitcast(args[0], VECTOR[INTS])

    return INTS(x), generate


@intrinsic
def of_bits(typing_context, x):
    """The float32 numbers that have these bit patterns."""

    def generate(context, builder, sig, args):
        return builder.bitcast(args[0], VECTOR[REALS])

    return REALS(x), generate


@intrinsic
def broadcast(typing_context, x):
    """One integer or float32 in every lane."""

    def generate(context, builder, sig, args):
        return as_lanes(context, builder, sig.args[0], args[0])

    return (INTS if isinstance(x, types.Integer) else REALS)(x), generate


@intrinsic
def lane(typing_context):
    """0, 1, ... 15."""

    def generate(context, builder, sig, args):
        return vector(range(N))

    return INTS(), generate


@intrinsic
def look_up(typing_context, table, x):
    """table[x & 15] for a table of 16 int8. LLVM makes one shuffle of the 16 extractions where the machine has it."""

    def generate(context, builder, sig, args):
        sixteen = ir.VectorType(I8, N)
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        entries = builder.load(builder.bitcast(data, sixteen.as_pointer()), align=1)
        index = builder.and_(builder.trunc(args[1], sixteen), ir.Constant(sixteen, [15] * N))
        found = ir.Constant(sixteen, ir.Undefined)
        for j in range(N):
            entry = builder.extract_element(entries, builder.extract_element(index, I32(j)))
            found = builder.insert_element(found, entry, I32(j))
        return builder.sext(found, VECTOR[INTS])

    return INTS(table, x), generate


@njit(inline="always")
def bits(word):
    """The low 16 bits of a number, lowest first: 0 or 1 in each lane."""
    return (broadcast(word) >> lane()) & 1


@njit(inline="always")
def two_bit_fields(word):
    """The low 32 bits of a number, two at a time, lowest first: 0 to 3 in each lane."""
    return (broadcast(word) >> lane() * 2) & 3


@njit(inline="always")
def negate(x, word):
    """x with the sign turned in the lanes whose bit is set in the low 16 bits of a number."""
    return of_bits(bits_of(x) ^ (bits(word) << 31))


# Float16. The exponent moves from bias 15 to bias 127; infinity and NaN keep the highest one. Subnormals, those with
# exponent 0, get their value by a subtraction that is exact: (1/2 + m 2^-24) - 1/2 = m 2^-24.

REBIAS = (127 - 15) << 23
HALF = 126 << 23  # the bits of 1/2


@intrinsic
def choose(typing_context, test, a, b):
    """a where test is not 0, else b."""

    def generate(context, builder, sig, args):
        return builder.select(builder.icmp_signed("!=", args[0], ir.Constant(VECTOR[INTS], None)), args[1], args[2])

    return INTS(test, a, b), generate


@njit(inline="always")
def float_of_half(h):
    """The float16 numbers with these bit patterns as float32."""
    exponent = h & 0x7C00
    normal = ((h & 0x7FFF) << 13) + REBIAS + ((exponent + 0x0400) >> 15) * REBIAS
    tiny = bits_of(of_bits((h & 0x03FF) | HALF) - f32(0.5))
    return of_bits(choose(exponent, normal, tiny) | ((h & 0x8000) << 16))


# Single numbers


@njit(inline="always")
def u16(raw, at):
    """Two bytes, lowest first."""
    return raw[at] | raw[at + 1] << 8


@njit(inline="always")
def u32(raw, at):
    """Four bytes, lowest first."""
    return u16(raw, at) | u16(raw, at + 2) << 16


@njit(inline="always")
def half(raw, at):
    """The float16 at raw[at] as float32."""
    return float_of_half_bits(u16(raw, at))


@njit(inline="always")
def float_of_half_bits(h):
    """`float_of_half` of a single bit pattern."""
    exponent = h & 0x7C00
    bits = ((h & 0x7FFF) << 13) + REBIAS + ((exponent + 0x0400) >> 15) * REBIAS
    x = float_of_bits(i32(bits)) if exponent else float_of_bits(i32((h & 0x03FF) | HALF)) - f32(0.5)
    return -x if h & 0x8000 else x
