"""Hypotheses about the model itself: one operation, one number or one tensor taken otherwise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.exact.attention import slopes
from refembed.kernels.ops import NO_TAP, AttentionMask, AttentionSpec, Ops, Rope, Tap
from refembed.verify.hypotheses import routers
from refembed.verify.hypotheses.changes import Row, attending, hparams, named, remembering, replaced, scaled
from refembed.verify.hypotheses.experts import expert_rows, layer_kind_rows
from refembed.verify.hypotheses.latent import latent_rows
from refembed.verify.hypotheses.layers import layer_rows, place_rows, rope_rows
from refembed.verify.hypotheses.order import order_rows
from refembed.verify.hypotheses.states import state_rows
from refembed.verify.hypothesis import Change, Hypothesis
from refembed.verify.reference import Reference, spy, tensor_names


def model_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Every change of this file that this model could notice."""
    used, names = spy(reference), {re.sub(r"^blk\.\d+\.", "", n) for n in tensor_names(reference)}
    rows = [
        *activation_rows(used), *norm_rows(reference, used, names), *bias_rows(names), *attention_rows(reference),
        *rope_rows(reference, used), *place_rows(reference, names), *order_rows(reference, used, names),
        *layer_rows(reference), *expert_rows(reference, used, names), *layer_kind_rows(reference, names),
        *state_rows(reference, used, names), *latent_rows(reference, names),
    ]  # fmt: skip
    return [Hypothesis(id, "model", says, change, family) for id, says, change, family in rows]


# -- activations -----------------------------------------------------------------------------------------------------


def quick(true: Any, x: Float) -> Float:
    """x sigmoid(1.702 x)."""
    with np.errstate(over="ignore"):
        return cast(Float, (x / (1 + np.exp(-1.702 * x))).astype(x.dtype))


ACTIVATIONS: dict[str, tuple[str, Callable[[Any, Float], Float]]] = {
    "gelu": ("GELU in its tanh form", lambda true, x: true.gelu(x)),
    "gelu_erf": ("GELU in its erf form", lambda true, x: true.gelu_erf(x)),
    "gelu_quick": ("GELU in its sigmoid form (quick GELU)", quick),
    "silu": ("SiLU", lambda true, x: true.silu(x)),
    "relu": ("ReLU", lambda true, x: np.maximum(x, 0)),
    "relu_squared": ("squared ReLU", lambda true, x: np.maximum(x, 0) ** 2),
    "tanh_only": ("tanh", lambda true, x: true.tanh(x)),
    "no_activation": ("no activation function", lambda true, x: x),
}
GATED = {"geglu": "gelu", "swiglu": "silu"}


def activation_rows(used: frozenset[str]) -> Iterator[Row]:
    """Another function where the model has one, and the two halves of a gated one exchanged."""
    for op in ("gelu", "gelu_erf", "silu"):
        for other, (title, f) in ACTIVATIONS.items():
            if op in used and other != op:
                yield (
                    other.replace("_", "-"),
                    f"has {title} where the reference has {title_of(op)}",
                    replaced(**{op: f}),
                    "activation",
                )
    if "relu" in used and "multiply" in used:  # nemotron squares it
        for other, (title, f) in ACTIVATIONS.items():
            if other != "relu_squared":
                says = f"has {title} where the reference has {title_of('relu_squared')}"
                yield other.replace("_", "-"), says, replaced(relu=f, multiply=first_if_same), "activation"
    for op, own in GATED.items():
        if op not in used:
            continue
        for other, (title, f) in ACTIVATIONS.items():
            if other != own:
                gated = lambda true, gate, up, f=f: (f(true, gate) * up).astype(gate.dtype)  # noqa: E731
                says = f"has {title} on the gate where the reference has {title_of(own)}"
                yield other.replace("_", "-"), says, replaced(**{op: gated}), "activation"
        swapped = lambda true, gate, up, op=op: getattr(true, op)(up, gate)  # noqa: E731
        yield "gate-order", "takes gate for up and up for gate", replaced(**{op: swapped}), "gate"
        bare = lambda true, gate, up, own=own: getattr(true, own)(up)  # noqa: E731
        yield "gate-missing", "leaves the gate out", replaced(**{op: bare}), "gate"


def first_if_same(true: Any, x: Float, y: Float) -> Float:
    """x in place of its square."""
    return x if x is y else cast(Float, true.multiply(x, y))


def title_of(op: str) -> str:
    """What an operation is called in a sentence."""
    return ACTIVATIONS[op][0]


# -- norms -----------------------------------------------------------------------------------------------------------


