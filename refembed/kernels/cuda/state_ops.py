"""The `cupy` numerics of layers that keep a state: what cuda/ops.py has of `StateOps`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.gguf import Tensor
from refembed.kernels.cuda.array import DeviceArray
from refembed.kernels.cuda.device_ops import DeviceOps
from refembed.kernels.cuda.launch import Memory
from refembed.kernels.ops import NO_TAP, Tap
from refembed.kernels.taps import with_state

ROWS = 4  # of a state that a block has, a warp for each
CHANNELS = 64  # of a head that a block has, a thread for each


def whole_numbers(x: I64) -> I64:
    """x as int64."""
    return np.asarray(x, np.int64)


def floats(x: Float) -> F32:
    """x as float32."""
    return np.asarray(x, np.float32)


def bounds_of(offsets: I64) -> I64:
    """First and last row, plus one, of the text that each row belongs to: (T, 2).

    >>> bounds_of(np.array([0, 2, 3])).tolist()
    [[0, 2], [0, 2], [2, 3]]
    """
    lengths = np.diff(offsets)
    return np.stack([np.repeat(offsets[:-1], lengths), np.repeat(offsets[1:], lengths)], axis=1).astype(np.int64)


class CudaStateOps(DeviceOps):
    """`StateOps` on a device; a text is gone through token by token, all heads and rows of a state side by side."""

    @abstractmethod
    def numbers(self, x: Any, made: Callable[[Any], Any] = whole_numbers) -> Memory:
        """What is made of an array of the host, copied."""

    @abstractmethod
    def optional(self, w: Tensor | None) -> Memory | None:
        """A small tensor; None where there is none."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """An array of zeros."""
        out = self.empty(shape)
        self.device.for_each("fill", out.size, 0.0, out.size, out.memory)
        return out

    def short_conv(
        self, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Tensor | None = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Any:  # fmt: skip
        """y_t = sum w_i x_(t-n+1+ahead+i) + bias."""
        given, apart = self.on_device(x), bias is not None and tap.active
        out, (T, C) = self.empty(given.shape), given.shape
        self.device.for_each(
            "short_conv", out.size, given.memory, self.optional(w), self.numbers(offsets, bounds_of),
            None if apart else self.optional(bias), T, C, w.shape[1], ahead, out.memory,
        )  # fmt: skip
        return self.add_bias(tap(product, out), bias) if bias is not None and apart else out

    def log_decay(self, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Any:
        """g = a softplus(x + bias), in one launch where no tap is attached."""
        given, heads = self.on_device(x), int(np.prod(a.shape))
        out = self.empty(given.shape)
        b, rates = self.optional(bias), self.optional(a)
        if tap.active:
            given = self.on_device(tap("alpha_biased", self.add_bias(x, bias)))
            b, rates = self.zeros((heads,)).memory, self.on_device(np.ones(heads, np.float32)).memory
        self.device.for_each("log_decay", out.size, given.memory, b, rates, out.size, heads, out.memory)
        if not tap.active:
            return out
        return self.multiply(tap("a_softplus", out), self.weight(a).reshape(-1))

    def gated_delta_rule(self, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Any:
        """S_t = e^g_t S_(t-1) (I - beta_t k_t k_tᵀ) + beta_t v_t k_tᵀ; y_t = S_t q_t / sqrt(D)."""
        given = [self.on_device(x).memory for x in (q, k, v, g, beta)]
        S, H, out = len(offsets) - 1, g.shape[1], self.empty(v.shape)
        D = v.shape[1] // H
        states = self.zeros((S, H, D, D))
        self.device.launch(
            "gated_delta_rule", (-(-D // ROWS), H, S), (32 * ROWS, 1, 1), *given, self.numbers(offsets),
            k.shape[1] // D, H, D, np.sqrt(np.float32(D)), states.memory, out.memory,
        )  # fmt: skip
        return out

    def selective_scan(
        self, x: Float, dt: Float, a: Tensor, b: Float, c: Float, n_group: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Any:
        """h_t = e^(s a) h_(t-1) + s x_t b_tᵀ; y_t = h_t c_t."""
        x_, dt_, b_, c_ = (self.on_device(part).memory for part in (x, dt, b, c))
        S, H, N, out = len(offsets) - 1, dt.shape[1], b.shape[1] // n_group, self.empty(x.shape)
        P = x.shape[1] // H
        states = self.zeros((S, H, P, N))
        self.device.launch(
            "selective_scan", (-(-P // CHANNELS), H, S), (CHANNELS, 1, 1), x_, dt_, self.optional(a), b_, c_,
            self.numbers(offsets), H, P, N, n_group, a.shape[-1], states.memory, out.memory,
        )  # fmt: skip
        return self.shown("ssm_scan", out, states, tap)

    def add_scaled(self, y: Float, x: Float, d: Tensor, tap: Tap = NO_TAP) -> Any:
        """y + d x, in one launch where no tap is attached."""
        first, second = self.on_device(y), self.on_device(x)
        heads, out = int(np.prod(d.shape)), self.empty(first.shape)
        width = first.shape[1] // heads
        if tap.active:
            rows = np.repeat(np.asarray(self.weight(d)).reshape(-1), width)
            skip = self.multiply(second, rows).reshape(len(second), heads, width)
            return self.add(first, self.on_device(tap("ssm_skip", skip)).reshape(first.shape))
        self.device.for_each(
            "add_scaled", out.size, first.memory, second.memory, self.optional(d), out.size, heads, width, out.memory
        )
        return out

    def wkv7(
        self, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, n_head: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Any:
        """S_t = S_(t-1) (diag(w_t) + a_t b_tᵀ) + v_t k_tᵀ; y_t = S_t r_t."""
        given = [self.on_device(x).memory for x in (r, w, k, v, a, b)]
        S, out, D = len(offsets) - 1, self.empty(v.shape), v.shape[1] // n_head
        states = self.zeros((S, n_head, D, D))
        self.device.launch(
            "wkv7", (-(-D // ROWS), n_head, S), (32 * ROWS, 1, 1), *given, self.numbers(offsets), n_head, D,
            states.memory, out.memory,
        )  # fmt: skip
        return self.shown("wkv", out, states, tap, v.shape[1])

    def shown(self, name: str, y: DeviceArray, states: DeviceArray, tap: Tap, width: int = 0) -> Any:
        """y, after a tap has been shown it together with the states."""
        return with_state(name, np.asarray(y), np.asarray(states), tap, width) if tap.active else y
