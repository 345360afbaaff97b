"""Operations in front of other operations: `OpsWrapper` passes every one on, and what derives from it changes some.

    class Loud(OpsWrapper):
        def gelu(self, x):
            print("gelu", x.shape)
            return self.base.gelu(x)

Three operations are made of others (`ops.COMPOSED`). They are not handed on but keep the definition that `Ops` gives
them, in terms of this object's own operations: what a wrapper does to `linear` holds for `linears` too. A wrapper that
changes nothing about them may hand them on as well, for the speed of what is behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Rope, Tap


class OpsWrapper(Ops):
    """The operations of `base`, one by one."""

    def __init__(self, base: Ops) -> None:
        self.base, self.name, self.dtype, self.one_text_a_core = base, base.name, base.dtype, base.one_text_a_core
        self.precision, self.hardware, self.if_not_finite = base.precision, base.hardware, base.if_not_finite

    def weight(self, w: Tensor) -> Float:
        return self.base.weight(w)

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        return self.base.get_rows(w, ids)

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = "") -> Float:
        return self.base.linear(x, w, b, tap, product)

    def experts(
        self, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        return self.base.experts(x, w, chosen, b, tap, product)

    def per_head(self, x: Float, w: Tensor, *, attended: bool = False) -> Float:
        return self.base.per_head(x, w, attended=attended)

    def layer_norm(self, x: Float, w: Tensor | None, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        return self.base.layer_norm(x, w, b, eps, tap)

    def rms_norm(self, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        return self.base.rms_norm(x, w, eps, tap)

    def add(self, x: Float, y: Float) -> Float:
        return self.base.add(x, y)

    def add_bias(self, x: Float, b: Tensor) -> Float:
        return self.base.add_bias(x, b)

    def multiply(self, x: Float, y: Float) -> Float:
        return self.base.multiply(x, y)

    def scale(self, x: Float, factor: float | np.floating[Any]) -> Float:
        return self.base.scale(x, factor)

    def split(self, x: Float, widths: Sequence[int]) -> list[Float]:
        return self.base.split(x, widths)

    def gelu(self, x: Float) -> Float:
        return self.base.gelu(x)

    def gelu_erf(self, x: Float) -> Float:
        return self.base.gelu_erf(x)

    def silu(self, x: Float) -> Float:
        return self.base.silu(x)

    def relu(self, x: Float) -> Float:
        return self.base.relu(x)

    def sigmoid(self, x: Float) -> Float:
        return self.base.sigmoid(x)

    def geglu(self, gate: Float, up: Float) -> Float:
        return self.base.geglu(gate, up)

    def swiglu(self, gate: Float, up: Float) -> Float:
        return self.base.swiglu(gate, up)

    def swiglu_oai(self, gate: Float, up: Float) -> Float:
        return self.base.swiglu_oai(gate, up)

    def softmax(self, x: Float) -> Float:
        return self.base.softmax(x)

    def tanh(self, x: Float) -> Float:
        return self.base.tanh(x)

    def exp(self, x: Float) -> Float:
        return self.base.exp(x)

    def rope(self, x: Float, pos: I64, rope: Rope) -> Float:
        return self.base.rope(x, pos, rope)

    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Tensor | None = None,
    ) -> Float:  # fmt: skip
        return self.base.attention(q, k, v, spec, offsets, tap, bias=bias, sinks=sinks)

    def mix_streams(self, x: Float, w: Float) -> Float:
        return self.base.mix_streams(x, w)

    def short_conv(
        self, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Tensor | None = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Float:  # fmt: skip
        return self.base.short_conv(x, w, offsets, ahead, bias, tap, product)

    def conv_2d(self, x: Float, w: Tensor) -> Float:
        return self.base.conv_2d(x, w)

    def interpolate(self, x: Float, height: int, width: int) -> Float:
        return self.base.interpolate(x, height, width)

    def gelu_quick(self, x: Float) -> Float:
        return self.base.gelu_quick(x)

    def pool_2d(self, x: Float, k: int) -> Float:
        return self.base.pool_2d(x, k)

    def log_decay(self, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Float:
        return self.base.log_decay(x, bias, a, tap)

    def gated_delta_rule(self, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
        return self.base.gated_delta_rule(q, k, v, g, beta, offsets)

    def selective_scan(
        self, x: Float, dt: Float, a: Tensor, b: Float, c: Float, n_group: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        return self.base.selective_scan(x, dt, a, b, c, n_group, offsets, tap)

    def add_scaled(self, y: Float, x: Float, d: Tensor, tap: Tap = NO_TAP) -> Float:
        return self.base.add_scaled(y, x, d, tap)

    def wkv7(
        self, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, n_head: int, offsets: I64, tap: Tap = NO_TAP
    ) -> Float:
        return self.base.wkv7(r, w, k, v, a, b, n_head, offsets, tap)

    def mean(self, x: Float, offsets: I64) -> Float:
        return self.base.mean(x, offsets)


class PatchedOps(OpsWrapper):
    """Operations, some replaced by functions that are given the true operations first.

    >>> import numpy as np
    >>> from refembed.kernels.numerics import load_ops
    >>> relu = PatchedOps(load_ops("exact"), {"gelu": lambda true, x: np.maximum(x, 0)})
    >>> relu.gelu(np.array([[-1.0, 1.0]]))
    array([[0., 1.]])
    """

    def __init__(self, base: Ops, replaced: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(base)
        for name, function in replaced.items():
            if not hasattr(Ops, name):
                raise AttributeError(f"Ops has no operation {name!r}")
            setattr(self, name, partial(function, base))
