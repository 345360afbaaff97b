"""Attention of `int8` and `bf16`: attention.py with queries, keys, shares and values rounded to bfloat16.

    scores = q kᵀ, out = (e v) / sum e     each product one of exact/bfloat16.py; e = exp(scores - largest) in float32

e is rounded as it is, and the rows of the result are divided: the same error as of rounded shares, a pass less.

A pair of numbers is what one instruction takes: channels 2d and 2d + 1 of queries and keys, keys 2j and 2j + 1 of
shares and values. With VDPBF16PS it is a word of 32 bits (llvm/bfloat16_tile.py). A CPU without it multiplies rounded
float32 by the tiles of llvm/gemm.py, the second of a pair before the first, which is the instruction's order: the same
bits, and as fast as attention in float32. Pairs are counted from the start of a text, so a row's bits are its own.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.fast.attention import QUERIES, adjust, aligned, pack_keys, reach
from refembed.kernels.fast.elementwise import ROOM, SUMMED, both, high_of
from refembed.kernels.llvm import bfloat16_tile
from refembed.kernels.llvm.bfloat16 import rounded_lanes as rounded
from refembed.kernels.llvm.bfloat16_tile import LANES, put_bfloat16, tile_bf16
from refembed.kernels.llvm.gemm import row_loop
from refembed.kernels.llvm.jit import LOG2_E, ROUND, njit
from refembed.kernels.llvm.microkernel import ROWS, VECTORS
from refembed.kernels.llvm.simd import N, bits_of, broadcast, of_bits, put
from refembed.kernels.llvm.simd_float32 import first as first_lanes
from refembed.kernels.llvm.simd_float32 import larger, load, swap_pairs, total

f32 = np.float32
INSTRUCTION = bfloat16_tile.ROAD.instruction
PAIR = 1 if INSTRUCTION else 2  # float32 that a pair takes
TILE = bfloat16_tile.ROWS if INSTRUCTION else ROWS
P = LANES * (bfloat16_tile.VECTORS if INSTRUCTION else VECTORS)


if INSTRUCTION:

    @njit(inline="always")
    def put_row(out, to, x):
        """Sixteen numbers, rounded, as eight pairs."""
        put_bfloat16(out, to, x)

    @njit(inline="always")
    def put_columns(out, at, apart, a, b):
        """Pairs of sixteen columns: of a row of rounded numbers and the next."""
        put(out, at, of_bits((a >> 16) | b))

    @njit()
    def product(x, at, step, rows, w, w_at, w_step, numbers, out, out_at, out_step, width):
        """Some rows of pairs times a panel; numbers: that a row has."""
        for t in range(0, rows, TILE):
            tile_bf16(
                min(TILE, rows - t), (width + LANES - 1) // LANES, x, at + t * step, step, w, w_at, w_step, numbers,
                out, out_at + t * out_step, out_step, width, out, 0, False,
            )  # fmt: skip

else:

    @njit(inline="always")
    def put_row(out, to, x):
        """Sixteen numbers, rounded, as eight pairs, the second of each first."""
        put(out, to, swap_pairs(of_bits(rounded(x))))

    @njit(inline="always")
    def put_columns(out, at, apart, a, b):
        """Pairs of sixteen columns: the next row of rounded numbers, then, so far apart, this one."""
        put(out, at, of_bits(b))
        put(out, at + apart, of_bits(a))

    @njit()
    def product(x, at, step, rows, w, w_at, w_step, numbers, out, out_at, out_step, width):
        """Some rows of pairs times a panel; numbers: that a row has."""
        row_loop(
            x, at, step, rows, w, w_at, w_step, numbers,
            out, out_at, out_step, width, False, out, 0, False, out, 0,
        )  # fmt: skip


@njit(inline="always")
def copy(x, at, n, out, to):
    """out[to : to + n] = x[at : at + n]."""
    full = n // N * N
    for j in range(0, full, N):
        put(out, to + j, load(x, at + j))
    for j in range(full, n):
        out[to + j] = x[at + j]


@njit(inline="always")
def round_row(x, at, n, out, to):
    """x[at : at + n] as pairs from out[to] on. Up to N numbers behind both may be used."""
    for j in range(0, n, N):
        put_row(out, to + j * PAIR // 2, load(x, at + j))


@njit()
def round_rows(x, at, step, rows, n, out):
    """Rows x[at + t step :][:n] as rows of pairs: out (rows, their length)."""
    to, words = out.reshape(-1), out.shape[1]
    if n % N == 0:
        for t in range(rows):
            round_row(x, at + t * step, n, to, t * words)
        return
    row, pairs = np.zeros(n + N, np.float32), np.empty(n + 2 * N, np.float32)
    for t in range(rows):
        copy(x, at + t * step, n, row, 0)
        round_row(row, 0, n, pairs, 0)
        copy(pairs, 0, words, to, t * words)


@njit()
def pack_values(v, begin, n, channel, E, panels):
    """Values begin:begin+n of v (T, C), E channels from `channel` on: panels (E/W, pairs of n PAIR, W)."""
    C, (depth, W) = v.shape[1], panels.shape[1:]
    source, to = v.reshape(-1), panels.reshape(-1)
    if E % N == 0 and W % N == 0:
        nothing = bits_of(broadcast(f32(0)))
        for j in range(0, n, 2):
            at, there = (begin + j) * C + channel, j + 1 < n
            for e in range(0, E, N):
                b = rounded(load(source, at + C + e)) if there else nothing
                place = (e // W * depth + j * PAIR // 2) * W + e % W
                put_columns(to, place, W, rounded(load(source, at + e)), b)
        return
    room = max(E, len(panels) * W) + N
    a, b, pairs = np.zeros(room, np.float32), np.zeros(room, np.float32), np.zeros(PAIR * room, np.float32)
    for j in range(0, n, 2):
        copy(source, (begin + j) * C + channel, E, a, 0)
        if j + 1 < n:
            copy(source, (begin + j + 1) * C + channel, E, b, 0)
        else:
            b[:] = f32(0)
        for e in range(0, E, N):
            put_columns(pairs, e, room, rounded(load(a, e)), rounded(load(b, e)))
        for c in range(len(panels)):
            for r in range(PAIR):
                copy(pairs, r * room + c * W, W, to, (c * depth + j * PAIR // 2 + r) * W)


@njit()
def value_shape(E, n):
    """Of the values of a head: as few panels as will do, of equal width."""
    count = (E + P - 1) // P
    return count, (n + 1) // 2 * PAIR, (E + count * LANES - 1) // (count * LANES) * LANES


@njit()
def value_panels(v, first, n, channel, E, room):
    """Values first:first+n as `pack_values` packs them, in `room`."""
    count, depth, W = value_shape(E, n)
    panels = room[: count * depth * W].reshape(count, depth, W)
    pack_values(v, first, n, channel, E, panels)
    return panels


@njit()
def key_panels(k, first, n, channel, D, rows, room):
    """Keys first:first+n of k (T, C), D channels from `channel` on, as panels (n/P, pairs of D PAIR, P), in `room`.

    rows  room for them before they are in panels
    """
    words, count = (D + 1) // 2 * PAIR, (n + P - 1) // P
    pairs, panels = rows[: n * words].reshape(n, words), room[: count * words * P].reshape(count, words, P)
    round_rows(k.reshape(-1), first * k.shape[1] + channel, k.shape[1], n, D, pairs)
    pack_keys(pairs, 0, n, 0, panels)
    return panels


@njit()
def rooms(D, E, n):
    """For rows of keys, their panels, and panels of values, of n keys."""
    words, (count, depth, W) = (D + 1) // 2 * PAIR, value_shape(E, n)
    return aligned(n * words), aligned((n + P - 1) // P * words * P), aligned(count * depth * W)


@njit()
def scores(q, rows, keys, n, low, high, out, out_step):
    """q kᵀ: rows of pairs q (rows, D) against keys low:high of n; out: rows so far apart, other columns may change."""
    words = keys.shape[1]
    for p in range(low // P, (high + P - 1) // P):
        product(q, 0, words, rows, keys, p * words * P, P, words, out, p * P, out_step, min(P, n - p * P))


@njit()
def mix(p, p_step, rows, low, high, values, E, out, out_at, out_step):
    """p v: rows of pairs of shares of keys low:high, both even."""
    depth, W = values.shape[1:]
    first, numbers = low * PAIR // 2, (high - low) * PAIR // 2
    for c in range(len(values)):
        product(
            p, first, p_step, rows, values, (c * depth + first) * W, W, numbers,
            out, out_at + c * W, out_step, min(W, E - c * W),
        )  # fmt: skip


@njit(inline="always")
def power_of_two(y):
    """2^y of sixteen numbers from -126 to 0, to 2e-7: 2^n by the exponent, 2^f for -1/2 <= f <= 1/2 by a polynomial.

    Its coefficients have the least largest error among those with 2^0 = 1.
    """
    shifted = y + ROUND  # n stands in its last bits
    f = y - (shifted - ROUND)
    p = both(broadcast(f32(1.326472731307149e-3)), f, broadcast(f32(9.671512991189957e-3)))
    p = both(p, f, broadcast(f32(5.550733581185341e-2)))
    p = both(p, f, broadcast(f32(2.402224242687225e-1)))
    p = both(p, f, broadcast(f32(6.931470036506653e-1)))
    p = both(p, f, broadcast(f32(1)))
    return of_bits(bits_of(p) + (bits_of(shifted) << 23))


@njit()
def exponentials(x, at, n, scale, out, to, rounding):
    """e = exp(scale y - its largest) of y = x[at : at + n]: 1 / their sum. x is flat, with ROOM behind it.

    rounding  e goes to out as pairs, from out[to] on, in whole vectors, behind n zeros; else in the place of y
    """
    end, sum_, lowest, zero = at + n, 0.0, broadcast(f32(-126)), broadcast(f32(0))
    scale = f32(scale * LOG2_E)
    lowered = broadcast(-(high_of(x, at, n) * scale))
    for begin in range(at, end, SUMMED):
        part, some = zero, min(begin + SUMMED, end)
        for j in range(begin, some, N):
            e = power_of_two(larger(load(x, j) * scale + lowered, lowest))
            if some - j < N:
                e = first_lanes(e, some - j, zero)
            part = part + e
            if rounding:
                put_row(out, to + (j - at) * PAIR // 2, e)
            else:
                put(x, j, e)
        sum_ += total(part)
    return f32(1 / sum_)


@njit(inline="always")
def multiply(x, at, n, factor):
    """x[at : at + n] times a number, in place."""
    full = n // N * N
    for j in range(at, at + full, N):
        put(x, j, load(x, j) * factor)
    for j in range(at + full, at + n):
        x[j] *= factor


@njit()
def attention(
    q, k, v, n_head, group, offsets, scale, causal, window, kind, soft_cap, slopes, bias, sinks, out, begin, end
):  # fmt: skip
    """As attention.attention: head h of sequence s, for s H + h in begin:end."""
    none, C, width = np.empty(0, np.float32), q.shape[1], out.shape[1]
    D, E = C // n_head, width // n_head
    words, longest = (D + 1) // 2 * PAIR, 0
    for s in range(begin // n_head, (end + n_head - 1) // n_head):
        longest = max(longest, offsets[s + 1] - offsets[s])
    key_rows, key_room, value_room = rooms(D, E, longest)
    height = min(QUERIES, longest)
    p, pairs = aligned(height * (longest + 2 * ROOM)), aligned(height * (longest + 2 * ROOM))
    mine, share, last, to_out = np.empty((height, words), np.float32), np.empty(height, np.float32), -1, out.reshape(-1)
    keys = values = np.empty((0, 0, 0), np.float32)
    for unit in range(begin, end):
        s, h = unit // n_head, unit % n_head
        first, n, theirs = offsets[s], offsets[s + 1] - offsets[s], h // group
        plain = soft_cap == 0 and slopes[h] == 0 and len(bias) == 0 and len(sinks) == 0
        if unit // group != last:  # heads of a group share keys and values
            last = unit // group
            keys = key_panels(k, first, n, theirs * D, D, key_rows, key_room)
            values = value_panels(v, first, n, theirs * E, E, value_room)
        step = n + 2 * ROOM
        for t in range(0, n, QUERIES):
            rows = min(QUERIES, n - t)
            low, high = reach(t, n, causal, window, kind)[0], reach(t + rows - 1, n, causal, window, kind)[1]
            round_rows(q.reshape(-1), (first + t) * C + h * D, C, rows, D, mine)
            scores(mine, rows, keys, n, low, high, p, step)
            even, after = low // 2 * 2, (high + 1) // 2 * 2
            for i in range(rows):
                a, b = reach(t + i, n, causal, window, kind)
                at, to = i * step + a, i * step + even * PAIR // 2
                if plain and a == even:
                    share[i] = exponentials(p, at, b - a, scale, pairs, to, True)
                    done = a + (b - a + N - 1) // N * N
                    for j in range(to + (done - even) * PAIR // 2, to + (after - even) * PAIR // 2):
                        pairs[j] = f32(0)
                    continue
                own, sink = scale, sinks[h : h + 1]
                if not plain:
                    more = bias[h, t + i, a:b] if len(bias) > 0 else none
                    own = adjust(p, at, b - a, t + i, a, scale, soft_cap, slopes[h], more, sink)
                share[i] = exponentials(p, at, b - a + len(sink), own, pairs, to, False)
                for j in range(even, a):
                    p[i * step + j] = f32(0)
                for j in range(b, after):
                    p[i * step + j] = f32(0)
                round_row(p, i * step + even, after - even, pairs, to)
            first_out = (first + t) * width + h * E
            mix(pairs, step, rows, even, after, values, E, to_out, first_out, width)
            for i in range(rows):
                multiply(to_out, first_out + i * width, E, share[i])


@njit()
def scores_of(q, keys, out):
    """`scores` of every query with every key: q, keys (n, D), out (n, n). For traces: `attention` keeps no scores."""
    n, D = q.shape
    mine = np.empty((n, (D + 1) // 2 * PAIR), np.float32)
    round_rows(q.reshape(-1), 0, D, n, D, mine)
    rows, room, _ = rooms(D, D, n)
    scores(mine, n, key_panels(keys, 0, n, 0, D, rows, room), n, 0, n, out, n)


@njit()
def shares_of(x, scale, causal, window, kind, soft_cap, slope, sink):
    """e for every row of x (n, n), in place; 0 for keys that a query does not see.

    returns  (n) 1 / their sums: what the rows of `mix_of` are still to be multiplied by
    """
    n, none = x.shape[1], np.empty(0, np.float32)
    row, share = np.empty(n + 2 * ROOM, np.float32), np.empty(n, np.float32)
    for i in range(len(x)):
        low, high = reach(i, n, causal, window, kind)
        row[: high - low] = x[i, low:high]
        own = adjust(row, 0, high - low, i, low, scale, soft_cap, slope, none, sink)
        share[i] = exponentials(row, 0, high - low + len(sink), own, none, 0, False)
        x[i] = f32(0)
        x[i, low:high] = row[: high - low]
    return share


@njit()
def mix_of(p, v, out):
    """`mix` for every row: p (n, n), v, out (n, E)."""
    n, E = v.shape
    pairs = np.empty((n, (n + 1) // 2 * PAIR), np.float32)
    values = value_panels(v, 0, n, 0, E, rooms(E, E, n)[2])
    round_rows(p.reshape(-1), 0, n, n, n, pairs)
    mix(pairs, pairs.shape[1], n, 0, (n + 1) // 2 * 2, values, E, out, 0, E)
