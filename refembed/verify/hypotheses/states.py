"""Hypotheses about layers that keep a state: how it decays, what goes in, and what belongs to which text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, Tap
from refembed.verify.hypotheses.changes import Row, replaced
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
    yield "conv-behind", "has the window of the convolution a token too early: not on the token itself", replaced(
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
    yield row("values-not-scaled", "does not divide what the state gives by the root of a head's width",
              lambda q, k, v, g, b: (q * np.sqrt(q.dtype.type(v.shape[1] // g.shape[1])), k, v, g, b))  # fmt: skip
    yield "key-norm-missing", "does not make queries and keys of a delta net short", replaced(
        rms_norm=lambda true, x, w, *rest: x if w is None else true.rms_norm(x, w, *rest)), "norm"  # fmt: skip
    yield "decay-bias-missing", "leaves out the bias of the decay", replaced(log_decay=unbiased_decay), "state"
    yield "delta-plain", "adds to the state what a token brings, and takes nothing out", replaced(
        gated_delta_rule=linear_attention), "state"  # fmt: skip


def unbiased_decay(true: Any, x: Float, bias: Tensor, a: Tensor, tap: Tap = NO_TAP) -> Float:
    """a softplus(x)."""
    return cast(Float, true.log_decay(x, Tensor.of(np.zeros(bias.shape), f"{bias.name} of zeros"), a, tap))


def linear_attention(true: Any, q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
    """Linear attention that forgets, without the delta rule: values are added under their keys."""
    T, H = g.shape
    D = v.shape[1] // H
    own = np.arange(H) % (k.shape[1] // D)
    q, k, values = (x.reshape(T, -1, D).astype(np.float64) for x in (q, k, v))
    y = np.empty((T, H, D))
    for begin, end in itertools.pairwise(offsets):
        state = np.zeros((H, D, D))
        for t in range(begin, end):
            state *= np.exp(g[t])[:, None, None]
            state += (beta[t][:, None] * values[t])[:, :, None] * k[t, own][:, None]
            y[t] = (state * q[t, own][:, None]).sum(axis=2)
    return cast(Float, (y / np.sqrt(D)).reshape(v.shape).astype(v.dtype))


def open_gates(n_head: int) -> Callable[..., Float]:
    """Gates of attention's channels are 1; those of a delta net, which are as many as its heads, stay."""

    def sigmoid(true: Any, x: Float) -> Float:
        y = true.sigmoid(x)
        return cast(Float, y * 0 + 1 if x.shape[1] % n_head == 0 and x.shape[1] > 4 * n_head else y)

    return sigmoid


# -- state space models ----------------------------------------------------------------------------------------------


def scan_rows(names: set[str]) -> Iterator[Row]:
    """A selective scan, or what stands around it, otherwise."""

    def no_decay(true: Any, x: Float, dt: Float, a: Tensor, *rest: Any) -> Float:
        return cast(Float, true.selective_scan(x, dt, Tensor.of(np.zeros(a.shape), f"{a.name} of zeros"), *rest))

    def plain_step(true: Any, x: Float, dt: Float, *rest: Any) -> Float:
        step = np.log(np.expm1(np.maximum(dt, 1e-3).astype(np.float64))).astype(dt.dtype)  # of which softplus is dt
        return cast(Float, true.selective_scan(x, step, *rest))

    def exchanged(true: Any, x: Float, dt: Float, a: Tensor, b: Float, c: Float, *rest: Any) -> Float:
        return cast(Float, true.selective_scan(x, dt, a, c, b, *rest))

    yield "decay-missing", "does not let the state fade", replaced(selective_scan=no_decay), "state"
    yield "step-not-softplus", "takes the step as it is, not its softplus", replaced(selective_scan=plain_step), "state"
    yield "b-c-exchanged", "takes B for C and C for B", replaced(selective_scan=exchanged), "state"
    yield "skip-missing", "leaves out what passes the state by (ssm_d)", replaced(
        add_scaled=lambda true, y, x, *rest: y), "state"  # fmt: skip
    yield "step-bias-missing", "leaves out the bias of the step", replaced(
        add_bias=lambda true, x, b: x if "ssm_dt" in b.name else true.add_bias(x, b)), "state"  # fmt: skip
    if "ssm_norm.weight" in names:
        yield "ssm-norm-weight-missing", "leaves out the weight of the norm behind the state", of_layers(
            lambda b: replace(b, ssm_norm=ones(b.ssm_norm))), "norm"  # fmt: skip
    if "attn_q.weight" in names and "ssm_out.weight" in names:
        yield "mixer-missing", "leaves out the state space mixers", replaced(linear=nothing_of("ssm_out")), "layer"


# -- RWKV ------------------------------------------------------------------------------------------------------------


def wkv_rows() -> Iterator[Row]:
    """RWKV-7's state otherwise."""

    def wkv(change: Callable[..., tuple[Any, ...]]) -> Callable[..., Float]:
        def wkv7(true: Any, r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, *rest: Any) -> Float:
            return cast(Float, true.wkv7(*change(r, w, k, v, a, b), *rest))

        return wkv7

    yield "decay-missing", "does not let the state fade", replaced(
        wkv7=wkv(lambda r, w, k, v, a, b: (r, w * 0 + 1, k, v, a, b))), "state"  # fmt: skip
    yield "delta-plain", "adds to the state what a token brings, and takes nothing out", replaced(
        wkv7=wkv(lambda r, w, k, v, a, b: (r, w, k, v, a * 0, b))), "state"  # fmt: skip
    yield "delta-sign", "puts into the state what it should take out", replaced(
        wkv7=wkv(lambda r, w, k, v, a, b: (r, w, k, v, -a, b))), "state"  # fmt: skip
    yield "token-gate-missing", "leaves out the gate of time mixing", replaced(linear=no_gate()), "gate"


def no_gate() -> Callable[..., Float]:
    """A gate of 1."""

    def linear(true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        y = true.linear(x, w, *rest)
        return cast(Float, y * 0 + 1 if w.name.endswith("time_mix_g2.weight") else y)

    return linear
