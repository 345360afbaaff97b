"""One tile of a matrix product, in registers: the innermost loop of `fast`.

    out[t, j] (+)= sum over k of x[t, k] w[k, j]        t: some rows, j: some vectors of lanes

Every step of k takes VECTORS vectors of W and, row by row, one number of x in all lanes; ROWS x VECTORS sums stay in
registers (Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", section 4). Lanes run along
outputs, never along a sum, so an element is one chain of fused multiply-adds in order of k: its bits do not depend on
the tile's height, on the row's place in it, or on the rows beside it. Loops over rows and vectors run while the code is
made; what remains is straight.
"""

from __future__ import annotations

import platform
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic as numba_intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)
intrinsic: Any = numba_intrinsic


def features() -> set[str]:
    """What the CPU that Numba compiles for can do, in LLVM's words."""
    config: Any = numba.config  # its settings are made at run time
    said = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES  # none for "generic"
    have = {word[1:] for word in said.split(",") if word.startswith("+")}
    if "fma" in have and not config.ENABLE_AVX:
        have.remove("fma")  # LLVM has it with AVX alone
    return have | ({"neon"} if platform.machine().lower() in ("aarch64", "arm64") else set())


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
CONVERTS_F16 = bool({"f16c", "avx512f", "neon"} & features())  # whether F16 becomes float32 in one instruction
VECTORS = 3
Q8_BLOCK = 32  # weights in a row that share a scale


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


