"""One tile of a product of whole numbers, in registers: microkernel.py for codes.

    out[t, j] = sum over blocks of 32:  d s (sum q u)  +  m d sum q         t: some rows, j: some vectors of lanes

x is blocks of words of 32 bits, as integer.py makes them; w is a panel, four bytes of one output in a word. `dot` adds
four products to each lane. Lanes run along outputs, and the sums of a block are exact, so an element is one chain of
fused multiply-adds in order of its blocks, as exact/integer.py has it, on every CPU and at any place in a tile.

Instructions that multiply bytes take one operand without a sign and one with: weights are the one without, because the
other, which is the same in all lanes, may then come from memory as part of the instruction.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from refembed.kernels.llvm.integer_road import ROAD
from refembed.kernels.llvm.microkernel import Q8_BLOCK, in_every_lane, intrinsic, lanes_below, masked

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
STEPS = Q8_BLOCK // 4  # words of codes in a block of w
VECTORS = 2  # of a tile
BITS = (8, 16)  # of an activation's code
LANES, ROWS = ROAD.lanes, ROAD.rows
P = VECTORS * LANES  # outputs of a panel
INTS, REALS = ir.VectorType(I32, LANES), ir.VectorType(F32, LANES)
SHORTS = ir.VectorType(I16, 2 * LANES)
PMADDWD = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}


def words_of(bits: int) -> int:
    """Words of a block of x: `bits` of codes, d, three sums of codes (each half, both), d times these; one is free."""
    return bits + 8


def call(builder, name, result, *arguments):
    """A function of LLVM's."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def every(vector, number):
    """A constant with the same number in all lanes."""
    return ir.Constant(vector, [number] * vector.count)


def dot(builder, sums, u, q):
    """sums + four products a lane, of bytes u without sign and q with."""
    if ROAD.name == "vpdpbusd":
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * LANES}", INTS, sums, u, q)
    if ROAD.name == "pmaddwd":
        u, q, eight = builder.bitcast(u, SHORTS), builder.bitcast(q, SHORTS), every(SHORTS, 8)
        even = builder.and_(u, every(SHORTS, 255)), builder.ashr(builder.shl(q, eight), eight)
        odd = builder.lshr(u, eight), builder.ashr(q, eight)
        for a, b in (even, odd):
            sums = builder.add(sums, call(builder, PMADDWD[LANES], INTS, a, b))
        return sums
    for k in range(4):
        a = builder.and_(builder.lshr(u, every(INTS, 8 * k)), every(INTS, 255))
        b = builder.ashr(builder.shl(q, every(INTS, 24 - 8 * k)), every(INTS, 24))
        sums = builder.add(sums, builder.mul(a, b))
    return sums


def tile_of(bits):
    """The generator of a tile of codes of so many bits."""

    def generate(context, builder, sig, args):
        starts = [context.make_array(sig.args[k])(context, builder, args[k]).data for k in ARRAYS]
        behind = builder.append_basic_block("behind")
        which = builder.add(builder.mul(args[0], I64(4)), builder.add(builder.mul(args[1], I64(2)), args[2]))
        switch = builder.switch(which, behind)
        for R in range(1, ROWS + 1):
            for halves in (0, 1):
                for minima in (0, 1):
                    own = builder.append_basic_block(f"tile.{R}.{halves}.{minima}")
                    switch.add_case(I64(4 * R + 2 * halves + minima), own)
                    builder.position_at_end(own)
                    Unrolled(builder, bits, R, halves, minima, starts, [args[k] for k in NUMBERS]).write()
                    builder.branch(behind)
        builder.position_at_end(behind)
        return context.get_dummy_value()

    return generate


def signature_of(x, w, out, bias):
    """rows, halves, minima, x, x_at, x_step, w, w_at, blocks, out, out_at, out_step, width, bias, bias_at, biased."""
    i = types.intp
    return types.void(i, i, i, x, i, i, w, i, i, out, i, i, i, bias, i, types.boolean)


ARRAYS, NUMBERS = (3, 6, 9, 13), (4, 5, 7, 8, 10, 11, 12, 14, 15)  # which arguments are what


@intrinsic
def tile8(
    typing_context, rows, halves, minima, x, x_at, x_step, w, w_at, blocks, out, out_at, out_step, width, bias, bias_at,
    biased,
):  # fmt: skip
    """out[t, :width] of `rows` rows t, 1 to ROWS, with codes of 8 bits.

    halves, minima  0 or 1: w has a scale for each 16 numbers instead of 32; it has minima
    *_at, *_step    where the first number is, and how far it is to the next row: in words, from the array's start
    blocks          of 32 numbers in a row
    width           columns that are stored: the last vector's others are computed, and dropped
    bias            its `width` numbers from bias_at on are added at last, if `biased`
    Nothing is checked.
    """
    return signature_of(x, w, out, bias), tile_of(8)


@intrinsic
def tile16(
    typing_context, rows, halves, minima, x, x_at, x_step, w, w_at, blocks, out, out_at, out_step, width, bias, bias_at,
    biased,
):  # fmt: skip
    """`tile8` with codes of 16 bits."""
    return signature_of(x, w, out, bias), tile_of(16)


