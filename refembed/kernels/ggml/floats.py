"""Products of float matrices in llama.cpp's order of summation: vec_dot_f32, _f16, _bf16, and tinyBLAS.

Every one of these kernels keeps several accumulators, gives each every so many-th element of the row, adds the
accumulators pairwise, and treats what is left over by itself. So an order is data (`Order`), and one loop runs all:

    acc[a] = fma(x[i], w[i], acc[a])   for i in elements[a]          accumulator by accumulator
    acc[a] = acc[a] + acc[b]           for a, b in tree              the sum ends in acc[0]
    the rest of the row, product by product

(ggml-cpu/vec.cpp, simd-mappings.h, llamafile/sgemm.cpp; the order of what is left over is GCC's, not the source's.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from refembed.arrays import F32, I64
from refembed.kernels.ggml.profile import Profile
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd_math import fma
from refembed.kernels.threads import parallel_for

PANEL = 64  # outputs that are worked on together: vectors run over outputs, since within one the order is given
ROWS_TOGETHER = 4  # rows of x that are worked on together


@dataclass(frozen=True, eq=False)
class Order:
    """In which order the products of one row of k are added."""

    elements: I64  # (A, n) accumulator a takes elements[a, 0], elements[a, 1] ...; -1 is a zero
    tree: I64  # (A-1, 2) then acc[a] += acc[b], pair by pair
    rest: int  # elements rest:k are left over ...
    chunk: int  # ... and added in chunks of so many rounded products, the last few by FMA; 0: one by one in double
    second: int = 0  # acc[second] is added to acc[0] in double, before the rest; 0: there is none
    rounds: bool = True  # activations are rounded to the weights' type


def pairwise(lanes: int, adjacent: bool = False) -> list[tuple[int, int]]:
    """The tree that sums a register: halves, quarters, then lanes 0+2, 1+3 and both; adjacent: 0+1, 2+3 and both.

    Of four lanes it is the latter (NEON's FADDP).
    """
    adjacent = adjacent or lanes == 4
    tree = [(i, i + half) for half in (8, 4) if half < lanes for i in range(half)]
    return tree + ([(0, 1), (2, 3), (0, 2)] if adjacent else [(0, 2), (1, 3), (0, 1)])


@lru_cache(512)
def vec_dot(k: int, lanes: int, chunk: int, adjacent: bool) -> Order:
    """Four registers take turns; the first is added to the third, the second to the fourth, then both."""
    whole = k // (4 * lanes) * 4 * lanes
    elements = np.arange(whole).reshape(-1, 4 * lanes).T
    tree = [(i, 2 * lanes + i) for i in range(2 * lanes)] + [(i, lanes + i) for i in range(lanes)]
    return Order(elements, np.array(tree + pairwise(lanes, adjacent and lanes == 8)), whole, chunk)


@lru_cache(512)
def tinyblas(k: int, lanes: int, rounds: bool = True) -> Order:
    """One register; where k does not fill the last one, zeros do."""
    whole = -(-k // lanes) * lanes
    elements = np.where(np.arange(whole) < k, np.arange(whole), -1).reshape(-1, lanes).T
    return Order(elements, np.array(pairwise(lanes)), k, 1, rounds=rounds)


@lru_cache(512)
def in_double(k: int) -> Order:
    """vec_dot_bf16 without vector instructions: all products one by one in double."""
    return Order(np.empty((1, 0), np.int64), np.empty((0, 2), np.int64), 0, 0)


@lru_cache(512)
def vdpbf16(k: int, registers: int) -> Order:
    """AVX-512's product of BF16 pairs: each of 16 lanes takes two neighbors, the second first."""
    step = 32 * registers
    whole = k // step * step
    pairs = np.arange(whole).reshape(-1, 16 * registers, 2)[:, :, ::-1]  # (steps, lanes, 2)
    elements = pairs.transpose(1, 0, 2).reshape(16 * registers, -1)
    tree = [(16 * r + a, 16 * r + b) for r in range(registers) for a, b in pairwise(16)]
    return Order(elements, np.array(tree), whole, 0, 16 * (registers - 1))


@lru_cache(512)
def two_registers(k: int) -> Order:
    """vec_dot_bf16 on AVX-512 without BF16 instructions: two registers of 16, each summed by itself."""
    whole = k // 32 * 32
    tree = [*pairwise(16), *((16 + a, 16 + b) for a, b in pairwise(16))]
    return Order(np.arange(whole).reshape(-1, 32).T, np.array(tree), whole, 0, 16)


def order_of(kind: str, n: int, shape: tuple[int, ...], profile: Profile, contiguous: bool = True) -> Order:
    """The order that llama.cpp's dispatch picks for n rows of activations times weights of that shape (m, k).

    kind        type of the weights: "F32", "F16", "BF16"
    contiguous  False: the activations are a view (queries in attention), which tinyBLAS refuses for F32
    """
    (m, k), lanes = shape, profile.lanes
    if lanes == 4:
        return neon_order(kind, n, m, k, profile, contiguous)
    wide = 32 if kind == "BF16" and profile.bf16 == "vdpbf16" else lanes
    fits = k % wide == 0 or profile.pad_k
    if n >= 2 and m % 4 == 0 and fits and (contiguous or kind != "F32"):
        if kind == "BF16" and profile.bf16 == "vdpbf16":
            return vdpbf16(k, 1)
        return tinyblas(k, lanes)
    if kind == "BF16" and profile.bf16 == "vdpbf16":
        return vdpbf16(k, 2)
    if kind == "BF16" and profile.bf16 == "avx512f":
        return two_registers(k)
    if kind == "F32":
        return vec_dot(k, lanes, profile.tail, True)
    return vec_dot(k, lanes, 0, kind == "F16")


def neon_order(kind: str, n: int, m: int, k: int, profile: Profile, contiguous: bool) -> Order:
    """The same of a build for ARM: tinyBLAS takes F16 weights with activations that are not rounded."""
    rows = profile.blas_rows if kind == "F32" else 2
    if kind != "BF16" and n >= rows and m % 4 == 0 and k % 4 == 0 and contiguous:
        return tinyblas(k, 4, rounds=kind == "F32" or profile.blas_f16)
    if kind == "BF16":
        return in_double(k)
    return vec_dot(k, 4, profile.tail if kind == "F32" else 0, True)


def pack(w: F32, order: Order) -> tuple[F32, F32]:
    """w (m, k) as `products` reads it: by accumulator (m/PANEL, A, n, PANEL), the rest (m/PANEL, r, PANEL)."""
    m, panels = len(w), -(-len(w) // PANEL)
    A, n = order.elements.shape
    padded = np.zeros((panels * PANEL, w.shape[1] + 1), np.float32)  # the last column is the zero of element -1
    padded[:m, :-1] = w
    main = np.empty((panels, A, n, PANEL), np.float32)
    rest = np.empty((panels, w.shape[1] - order.rest, PANEL), np.float32)
    for p in range(panels):
        part = padded[p * PANEL : (p + 1) * PANEL].T  # (k+1, PANEL)
        main[p] = part[order.elements]
        rest[p] = part[order.rest : -1]
    return main, rest


@njit()
def products(x, x_rest, w, w_rest, tree, chunk, second, out, begin, end):
    """out (T, m) = every row of x with every row of w. x (T, A, n), w as `pack` gives it; row groups begin:end."""
    panels, A, _, P = w.shape
    acc = np.empty((A, ROWS_TOGETHER, P), np.float32)
    for group in range(begin, end):
        t = group * ROWS_TOGETHER
        for p in range(panels):
            acc[:] = np.float32(0)
            for a in range(A):
                chain(x[t : t + ROWS_TOGETHER, a], w[p, a], acc[a])
            for a, b in tree:
                for r in range(ROWS_TOGETHER):
                    for j in range(P):
                        acc[a, r, j] += acc[b, r, j]
            for r in range(ROWS_TOGETHER):
                if chunk:
                    leftover(x_rest[t + r], w_rest[p], chunk, acc[0, r])
                elif x_rest.shape[1] or second:
                    leftover_double(x_rest[t + r], w_rest[p], acc[0, r], acc[second, r], second > 0)
                out[t + r, p * P : p * P + P] = acc[0, r]


@njit()
def chain(x, w, acc):
    """acc[r, j] += x[r, 0] w[0, j] + x[r, 1] w[1, j] ..., one FMA after the other. x (4, n), w (n, P), acc (4, P)."""
    n = x.shape[1]
    x0, x1, x2, x3 = x[0], x[1], x[2], x[3]
    c0, c1, c2, c3 = acc[0], acc[1], acc[2], acc[3]
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        w0, w1, w2, w3 = w[i], w[i + 1], w[i + 2], w[i + 3]
        a00, a01, a02, a03 = x0[i], x0[i + 1], x0[i + 2], x0[i + 3]
        a10, a11, a12, a13 = x1[i], x1[i + 1], x1[i + 2], x1[i + 3]
        a20, a21, a22, a23 = x2[i], x2[i + 1], x2[i + 2], x2[i + 3]
        a30, a31, a32, a33 = x3[i], x3[i + 1], x3[i + 2], x3[i + 3]
        for j in range(acc.shape[1]):
            b0, b1, b2, b3 = w0[j], w1[j], w2[j], w3[j]
            c0[j] = fma(a03, b3, fma(a02, b2, fma(a01, b1, fma(a00, b0, c0[j]))))
            c1[j] = fma(a13, b3, fma(a12, b2, fma(a11, b1, fma(a10, b0, c1[j]))))
            c2[j] = fma(a23, b3, fma(a22, b2, fma(a21, b1, fma(a20, b0, c2[j]))))
            c3[j] = fma(a33, b3, fma(a32, b2, fma(a31, b1, fma(a30, b0, c3[j]))))
    for i in range(whole, n):
        a0, a1, a2, a3 = x0[i], x1[i], x2[i], x3[i]
        for j in range(acc.shape[1]):
            b = w[i, j]
            c0[j] = fma(a0, b, c0[j])
            c1[j] = fma(a1, b, c1[j])
            c2[j] = fma(a2, b, c2[j])
            c3[j] = fma(a3, b, c3[j])


@njit()
def leftover(x, w, chunk, sums):
    """What is left of a float32 row, as GCC compiles it: whole chunks rounded after the product, the last few fused."""
    rounded = len(x) // chunk * chunk
    for i in range(rounded):
        for j in range(len(sums)):
            sums[j] += x[i] * w[i, j]
    for i in range(rounded, len(x)):
        for j in range(len(sums)):
            sums[j] = fma(x[i], w[i, j], sums[j])


@njit()
def leftover_double(x, w, sums, more, two):
    """What is left of a float16 or bfloat16 row: products in float32, their sum in double, rounded once.

    two  `more` is a second sum, that of a second register
    """
    for j in range(len(sums)):
        total = np.float64(sums[j])
        if two:
            total += np.float64(more[j])
        for i in range(len(x)):
            total += np.float64(x[i] * w[i, j])
        sums[j] = np.float32(total)


def multiply(x: F32, packed: tuple[F32, F32], order: Order, m: int) -> F32:
    """x (T, k) times packed weights (m, k): (T, m)."""
    T, k = x.shape
    groups = -(-T // ROWS_TOGETHER)
    padded = np.zeros((groups * ROWS_TOGETHER, k + 1), np.float32)
    padded[:T, :k] = x
    gathered = np.ascontiguousarray(padded[:, order.elements])  # (T, A, n)
    rest = np.ascontiguousarray(padded[:, order.rest : k])
    out = np.empty((groups * ROWS_TOGETHER, len(packed[0]) * PANEL), np.float32)
    args: tuple[Any, ...] = (gathered, rest, *packed, order.tree, order.chunk, order.second, out)
    parallel_for(products, *args, rows=groups, size=T * k * m // 64)
    return out[:T, :m]


def mul_mat(x: F32, w: F32, kind: str, profile: Profile, contiguous: bool = True) -> F32:
    """x (n, k) times w (m, k) transposed: (n, m), as ggml_mul_mat(w, x) has it for weights of that float type.

    w  float32 values of the weights; x is rounded to `kind` first, as llama.cpp does
    """
    order = order_of(kind, len(x), w.shape, profile, contiguous)
    return multiply(activations(x, kind, order), pack(w, order), order, len(w))


def activations(x: F32, kind: str, order: Order) -> F32:
    """Activations as a product with weights of that float type takes them, in that order."""
    return rounded(x, kind) if order.rounds else x


def rounded(x: F32, kind: str) -> F32:
    """Activations as a product with weights of that float type takes them."""
    if kind == "F32":
        return x
    if kind == "F16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(x).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    quiet = (bits | np.uint32(0x400000)) & np.uint32(0xFFFF0000)  # NaN stays NaN
    return np.where(np.isnan(x), quiet, nearest).view(np.float32)
