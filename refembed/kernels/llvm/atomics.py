"""Words that several threads count on: read, added to and compared in one go, as no loop in Python or Numba could.

Each is a word of an int64 array. A thread that reads one that another thread wrote also sees what that thread wrote
before.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

intrinsic: Any = numba_intrinsic
PAUSE = {"x86_64": "llvm.x86.sse2.pause", "amd64": "llvm.x86.sse2.pause"}.get(platform.machine().lower())


def word(context, builder, sig, args):
    """Where args[1] of the array args[0] lies."""
    return builder.gep(context.make_array(sig.args[0])(context, builder, args[0]).data, [args[1]])


@intrinsic
def seen(typing_context, words, at):
    """words[at], as it is now."""

    def generate(context, builder, sig, args):
        return builder.load_atomic(word(context, builder, sig, args), "acquire", 8)

    return types.int64(words, types.intp), generate


@intrinsic
def publish(typing_context, words, at, value):
    """words[at] = value, after everything that this thread wrote before."""

    def generate(context, builder, sig, args):
        builder.store_atomic(args[2], word(context, builder, sig, args), "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), generate


@intrinsic
def add(typing_context, words, at, value):
    """words[at] += value; what it was before."""

    def generate(context, builder, sig, args):
        return builder.atomic_rmw("add", word(context, builder, sig, args), args[2], "acq_rel")

    return types.int64(words, types.intp, types.int64), generate


@intrinsic
def replace(typing_context, words, at, old, new):
    """words[at] = new if it is `old`; whether it was."""

    def generate(context, builder, sig, args):
        place = word(context, builder, sig, args)
        return builder.extract_value(builder.cmpxchg(place, args[2], args[3], "acq_rel", "acquire"), 1)

    return types.boolean(words, types.intp, types.int64, types.int64), generate


@intrinsic
def pause(typing_context):
    """A moment's rest for a loop that waits: some 50 ns on x86, nothing elsewhere."""

    def generate(context, builder, sig, args):
        if PAUSE:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, PAUSE), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def put(typing_context, words, at, values):
    """A tuple as it lies in registers, arrays as addresses and shapes, into the words from `at` on."""

    def generate(context, builder, sig, args):
        place = word(context, builder, sig, args)
        builder.store(args[2], builder.bitcast(place, args[2].type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(words, types.intp, values), generate


def getter(kind: Any) -> Any:
    """got(words, at): what `put` put there, a tuple of Numba's type `kind`.

    Its arrays are borrowed: the caller must keep them, since Numba does not count that they are in use here.
    """

    @intrinsic
    def got(typing_context, words, at):
        def generate(context, builder, sig, args):
            place = builder.bitcast(word(context, builder, sig, args), context.get_value_type(kind).as_pointer())
            values = builder.load(place, align=8)
            for n, member in enumerate(kind.types):
                if isinstance(member, types.Array):
                    array = context.make_array(member)(context, builder, builder.extract_value(values, n))
                    array.meminfo = array.parent = ir.Constant(array.meminfo.type, None)
                    values = builder.insert_value(values, array._getvalue(), n)
            return values

        return kind(words, types.intp), generate

    return got