class Unrolled:
    """Writes the code of R rows of a tile, in the order in which it runs."""

    def __init__(self, builder, bits, R, halves, minima, arrays, numbers):
        x, w, self.out, self.bias = arrays
        x_at, x_step, w_at, self.blocks, self.out_at, self.out_step, self.width, self.bias_at, self.biased = numbers
        self.builder, self.bits, self.R, self.halves, self.minima = builder, bits, R, halves, minima
        self.height = STEPS + (1 + halves) * (1 + minima)  # rows of a block in the panel
        self.sums = [
            [cgutils.alloca_once_value(builder, ir.Constant(REALS, None)) for _ in range(VECTORS)] for _ in range(R)
        ]
        self.x_rows = [builder.gep(x, [builder.add(x_at, builder.mul(x_step, I64(r)))]) for r in range(R)]
        self.w = builder.gep(w, [w_at])
        self.block: Any = None  # the number of the block, as the loop counts it

    def write(self):
        """Block after block, then the bias, then where the sums go."""
        b = self.builder
        with cgutils.for_range(b, self.blocks) as loop:
            self.block = loop.index
            groups = [(0, STEPS // 2, 0), (STEPS // 2, STEPS, 1)] if self.halves else [(0, STEPS, 2)]
            for g, (begin, end, which) in enumerate(groups):
                self.add_group(g, self.dots(begin, end, which), which)
        masks = [lanes_below(b, REALS, b.sub(self.width, I64(v * LANES))) for v in range(VECTORS)]
        self.add_bias(masks)
        for r in range(self.R):
            for v in range(VECTORS):
                masked(b, "store", REALS, b.load(self.sums[r][v]), self.place(r, v), I32(4), masks[v])

    def dots(self, begin, end, which):
        """The sums of whole numbers over words begin:end of a block, for each row and vector.

        Weights without minimum are u - 128: -128 times the sum of x's codes is added, number `which` of its sums.
        """
        b, none = self.builder, ir.Constant(INTS, None)
        middles = [none if self.minima else self.word(r, self.bits + 1 + which) for r in range(self.R)]
        ints = [[none if self.bits == 16 else middles[r]] * VECTORS for r in range(self.R)]
        ints = self.products(ints, begin, end, 0)
        if self.bits == 16:  # the high bytes are done
            ints = [[b.add(b.shl(n, every(INTS, 8)), middles[r]) for n in ints[r]] for r in range(self.R)]
            ints = self.products(ints, begin, end, STEPS)
        return ints

    def products(self, ints, begin, end, first):
        """ints + words begin:end of w times those of x, `first` words further on."""
        for k in range(begin, end):
            codes = self.weights(k, INTS)
            for r in range(self.R):
                q = self.word(r, first + k)
                ints[r] = [dot(self.builder, n, u, q) for n, u in zip(ints[r], codes, strict=True)]
        return ints

    def add_group(self, g, ints, which):
        """The sums so far, and those of a group times d s; and its minimum times d times the sum of x's codes."""
        b = self.builder
        scales = self.weights(STEPS + g, REALS)
        lowest = self.weights(STEPS + 1 + self.halves + g, REALS) if self.minima else []
        for r in range(self.R):
            d = self.word(r, self.bits, F32)
            for v in range(VECTORS):
                more = self.fused(b.sitofp(ints[r][v], REALS), b.fmul(d, scales[v]), b.load(self.sums[r][v]))
                if self.minima:
                    more = self.fused(self.word(r, self.bits + 4 + which, F32), lowest[v], more)
                b.store(more, self.sums[r][v])

    def fused(self, a, b, c):
        """a b + c, rounded once, on every machine."""
        return call(self.builder, f"llvm.fma.v{LANES}f32", REALS, a, b, c)

    def add_bias(self, masks):
        """`biased`: the bias behind the sums."""
        b = self.builder
        with b.if_then(self.biased):
            for v in range(VECTORS):
                at = self.vector_at(REALS, self.bias, b.add(self.bias_at, I64(v * LANES)))
                bias = masked(b, "load", REALS, at, I32(4), masks[v], ir.Constant(REALS, None))
                for r in range(self.R):
                    b.store(b.fadd(b.load(self.sums[r][v]), bias), self.sums[r][v])

    # -- places ------------------------------------------------------------------------------------------------------

    def word(self, r, k, kind=I32):
        """Word k of this block of row r, in all lanes."""
        b = self.builder
        at = b.gep(self.x_rows[r], [b.add(b.mul(self.block, I64(words_of(self.bits))), I64(k))])
        vector = INTS if kind is I32 else REALS
        return in_every_lane(b, vector, b.load(b.bitcast(at, kind.as_pointer()), align=4))

    def weights(self, row, vector):
        """The vectors of row `row` of this block of the panel."""
        b = self.builder
        start = b.add(b.mul(self.block, I64(P * self.height)), I64(row * P))
        places = [self.vector_at(vector, self.w, b.add(start, I64(v * LANES))) for v in range(VECTORS)]
        return [b.load(at, align=4) for at in places]

    def vector_at(self, vector, base, at):
        """The address of a vector that begins with word `at`."""
        return self.builder.bitcast(self.builder.gep(base, [at]), vector.as_pointer())

    def place(self, r, v):
        """Where vector v of row r of the result goes."""
        b = self.builder
        return self.vector_at(REALS, self.out, b.add(b.add(self.out_at, b.mul(self.out_step, I64(r))), I64(v * LANES)))
