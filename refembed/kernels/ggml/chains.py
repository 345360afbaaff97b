"""In which order llama.cpp adds the blocks of a quantized dot product: the definitions.

Inside a block everything is whole numbers, hence exact in any order. What is left is a chain of floats, one link a
block, and a handful of shapes for it:

lanes      eight accumulators side by side, each for its own columns of every block, added up at the end
apart      offsets and mins in accumulators of their own
one        a single accumulator

n rows of activations meet m rows of weights; d of a weight and of an activation are multiplied first, in float32,
unless a definition says otherwise. (ggml-cpu/arch/x86/quants.c, arch/x86/repack.cpp, tiled/tiled-kernel.cpp, quants.c)
`chains_jit` has the compiled versions, by the same names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.kernels.ggml.blocks import Blocks, Ints
from refembed.kernels.ggml.codes import Codes

I64 = npt.NDArray[np.int64]


def fma(a: Any, b: Any, c: Any) -> F32:
    """a * b + c rounded once: the product is exact in float64, and a second rounding shows once in 2^29 sums."""
    exact: F32 = (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)
    return exact


def hsum(acc: F32) -> F32:
    """Eight lanes (..., 8) -> (...): halves added, then 0 + 2, 1 + 3, and both."""
    t = acc[..., 4:] + acc[..., :4]
    y: F32 = (t[..., 0] + t[..., 2]) + (t[..., 1] + t[..., 3])
    return y


def lane_sums(x: Codes, q: Ints) -> I64:
    """(n, m, nb, 8): lane l of a block sums the columns 32 g + 4 l .. 4 l + 3 of every group g of 32."""
    n, nb, B = x.codes.shape
    a = x.codes.reshape(n, nb, B // 32, 8, 4).astype(np.int64)
    return np.einsum("nbglj,mbglj->nmbl", a, q.reshape(len(q), nb, B // 32, 8, 4).astype(np.int64), optimize=True)


def min_sums(x: Codes, mins: Ints, parts: int) -> I64:
    """(n, m, nb, parts): sums of 16 codes times their mins, the 16 groups in so many neighboring parts."""
    n, nb = x.d.shape
    a = x.sums.reshape(n, nb, parts, 16 // parts).astype(np.int64)
    return np.einsum("nbpg,mbpg->nmbp", a, mins.reshape(len(mins), nb, parts, 16 // parts).astype(np.int64))


def scales(x: Codes, d: F32) -> F32:
    """(n, m, nb): the scale of each pair of blocks, rounded."""
    product: F32 = x.d[:, None, :] * d[None]
    return product


def lanes(x: Codes, w: Blocks, q: Ints | None = None) -> F32:
    """acc[l] = fma(d, sum[l], acc[l]); y = hsum(acc). A half with a d of its own is lanes 0 to 3, or 4 to 7."""
    sums = lane_sums(x, w.q if q is None else q)
    acc = np.zeros((*sums.shape[:2], 8), np.float32)
    for b in range(sums.shape[2]):
        d = np.repeat(x.d[:, None, b, None] * w.d[None, :, b], 8 // w.d.shape[2], axis=-1)  # (n, m, 8)
        acc = fma(d, sums[:, :, b].astype(np.float32), acc)
    return hsum(acc)


def lanes_by_turns(x: Codes, w: Blocks) -> F32:
    """Even blocks into one set of lanes, odd ones into another; a last block without partner joins the sum alone."""
    sums, d = lane_sums(x, w.q), scales(x, w.d[..., 0])
    n, m, nb, _ = sums.shape
    acc = np.zeros((2, n, m, 8), np.float32)
    for b in range(nb - nb % 2):
        acc[b % 2] = fma(d[:, :, b, None], sums[:, :, b].astype(np.float32), acc[b % 2])
    y = hsum(acc[0] + acc[1])
    return fma(d[:, :, -1], sums[:, :, -1].sum(axis=-1), y) if nb % 2 else y


def quarters_by_turns(x: Codes, w: Blocks, fused: bool) -> F32:
    """NEON's Q8_0: even blocks into four lanes, odd ones into four more; lane i has columns 2 i and 2 i + 1 of every 8.

    fused  whether a sum times d is added with one rounding; y = ((0 + 1) + (2 + 3)) + the same of the other four
    """
    (n, nb, B), m = x.codes.shape, len(w.q)
    a = x.codes.reshape(n, nb, B // 8, 4, 2).astype(np.int64)
    sums = np.einsum("nbgij,mbgij->nmbi", a, w.q.reshape(m, nb, B // 8, 4, 2).astype(np.int64), optimize=True)
    d = scales(x, w.d[..., 0])
    acc = np.zeros((2, n, m, 4), np.float32)
    for b in range(nb - nb % 2):
        s = sums[:, :, b].astype(np.float32)
        acc[b % 2] = fma(d[:, :, b, None], s, acc[b % 2]) if fused else acc[b % 2] + d[:, :, b, None] * s
    first, second = ((half[..., 0] + half[..., 1]) + (half[..., 2] + half[..., 3]) for half in acc)
    y: F32 = first + second
    return fma(d[:, :, -1], sums[:, :, -1].sum(axis=-1), y) if nb % 2 else y


def lanes_nested(x: Codes, w: Blocks) -> F32:
    """Blocks of x under one d of w: inner[l] = fma(d_x, sum[l], inner[l]); acc[l] = fma(d_w, inner[l], acc[l])."""
    sums = lane_sums(x, w.q).astype(np.float32)
    acc, each = np.zeros((*sums.shape[:2], 8), np.float32), sums.shape[2] // w.d.shape[1]
    for b in range(w.d.shape[1]):
        inner = np.zeros_like(acc)
        for i in range(b * each, (b + 1) * each):
            inner = fma(x.d[:, None, i, None], sums[:, :, i], inner)
        acc = fma(w.d[None, :, b], inner, acc)
    return hsum(acc)


def one_nested(x: Codes, w: Blocks) -> F32:
    """`lanes_nested` without lanes: one inner and one outer accumulator."""
    sums = lane_sums(x, w.q).sum(axis=-1).astype(np.float32)  # (n, m, nb)
    acc, each = np.zeros(sums.shape[:2], np.float32), sums.shape[2] // w.d.shape[1]
    for b in range(w.d.shape[1]):
        inner = np.zeros_like(acc)
        for i in range(b * each, (b + 1) * each):
            inner = fma(x.d[:, None, i], sums[:, :, i], inner)
        acc = fma(w.d[None, :, b, 0], inner, acc)
    return acc


def lanes_less_mins(x: Codes, w: Blocks) -> F32:
    """acc[l] = fma(d, sum[l] - mins[l], acc[l]): whole numbers still, but mins[l] is groups 2 l and 2 l + 1 of 16."""
    sums, d = lane_sums(x, w.q) - min_sums(x, w.mins, 8), scales(x, w.d[..., 0])
    acc = np.zeros((*sums.shape[:2], 8), np.float32)
    for b in range(sums.shape[2]):
        acc = fma(d[:, :, b, None], sums[:, :, b].astype(np.float32), acc)
    return hsum(acc)


def lanes_and_mins(x: Codes, w: Blocks) -> F32:
    """acc[l] = fma(-dmin, mins[l], acc[l]), then fma(d, sum[l], acc[l]): both in the same lanes."""
    sums, d = lane_sums(x, w.q).astype(np.float32), scales(x, w.d[..., 0])
    mins, dmin = min_sums(x, w.mins, 8).astype(np.float32), scales(x, w.dmin[..., 0])
    acc = np.zeros((*sums.shape[:2], 8), np.float32)
    for b in range(sums.shape[2]):
        acc = fma(-dmin[:, :, b, None], mins[:, :, b], acc)
        acc = fma(d[:, :, b, None], sums[:, :, b], acc)
    return hsum(acc)


def mins_apart(x: Codes, w: Blocks, parts: int) -> F32:
    """acc[i] = fma(-dmin, mins[i], acc[i]) for 1 or 4 parts i of a block; y = (0 + 2) + (1 + 3)."""
    sums, dmin = min_sums(x, w.mins, parts).astype(np.float32), scales(x, w.dmin[..., 0])
    acc = np.zeros((*sums.shape[:2], parts), np.float32)
    for b in range(sums.shape[2]):
        acc = fma(-dmin[:, :, b, None], sums[:, :, b], acc)
    return acc[..., 0] if parts == 1 else (acc[..., 0] + acc[..., 2]) + (acc[..., 1] + acc[..., 3])


def offsets(x: Codes, w: Blocks) -> F32:
    """acc = fma(m, s, acc): an offset of each block of weights times the sum of the activations it meets."""
    acc = np.zeros((len(x.d), len(w.d)), np.float32)
    for b in range(x.d.shape[1]):
        acc = fma(w.dmin[None, :, b, 0], x.sums[:, None, b, 0], acc)
    return acc


def tiled(x: Codes, w: Blocks) -> F32:
    """r = d_w sum, less dmin mins by fma, and only then times d_x: acc = fma(r, d_x, acc)."""
    sums = lane_sums(x, w.q).sum(axis=-1).astype(np.float32)  # (n, m, nb)
    acc = np.zeros(sums.shape[:2], np.float32)
    below = min_sums(x, w.mins, 1)[..., 0].astype(np.float32) if w.dmin.shape[-1] else None
    for b in range(sums.shape[2]):
        r = w.d[None, :, b, 0] * sums[:, :, b]
        r = r if below is None else fma(-w.dmin[None, :, b, 0], below[:, :, b], r)
        acc = fma(r, x.d[:, None, b], acc)
    return acc


def one(x: Codes, w: Blocks, parts: int = 1) -> F32:
    """One accumulator, one step for each of so many neighboring parts of a block; mins in a second, taken off last."""
    n, nb = x.d.shape
    a, q = x.codes.reshape(n, nb, parts, -1).astype(np.int64), w.q.reshape(len(w.q), nb, parts, -1).astype(np.int64)
    sums, d = np.einsum("nbpk,mbpk->nmbp", a, q, optimize=True).astype(np.float32), scales(x, w.d[..., 0])
    acc = np.zeros(sums.shape[:2], np.float32)
    for b in range(nb):
        for p in range(parts):
            acc = fma(d[:, :, b], sums[:, :, b, p], acc)
    return acc - one_of_mins(x, w, parts) if w.dmin.shape[-1] else acc


def one_of_mins(x: Codes, w: Blocks, parts: int) -> F32:
    """acc = fma(dmin, mins, acc), part by part."""
    sums, dmin = min_sums(x, w.mins, parts).astype(np.float32), scales(x, w.dmin[..., 0])
    acc = np.zeros(sums.shape[:2], np.float32)
    for b in range(sums.shape[2]):
        for p in range(parts):
            acc = fma(dmin[:, :, b], sums[:, :, b, p], acc)
    return acc
