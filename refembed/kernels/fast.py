"""The `fast` numerics: float32, BLAS for matrices, fused Numba for the rest.

Weights that are float32 in the file are used where they lie, mapped; others are decoded, and kept while the memory
budget lasts (panels.py). Every kernel works row by row (attention: sequence by sequence), so the cores can share the
rows without changing a bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.gguf import Tensor
from refembed.kernels import attention, conv, experts, jit, jit_decoder, sums
from refembed.kernels import rope as rotary
from refembed.kernels.matmul import matmul, rows_stand_alone
from refembed.kernels.ops import EVERYONE, NOBODY, Mask, Rope, See
from refembed.kernels.panels import Store, panels
from refembed.kernels.threads import cores, share, workers

__all__ = ["KINDS", "Fast", "cores", "share", "workers"]

KINDS = {"standard": 0, "chunked": 1, "symmetric": 2}  # Mask.kind, as jit.reach counts them


class Sight(NamedTuple):
    """What a query sees, and how scores are scaled: `Mask` and the rest as the kernels take them."""

    scale: np.float32
    causal: bool
    window: int
    kind: int
    soft_cap: np.float32


def add(out: F32, part: F32) -> None:
    """out += part, by all cores."""
    share(jit.add, part, out, rows=len(out), size=out.size)


def pack(w: F32, columns: F32) -> F32:
    """Rows of W as `jit.matmul_rows` reads them, put into `columns`."""
    share(jit.pack_rows, w, columns, rows=len(columns), size=columns.size)
    return columns


def fours(x: F32, columns: F32, out: F32, begin: int, end: int) -> None:
    """`jit.matmul_rows`, its rows counted in fours."""
    jit.matmul_rows(x, columns, out, 4 * begin, 4 * end)


class Fast:
    """`Ops` in float32."""

    name = "fast"
    dtype: type[np.floating[Any]] = np.float32

    def __init__(self, *, batch_invariant: bool = True, memory_budget: int | None = None) -> None:
        """As `load_ops` takes them."""
        self.batch_invariant = batch_invariant
        self.store = Store(np.float32, memory_budget)
        self.decoded = self.store.kept
        self.packed: dict[str, Float] = {}  # for the kernel of our own
        self.turned: dict[Rope, tuple[F32, F32]] = {}

    def weight(self, w: Tensor) -> F32:
        """A small tensor (bias, norm, convolution) in float32."""
        return self.store.whole(w)

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, decoded alone."""
        return w.rows(np.asarray(ids, np.int64))

    def product(self, x: Float, w: Tensor) -> Float:
        """x Wᵀ (T, N), with rows that stand alone unless the caller gave that up."""
        edges = panels(*w.shape)
        if self.batch_invariant and not all(rows_stand_alone(b - a, w.shape[1], np.float32) for a, b in edges):
            return self.in_order(x, w)
        out = np.empty((len(x), w.shape[0]), np.float32)
        for begin, end, part in self.store.panels(w):
            if self.batch_invariant:
                matmul(x, part, out[:, begin:end], add)
            else:
                np.matmul(x, part.T, out=out[:, begin:end])
        return out

    def in_order(self, x: Float, w: Tensor) -> Float:
        """x Wᵀ by the kernel of our own, where BLAS mixes rows: each element summed in order of k."""
        (n, k), high = w.shape, -(-len(x) // 4) * 4
        rows = np.zeros((high, -(-k // 4) * 4), np.float32)
        rows[: len(x), :k] = x
        out = np.empty((high, -(-n // jit.PANEL) * jit.PANEL), np.float32)
        for begin, columns in self.columns(w):
            part = out[:, begin : begin + len(columns) * jit.PANEL]
            share(fours, rows, columns, part, rows=high // 4, size=part.size)
        return np.ascontiguousarray(out[: len(x), :n])

    def columns(self, w: Tensor) -> Iterator[tuple[int, Float]]:
        """The first row of each panel of W, and the panel packed for `jit.matmul_rows`; valid until the next."""
        n, k = w.shape
        shape = (-(-n // jit.PANEL), -(-k // 4) * 4, jit.PANEL)
        whole = self.packed.get(w.name)
        if whole is None and self.store.reserve(4 * math.prod(shape)):
            whole = np.empty(shape, np.float32)
            for begin, end, part in self.store.panels(w, keep=False):
                pack(part, whole[begin // jit.PANEL : -(-end // jit.PANEL)])
            self.packed[w.name] = whole
        if whole is not None:
            for begin, end in panels(n, k):
                yield begin, whole[begin // jit.PANEL : -(-end // jit.PANEL)]
            return
        for begin, end, part in self.store.panels(w, keep=False):
            count = -(-(end - begin) // jit.PANEL)
            space = self.store.workspace("packed", count * shape[1] * jit.PANEL, np.float32)
            yield begin, pack(part, space.reshape(count, *shape[1:]))

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, see: See = NOBODY, product: str = "") -> Float:
        """y = x Wᵀ + b."""
        y = self.product(x, w)
        if b is None:
            return y
        if see.listening:
            return see(product, y) + self.weight(b)
        y += self.weight(b)
        return y

    def layer_norm(self, x: Float, w: Tensor, b: Tensor | None, eps: float, see: See = NOBODY) -> Float:
        """y = (x - E[x]) / sqrt(Var[x] + eps) w + b, in one pass where nobody looks."""
        weight, out = self.weight(w), np.empty_like(x)
        zeros = np.zeros_like(weight)
        bias = zeros if b is None else self.weight(b)
        if not see.listening:
            share(jit.layer_norm, x, weight, bias, eps, out, rows=len(x), size=x.size)
            return out
        share(jit.layer_norm, x, np.ones_like(weight), zeros, eps, out, rows=len(x), size=x.size)
        y = see("norm", out) * weight
        return y if b is None else see("norm_w", y) + bias

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, see: See = NOBODY) -> Float:
        """y = x / sqrt(E[x^2] + eps) w, in one pass where nobody looks."""
        ones = np.ones(x.shape[-1], np.float32)
        weight, out = ones if w is None else self.weight(w), np.empty(x.shape, x.dtype)
        rows, done = (a.reshape(-1, x.shape[-1]) for a in (x, out))
        scale = ones if see.listening else weight
        share(jit_decoder.rms_norm, rows, scale, eps, done, rows=len(rows), size=x.size)
        return see("norm", out) * weight if see.listening and w is not None else out

    def gelu(self, x: Float) -> Float:
        """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        out = np.empty_like(x)
        share(jit.gelu, x, out, rows=len(x), size=x.size)
        return out

    def gelu_erf(self, x: Float) -> Float:
        """y = x/2 erfc(-x/sqrt(2))."""
        out = np.empty_like(x)
        share(jit_decoder.gelu_erf, x, out, rows=len(x), size=16 * x.size)
        return out

    def silu(self, x: Float) -> Float:
        """y = x / (1 + e^-x)."""
        out = np.empty_like(x)
        share(jit_decoder.silu, x, out, rows=len(x), size=x.size)
        return out

    def geglu(self, gate: Float, up: Float) -> Float:
        """y = gelu(gate) up."""
        out = np.empty_like(gate)
        share(jit_decoder.geglu, gate, up, out, rows=len(gate), size=gate.size)
        return out

    def swiglu(self, gate: Float, up: Float) -> Float:
        """y = silu(gate) up."""
        out = np.empty_like(gate)
        share(jit_decoder.swiglu, gate, up, out, rows=len(gate), size=gate.size)
        return out

    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        """Every pair of channels turned by pos freq_base^(-2i/n_dims)."""
        step, apart = (2, 1) if rope.pairs == "norm" else (1, rope.n_dims // 2)
        cos, sin = self.turns(int(pos.max()) + 1, rope)
        out = np.empty_like(x)
        share(jit_decoder.rope, x, pos, cos, sin, step, apart, out, rows=len(x), size=x.size)
        return out

    def turns(self, n: int, rope: Rope) -> tuple[F32, F32]:
        """Cosines and sines of the places 0 to n - 1 at least, 2 x (P, n_dims/2); kept, made in double."""
        if rope not in self.turned or len(self.turned[rope][0]) < n:
            cos, sin = rotary.turns(np.arange(1 << (n - 1).bit_length()), rope)
            self.turned[rope] = cos.astype(np.float32), sin.astype(np.float32)
        return self.turned[rope]

    def attention(
        self,
        q: Float,
        k: Float,
        v: Float,
        n_head: int,
        offsets: I64,
        scale: float,
        see: See = NOBODY,
        *,
        n_head_kv: int | None = None,
        mask: Mask = EVERYONE,
        soft_cap: float = 0.0,
        cached: bool = False,
        bias: Float | None = None,
    ) -> Float:
        """y = softmax(scale q kᵀ + bias) v, each sequence and head on its own."""
        out, group = np.empty_like(q), n_head // (n_head_kv or n_head)
        slopes = np.zeros(n_head, np.float32)
        if mask.max_bias:
            slopes[:] = attention.slopes(n_head, mask.max_bias)
        how = Sight(np.float32(scale), mask.causal, mask.window, KINDS[mask.kind], np.float32(soft_cap))
        more = np.empty((0, 0, 0), np.float32) if bias is None else np.ascontiguousarray(bias, np.float32)
        if not see.listening:
            units, longest = (len(offsets) - 1) * n_head, int(np.diff(offsets).max())
            size = longest * q.size // 8
            share(jit.attention, q, k, v, n_head, group, offsets, *how, slopes, more, out, rows=units, size=size)
            return out
        for begin, end in itertools.pairwise(offsets):
            qh = attention.heads(q[begin:end], n_head)  # (H, T_s, D)
            kh, vh = (attention.heads(x[begin:end], n_head // group) for x in (k, v))  # (K, T_s, D)
            self.seen(qh, kh, vh, how, slopes, more, out[begin:end], see, cached)
        return out

    def seen(
        self, q: Float, k: Float, v: Float, how: Sight, slopes: F32, bias: Float, out: Float, see: See, cached: bool
    ) -> None:
        """Attention of one sequence with its inner tensors shown: the same arithmetic, one step at a time."""
        H, n, D = q.shape
        group = H // len(k)
        kt = np.ascontiguousarray(k.transpose(0, 2, 1))  # (K, D, n)
        if not cached:
            v = see("v_cont", v.transpose(0, 2, 1)).transpose(0, 2, 1)
        v = np.ascontiguousarray(v)  # (K, n, D)
        kq = np.empty((H, n, n), q.dtype)
        for h in range(H):
            jit.scores_of(q[h], kt[h // group], kq[h])
        p = see("kq", kq).copy()
        if how.soft_cap:
            p = see("kq_scaled_1", p * how.scale / how.soft_cap).copy()
            jit.tanh(p.reshape(-1))
            p = see("kq_scaled_2", see("kq_tanh", p) * how.soft_cap).copy()
            how = how._replace(scale=np.float32(1), soft_cap=np.float32(0))
        if len(bias):
            p = see("kq_plus_kq_b", p * how.scale + bias[:, :n, :n]).copy()
            how = how._replace(scale=np.float32(1))
        for h in range(H):
            jit.shares_of(p[h], *how, slopes[h])
        p = see("kq_soft_max", p)
        kqv = np.empty((H, n, D), q.dtype)
        for h in range(H):
            jit.mix_of(p[h], v[h // group], how.causal, how.window, how.kind, kqv[h])
        out[:] = see("kqv", kqv).transpose(1, 0, 2).reshape(n, H * D)

    def mean(self, x: Float, offsets: I64) -> Float:
        """The mean of each sequence's rows, added in double."""
        return sums.means(x, offsets)

    def softmax(self, x: Float) -> Float:
        """y = e^x / sum(e^x)."""
        y = x.reshape(-1, x.shape[-1]).copy()
        share(jit.softmax_rows, y, rows=len(y), size=y.size)
        return y.reshape(x.shape)

    def tanh(self, x: Float) -> Float:
        """y = tanh(x)."""
        y = x.flatten()
        jit.tanh(y)
        return y.reshape(x.shape)

    def experts(self, x: Float, w: Tensor, chosen: I64) -> Float:
        """y = x W_eᵀ for each chosen e."""
        return experts.experts(x, w, chosen, self.product)

    def short_conv(self, x: Float, w: Tensor, offsets: I64, ahead: int = 0) -> Float:
        """y_t = sum w_i x_(t-n+1+ahead+i)."""
        return conv.short_conv(x, self.weight(w), offsets, ahead)