def send_for(builder, where):
    """Ask for a cache line, to be read: a hint, which may name any place."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(where, byte), I32(0), I32(3), I32(1)])  # into the first cache, data


@intrinsic
def prefetch(typing_context, x, at):
    """Send for the cache line of x[at], which may lie beyond x."""

    def generate(context, builder, sig, args):
        send_for(builder, builder.gep(context.make_array(sig.args[0])(context, builder, args[0]).data, [args[1]]))
        return context.get_dummy_value()

    return types.void(x, types.intp), generate


@intrinsic
def tile(
    typing_context,
    rows, vectors, x, x_at, x_step, w, w_at, w_step, depth, out, out_at, out_step, width, more,
    bias, bias_at, biased, scales, scales_at, ahead,
):  # fmt: skip
    """out[t, :width] = x[t, :depth] w[:depth, :width] for `rows` rows t; added to what is there if `more`.

    rows, vectors   1 to ROWS, 1 to VECTORS: there is code for each pair
    *_at, *_step    where the first number is, and how far it is to the next row: in numbers, from the array's start
    width           columns that are stored: the last vector's others are computed, and dropped
    bias            its `width` numbers from bias_at on are added at last, if `biased`
    w               numbers like x's, or F16 as int16, or int8 codes
    scales          for codes: what each stands for is code x scale, rounded. A row of scales for CODED
                    rows of w, as far apart; depth is a multiple of CODED then
    ahead           a whole tile of numbers sends, with every row of w, for the cache line so many numbers behind its
                    first; 0: none
    Nothing is checked; w must be readable for `vectors` whole vectors in every row.
    """

    def generate(context, builder, sig, args):
        starts = [context.make_array(sig.args[k])(context, builder, args[k]).data for k in ARRAYS]
        size = x.dtype.bitwidth // 8
        vector = ir.VectorType(context.get_data_type(x.dtype), lanes(size))
        for R in range(1, ROWS + 1):
            for V in range(1, VECTORS + 1):
                rows_fit, vectors_fit = (builder.icmp_signed("==", a, I64(n)) for a, n in ((args[0], R), (args[1], V)))
                with builder.if_then(builder.and_(rows_fit, vectors_fit)):
                    unrolled(builder, vector, size, R, V, *starts, *(args[k] for k in NUMBERS))
        return context.get_dummy_value()

    i = types.intp
    yes = types.boolean
    return types.void(i, i, x, i, i, w, i, i, i, out, i, i, i, yes, bias, i, yes, scales, i, i), generate


ARRAYS, NUMBERS = (
    (2, 5, 9, 14, 17),
    (3, 4, 6, 7, 8, 10, 11, 12, 13, 15, 16, 18, 19),
)  # which arguments of `tile` are what


def unrolled(
    builder, vector, size, R, V, x, w, out, bias, scales,
    x_at, x_step, w_at, w_step, depth, out_at, out_step, width, more, bias_at, biased, scales_at, ahead,
):  # fmt: skip
    """The code of R rows and V vectors."""

    def vector_at(base, at):
        return builder.bitcast(builder.gep(base, [at]), vector.as_pointer())

    def place(r, v):
        return vector_at(out, builder.add(builder.add(out_at, builder.mul(out_step, I64(r))), I64(v * vector.count)))

    zero = ir.Constant(vector, None)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(V)] for _ in range(R)]
    x_rows = [builder.gep(x, [builder.add(x_at, builder.mul(x_step, I64(r)))]) for r in range(R)]
    w, scales = builder.gep(w, [w_at]), builder.gep(scales, [scales_at])
    codes, halves = (ir.VectorType(ir.IntType(bits), vector.count) for bits in (8, 16))
    f16 = ir.VectorType(ir.HalfType(), vector.count)

    def step(k, weights):
        """One number of x and of each row of the tile, with VECTORS vectors of W."""
        for r in range(R):
            a = in_every_lane(builder, vector, builder.load(builder.gep(x_rows[r], [k])))
            for v in range(V):
                builder.store(multiply_add(builder, vector, a, weights[v], builder.load(sums[r][v])), sums[r][v])

    def part(v):
        return I64(v * vector.count)

    def weights(row):
        """VECTORS vectors of W, from the number `row` on."""
        if w.type.pointee != halves.element:
            return [builder.load(vector_at(w, builder.add(row, part(v))), align=size) for v in range(V)]
        places = [builder.bitcast(builder.gep(w, [builder.add(row, part(v))]), halves.as_pointer()) for v in range(V)]
        return [builder.fpext(builder.bitcast(builder.load(at, align=2), f16), vector) for at in places]

    if w.type.pointee == codes.element:
        with cgutils.for_range(builder, builder.udiv(depth, I64(Q8_BLOCK))) as outer:
            row = builder.mul(outer.index, w_step)
            ds = [builder.load(vector_at(scales, builder.add(row, part(v))), align=size) for v in range(V)]
            with cgutils.for_range(builder, I64(Q8_BLOCK)) as inner:
                k = builder.add(builder.mul(outer.index, I64(Q8_BLOCK)), inner.index)
                here = [builder.gep(w, [builder.add(builder.mul(k, w_step), part(v))]) for v in range(V)]
                qs = [builder.load(builder.bitcast(at, codes.as_pointer()), align=1) for at in here]
                wide = [builder.sext(q, ir.VectorType(I32, vector.count)) for q in qs]
                step(k, [builder.fmul(builder.sitofp(q, vector), d) for q, d in zip(wide, ds, strict=True)])
    else:

        def steps(sending):
            with cgutils.for_range(builder, depth) as loop:
                row = builder.mul(loop.index, w_step)
                if sending:
                    send_for(builder, builder.gep(w, [builder.add(row, ahead)]))
                step(loop.index, weights(row))

        if R == ROWS and V == VECTORS:
            with builder.if_else(builder.icmp_signed("!=", ahead, I64(0))) as (some, none):
                with some:
                    steps(sending=True)
                with none:
                    steps(sending=False)
        else:
            steps(sending=False)

    last = lanes_below(builder, vector, builder.sub(width, I64((V - 1) * vector.count)))
    masks = [ir.Constant(last.type, [1] * vector.count)] * (V - 1) + [last]
    with builder.if_then(more):
        for r in range(R):
            for v in range(V):
                before = masked(builder, "load", vector, place(r, v), I32(size), masks[v], zero)
                builder.store(builder.fadd(before, builder.load(sums[r][v])), sums[r][v])
    with builder.if_then(biased):
        for v in range(V):
            at = vector_at(bias, builder.add(bias_at, I64(v * vector.count)))
            b = masked(builder, "load", vector, at, I32(size), masks[v], zero)
            for r in range(R):
                builder.store(builder.fadd(builder.load(sums[r][v]), b), sums[r][v])
    for r in range(R):
        for v in range(V):
            masked(builder, "store", vector, builder.load(sums[r][v]), place(r, v), I32(size), masks[v])
