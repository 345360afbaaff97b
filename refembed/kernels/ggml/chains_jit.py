"""Compiled versions of `chains` and `codes`: sixteen rows of weights and four of activations at a time.

Packed arrays, T = ceil(m / 16) tiles of weight rows and Q = ceil(n / 4) quads of activation rows, both filled up with
zeros; E = B / 8 numbers a lane. Kernels get them flat, with the lengths in shape = (Q, nb, E, 16 T):

v     (T, nb, 8, E, 16)  w.q, lane by lane        codes (Q, nb, 8, E, 4)  x.codes likewise, in float32
d     (T, nb, H, 16)     w.d                      dx    (Q, nb, 4)        x.d
mins  (T, nb, 16, 16)    w.mins                   sums  (Q, nb, S, 4)     x.sums
dmin  (T, nb, 16)        w.dmin                   out   (4 Q, 16 T)       the product; tiles begin:end

A lane's sum of a block stays below 2^24 (at most 32 x 4096 x 127), so float32 holds it exactly; sums that may not are
added as integers.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd import broadcast, put, real
from refembed.kernels.llvm.simd_float32 import fma, load, whole
from refembed.kernels.llvm.simd_math import half

f32 = np.float32
TILE, QUAD, LANES = 16, 4, 8
SET = LANES * TILE  # floats in one set of lanes

# one vector of sixteen for each of four rows


@njit(inline="always")
def zeros():
    """Four sums, empty."""
    z = broadcast(f32(0))
    return z, z, z, z


@njit(inline="always")
def fma4(a, b, c):
    """a * b + c, row by row."""
    return fma(a[0], b[0], c[0]), fma(a[1], b[1], c[1]), fma(a[2], b[2], c[2]), fma(a[3], b[3], c[3])


@njit(inline="always")
def mul4(a, b):
    """a * b, row by row."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]


@njit(inline="always")
def add4(a, b):
    """a + b, row by row."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


@njit(inline="always")
def int4(s):
    """Whole numbers in float32 as integers."""
    return whole(s[0]), whole(s[1]), whole(s[2]), whole(s[3])


@njit(inline="always")
def float4(s):
    """Integers as float32."""
    return real(s[0]), real(s[1]), real(s[2]), real(s[3])


@njit(inline="always")
def every(w):
    """The same sixteen for each row."""
    return w, w, w, w


@njit(inline="always")
def rows(x, xt):
    """One number a row: four activations' x[xt:], each sixteen times."""
    return broadcast(x[xt]), broadcast(x[xt + 1]), broadcast(x[xt + 2]), broadcast(x[xt + 3])


@njit(inline="always")
def dot(v, at, x, xt, count):
    """The sum of `count` columns: sixteen weights v[at:] times four activations x[xt:]."""
    s0, s1, s2, s3 = zeros()
    for e in range(count):
        w = load(v, at + TILE * e)
        s0 = fma(w, broadcast(x[xt + QUAD * e]), s0)
        s1 = fma(w, broadcast(x[xt + QUAD * e + 1]), s1)
        s2 = fma(w, broadcast(x[xt + QUAD * e + 2]), s2)
        s3 = fma(w, broadcast(x[xt + QUAD * e + 3]), s3)
    return s0, s1, s2, s3


@njit(inline="always")
def whole_dot(v, at, x, xt, E, count):
    """The sum of `count` columns of all eight lanes, in integers."""
    s = int4(dot(v, at, x, xt, count))
    for lane in range(1, LANES):
        s = add4(s, int4(dot(v, at + lane * E * TILE, x, xt + lane * E * QUAD, count)))
    return s


# accumulators in memory: acc (4 rows, lanes, 16), rows `step` floats apart


@njit(inline="always")
def link(acc, at, step, d, s):
    """acc = fma(d, s, acc) for one lane of four rows."""
    put(acc, at, fma(d[0], s[0], load(acc, at)))
    put(acc, at + step, fma(d[1], s[1], load(acc, at + step)))
    put(acc, at + 2 * step, fma(d[2], s[2], load(acc, at + 2 * step)))
    put(acc, at + 3 * step, fma(d[3], s[3], load(acc, at + 3 * step)))


@njit(inline="always")
def pairs(acc, at):
    """(0 + 2) + (1 + 3) of four lanes."""
    even = load(acc, at) + load(acc, at + 2 * TILE)
    return even + (load(acc, at + TILE) + load(acc, at + 3 * TILE))


