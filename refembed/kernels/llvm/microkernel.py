"""One tile of a matrix product, in registers: the innermost loop of `fast`.

    out[t, j] (+)= sum over k of x[t, k] w[k, j]        t: some rows, j: some vectors of lanes

Every step of k takes VECTORS vectors of W and, row by row, one number of x in all lanes; ROWS x VECTORS sums stay in
registers (Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", section 4). Lanes run along
outputs, never along a sum, so an element is one chain of fused multiply-adds in order of k: its bits do not depend on
the tile's height, on the row's place in it, or on its neighbors. Loops over rows and vectors run while the code is
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
                    Unrolled(builder, vector, size, R, V, starts, [args[k] for k in NUMBERS]).write()
        return context.get_dummy_value()

    i = types.intp
    yes = types.boolean
    return types.void(i, i, x, i, i, w, i, i, i, out, i, i, i, yes, bias, i, yes, scales, i, i), generate


ARRAYS, NUMBERS = (2, 5, 9, 14, 17), (3, 4, 6, 7, 8, 10, 11, 12, 13, 15, 16, 18, 19)  # which arguments are what


class Unrolled:
    """Writes the code of R rows and V vectors of `tile`, in the order in which it runs."""

    def __init__(self, builder, vector, size, R, V, arrays, numbers):
        x, w, self.out, self.bias, scales = arrays
        (x_at, x_step, w_at, self.w_step, self.depth, self.out_at, self.out_step, self.width, self.more,
         self.bias_at, self.biased, scales_at, self.ahead) = numbers  # fmt: skip
        self.builder, self.vector, self.size, self.R, self.V = builder, vector, size, R, V
        self.zero = ir.Constant(vector, None)
        self.sums = [[cgutils.alloca_once_value(builder, self.zero) for _ in range(V)] for _ in range(R)]
        self.x_rows = [builder.gep(x, [builder.add(x_at, builder.mul(x_step, I64(r)))]) for r in range(R)]
        self.w, self.scales = builder.gep(w, [w_at]), builder.gep(scales, [scales_at])

    def write(self):
        """Products, then what is added to them, then where they go."""
        if self.w.type.pointee == ir.IntType(8):
            self.products_of_codes()
        elif self.R == ROWS and self.V == VECTORS:  # the only tile that may send for what comes next
            with self.builder.if_else(self.builder.icmp_signed("!=", self.ahead, I64(0))) as (some, none):
                with some:
                    self.products(sending=True)
                with none:
                    self.products(sending=False)
        else:
            self.products(sending=False)
        masks = self.masks()
        self.add_what_is_there(masks)
        self.add_bias(masks)
        for r in range(self.R):
            for v in range(self.V):
                done = self.builder.load(self.sums[r][v])
                masked(self.builder, "store", self.vector, done, self.place(r, v), I32(self.size), masks[v])

    # -- products ----------------------------------------------------------------------------------------------------

    def products(self, sending):
        """x w in order of k, W in float32 or float64, or in F16."""
        b = self.builder
        with cgutils.for_range(b, self.depth) as loop:
            row = b.mul(loop.index, self.w_step)
            if sending:
                send_for(b, b.gep(self.w, [b.add(row, self.ahead)]))
            self.step(loop.index, self.weights(row))

    def products_of_codes(self):
        """x w in order of k, W as int8 codes, Q8_BLOCK rows of them to a row of scales."""
        b, wide = self.builder, ir.VectorType(I32, self.vector.count)
        codes = ir.VectorType(ir.IntType(8), self.vector.count).as_pointer()
        with cgutils.for_range(b, b.udiv(self.depth, I64(Q8_BLOCK))) as outer:
            row = b.mul(outer.index, self.w_step)
            ds = [self.load(self.scales, b.add(row, self.part(v))) for v in range(self.V)]
            with cgutils.for_range(b, I64(Q8_BLOCK)) as inner:
                k = b.add(b.mul(outer.index, I64(Q8_BLOCK)), inner.index)
                here = [b.gep(self.w, [b.add(b.mul(k, self.w_step), self.part(v))]) for v in range(self.V)]
                qs = [b.load(b.bitcast(at, codes), align=1) for at in here]
                qs = [b.sext(q, wide) for q in qs]
                self.step(k, [b.fmul(b.sitofp(q, self.vector), d) for q, d in zip(qs, ds, strict=True)])

    def step(self, k, weights):
        """One number of x and of each row of the tile, with V vectors of W."""
        b = self.builder
        for r in range(self.R):
            a = in_every_lane(b, self.vector, b.load(b.gep(self.x_rows[r], [k])))
            for v in range(self.V):
                b.store(multiply_add(b, self.vector, a, weights[v], b.load(self.sums[r][v])), self.sums[r][v])

    def weights(self, row):
        """V vectors of W, from the number `row` on."""
        b, halves = self.builder, ir.VectorType(ir.IntType(16), self.vector.count)
        if self.w.type.pointee != halves.element:
            return [self.load(self.w, b.add(row, self.part(v))) for v in range(self.V)]
        f16 = ir.VectorType(ir.HalfType(), self.vector.count)
        places = [b.bitcast(b.gep(self.w, [b.add(row, self.part(v))]), halves.as_pointer()) for v in range(self.V)]
        return [b.fpext(b.bitcast(b.load(at, align=2), f16), self.vector) for at in places]

    # -- results -----------------------------------------------------------------------------------------------------

    def add_what_is_there(self, masks):
        """`more`: the numbers of out before the sums."""
        b = self.builder
        with b.if_then(self.more):
            for r in range(self.R):
                for v in range(self.V):
                    before = masked(b, "load", self.vector, self.place(r, v), I32(self.size), masks[v], self.zero)
                    b.store(b.fadd(before, b.load(self.sums[r][v])), self.sums[r][v])

    def add_bias(self, masks):
        """`biased`: the bias behind the sums."""
        b = self.builder
        with b.if_then(self.biased):
            for v in range(self.V):
                at = self.vector_at(self.bias, b.add(self.bias_at, self.part(v)))
                bias = masked(b, "load", self.vector, at, I32(self.size), masks[v], self.zero)
                for r in range(self.R):
                    b.store(b.fadd(b.load(self.sums[r][v]), bias), self.sums[r][v])

    def masks(self):
        """Which lanes are stored: all but those of the last vector that are beyond `width`."""
        behind = self.builder.sub(self.width, self.part(self.V - 1))
        last = lanes_below(self.builder, self.vector, behind)
        return [ir.Constant(last.type, [1] * self.vector.count)] * (self.V - 1) + [last]

    # -- places ------------------------------------------------------------------------------------------------------

    def part(self, v):
        """How far vector v of a row is from the row's first number."""
        return I64(v * self.vector.count)

    def vector_at(self, base, at):
        """The address of a vector that begins with number `at`."""
        return self.builder.bitcast(self.builder.gep(base, [at]), self.vector.as_pointer())

    def load(self, base, at):
        """The vector that begins with number `at`."""
        return self.builder.load(self.vector_at(base, at), align=self.size)

    def place(self, r, v):
        """Where vector v of row r of the result goes."""
        b = self.builder
        return self.vector_at(self.out, b.add(b.add(self.out_at, b.mul(self.out_step, I64(r))), self.part(v)))
