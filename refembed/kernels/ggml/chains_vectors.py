"""What the kernels of `chains_jit` do with sixteen numbers at a time, beyond what `dequant_lanes` has.

The sixteen are neighbouring rows of a weight matrix, never neighbours in a sum, so any machine gives the same bits
whatever its registers' true width.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types

from refembed.kernels.dequant_lanes import INTS, REALS, VECTOR, N, intrinsic, pointer


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
