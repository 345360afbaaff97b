"""The `fast` numerics: float32, products by tiles, fused Numba for the rest. rounded_ops.py has `int8` and `bf16`.

Weights are packed for the tiles once, and kept while the memory budget lasts (quant/row_blocks.py); for few rows also
as F16 or as codes, where they are such in the file (compact.py). Where the CPU has the instruction, quantized weights
are multiplied as whole numbers, with activations rounded to codes of 16 bits (integer.py). Every kernel works row by
row (attention: sequence by sequence), so the cores can share the rows without changing a bit.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.gguf import Tensor
from refembed.kernels.exact import activations, attention, conv, experts, sums
from refembed.kernels.exact import rope as rotary
from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.fast import decoder, elementwise
from refembed.kernels.fast.buffer_pool import Scratch
from refembed.kernels.fast.compact import CompactWeights
from refembed.kernels.fast.graph import GraphCache
from refembed.kernels.fast.panels import Panels
from refembed.kernels.fast.rounding import RoundedProducts
from refembed.kernels.fast.state_ops import NOTHING, FastStateOps
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.llvm import gemm, jit
from refembed.kernels.llvm.integer_road import QUICK
from refembed.kernels.llvm.microkernel import ROWS
from refembed.kernels.ops import NO_TAP, AttentionSpec, Rope, Tap
from refembed.kernels.quant.row_blocks import Store
from refembed.kernels.threads import cores, parallel_for, renew_after_fork, workers

__all__ = ["WINDOW_KINDS", "Fast", "cores", "parallel_for", "workers"]

WINDOW_KINDS = {"standard": 0, "chunked": 1, "symmetric": 2}  # AttentionMask.kind, as fast_attention.reach counts them
FEW_ROWS = 24  # rows of x that need not wait for W in float32, where there is something smaller
THREE: dict[Any, Any] = {
    gemm.by_panels: gemm.three_by_panels,
    gemm.by_f16: gemm.three_by_f16,
    gemm.by_q8: gemm.three_by_q8,
}

UNBIASED = np.empty((0, 0, 0), np.float32)


class AttentionArgs(NamedTuple):
    """What a query sees, and how scores are scaled: `AttentionSpec` as the kernels take it."""

    scale: np.float32
    causal: bool
    window: int
    kind: int
    soft_cap: np.float32


@lru_cache(maxsize=1024)
def args_of(spec: AttentionSpec) -> AttentionArgs:
    """A spec's numbers, made once for each layer of a model."""
    mask = spec.mask
    kind = WINDOW_KINDS[mask.kind]
    return AttentionArgs(np.float32(spec.scale), mask.causal, mask.window, kind, np.float32(spec.soft_cap))


@lru_cache(maxsize=1024)
def slopes_of(n_head: int, max_bias: float) -> F32:
    """ALiBi's slopes (H); zeros where there is none."""
    if not max_bias:
        return np.zeros(n_head, np.float32)
    return attention.slopes(n_head, max_bias).astype(np.float32)


