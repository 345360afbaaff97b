"""Hypotheses about layers that keep a state: how it decays, what goes in, and what belongs to which text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, Tap
from refembed.model.batch import Batch
from refembed.verify.hypotheses.changes import Row, hparams, replaced
from refembed.verify.hypotheses.experts import nothing_of, of_layers, ones
from refembed.verify.reference import Reference


def state_rows(reference: Reference, used: frozenset[str], names: set[str]) -> Iterator[Row]:
    """What an engine may do otherwise in delta nets, state space models, RWKV, and convolutions along a text."""
    hp = reference.model.hparams
    if "short_conv" in used:
        yield from convolution_rows()
    if "gated_delta_rule" in used:
        yield from delta_rows()
        yield "output-gate-missing", "does not gate what the heads of attention give", replaced(
            sigmoid=open_gates(hp.n_head)), "gate"  # fmt: skip
    if "selective_scan" in used:
        yield from scan_rows(names)
    if "wkv7" in used:
        yield from wkv_rows()
    if any(hp.recurrent_layers) and not all(hp.recurrent_layers) and hp.n_expert == 0:
        yield "all-layers-causal", "lets tokens of layers with attention see all", hparams(causal=False), "mask"


# -- convolutions ----------------------------------------------------------------------------------------------------


def convolution_rows() -> Iterator[Row]:
    """A window that stands elsewhere, weights in the wrong order, and no bias."""

    def moved(by: int) -> Callable[..., Float]:
        def short_conv(true: Any, x: Float, w: Tensor, offsets: I64, ahead: int = 0, *rest: Any) -> Float:
            return cast(Float, true.short_conv(x, w, offsets, ahead + by, *rest))

        return short_conv

    def backwards(true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        return cast(Float, true.short_conv(x, Tensor.of(w.dequantize()[:, ::-1], f"{w.name} backwards"), *rest))

    def missing(true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        return x

    def unbiased(
        true: Any, x: Float, w: Tensor, offsets: I64, ahead: int = 0, bias: Any = None, tap: Tap = NO_TAP,
        product: str = "",
    ) -> Float:  # fmt: skip
        return cast(Float, true.short_conv(x, w, offsets, ahead, None, tap, product))

    yield "conv-ahead", "has the window of the convolution a token too late: it sees the next one", replaced(
        short_conv=moved(1)), "convolution"  # fmt: skip
    yield "conv-behind", "has the window of the convolution a token too early: it does not see the token itself", replaced(
        short_conv=moved(-1)), "convolution"  # fmt: skip
    yield "conv-backwards", "has the weights of the convolution in reverse order", replaced(
        short_conv=backwards), "convolution"  # fmt: skip
    yield "conv-missing", "leaves out the convolution along the text", replaced(short_conv=missing), "convolution"
    yield "conv-bias-missing", "leaves out the bias of the convolution", replaced(short_conv=unbiased), "convolution"


# -- delta nets ------------------------------------------------------------------------------------------------------


def delta_rows() -> Iterator[Row]:
    """The gated delta rule without one of its parts."""

    def rule(change: Callable[[Any, Any, Any, Any, Any], tuple[Any, ...]]) -> Callable[..., Float]:
        def gated_delta_rule(true: Any, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
            return cast(Float, true.gated_delta_rule(*change(q, k, v, g, beta), offsets))

        return gated_delta_rule

    def row(id: str, says: str, change: Callable[..., tuple[Any, ...]]) -> Row:
        return id, says, replaced(gated_delta_rule=rule(change)), "state"

    yield row("decay-missing", "does not let the state fade", lambda q, k, v, g, b: (q, k, v, g * 0, b))
    yield row("beta-missing", "replaces the value under a key entirely", lambda q, k, v, g, b: (q, k, v, g, b * 0 + 1))
    yield row("delta-plain", "adds to the state what a token brings, and takes nothing out", lambda q, k, v, g, b: (
        q, k, v, g, b))  # fmt: skip
    yield "delta-plain", "adds to the state what a token brings, and takes nothing out", replaced(
        gated_delta_rule=linear_attention), "state"  # fmt: skip


def linear_attention(true: Any, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
    """Linear attention that forgets, without the delta rule: values are added under their keys."""
    T, H = g.shape
    D = v.shape[1] // H
    own = np.arange(H) % (k.shape[1] // D)
    q, k, values = (x.reshape(T, -1, D).astype(np.float64) for x in (q, k, v))
    y = np.empty((T, H, D))
    for begin, end in zip(offsets, offsets[1:], strict=False):
        state = np.zeros((H, D, D))
        for t in range(begin, end):
            state *= np.exp(g[t])[:, None, None]
            state += (beta[t][:, None] * values[t])[:, :, None] * k[t, own][:, None]
            y[t] = (state * q[t, own][:, None]).sum(axis=2)
    return cast(Float, (y / np.sqrt(D)).reshape(v.shape).astype(v.dtype))
