"""The `fast` numerics of layers that keep a state: what fast/ops.py has of `StateOps`."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.gguf import Tensor
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.taps import with_state

NOTHING = np.empty(0, np.float32)
STEP = 4  # what a number of a state costs each token, in elements as `parallel_for` counts them


class FastStateOps(Ops):
    """`StateOps` in float32; cores share the heads of all texts."""

    @cached_property
    def recurrent(self) -> Any:
        """Their kernels, which few models need: recurrent.py."""
        from refembed.kernels.fast import recurrent

        return recurrent

    @abstractmethod
    def weight(self, w: Tensor) -> F32:
        """A small tensor in float32."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it."""

    def short_conv(
        self, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Tensor | None = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Float:  # fmt: skip
        """y_t = sum w_i x_(t-n+1+ahead+i) + bias."""
        out, taps_first = self.empty(x.shape), np.ascontiguousarray(self.weight(w).T)[None]  # (1, n, C)
        apart = bias is not None and tap.active
        b = NOTHING if bias is None or apart else self.weight(bias)
        size = x.size * w.shape[1]
        spinning_pool.parallel_for(
            self.recurrent.short_conv, np.ascontiguousarray(x), taps_first, b, ahead, offsets, out,
            rows=len(x), size=size,
        )  # fmt: skip
        return self.add_bias(tap(product, out), bias) if bias is not None and apart else out

    def log_decay(self, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Float:
        """g = a softplus(x + bias), in one pass where no tap is attached."""
        b, rates, out = self.weight(bias), self.weight(a).reshape(-1), self.empty(x.shape)
        if tap.active:
            x, b = tap("alpha_biased", x + b), np.zeros_like(b)
            spinning_pool.parallel_for(
                self.recurrent.log_decay, x, b, np.ones_like(rates), out, rows=len(x), size=16 * x.size
            )
            return tap("a_softplus", out) * rates
        spinning_pool.parallel_for(self.recurrent.log_decay, x, b, rates, out, rows=len(x), size=16 * x.size)
        return out

    def gated_delta_rule(self, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
        """S_t = e^g_t S_(t-1) (I - beta_t k_t k_tᵀ) + beta_t v_t k_tᵀ; y_t = S_t q_t / sqrt(D)."""
        out, H = self.empty(v.shape), g.shape[1]
        D = v.shape[1] // H
        q, k, v, g, beta = (np.ascontiguousarray(part) for part in (q, k, v, g, beta))
        spinning_pool.parallel_for(
            self.recurrent.gated_delta_rule, q, k, v, g, beta, k.shape[1] // D, offsets, out,
            rows=(len(offsets) - 1) * H, size=STEP * v.size * D,
        )  # fmt: skip
        return out

    def selective_scan(
        self, x: Float, dt: Float, a: Tensor, b: Float, c: Float, n_group: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """h_t = e^(s a) h_(t-1) + s x_t b_tᵀ; y_t = h_t c_t."""
        x, dt, b, c = (np.ascontiguousarray(part) for part in (x, dt, b, c))
        H, N, S, rates = dt.shape[1], b.shape[1] // n_group, len(offsets) - 1, self.weight(a)
        states, out = self.empty((S * H, x.shape[1] // H * N)), self.empty(x.shape)
        one_a_head = rates.shape[1] == 1
        kernel = self.recurrent.scan_of_heads if one_a_head else self.recurrent.scan_of_states
        decay = rates.reshape(-1) if one_a_head else rates[None]
        spinning_pool.parallel_for(
            kernel, x, dt, decay, b, c, n_group, offsets, states, out, rows=S * H, size=STEP * x.size * N
        )
        return with_state("ssm_scan", out, states[None] if S == 1 else states, tap)

    def add_scaled(self, y: Float, x: Float, d: Tensor, tap: Tap = NO_TAP) -> Float:
        """y + d x, in one pass where no tap is attached."""
        factors = self.weight(d).reshape(-1)  # (H)
        if tap.active:
            skip = x.reshape(len(x), len(factors), -1) * factors[:, None]
            return y + tap("ssm_skip", skip).reshape(x.shape)
        scale, out = np.repeat(factors, x.shape[1] // len(factors)), self.empty(x.shape)  # (H P)
        spinning_pool.parallel_for(
            self.recurrent.add_scaled, y, np.ascontiguousarray(x), scale, out, rows=len(x), size=x.size
        )
        return out

    def wkv7(
        self, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, n_head: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        """S_t = S_(t-1) (diag(w_t) + a_t b_tᵀ) + v_t k_tᵀ; y_t = S_t r_t."""
        given = [np.ascontiguousarray(part) for part in (r, w, k, v, a, b)]
        S, D = len(offsets) - 1, v.shape[1] // n_head
        states, out = self.empty((S * n_head, D * D)), self.empty(v.shape)
        spinning_pool.parallel_for(
            self.recurrent.wkv7, *given, n_head, offsets, states, out, rows=S * n_head, size=STEP * v.size * D
        )
        return with_state("wkv", out, states[None] if S == 1 else states, tap, v.shape[1])
