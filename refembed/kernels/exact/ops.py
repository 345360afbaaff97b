"""The `exact` numerics: textbook formulas in float64 from dequantized weights. The number the formulas mean.

What is left of rounding is about 1e-15 relative per operation; every other numerics is measured against this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.exact import activations, attention, attention_chunked, conv, experts, norms, recurrent, sums
from refembed.kernels.exact import rope as rotary
from refembed.kernels.exact.matmul import matmul
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Rope, Tap
from refembed.kernels.quant.row_blocks import Store
from refembed.kernels.taps import with_state


class Exact(Ops):
    """`Ops` in float64. Weights are decoded to 8 bytes each, and kept while the memory budget lasts
    (quant/row_blocks.py).
    """

    name = "exact"
    dtype: type[np.floating[Any]] = np.float64

    def __init__(self, *, memory_budget: int | str | None = None) -> None:
        """As `load_ops` takes it."""
        self.store = Store(np.float64, memory_budget)
        self.decoded = self.store.kept

    def weight(self, w: Tensor) -> Float:
        """A small tensor (bias, norm, convolution) in float64."""
        return self.store.whole(w)

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows of w, decoded alone."""
        return w.rows(np.asarray(ids, np.int64)).astype(np.float64)

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        """y = x Wᵀ + b."""
        y = np.empty((len(x), w.shape[0]))  # (T, N)
        for begin, end, part in self.store.panels(w):  # some rows of W, decoded
            matmul(x, part, y[:, begin:end])
        return y if b is None else tap(product, y) + self.weight(b)

    def layer_norm(self, x: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """y = (x - E[x]) / sqrt(Var[x] + eps) w + b."""
        if w is None:
            return norms.layer_norm(x, eps)
        y = tap("norm", norms.layer_norm(x, eps)) * self.weight(w)
        return y if b is None else tap("norm_w", y) + self.weight(b)

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        """y = x / sqrt(E[x^2] + eps) w."""
        y = norms.rms_norm(x, eps)
        return y if w is None else tap("norm", y) * self.weight(w)

    def gelu(self, x: Float) -> Float:
        """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
        return activations.gelu(x)

    def gelu_erf(self, x: Float) -> Float:
        """y = x/2 erfc(-x/sqrt(2))."""
        return activations.gelu_erf(x)

    def interpolate(self, x: Float, height: int, width: int) -> Float:
        """y = a (1 - dx) (1 - dy) + b dx (1 - dy) + c (1 - dx) dy + d dx dy."""
        return conv.interpolate(x, height, width)

    def gelu_quick(self, x: Float) -> Float:
        """y = x / (1 + e^(-1.702 x))."""
        return activations.gelu_quick(x)

    def silu(self, x: Float) -> Float:
        """y = x / (1 + e^-x)."""
        return activations.silu(x)

    def sigmoid(self, x: Float) -> Float:
        """y = 1 / (1 + e^-x)."""
        return recurrent.sigmoid(x)

    def geglu(self, gate: Float, up: Float) -> Float:
        """y = gelu(gate) up."""
        return activations.geglu(gate, up)

    def swiglu(self, gate: Float, up: Float) -> Float:
        """y = silu(gate) up."""
        return activations.swiglu(gate, up)

    def swiglu_oai(self, gate: Float, up: Float) -> Float:
        """y = g sigmoid(1.702 g) (1 + u), both clamped."""
        return activations.swiglu_oai(gate, up)

    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        """Every pair of channels turned by pos freq_base^(-2i/n_dims)."""
        return rotary.rope(x, pos, rope)

    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Tensor | None = None,
    ) -> Float:  # fmt: skip
        """y = softmax(scale q kᵀ + bias + mask) v, each sequence and head on its own."""
        how = attention_chunked if attention_chunked.is_long(spec, offsets) else attention
        own = None if sinks is None else self.weight(sinks)
        return how.attention(q, k, v, spec, offsets, tap, bias=bias, sinks=own)

    def softmax(self, x: Float) -> Float:
        """y = e^x / sum(e^x)."""
        return attention.softmax(x)

    def tanh(self, x: Float) -> Float:
        """y = tanh(x)."""
        return np.tanh(x)

    def exp(self, x: Float) -> Float:
        """y = e^x."""
        return np.exp(x)

    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        """y = x W_eᵀ + b_e for each chosen e."""
        y = experts.experts(x, w, chosen, self.linear)
        return y if b is None else tap(product, y) + self.weight(b)[chosen]

    def mix_streams(self, x: Float, w: Float) -> Float:
        """y[a, t] = sum over j of w[t, a, j] x[j, t]."""
        return sums.mix_streams(x, w)

    def short_conv(
        self, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Tensor | None = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Float:  # fmt: skip
        """y_t = sum w_i x_(t-n+1+ahead+i) + bias."""
        y = conv.short_conv(x, self.weight(w), offsets, ahead)
        return y if bias is None else tap(product, y) + self.weight(bias)

    def conv_2d(self, x: Float, w: Tensor) -> Float:
        """y[:, n] = W patch_n."""
        return self.linear(conv.patches(x, w.shape[-1]), conv.as_matrix(w)).T

    def log_decay(self, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Float:
        """g = a softplus(x + bias)."""
        biased = tap("alpha_biased", x + self.weight(bias))
        return tap("a_softplus", recurrent.softplus(biased)) * self.weight(a)

    def gated_delta_rule(self, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
        """S_t = e^g_t S_(t-1) (I - beta_t k_t k_tᵀ) + beta_t v_t k_tᵀ; y_t = S_t q_t / sqrt(D)."""
        D = v.shape[1] // g.shape[1]
        q, k, values = (part.reshape(len(part), -1, D) for part in (q, k, v))
        return recurrent.gated_delta_rule(q, k, values, g, beta, offsets).reshape(v.shape)

    def selective_scan(
        self, x: Float, dt: Float, a: Tensor, b: Float, c: Float, n_group: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """h_t = e^(s a) h_(t-1) + s x_t b_tᵀ; y_t = h_t c_t."""
        heads = x.reshape(len(x), dt.shape[1], -1)  # (T, H, P)
        b, c = (part.reshape(len(x), n_group, -1) for part in (b, c))  # (T, G, N)
        y, state = recurrent.selective_scan(heads, dt, self.weight(a), b, c, offsets)
        return with_state("ssm_scan", y, state, tap).reshape(x.shape)

    def add_scaled(self, y: Float, x: Float, d: Tensor, tap: Tap = NO_TAP) -> Float:
        """y + d x."""
        scale = self.weight(d).reshape(-1, 1)  # (H, 1)
        return y + tap("ssm_skip", x.reshape(len(x), len(scale), -1) * scale).reshape(x.shape)

    def wkv7(
        self, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, n_head: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """S_t = S_(t-1) (diag(w_t) + a_t b_tᵀ) + v_t k_tᵀ; y_t = S_t r_t."""
        r, w, k, values, a, b = (part.reshape(len(v), n_head, -1) for part in (r, w, k, v, a, b))  # (T, H, D)
        y, state = recurrent.wkv7(r, w, k, values, a, b, offsets)
        return with_state("wkv", y, state, tap, v.shape[1]).reshape(v.shape)

    def mean(self, x: Float, offsets: I64) -> Float:
        """The mean of each sequence's rows."""
        return sums.means(x, offsets)