@njit(inline="always")
def hsum(acc, at):
    """The sum of eight lanes."""
    for lane in range(4):
        put(acc, at + lane * TILE, load(acc, at + (lane + 4) * TILE) + load(acc, at + lane * TILE))
    return pairs(acc, at)


@njit(inline="always")
def results_of(out, at, columns, acc):
    """The lanes of four rows, added up, as results."""
    for i in range(QUAD):
        put(out, at + i * columns, hsum(acc, i * SET))


@njit(inline="always")
def results(out, at, columns, y):
    """Four rows of results."""
    put(out, at, y[0])
    put(out, at + columns, y[1])
    put(out, at + 2 * columns, y[2])
    put(out, at + 3 * columns, y[3])


# the chains


@njit()
def lanes(shape, v, d, halves, codes, dx, out, begin, end):
    """`chains.lanes`; halves 2 where each half of a block has a d of its own, else 1."""
    Q, nb, E, columns = shape
    acc = np.empty(QUAD * SET, np.float32)
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                for h in range(2):
                    scale = mul4(every(load(d, (w * halves + h % halves) * TILE)), rows(dx, x * QUAD))
                    for lane in range(4 * h, 4 * h + 4):
                        at, xt = (w * LANES + lane) * E * TILE, (x * LANES + lane) * E * QUAD
                        link(acc, lane * TILE, SET, scale, dot(v, at, codes, xt, E))
            results_of(out, QUAD * r * columns + t * TILE, columns, acc)


@njit()
def lanes_by_turns(shape, v, d, codes, dx, out, begin, end):
    """`chains.lanes_by_turns`."""
    Q, nb, E, columns = shape
    acc = np.empty(2 * QUAD * SET, np.float32)
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(nb - nb % 2):
                w, x = t * nb + b, r * nb + b
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                for lane in range(LANES):
                    at, xt = (w * LANES + lane) * E * TILE, (x * LANES + lane) * E * QUAD
                    link(acc, (b % 2) * QUAD * SET + lane * TILE, SET, scale, dot(v, at, codes, xt, E))
            for j in range(0, QUAD * SET, TILE):
                put(acc, j, load(acc, j) + load(acc, QUAD * SET + j))
            results_of(out, QUAD * r * columns + t * TILE, columns, acc)
            if nb % 2:
                w, x = (t + 1) * nb - 1, (r + 1) * nb - 1
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                s = dot(v, w * E * SET, codes, x * E * LANES * QUAD, E * LANES)
                link(out, QUAD * r * columns + t * TILE, columns, scale, s)


