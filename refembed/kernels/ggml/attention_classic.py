"""Attention without flash attention, as build_attn_mha strings it together (llama-graph.cpp):

    kq          = k q                               ggml_mul_mat
    kq          = c tanh(kq / c)                    three operations, only with a soft cap
    kq          = kq + bias                         only with a bias
    kq_soft_max = softmax(scale kq + slope mask)    the scale after the product, in float32
    kqv         = vᵀ kq_soft_max                    ggml_mul_mat

A cache keeps K and V in float16, and ggml_mul_mat then rounds queries and shares to float16 as well. Which order a
product is summed in follows from its type and sizes (`floats.order_of`), the number of keys among them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refembed.arrays import F32, Float
from refembed.kernels.ggml.attention_scores import Scoring
from refembed.kernels.ggml.floats import activations, multiply, order_of, pack
from refembed.kernels.ggml.profile import Profile
from refembed.kernels.ggml.rows import soft_max
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd_math import tanhf
from refembed.kernels.ops import Tap
from refembed.kernels.threads import parallel_for


def classic(q: F32, k: F32, v: F32, scoring: Scoring, kind: str, profile: Profile, tap: Tap) -> F32:
    """q (H, T, D), k (K, N, D), v (K, N, E) -> (T, H E). kind: the type of K and V, "F32" or "F16" (rounded).

    All heads at once where a tap is attached, else one head of keys after the other: scores (H, T, N) are many.
    """
    (H, T, _), K = q.shape, len(k)
    out = np.empty((T, H, v.shape[2]), np.float32)
    part = K if tap.active else 1  # heads of keys at a time
    for g in range(0, K, part):
        hs = slice(g * H // K, (g + part) * H // K)
        bias = None if scoring.bias is None else scoring.bias[hs]
        some = replace(scoring, slopes=scoring.slopes[hs], bias=bias, sinks=scoring.sink_of[hs])
        kqv = some_heads(q[hs], k[g : g + part], v[g : g + part], some, kind, H == 1, profile, tap)
        out[:, hs] = kqv.transpose(1, 0, 2)
    return out.reshape(T, -1)


class Cells:
    """A tap that shows the scores of the T cells in use; a cache has some more, empty ones, whose shares are 0."""

    def __init__(self, tap: Tap, T: int) -> None:
        self.tap, self.T, self.active = tap, T, tap.active

    def __call__(self, name: str, x: Float) -> Float:
        """Show x (h, T, N) without what belongs to empty cells."""
        if not self.active or x.shape[-1] == self.T:
            return self.tap(name, x)
        y = x.copy()
        y[..., : self.T] = self.tap(name, x[..., : self.T].copy())
        return y


def some_heads(q: F32, k: F32, v: F32, scoring: Scoring, kind: str, only_head: bool, profile: Profile, tap: Tap) -> F32:
    """q (h, T, D), k (g, N, D), v (g, N, E) -> kqv (h, T, E). Queries are a permuted view, unless there is one head."""
    vt = v.transpose(0, 2, 1)  # (g, E, N): how a cache keeps it
    if kind == "F32":
        vt = tap("v_cont", vt)
    shown, tap = tap, Cells(tap, q.shape[1])
    kq = tap("kq", product(q, k, kind, profile, contiguous=only_head))  # (h, T, N)
    if c := scoring.soft_cap:
        kq = tap("kq_scaled_1", kq * (np.float32(1) / c))
        kq = tap("kq_tanh", tanh(kq))
        kq = tap("kq_scaled_2", kq * c)
    if scoring.bias is not None:
        kq = tap("kq_plus_kq_b", kq + scoring.bias)
    shares = np.array(kq, np.float32, order="C")
    args = (shares, scoring.scale, scoring.mask, scoring.slopes, scoring.sink_of, profile.lanes)
    parallel_for(soft_max_rows, *args, rows=len(kq), size=kq.size * 8)
    shares = tap("kq_soft_max", shares)  # (h, T, N)
    return shown("kqv", product(shares, vt, kind, profile))  # (h, T, E)


def product(x: F32, w: F32, kind: str, profile: Profile, contiguous: bool = True) -> F32:
    """x (h, n, k) times w (g, m, k) transposed, each of g shared by h/g: (h, n, m)."""
    (h, n, k), (g, m, _) = x.shape, w.shape
    order = order_of(kind, n, (m, k), profile, contiguous)
    out = np.empty((h, n, m), np.float32)
    for i in range(g):
        packed = pack(w[i], order)
        for j in range(i * h // g, (i + 1) * h // g):
            out[j] = multiply(activations(x[j], kind, order), packed, order, m)
    return out


@njit()
def soft_max_rows(x, scale, mask, slopes, sinks, lanes, begin, end):
    """softmax of every row of heads begin:end of x (h, T, N), in place."""
    for h in range(begin, end):
        for t in range(x.shape[1]):
            soft_max(x[h, t], scale, mask[t], slopes[h], sinks[h], lanes)


@njit()
def tanh(x):
    """libm's tanhf of every element."""
    out = np.empty(x.shape, np.float32)
    for i in range(x.size):
        out.flat[i] = tanhf(x.flat[i])
    return out