def norm_rows(reference: Reference, used: frozenset[str], names: set[str]) -> Iterator[Row]:
    """Epsilon, variance, kind, weights and absence of norms."""
    own = reference.model.hparams.norm_eps
    for eps in (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
        if not math.isclose(eps, own, rel_tol=1e-3):
            yield f"eps-{eps:g}", f"has {eps:g} as epsilon of its norms, not {own:g}", hparams(norm_eps=eps), "eps"
    if "layer_norm" in used:
        yield "variance-unbiased", "divides the variance by C - 1 in LayerNorm", replaced(
            layer_norm=layer_norm_of(lambda x: x.std(-1, ddof=1, keepdims=True))), "norm"  # fmt: skip
        yield (
            "rms-for-layer",
            "has RMSNorm where the reference has LayerNorm",
            replaced(layer_norm=rms_for_layer),
            "norm",
        )
        yield "eps-outside", "adds epsilon to the deviation, not to the variance", replaced(
            layer_norm=eps_outside), "norm"  # fmt: skip
    if "rms_norm" in used:
        yield "layer-for-rms", "has LayerNorm where the reference has RMSNorm", replaced(rms_norm=layer_for_rms), "norm"
        yield "norm-one-plus", "multiplies by 1 + w in RMSNorm where the file already holds it", replaced(
            rms_norm=rms_plus(1.0)), "norm"  # fmt: skip
        yield "norm-minus-one", "multiplies by w - 1 in RMSNorm", replaced(rms_norm=rms_plus(-1.0)), "norm"
    norms = sorted(n.removesuffix(".weight") for n in names if n.endswith("norm.weight"))
    for name in norms:
        change = replaced(layer_norm=without_norm(name), rms_norm=without_norm(name))
        yield f"{name}-missing", f"leaves out {name}", change, f"norm {name}"
    if "attn_q_norm" in norms and "rope" in used:
        yield "qk-norm-after-rope", "normalizes queries and keys after RoPE, not before", remembering(
            norm_behind_rope), "qk norm"  # fmt: skip
        change = replaced(rms_norm=without_norm("attn_q_norm", "attn_k_norm"))
        yield "qk-norm-missing", "leaves out the norms of queries and keys", change, "qk norm"


def layer_norm_of(deviation: Callable[[Float], Float]) -> Callable[..., Float]:
    """LayerNorm with another measure of spread."""

    def layer_norm(true: Any, x: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        wide = x.astype(np.float64)
        y = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(deviation(wide) ** 2 + eps)
        return affine(tap("norm", y.astype(x.dtype)), w, b, tap)

    return layer_norm


def affine(y: Float, w: Tensor, b: Tensor | None, tap: Tap) -> Float:
    """y w + b, shown as LayerNorm shows it."""
    y = (y * w.dequantize()).astype(y.dtype)
    return y if b is None else (tap("norm_w", y) + b.dequantize()).astype(y.dtype)


def eps_outside(true: Any, x: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """(x - mean) / (deviation + eps)."""
    wide = x.astype(np.float64)
    y = (wide - wide.mean(-1, keepdims=True)) / (wide.std(-1, keepdims=True) + eps)
    return affine(tap("norm", y.astype(x.dtype)), w, b, tap)


def rms_for_layer(true: Any, x: Float, w: Tensor, b: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """No mean taken off."""
    wide = x.astype(np.float64)
    y = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps)
    return affine(tap("norm", y.astype(x.dtype)), w, b, tap)


def layer_for_rms(true: Any, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
    """The mean taken off."""
    return cast(Float, true.rms_norm((x - x.mean(-1, keepdims=True)).astype(x.dtype), w, eps, tap))


def rms_plus(more: float) -> Callable[..., Float]:
    """RMSNorm times w + more."""

    def rms_norm(true: Any, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        y = true.rms_norm(x, None, eps, tap)
        return cast(Float, y if w is None else (tap("norm", y) * (w.dequantize() + more)).astype(x.dtype))

    return rms_norm


class without_norm:  # noqa: N801
    """A norm that is left out where its weights have one of these names; for both kinds of norm."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
        """x itself, or the true norm of it."""
        if named(w, *self.names):
            return x
        return cast(Float, true.layer_norm(x, w, *rest) if len(rest) > 1 and not_number(rest[0]) else
                    true.rms_norm(x, w, *rest))  # fmt: skip


def not_number(x: Any) -> bool:
    """LayerNorm has a bias, or None, where RMSNorm has epsilon."""
    return not isinstance(x, (int, float, np.floating))


def norm_behind_rope() -> dict[str, Callable[..., Any]]:
    """The norms of queries and keys wait until RoPE has turned them."""
    waiting: list[tuple[Any, ...]] = []

    def rms_norm(true: Any, x: Float, w: Tensor | None, eps: float, tap: Tap = NO_TAP) -> Float:
        if named(w, "attn_q_norm", "attn_k_norm"):
            waiting.append((w, eps))
            return x
        return cast(Float, true.rms_norm(x, w, eps, tap))

    def rope(true: Any, x: Float, pos: I64, how: Rope) -> Float:
        y = true.rope(x, pos, how)
        return cast(Float, true.rms_norm(y, *waiting.pop()) if waiting else y)

    return {"rms_norm": rms_norm, "rope": rope}


# -- biases and products ---------------------------------------------------------------------------------------------


def bias_rows(names: set[str]) -> Iterator[Row]:
    """Each kind of bias left out, and all of them."""
    have = sorted(n.removesuffix(".bias") for n in names if n.endswith(".bias"))
    linear = [n for n in have if "norm" not in n and not n.endswith("_exps") and n not in routers.BIASES]
    for name in linear:
        yield f"{name}-bias-missing", f"leaves out the bias of {name}", replaced(linear=without_bias(name)), "bias"
    if len(linear) > 1:
        yield "biases-missing", "leaves out the biases of all matrices", replaced(linear=without_bias(*linear)), "bias"
    if {"attn_q", "attn_k", "attn_v"} <= set(linear):
        yield "qkv-bias-missing", "leaves out the biases of queries, keys and values", replaced(
            linear=without_bias("attn_q", "attn_k", "attn_v")), "bias"  # fmt: skip
    if any("norm" in n for n in have):
        yield (
            "norm-bias-missing",
            "leaves out the biases of LayerNorm",
            replaced(layer_norm=norm_without_bias),
            "norm b",
        )
    yield "square-transposed", "reads square matrices transposed", replaced(linear=transposed), "transposed"


def without_bias(*names: str) -> Callable[..., Float]:
    """Products whose bias is left out."""

    def linear(true: Any, x: Float, w: Tensor, b: Tensor | None = None, *tap: Any) -> Float:
        return cast(Float, true.linear(x, w, None if named(w, *names) else b, *tap))

    return linear


def norm_without_bias(true: Any, x: Float, w: Tensor, b: Tensor | None, *rest: Any) -> Float:
    """LayerNorm times w alone."""
    return cast(Float, true.layer_norm(x, w, None, *rest))


def transposed(true: Any, x: Float, w: Tensor, b: Tensor | None = None, *tap: Any) -> Float:
    """x W for x Wᵀ where W is square."""
    if w.shape[0] != w.shape[-1]:
        return cast(Float, true.linear(x, w, b, *tap))
    y = (x @ w.dequantize()).astype(x.dtype)
    return y if b is None else (y + b.dequantize()).astype(x.dtype)


# -- attention -------------------------------------------------------------------------------------------------------


def attention_rows(reference: Reference) -> Iterator[Row]:
    """Mask, window, scale, heads."""
    hp = reference.model.hparams
    seen = masks_of(reference)
    causal = any(m.causal for m in seen)
    D = hp.n_embd_head if hp.latent is None else hp.latent.n_key
    if causal:
        yield "bidirectional", "lets every token see all tokens (no causal mask)", masked(
            lambda m: replace(m, causal=False)), "causal"  # fmt: skip
    else:
        yield "causal", "lets a token see only those before it (causal mask)", masked(
            lambda m: replace(m, causal=True)), "causal"  # fmt: skip
    if any(m.window for m in seen):
        yield "window-missing", "has no sliding window", masked(lambda m: replace(m, window=0)), "window"
        for more, spelled in ((1, "one token too wide"), (-1, "one token too narrow")):
            change = masked(partial(other_window, 1, more))
            yield f"window{more:+d}", f"has a sliding window {spelled}", change, "window"
        for times, spelled in ((2, "twice as wide"), (0.5, "half as wide")):
            change = masked(partial(other_window, times, 0))
            yield f"window-x{times:g}", f"has a sliding window {spelled}", change, "window"
        wide = max(m.window for m in seen)
        yield "window-everywhere", "has the sliding window in every layer", masked(
            lambda m: replace(m, window=wide)), "window"  # fmt: skip
    if any(m.max_bias for m in seen):
        yield "alibi-missing", "leaves out ALiBi", masked(lambda m: replace(m, max_bias=0.0)), "alibi"
        yield (
            "alibi-half",
            "has half of ALiBi's exponent",
            masked(lambda m: replace(m, max_bias=m.max_bias / 2)),
            "alibi",
        )
        yield "alibi-plain", "has ALiBi's slopes without the rule for head counts that are no power of two", replaced(
            attention=plain_alibi), "alibi"  # fmt: skip
    for id, says, factor in (
        ("scale-missing", "does not scale attention scores", math.sqrt(D)),
        ("scale-twice", "scales attention scores twice, by 1/D", 1 / math.sqrt(D)),
        ("scale-sqrt-C", "scales attention scores by 1/sqrt(C), not by the width of a head", math.sqrt(D / hp.n_embd)),
        ("scale-256", "scales attention scores by 1/16", math.sqrt(D) / 16),
    ):
        if not math.isclose(factor, 1):
            yield id, says, replaced(attention=scaled(factor)), "scale"
    if hp.latent is None:  # whose values are of another width
        yield "heads-interleaved", "deals channels out to the heads in turn", replaced(attention=interleaved), "heads"
    if 1 < hp.n_head_kv < hp.n_head:
        yield "kv-heads-tiled", "shares heads of keys in turn, not in groups", replaced(attention=tiled), "heads"
    if hp.n_head_kv == hp.n_head:
        yield "qk-swapped", "exchanges queries and keys", replaced(
            attention=lambda true, q, k, v, *rest, **more: true.attention(k, q, v, *rest, **more)), "heads"  # fmt: skip
    if hp.soft_cap:
        yield "soft-cap-missing", "does not cap attention scores", replaced(attention=attending(uncapped)), "soft cap"
    if hp.n_buckets:
        yield "position-bias-missing", "leaves out the relative position bias", replaced(attention=unbiased), "position"


def other_window(times: float, more: int, mask: AttentionMask) -> AttentionMask:
    """A window of another width, where there is one."""
    return replace(mask, window=int(mask.window * times) + more) if mask.window else mask


def masks_of(reference: Reference) -> set[AttentionMask]:
    """The masks that the layers ask for."""
    seen: set[AttentionMask] = set()

    def noted(spec: AttentionSpec) -> AttentionSpec:
        seen.add(spec.mask)
        return spec

    replaced(attention=attending(noted))(reference).forward([[0, 1]], "fast")
    return seen


def masked(other: Callable[[AttentionMask], AttentionMask]) -> Change:
    """Attention with another mask."""
    return replaced(attention=attending(lambda spec: replace(spec, mask=other(spec.mask))))


def uncapped(spec: AttentionSpec) -> AttentionSpec:
    """No soft cap."""
    return replace(spec, soft_cap=0.0)


def interleaved(
    true: Any, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any
) -> Float:  # fmt: skip
    """Channel c belongs to head c mod H, and to head c mod K of keys."""
    H, K = spec.n_head, spec.n_head_kv
    deal = {n: np.arange(x.shape[1]).reshape(-1, n).T.ravel() for n, x in ((H, q), (K, k))}
    dealt = (np.ascontiguousarray(x[:, deal[n]]) for x, n in ((q, H), (k, K), (v, K)))
    return np.ascontiguousarray(true.attention(*dealt, spec, *rest, **more)[:, np.argsort(deal[H])])


def tiled(true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any) -> Float:
    """Query head h reads head h mod K of keys."""
    H, K = spec.n_head, spec.n_head_kv
    wide = [np.ascontiguousarray(np.tile(x.reshape(len(x), K, -1), (1, H // K, 1)).reshape(len(x), -1)) for x in (k, v)]
    return true.attention(q, wide[0], wide[1], replace(spec, n_head_kv=H), *rest, **more)


def unbiased(true: Any, *rest: Any, **more: Any) -> Float:
    """Nothing added to the scores."""
    return cast(Float, true.attention(*rest, **{**more, "bias": None}))


def plain_alibi(
    true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
) -> Float:
    """2^(-max_bias (h + 1) / H) for every head."""
    mask, H = spec.mask, spec.n_head
    n = int(np.diff(offsets).max())
    slope = 2.0 ** (-mask.max_bias * (np.arange(H) + 1) / H)
    if np.allclose(slope, slopes(H, mask.max_bias)):
        return true.attention(q, k, v, spec, offsets, *rest, **more)
    j = np.arange(n)
    bias = (-slope[:, None, None] * np.abs(j[:, None] - j)).astype(q.dtype)
    spec = replace(spec, mask=replace(mask, max_bias=0.0))
    return true.attention(q, k, v, spec, offsets, *rest, **{**more, "bias": bias})