class Fast(FastStateOps):
    """`Ops` in float32."""

    name = "fast"
    dtype: type[np.floating[Any]] = np.float32
    one_text_a_core = True
    bits = 16 if QUICK else 0  # of activations' codes where weights are quantized; 0: they have none
    attention_kernels: Any = fast_attention  # a module with `attention`, `scores_of`, `shares_of`, `mix_of`

    def __init__(self, *, memory_budget: int | str | None = None) -> None:
        """As `load_ops` takes it."""
        self.store = Store(np.float32, memory_budget)
        self.decoded = self.store.kept
        self.panels = Panels(self.store, np.float32, self.panel_shape, self.pack)
        self.compact = CompactWeights(self.store)
        self.rounded: RoundedProducts | None = None  # products that round activations, once there are some
        self.renew_locks()
        renew_after_fork(self)
        self.scratch = Scratch()
        self.graphs = GraphCache()
        self.turned: dict[Rope, F32] = {}

    def renew_locks(self) -> None:
        """Also in a fork of a process with several threads (`threads.renew_after_fork`)."""
        self.making = threading.Lock()  # of `rounded`

    def rounding(self, w: Tensor) -> RoundedProducts | None:
        """The products that round activations, where W is multiplied by them: quantized matrices, if `bits` says so."""
        if self.rounded is None and self.bits and w.type.weights > 1:
            from refembed.kernels.fast.integer import IntegerProducts

            with self.making:
                self.rounded = self.rounded or IntegerProducts(self.bits, self.store, self.empty)
        return self.rounded if self.rounded is not None and self.rounded.takes(w) else None

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it."""
        return self.scratch.empty(shape) if spinning_pool.own.graph is None else spinning_pool.own.graph.empty(shape)

    def capture_or_replay(
        self, given: tuple[Any, ...], layers: Callable[[Float], Float], x: Float, offsets: I64 | None = None
    ) -> Float:
        """`layers(x)`, without Python between operations where such texts come again; `GraphCache.run`."""
        return self.graphs.run(given, layers, x, offsets)

    def weight(self, w: Tensor) -> F32:
        """A small tensor (bias, norm, convolution) in float32."""
        return self.store.whole(w)

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, decoded alone."""
        return w.rows(np.asarray(ids, np.int64))

    def product(self, x: Float, w: Tensor, bias: F32 = NOTHING) -> Float:
        """x Wᵀ + bias (T, N), every row on its own."""
        if (rounded := self.rounding(w)) is not None:
            return rounded.multiply(rounded.codes(x), w, bias)
        x, out = np.ascontiguousarray(x), self.empty((len(x), w.shape[0]))
        if len(x) <= FEW_ROWS and (small := self.compact.of(w)):
            kernel, panels = small[0], small[1:]
            spinning_pool.parallel_for(
                kernel, x, *panels, bias, out, rows=len(panels[0]), size=len(x) * panels[0].size // 64
            )
            return out
        for first, packed in self.panels.parts(w):
            size = len(x) * packed.size // 64
            if len(x) < gemm.HIGH:
                spinning_pool.parallel_for(gemm.by_panels, x, packed, bias, out, first, rows=len(packed), size=size)
            else:
                spinning_pool.parallel_for(
                    gemm.by_rows, x, packed, bias, out, first, rows=len(x), size=size, grain=ROWS
                )
        return out

    def panel_shape(self, n: int, w: Tensor) -> tuple[int, int, int]:
        """Of the panels of n rows of W in float32: (n/P, C, P)."""
        P = gemm.panel(4)
        return -(-n // P), w.shape[1], P

    def pack(self, w: Tensor, top: int, bottom: int, panels: F32, begin: int, end: int) -> None:
        """Rows top:bottom of W into panels begin:end."""
        gemm.pack_rows(self.store.rows(w, top, bottom), panels, begin, end)

    def linears(self, x: Float, matrices: Sequence[tuple[Tensor, Tensor | None]]) -> list[Float]:
        """`linear` of each (w, b), x being rounded once for all.

        Three that few rows meet are one operation, so that cores meet once.
        """
        rounding = [self.rounding(w) for w, _ in matrices]
        if (rounded := rounding[0]) is not None and all(rounding):
            codes, multiply = rounded.codes(x), rounded.multiply
            return [multiply(codes, w, NOTHING if b is None else self.weight(b)) for w, b in matrices]
        ways = [self.kept(w) for w, _ in matrices] if len(matrices) == 3 and len(x) <= FEW_ROWS else [None]
        kernels = {way and way[0] for way in ways}
        kernel = THREE.get(kernels.pop()) if len(kernels) == 1 else None
        if kernel is None:
            return [self.linear(x, w, b) for w, b in matrices]
        x, arrays = np.ascontiguousarray(x), [way[1:] for way in ways if way]
        outs = [self.empty((len(x), w.shape[0])) for w, _ in matrices]
        biases = [NOTHING if b is None else self.weight(b) for _, b in matrices]
        panels, size = sum(len(a[0]) for a in arrays), len(x) * sum(a[0].size for a in arrays) // 64
        spinning_pool.parallel_for(
            kernel, x, *itertools.chain(*zip(*arrays, strict=True)), *biases, *outs, rows=panels, size=size
        )
        return outs

    def kept(self, w: Tensor) -> tuple[Any, ...] | None:
        """How few rows are multiplied with a matrix: a product, and W as it reads it, if that is kept."""
        if small := self.compact.of(w):
            return small
        packed = self.panels.whole(w)
        return None if packed is None else (gemm.by_panels, packed)

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """y = x Wᵀ + b."""
        if b is None or tap.active:
            y = self.product(x, w)
            return y if b is None else tap(product, y) + self.weight(b)
        return self.product(x, w, self.weight(b))

    def layer_norm(self, x: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """y = (x - E[x]) / sqrt(Var[x] + eps) w + b, in one pass where no tap is attached."""
        return self.norm_of_sum(x, x[:0], w, b, eps, tap)

    def add_layer_norm(
        self, x: Float, residual: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP
    ) -> Float:
        """y = layer_norm(x + residual), in the same pass."""
        return self.norm_of_sum(x, residual, w, b, eps, tap)

    def norm_of_sum(self, x: Float, more: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap) -> Float:
        """`layer_norm` of x + more, or of x where `more` has no rows."""
        out, apart = self.empty(x.shape), tap.active or x.ndim == 3  # heads have weights of their own
        scale = np.ones(x.shape[-1], np.float32) if w is None or apart else self.weight(w)
        bias = NOTHING if b is None or apart else self.weight(b)
        if not apart:
            return self.compute(elementwise.layer_norm, x, more, scale, bias, eps, out=out)
        rows, more, done = (a.reshape(-1, x.shape[-1]) for a in (x, more, out))
        spinning_pool.parallel_for(
            elementwise.layer_norm, rows, more, scale, bias, eps, done, rows=len(rows), size=x.size
        )
        if w is None:
            return out
        y = tap("norm", out) * self.weight(w)
        return y if b is None else tap("norm_w", y) + self.weight(b)

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """y = x / sqrt(E[x^2] + eps) w, in one pass where no tap is attached."""
        ones = np.ones(x.shape[-1], np.float32)
        weight, out = ones if w is None else self.weight(w), self.empty(x.shape)
        rows, done = (a.reshape(-1, x.shape[-1]) for a in (x, out))
        scale = ones if tap.active else weight
        spinning_pool.parallel_for(elementwise.rms_norm, rows, scale.ravel(), eps, done, rows=len(rows), size=x.size)
        return tap("norm", out) * weight if tap.active and w is not None else out

    def gelu(self, x: Float) -> Float:
        """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        return self.compute(elementwise.gelu, np.ascontiguousarray(x), out=self.empty(x.shape))

    def compute(self, kernel: Callable[..., Any], *arguments: Any, out: F32) -> F32:
        """kernel(*arguments, out), row by row, for what will most often meet matrices; out."""
        if self.rounded is not None and out.ndim == 2:
            self.rounded.compute(kernel, *arguments, out=out)
        else:
            spinning_pool.parallel_for(kernel, *arguments, out, rows=len(out), size=out.size)
        return out

    def gelu_erf(self, x: Float) -> Float:
        """y = x/2 erfc(-x/sqrt(2))."""
        out = self.empty(x.shape)
        spinning_pool.parallel_for(decoder.gelu_erf, x, out, rows=len(x), size=16 * x.size)
        return out

    def interpolate(self, x: Float, height: int, width: int) -> Float:
        """y = a (1 - dx) (1 - dy) + b dx (1 - dy) + c (1 - dx) dy + d dx dy."""
        return conv.interpolate(x, height, width)

    def gelu_quick(self, x: Float) -> Float:
        """y = x / (1 + e^(-1.702 x))."""
        return activations.gelu_quick(x)

    def silu(self, x: Float) -> Float:
        """y = x / (1 + e^-x)."""
        return self.of_each(decoder.silu, x)

    def relu(self, x: Float) -> Float:
        """y = max(x, 0)."""
        return self.of_each(decoder.relu, x)

    def of_each(self, kernel: Callable[..., Any], x: Float, *more: Float) -> Float:
        """A function of each number of x, or of it and others in the same place."""
        out = self.empty(x.shape)
        spinning_pool.parallel_for(kernel, x, *more, out, rows=len(x), size=x.size)
        return out

    def geglu(self, gate: Float, up: Float) -> Float:
        """y = gelu(gate) up."""
        return self.of_each(decoder.geglu, gate, up)

    def swiglu(self, gate: Float, up: Float) -> Float:
        """y = silu(gate) up."""
        return self.of_each(decoder.swiglu, gate, up)

    def swiglu_oai(self, gate: Float, up: Float) -> Float:
        """y = g sigmoid(1.702 g) (1 + u), both clamped."""
        return self.of_each(decoder.swiglu_oai, gate, up)

    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        """Every pair of channels turned by pos freq_base^(-2i/n_dims)."""
        if rope.n_dims > x.shape[-1]:  # the kernel would write behind the last head
            raise ValueError(f"{rope.n_dims} channels do not turn in heads of {x.shape[-1]}")
        step, apart = (2, 1) if rope.pairs == "norm" else (1, rope.n_dims // 2)
        turns, out = self.turns(int(pos.max()) + 1, rope), self.empty(x.shape)
        flat, done = (a.reshape(len(a), -1) for a in (x, out))
        spinning_pool.parallel_for(
            decoder.rope, flat, pos, turns, x.shape[1], step, apart, done, rows=len(x), size=x.size
        )
        return out

    def turns(self, n: int, rope: Rope) -> F32:
        """Cosines and sines of the places 0 to n - 1 at least, (2, P, n_dims/2); kept, made in double."""
        known = self.turned.get(rope)  # another thread may put a shorter one there
        if known is None or known.shape[1] < n:
            both = rotary.turns(np.arange(1 << (n - 1).bit_length()), rope)
            self.turned[rope] = known = np.stack(both).astype(np.float32)
        return known

    def sigmoid(self, x: Float) -> Float:
        """y = 1 / (1 + e^-x)."""
        return self.of_each(decoder.sigmoid, x)

    def add_bias(self, x: Float, b: Tensor) -> Float:
        """x + b."""
        out = self.empty(x.shape)
        spinning_pool.parallel_for(decoder.add_bias, x, self.weight(b), out, rows=len(x), size=x.size)
        return out

    def add(self, x: Float, y: Float) -> Float:
        """x + y."""
        return self.elementwise(decoder.add, x, y)

    def multiply(self, x: Float, y: Float) -> Float:
        """x y."""
        return self.elementwise(decoder.multiply, x, y)

    def scale(self, x: Float, factor: float | np.floating[Any]) -> Float:
        """factor x."""
        return self.elementwise(decoder.scale, x, np.float32(factor))

    def elementwise(self, kernel: Callable[..., Any], x: Float, other: Any) -> Float:
        """A kernel of x and another array or number; one row for each row of x."""
        out = self.empty(x.shape)
        flat = [a.reshape(len(a), -1) if isinstance(a, np.ndarray) else a for a in (x, other, out)]
        spinning_pool.parallel_for(kernel, *flat, rows=len(x), size=x.size)
        return out

    def split(self, x: Float, widths: Sequence[int]) -> list[Float]:
        """Columns of x in parts."""
        outs, first = [self.empty((len(x), width)) for width in widths], 0
        for out in outs:
            spinning_pool.parallel_for(decoder.columns, x, first, out, rows=len(x), size=out.size)
            first += out.shape[1]
        return outs

    def conv_2d(self, x: Float, w: Tensor) -> Float:
        """y[:, n] = W patch_n."""
        return np.ascontiguousarray(self.linear(conv.patches(x, w.shape[-1]), conv.as_matrix(w)).T)

    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Tensor | None = None,
    ) -> Float:  # fmt: skip
        """y = softmax(scale q kᵀ + bias + mask) v, each sequence and head on its own."""
        if spec.mask.spans:  # of images, which no kernel has: the definition, in float32
            own = None if sinks is None else self.weight(sinks)
            return attention.attention(q, k, v, spec, offsets, tap, bias=bias, sinks=own)
        if q.shape[1] * spec.n_head_kv != k.shape[1] * spec.n_head or not len(q) == len(k) == len(v) == offsets[-1]:
            raise ValueError(f"queries {q.shape} do not go with keys {k.shape} and values {v.shape}")
        out, how = self.empty((len(q), spec.group * v.shape[1])), args_of(spec)
        slopes = slopes_of(spec.n_head, spec.mask.max_bias)
        more = UNBIASED if bias is None else np.ascontiguousarray(bias, np.float32)
        sink = NOTHING if sinks is None else self.weight(sinks)
        if tap.active:
            for begin, end in itertools.pairwise(offsets):
                text = slice(begin, end)
                self.traced_attention(q[text], k[text], v[text], spec, how, slopes, more, sink, out[text], tap)
            return out
        texts = len(offsets) - 1
        packed = (np.ascontiguousarray(x) for x in (q, k, v))
        spinning_pool.parallel_for(
            self.attention_kernels.attention, *packed, spec.n_head, spec.group, offsets, *how, slopes, more, sink,
            out,
            rows=texts * spec.n_head, size=1000 * texts * spec.n_head + q.size * (len(q) // texts) // 32,
        )  # fmt: skip
        return out

    def traced_attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, how: AttentionArgs, slopes: F32, bias: F32, sinks: F32,
        out: Float, tap: Tap,
    ) -> None:  # fmt: skip
        """Attention of one text with its inner tensors shown: the same arithmetic, one step at a time."""
        q = np.ascontiguousarray(attention.by_head(q, spec.n_head))  # (H, n, D)
        k, v = (np.ascontiguousarray(attention.by_head(x, spec.n_head_kv)) for x in (k, v))  # (K, n, D)
        (H, n, _), group = q.shape, spec.group
        if not spec.cached:
            v = tap("v_cont", v.transpose(0, 2, 1)).transpose(0, 2, 1)
        v = np.ascontiguousarray(v)
        kq = np.empty((H, n, n), q.dtype)
        for h in range(H):
            self.attention_kernels.scores_of(q[h], k[h // group], kq[h])
        p = tap("kq", kq).copy()
        if how.soft_cap:
            p = tap("kq_scaled_1", p * how.scale / how.soft_cap).copy()
            jit.tanh(p.reshape(-1))
            p = tap("kq_scaled_2", tap("kq_tanh", p) * how.soft_cap).copy()
            how = how._replace(scale=np.float32(1), soft_cap=np.float32(0))
        if len(bias):
            p = tap("kq_plus_kq_b", p * how.scale + bias[:, :n, :n]).copy()
            how = how._replace(scale=np.float32(1))
        left = np.empty((H, n, 1), q.dtype)  # factors
        for h in range(H):
            left[h, :, 0] = self.attention_kernels.shares_of(p[h], *how, slopes[h], sinks[h : h + 1])
        shares = p * left
        if (given := tap("kq_soft_max", shares)) is not shares:
            p, left = np.ascontiguousarray(given), np.ones_like(left)
        kqv = np.empty((H, n, v.shape[2]), q.dtype)
        for h in range(H):
            self.attention_kernels.mix_of(p[h], v[h // group], kqv[h])
        out[:] = tap("kqv", kqv * left).transpose(1, 0, 2).reshape(out.shape)

    def mean(self, x: Float, offsets: I64) -> Float:
        """The mean of each sequence's rows, added in double."""
        return sums.means(x, offsets)

    def softmax(self, x: Float) -> Float:
        """y = e^x / sum(e^x)."""
        y = x.reshape(-1, x.shape[-1]).copy()
        parallel_for(jit.softmax_rows, y, rows=len(y), size=y.size)
        return y.reshape(x.shape)

    def tanh(self, x: Float) -> Float:
        """y = tanh(x)."""
        y = x.flatten()
        jit.tanh(y)
        return y.reshape(x.shape)

    def exp(self, x: Float) -> Float:
        """y = e^x."""
        return np.exp(x)

    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        """y = x W_eᵀ + b_e for each chosen e."""
        y = experts.experts(x, w, chosen, self.product)
        return y if b is None else tap(product, y) + self.weight(b)[chosen]

    def mix_streams(self, x: Float, w: Float) -> Float:
        """y[a, t] = sum over j of w[t, a, j] x[j, t]."""
        return sums.mix_streams(x, w)
