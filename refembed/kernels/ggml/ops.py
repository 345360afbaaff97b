"""The `ggml` numerics: float32 that rounds where llama.cpp's CPU backend rounds, so that its bits are llama.cpp's.

All sequences of one call are one micro-batch, as llama.cpp would run them: the order of some sums depends on how many
rows there are, so a text's bits depend on its batch exactly as they do there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.gguf import Tensor
from refembed.kernels.exact import conv as planes
from refembed.kernels.ggml import attention, conv, experts, floats, quantized, recurrent, rows
from refembed.kernels.ggml import rope as rotary
from refembed.kernels.ggml.attention_classic import soft_max_rows, tanh
from refembed.kernels.ggml.attention_scores import NO_SINK
from refembed.kernels.ggml.profile import Profile, load_profile
from refembed.kernels.ggml.quantized import Kept
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Rope, Tap
from refembed.kernels.taps import with_state
from refembed.kernels.threads import parallel_for

FLOATS = ("F32", "F16", "BF16")


class Ggml(Ops):
    """`Ops` of one build of llama.cpp."""

    name = "ggml"
    dtype: type[np.floating[Any]] = np.float32

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = profile or load_profile()
        self.decoded: WeakKeyDictionary[Tensor, F32] = WeakKeyDictionary()
        self.packed: WeakKeyDictionary[Tensor, dict[floats.Order, tuple[F32, F32]]] = WeakKeyDictionary()
        self.kept: Kept = WeakKeyDictionary()  # quantized weights, as their products read them
        self.cells: attention.CacheCells | None = (
            None  # of a text that comes in several micro-batches (`pipeline.multimodal`)
        )
        self.first = 0  # cell of the KV cache where a micro-batch begins; not 0 behind others of the same call (lfm2)

    def weight(self, w: Tensor) -> F32:
        """A bias or a norm's weights, decoded."""
        if w not in self.decoded:
            self.decoded[w] = w.dequantize().copy()
        return self.decoded[w]

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, decoded alone."""
        return w.rows(np.asarray(ids, np.int64))

    def product(self, x: F32, w: Tensor) -> F32:
        """x Wᵀ (T, N) by the kernel that llama.cpp picks for this type and this many rows."""
        if w.type.name not in FLOATS:
            return quantized.mul_mat(x, w, self.profile, self.kept)
        order = floats.order_of(w.type.name, len(x), w.shape, self.profile)
        packed = self.packed.setdefault(w, {})
        if order not in packed:
            packed[order] = floats.pack(w.dequantize(), order)
        taken = floats.activations(x, w.type.name, order)
        return floats.multiply(taken, packed[order], order, w.shape[0])

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """y = x Wᵀ, rounded, + b."""
        y = self.product(np.ascontiguousarray(x, np.float32), w)
        return y if b is None else tap(product, y) + self.weight(b)

    def layer_norm(self, x: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """Norm, times w, plus b: three roundings."""
        flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty_like(flat)
        parallel_for(rows.layer_norm, flat, np.float32(eps), self.profile.lanes, out, rows=len(flat), size=flat.size)
        if w is None:
            return out.reshape(x.shape)
        y = tap("norm", out.reshape(x.shape)) * self.weight(w)
        return y if b is None else tap("norm_w", y) + self.weight(b)

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """Norm over the last axis, times w."""
        flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty_like(flat)
        parallel_for(rows.rms_norm, flat, np.float32(eps), out, rows=len(flat), size=flat.size)
        y = tap("norm", out.reshape(x.shape))
        return y if w is None else y * self.weight(w)

    def gelu(self, x: Float) -> Float:
        """The tanh form, from the table of float16 numbers."""
        return rows.gelu(x)

    def gelu_erf(self, x: Float) -> Float:
        """GELU with libm's erff."""
        flat = np.ascontiguousarray(x).reshape(-1)
        out = np.empty_like(flat)
        rows.gelu_erf(flat, out)
        return out.reshape(x.shape)

    def interpolate(self, x: Float, height: int, width: int) -> Float:
        """Four products of three factors, the last of each fused with the sum."""
        y0, y1, dy = planes.neighbors(x.shape[1], height, np.float32)
        x0, x1, dx = planes.neighbors(x.shape[2], width, np.float32)
        out = np.empty((len(x), height, width), np.float32)
        conv.interpolate(np.ascontiguousarray(x, np.float32), y0, y1, dy, x0, x1, dx, out)
        return out

    def gelu_quick(self, x: Float) -> Float:
        """Quick GELU, from the table of float16 numbers."""
        return rows.gelu_quick(x)

    def silu(self, x: Float) -> Float:
        """x / (1 + e^-x), with llama.cpp's own e^x."""
        flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty_like(flat)
        parallel_for(rows.silu, flat, self.profile.lanes, out, rows=len(flat), size=flat.size)
        return out.reshape(x.shape)

    def sigmoid(self, x: Float) -> Float:
        """1 / (1 + e^-x) with libm's expf."""
        return elementwise(recurrent.sigmoid, x)

    def geglu(self, gate: Float, up: Float) -> Float:
        """gelu(gate) * up; 0 where gate is at most -10, whatever up is."""
        return np.where(gate <= -10, np.float32(0), rows.gelu(gate) * up)

    def swiglu(self, gate: Float, up: Float) -> Float:
        """silu(gate) * up."""
        return self.silu(gate) * up

    def swiglu_oai(self, gate: Float, up: Float) -> Float:
        """gpt-oss's gated linear unit, with libm's expf."""
        out = np.empty(gate.shape, np.float32)
        rows.swiglu_oai(*(np.ascontiguousarray(x).reshape(-1) for x in (gate, up)), out.reshape(-1))
        return out

    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        """Turn every head of x (T, H, D) by its token's position."""
        return rotary.rope(np.ascontiguousarray(x, np.float32), pos, rope, self.profile.rope_in_twos)

    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Tensor | None = None,
    ) -> Float:  # fmt: skip
        """One score matrix over the whole micro-batch, or flash attention, as the profile says."""
        own = None if sinks is None else self.weight(sinks)
        past = None if self.cells is None else self.cells.store(k, v)
        return attention.attention(
            q, k, v, spec, offsets, tap, bias=bias, sinks=own, profile=self.profile, first=self.first, past=past
        )

    def softmax(self, x: Float) -> Float:
        """e^x / sum(e^x), as attention has it: the last few of a row by libm, their sum in double."""
        y, none = np.array(x, np.float32, order="C"), np.empty((len(x), 0), np.float32)
        none.flags.writeable = False  # as masks are, for which the kernel is compiled
        soft_max_rows(y[None], np.float32(1), none, np.ones(1, np.float32), NO_SINK, self.profile.lanes, 0, 1)
        return y

    def tanh(self, x: Float) -> Float:
        """libm's tanhf."""
        return tanh(np.ascontiguousarray(x, np.float32))

    def exp(self, x: Float) -> Float:
        """libm's expf."""
        return elementwise(recurrent.exp, x)

    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        """Each token through the experts chosen for it, row by row; then the bias (ggml_add_id)."""
        y = experts.mul_mat_id(x, w, chosen, self.profile, self.kept)
        return y if b is None else tap(product, y) + self.weight(b)[chosen]

    def per_head(self, x: Float, w: Tensor, *, attended: bool = False) -> Float:
        """A product of three dimensions: heads lie apart but for what attention left without flash attention."""
        alone = attended and (not self.profile.flash_attn or x.shape[1] == 1)
        return experts.per_head(np.asarray(x, np.float32), w, alone, self.profile, self.kept)

    def mix_streams(self, x: Float, w: Float) -> Float:
        """A product of two tensors of activations for each token (ggml_mul_mat in three dimensions)."""
        y = [floats.mul_mat(w[t], np.ascontiguousarray(x[:, t].T), "F32", self.profile) for t in range(len(w))]
        return np.ascontiguousarray(np.stack(y, axis=1))

    def short_conv(
        self, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Tensor | None = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Float:  # fmt: skip
        """One sum after the other; llama.cpp runs such models one text a micro-batch."""
        out = np.empty_like(x)
        for begin, end in itertools.pairwise(offsets.tolist()):
            conv.short_conv(np.ascontiguousarray(x, np.float32), self.weight(w), begin, end, ahead, out)
        return out if bias is None else tap(product, out) + self.weight(bias)

    def conv_2d(self, x: Float, w: Tensor) -> Float:
        """Patches and kernel in float16, the patches in the place of weights (ggml_conv_2d)."""
        patches = floats.rounded(planes.patches(np.asarray(x, np.float32), w.shape[-1]), "F16")
        return floats.mul_mat(planes.as_matrix(w).dequantize(), patches, "F16", self.profile)

    def log_decay(self, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Float:
        """Sum, softplus by libm, product: three roundings and libm's."""
        biased = tap("alpha_biased", x + self.weight(bias))
        return tap("a_softplus", elementwise(recurrent.softplus_of, biased)) * self.weight(a)

    def gated_delta_rule(self, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
        """Head by head, as ggml_gated_delta_net has it."""
        (T, H), lanes, tail = g.shape, self.profile.lanes, self.profile.tail
        q, k, values = (np.ascontiguousarray(part).reshape(T, -1, v.shape[1] // H) for part in (q, k, v))
        out = np.empty_like(values)
        for begin, end in itertools.pairwise(offsets.tolist()):
            text = slice(begin, end)
            given = (q[text], k[text], values[text], g[text], beta[text], lanes, tail, out[text])
            parallel_for(recurrent.gated_delta_rule, *given, rows=H, size=(end - begin) * values[0].size * out.shape[2])
        return out.reshape(v.shape)

    def selective_scan(
        self, x: Float, dt: Float, a: Tensor, b: Float, c: Float, n_group: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """Head by head, as ggml_ssm_scan has it."""
        heads, rates = np.ascontiguousarray(x).reshape(len(x), dt.shape[1], -1), self.weight(a)  # (T, H, P), (H, N)
        b, c = (np.ascontiguousarray(part).reshape(len(x), n_group, -1) for part in (b, c))  # (T, G, N)
        y, states = np.empty_like(heads), np.zeros((len(offsets) - 1, *heads.shape[1:], b.shape[2]), np.float32)
        for state, (begin, end) in zip(states, itertools.pairwise(offsets.tolist()), strict=True):
            text = slice(begin, end)
            given = (heads[text], dt[text], rates, b[text], c[text])
            size = (end - begin) * state.size
            if rates.shape[1] == 1:
                lanes = self.profile.lanes
                parallel_for(recurrent.scan_of_heads, *given, lanes, state, y[text], rows=len(state), size=size)
            else:
                parallel_for(recurrent.scan_of_states, *given, state, y[text], rows=len(state), size=size)
        return with_state("ssm_scan", y, states, tap).reshape(x.shape)

    def add_scaled(self, y: Float, x: Float, d: Tensor, tap: Tap = NO_TAP) -> Float:
        """y + d x, rounded twice."""
        scale = self.weight(d).reshape(-1, 1)  # (H, 1)
        return y + tap("ssm_skip", x.reshape(len(x), len(scale), -1) * scale).reshape(x.shape)

    def wkv7(
        self, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, n_head: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """Head by head, as ggml_rwkv_wkv7 has it."""
        parts = [np.ascontiguousarray(part).reshape(len(v), n_head, -1) for part in (r, w, k, v, a, b)]  # (T, H, D)
        D, y = parts[0].shape[2], np.empty_like(parts[0])
        states = np.zeros((len(offsets) - 1, n_head, D, D), np.float32)
        for state, (begin, end) in zip(states, itertools.pairwise(offsets.tolist()), strict=True):
            text = slice(begin, end)
            given = (*(part[text] for part in parts), self.profile.lanes, state, y[text])
            parallel_for(recurrent.wkv7, *given, rows=n_head, size=(end - begin) * state.size)
        return with_state("wkv", y, states, tap, v.shape[1]).reshape(v.shape)

    def mean(self, x: Float, offsets: I64) -> Float:
        """The product of the states with a matrix of shares: 1/n where a token is the text's, 0 elsewhere."""
        shares = np.zeros((len(offsets) - 1, len(x)), np.float32)  # (S, T)
        for s, (begin, end) in enumerate(itertools.pairwise(offsets)):
            shares[s, begin:end] = np.float32(1) / np.float32(end - begin)
        return floats.mul_mat(shares, np.ascontiguousarray(x.T), "F32", self.profile)


def elementwise(kernel: Callable[..., None], x: Float) -> Float:
    """A kernel from one flat array into another, on an array of any shape."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    out = np.empty_like(flat)
    kernel(flat, out)
    return out.reshape(x.shape)
