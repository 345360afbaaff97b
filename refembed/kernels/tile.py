"""One tile of a matrix product, in registers: the innermost loop of `fast`.

    out[t, j] (+)= sum over k of x[t, k] w[k, j]        t: some rows, j: some vectors of lanes

Every step of k takes VECTORS vectors of W and, row by row, one number of x in all lanes; ROWS x VECTORS sums stay in
registers (Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", section 4). Lanes run along
outputs, never along a sum, so an element is one chain of fused multiply-adds in order of k: its bits do not depend on
the tile's height, on the row's place in it, or on the rows beside it. Loops over rows and vectors run while the code is
made; what remains is straight.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)
intrinsic: Any = numba_intrinsic


def features() -> set[str]:
    """What the CPU that Numba compiles for can do, in LLVM's words."""
    config: Any = numba.config  # its settings are made at run time
    said = config.CPU_FEATURES
    if config.CPU_NAME == "generic":
        return set()
    if said is not None:
        return {word[1:] for word in said.split(",") if word.startswith("+")}
    return {word for word, there in llvm.get_host_cpu_features().items() if there}


def shape(have: set[str]) -> tuple[int, int, bool]:
    """Bytes of a vector, rows of a tile, and whether a multiply-add is one instruction.

    Three vectors of W and rows x 3 sums fill the registers: 32 of AVX-512 and NEON, 16 of AVX2.
    """
    if "avx512f" in have:
        return 64, 8, True
    if "fma" in have:
        return 32, 4, True
    return 16, 8 if "neon" in have else 4, "neon" in have


WIDTH, ROWS, FUSED = shape(features())
VECTORS = 3


def lanes(itemsize: int) -> int:
    """Numbers in a vector."""
    return WIDTH // itemsize


def multiply_add(builder, vector, a, b, c):
    """a b + c, rounded once where the CPU can, else twice."""
    if not FUSED:
        return builder.fadd(builder.fmul(a, b), c)
    name = f"llvm.fma.v{vector.count}f{32 if vector.element == ir.FloatType() else 64}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(function, [a, b, c])


def in_every_lane(builder, vector, x):
    """One number in all lanes."""
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, x, I32(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def lanes_below(builder, vector, n):
    """Which lanes have a number below n, as masked loads and stores take it."""
    count = ir.VectorType(I64, vector.count)
    own = ir.Constant(count, list(range(vector.count)))
    return builder.icmp_signed("<", own, in_every_lane(builder, count, n))


def masked(builder, kind, vector, *arguments):
    """llvm.masked.load or .store of the lanes that a mask names."""
    mask = ir.VectorType(ir.IntType(1), vector.count)
    bits = 32 if vector.element == ir.FloatType() else 64
    name = f"llvm.masked.{kind}.v{vector.count}f{bits}.p0v{vector.count}f{bits}"
    to = vector.as_pointer()
    taken = {
        "load": ir.FunctionType(vector, [to, I32, mask, vector]),
        "store": ir.FunctionType(ir.VoidType(), [vector, to, I32, mask]),
    }
    return builder.call(cgutils.get_or_insert_function(builder.module, taken[kind], name), arguments)


@intrinsic
def tile(typing_context, rows, vectors, x, x_at, x_step, w, w_at, w_step, depth, out, out_at, out_step, width, more):
    """out[t, :width] = x[t, :depth] w[:depth, :width] for `rows` rows t; added to what is there if `more`.

    rows, vectors   1 to ROWS, 1 to VECTORS: there is code for each pair
    *_at, *_step    where the first number is, and how far it is to the next row: in numbers, from the array's start
    width           columns that are stored: the last vector's others are computed, and dropped
    Nothing is checked; w must be readable for `vectors` whole vectors in every row.
    """

    def generate(context, builder, sig, args):
        starts = [context.make_array(sig.args[k])(context, builder, args[k]).data for k in (2, 5, 9)]
        size = x.dtype.bitwidth // 8
        vector = ir.VectorType(context.get_data_type(x.dtype), lanes(size))
        for R in range(1, ROWS + 1):
            for V in range(1, VECTORS + 1):
                rows_fit, vectors_fit = (builder.icmp_signed("==", a, I64(n)) for a, n in ((args[0], R), (args[1], V)))
                with builder.if_then(builder.and_(rows_fit, vectors_fit)):
                    straight(builder, vector, size, R, V, *starts, *(args[k] for k in (3, 4, 6, 7, 8, 10, 11, 12, 13)))
        return context.get_dummy_value()

    i = types.intp
    return types.void(i, i, x, i, i, w, i, i, i, out, i, i, i, types.boolean), generate


def straight(builder, vector, size, R, V, x, w, out, x_at, x_step, w_at, w_step, depth, out_at, out_step, width, more):
    """The code of R rows and V vectors."""

    def vector_at(base, at):
        return builder.bitcast(builder.gep(base, [at]), vector.as_pointer())

    zero = ir.Constant(vector, None)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(V)] for _ in range(R)]
    for one in (s for row in sums for s in row):
        builder.store(zero, one)
    x_rows = [builder.gep(x, [builder.add(x_at, builder.mul(x_step, I64(r)))]) for r in range(R)]
    w = builder.gep(w, [w_at])
    with cgutils.for_range(builder, depth) as loop:
        there = builder.mul(loop.index, w_step)
        ws = [builder.load(vector_at(w, builder.add(there, I64(v * vector.count))), align=size) for v in range(V)]
        for r in range(R):
            a = in_every_lane(builder, vector, builder.load(builder.gep(x_rows[r], [loop.index])))
            for v in range(V):
                builder.store(multiply_add(builder, vector, a, ws[v], builder.load(sums[r][v])), sums[r][v])

    mask = lanes_below(builder, vector, builder.sub(width, I64((V - 1) * vector.count)))
    for r in range(R):
        row = builder.gep(out, [builder.add(out_at, builder.mul(out_step, I64(r)))])
        for v in range(V):
            to, y = vector_at(row, I64(v * vector.count)), builder.load(sums[r][v])
            inside = mask if v == V - 1 else ir.Constant(mask.type, [1] * vector.count)
            before = masked(builder, "load", vector, to, I32(size), inside, zero)
            y = builder.select(more, builder.fadd(before, y), y)
            masked(builder, "store", vector, y, to, I32(size), inside)