@njit()
def quarters_by_turns(shape, v, d, codes, dx, fused, out, begin, end):
    """`chains.quarters_by_turns`."""
    Q, nb, E, columns = shape
    step = 4 * TILE
    acc = np.empty(2 * QUAD * step, np.float32)
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(nb - nb % 2):
                w, x = t * nb + b, r * nb + b
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                for i in range(4):
                    s = zeros()
                    for lane in range(i // 2, LANES, 2):
                        at, xt = (w * LANES + lane) * E * TILE, (x * LANES + lane) * E * QUAD
                        half_lane = i % 2 * (E // 2)
                        s = add4(s, dot(v, at + half_lane * TILE, codes, xt + half_lane * QUAD, E // 2))
                    at = (b % 2) * QUAD * step + i * TILE
                    if fused:
                        link(acc, at, step, scale, s)
                    else:
                        s = mul4(scale, s)
                        for j in range(QUAD):
                            put(acc, at + j * step, load(acc, at + j * step) + s[j])
            for j in range(QUAD):
                first, second = neighbors(acc, j * step), neighbors(acc, (QUAD + j) * step)
                put(out, (QUAD * r + j) * columns + t * TILE, first + second)
            if nb % 2:
                w, x = (t + 1) * nb - 1, (r + 1) * nb - 1
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                s = dot(v, w * E * SET, codes, x * E * LANES * QUAD, E * LANES)
                link(out, QUAD * r * columns + t * TILE, columns, scale, s)


@njit(inline="always")
def neighbors(acc, at):
    """(0 + 1) + (2 + 3) of four lanes."""
    even = load(acc, at) + load(acc, at + TILE)
    return even + (load(acc, at + 2 * TILE) + load(acc, at + 3 * TILE))


@njit()
def lanes_nested(shape, v, d, each, codes, dx, out, begin, end):
    """`chains.lanes_nested`; so many blocks of x are each block of w."""
    Q, nb, E, columns = shape
    acc, outer = np.empty(QUAD * SET, np.float32), nb // each
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(outer):
                for lane in range(LANES):
                    inner = zeros()
                    for i in range(each):
                        w, x = (t * outer + b) * each + i, (r * outer + b) * each + i
                        at, xt = (w * LANES + lane) * E * TILE, (x * LANES + lane) * E * QUAD
                        inner = fma4(rows(dx, x * QUAD), dot(v, at, codes, xt, E), inner)
                    link(acc, lane * TILE, SET, every(load(d, (t * outer + b) * TILE)), inner)
            results_of(out, QUAD * r * columns + t * TILE, columns, acc)


@njit()
def one_nested(shape, v, d, each, codes, dx, out, begin, end):
    """`chains.one_nested`."""
    Q, nb, E, columns = shape
    outer = nb // each
    for t in range(begin, end):
        for r in range(Q):
            acc = zeros()
            for b in range(outer):
                inner = zeros()
                for i in range(each):
                    w, x = (t * outer + b) * each + i, (r * outer + b) * each + i
                    s = dot(v, w * E * SET, codes, x * E * LANES * QUAD, E * LANES)
                    inner = fma4(rows(dx, x * QUAD), s, inner)
                acc = fma4(every(load(d, (t * outer + b) * TILE)), inner, acc)
            results(out, QUAD * r * columns + t * TILE, columns, acc)


@njit(inline="always")
def less(a, b, c):
    """a + b - c of whole numbers, rounded once."""
    return real(whole(a) + whole(b) - whole(c))


@njit()
def lanes_less_mins(shape, v, d, mins, codes, dx, sums, out, begin, end):
    """`chains.lanes_less_mins`; as nothing is taken off the codes yet, a lane is summed in two halves."""
    Q, nb, E, columns = shape
    acc, count = np.empty(QUAD * SET, np.float32), E // 2
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                for lane in range(LANES):
                    at, xt = (w * LANES + lane) * E * TILE, (x * LANES + lane) * E * QUAD
                    s = dot(v, at, codes, xt, count)
                    u = dot(v, at + count * TILE, codes, xt + count * QUAD, count)
                    p = dot(mins, (w * LANES + lane) * 2 * TILE, sums, (x * LANES + lane) * 2 * QUAD, 2)
                    y0, y1 = less(s[0], u[0], p[0]), less(s[1], u[1], p[1])
                    y2, y3 = less(s[2], u[2], p[2]), less(s[3], u[3], p[3])
                    link(acc, lane * TILE, SET, scale, (y0, y1, y2, y3))
            results_of(out, QUAD * r * columns + t * TILE, columns, acc)


@njit()
def lanes_and_mins(shape, v, d, mins, dmin, codes, dx, sums, out, begin, end):
    """`chains.lanes_and_mins`."""
    Q, nb, E, columns = shape
    acc = np.empty(QUAD * SET, np.float32)
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                below = mul4(every(load(dmin, w * TILE) * f32(-1)), rows(dx, x * QUAD))
                for lane in range(LANES):
                    p = dot(mins, (w * LANES + lane) * 2 * TILE, sums, (x * LANES + lane) * 2 * QUAD, 2)
                    link(acc, lane * TILE, SET, below, p)
                    at, xt = (w * LANES + lane) * E * TILE, (x * LANES + lane) * E * QUAD
                    link(acc, lane * TILE, SET, scale, dot(v, at, codes, xt, E))
            results_of(out, QUAD * r * columns + t * TILE, columns, acc)


@njit()
def mins_apart(shape, mins, dmin, dx, sums, parts, out, begin, end):
    """`chains.mins_apart`: 1 or 4 parts of a block, each with an accumulator of its own."""
    Q, nb, _, columns = shape
    acc, count = np.empty(QUAD * SET, np.float32), 16 // parts
    for t in range(begin, end):
        for r in range(Q):
            acc[:] = 0
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                below = mul4(every(load(dmin, w * TILE) * f32(-1)), rows(dx, x * QUAD))
                for p in range(parts):
                    at, xt = (w * parts + p) * count * TILE, (x * parts + p) * count * QUAD
                    link(acc, p * TILE, SET, below, dot(mins, at, sums, xt, count))
            for i in range(QUAD):
                y = pairs(acc, i * SET) if parts == 4 else load(acc, i * SET)
                put(out, (QUAD * r + i) * columns + t * TILE, y)


@njit()
def offsets(shape, dmin, sums, out, begin, end):
    """`chains.offsets`."""
    Q, nb, _, columns = shape
    for t in range(begin, end):
        for r in range(Q):
            results(out, QUAD * r * columns + t * TILE, columns, dot(dmin, t * nb * TILE, sums, r * nb * QUAD, nb))


@njit()
def tiled(shape, v, d, mins, dmin, codes, dx, sums, out, begin, end):
    """`chains.tiled`; dmin of no elements where a type has none."""
    Q, nb, E, columns = shape
    for t in range(begin, end):
        for r in range(Q):
            acc = zeros()
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                s = whole_dot(v, w * E * SET, codes, x * E * LANES * QUAD, E, E)
                y = mul4(every(load(d, w * TILE)), float4(s))
                if dmin.size > 0:
                    p = dot(mins, w * 16 * TILE, sums, x * 16 * QUAD, 16)
                    y = fma4(every(load(dmin, w * TILE) * f32(-1)), p, y)
                acc = fma4(y, rows(dx, x * QUAD), acc)
            results(out, QUAD * r * columns + t * TILE, columns, acc)


@njit()
def one(shape, v, d, codes, dx, parts, out, begin, end):
    """`chains.one`: E / parts columns of every lane at a time, which are neighbors in the row."""
    Q, nb, E, columns = shape
    count = E // parts
    for t in range(begin, end):
        for r in range(Q):
            acc = zeros()
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                scale = mul4(every(load(d, w * TILE)), rows(dx, x * QUAD))
                for p in range(parts):
                    at, xt = w * E * SET + p * count * TILE, x * E * LANES * QUAD + p * count * QUAD
                    acc = fma4(float4(whole_dot(v, at, codes, xt, E, count)), scale, acc)
            results(out, QUAD * r * columns + t * TILE, columns, acc)


@njit()
def one_of_mins(shape, mins, dmin, dx, sums, parts, out, begin, end):
    """`chains.one_of_mins`."""
    Q, nb, _, columns = shape
    count = 16 // parts
    for t in range(begin, end):
        for r in range(Q):
            acc = zeros()
            for b in range(nb):
                w, x = t * nb + b, r * nb + b
                scale = mul4(every(load(dmin, w * TILE)), rows(dx, x * QUAD))
                for p in range(parts):
                    at, xt = (w * parts + p) * count * TILE, (x * parts + p) * count * QUAD
                    acc = fma4(dot(mins, at, sums, xt, count), scale, acc)
            results(out, QUAD * r * columns + t * TILE, columns, acc)


# activations

ROUND = f32(12582912.0)  # 1.5 x 2^23: adding it rounds a float32 to a whole number, ties to even


@njit()
def quantize_q8(x, by_scale, codes, dx, sums, begin, end):
    """`codes.q8`: x (n, k) into codes (Q, nb, 8, 4, 4), dx (Q, nb, 4), and sums (Q, nb, 1, 4) unless S is 0."""
    for t in range(begin, end):
        r, i = t // QUAD, t % QUAD
        for b in range(dx.shape[1]):
            block = x[t, 32 * b : 32 * b + 32]
            amax = f32(0)
            for c in range(32):
                amax = max(amax, abs(block[c]))
            d = amax / f32(127)
            inverse = f32(1) / d if by_scale else f32(127) / amax
            if not np.isfinite(inverse):
                inverse = f32(0)
            total = f32(0)
            for c in range(32):
                code = (block[c] * inverse + ROUND) - ROUND
                total += code
                codes[r, b, c // 4, c % 4, i] = code
            dx[r, b, i] = half(d)
            if sums.shape[2] > 0:
                sums[r, b, 0, i] = half(d * total)


@njit()
def quantize_q8_k(x, codes, dx, sums, begin, end):
    """`codes.q8_k`: x (n, k) into codes (Q, nb, 8, 32, 4), dx (Q, nb, 4), sums (Q, nb, 16, 4)."""
    for t in range(begin, end):
        r, i = t // QUAD, t % QUAD
        for b in range(dx.shape[1]):
            block = x[t, 256 * b : 256 * b + 256]
            extreme, amax = f32(0), f32(0)
            for c in range(256):
                if abs(block[c]) > amax:
                    extreme, amax = block[c], abs(block[c])
            inverse = f32(-127) / extreme
            dx[r, b, i] = f32(1) / inverse if amax > 0 else f32(0)
            if not np.isfinite(inverse):
                inverse = f32(0)
            for g in range(16):
                total = f32(0)
                for c in range(16 * g, 16 * g + 16):
                    code = min((block[c] * inverse + ROUND) - ROUND, f32(127))
                    total += code
                    codes[r, b, c % 32 // 4, c // 32 * 4 + c % 4, i] = code
                sums[r, b, g, i] = total
