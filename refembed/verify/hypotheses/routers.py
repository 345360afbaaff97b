"""Hypotheses about routers: which experts a token takes, and what each weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.model.hparams_experts import SIGMOID, SOFTMAX, Routing
from refembed.verify.hypotheses.changes import Row, hparams, named, remembering, replaced
from refembed.verify.reference import Reference

Factor: TypeAlias = "Callable[[Float, Float], Float]"  # of p and p + bias of the chosen experts, (T, k) each: (T, k)
BIASES = ("exp_probs_b", "attn_v_gate")  # they are added to how well experts suit a token, not to a product


def router_rows(reference: Reference, names: set[str], seen: set[str]) -> Iterator[Row]:
    """Other weights, and other choices. `seen`: names of the tensors that the model shows."""
    hp = reference.model.hparams
    normed = "ffn_moe_weights_norm" in seen
    yield "experts-alike", "weighs the experts of a token alike", remembering(reweighed(alike)), "router"
    if normed:
        yield "router-not-normalized", "leaves the weights of a token's experts as the router gives them", remembering(
            reweighed(lambda p, _: p.sum(1, keepdims=True))), "router"  # fmt: skip
    else:
        yield "router-normalized", "makes the weights of a token's experts add up to 1", remembering(
            reweighed(lambda p, _: 1 / p.sum(1, keepdims=True))), "router"  # fmt: skip
    if "exp_probs_b.bias" in names:
        yield "router-bias-missing", "chooses experts without the bias that keeps all of them busy", replaced(
            add_bias=without_bias_of("exp_probs_b")), "router"  # fmt: skip
        yield "router-bias-weighs", "weighs experts with the bias that only chooses among them", remembering(
            reweighed(with_bias(normed=normed))), "router"  # fmt: skip
    if "attn_v_gate.bias" in names:
        yield "value-router-bias-missing", "chooses experts of values without their bias", replaced(
            add_bias=without_bias_of("attn_v_gate")), "router"  # fmt: skip
    if hp.routing is not None:
        yield from rows_of_routing(hp.routing)
    elif hp.expert_gating_func in (SOFTMAX, SIGMOID) and "exp_probs_b.bias" in names:
        other = SOFTMAX + SIGMOID - hp.expert_gating_func
        yield *gating_says(other), hparams(expert_gating_func=other), "router"


def rows_of_routing(how: Routing) -> Iterator[Row]:
    """What files of DeepSeek and of models after it say of their router, taken otherwise."""
    other = SOFTMAX + SIGMOID - how.gating
    yield *gating_says(other), hparams(routing=replace(how, gating=other)), "router"
    if how.scale not in (0.0, 1.0):
        yield "router-weights-unscaled", "leaves out the number that the weights of all experts are multiplied by", (
            hparams(routing=replace(how, scale=0.0))), "router"  # fmt: skip
    if how.n_group > 1:
        yield "router-groups-missing", "takes experts from all groups, not from the best", hparams(
            routing=replace(how, n_group=0)), "router"  # fmt: skip
        for more in (1, -1):
            if 1 <= how.n_group_used + more <= how.n_group:
                count = "one group too many" if more > 0 else "one group too few"
                yield f"router-groups{more:+d}", f"takes experts from {count}", hparams(
                    routing=replace(how, n_group_used=how.n_group_used + more)), "router"  # fmt: skip


def gating_says(gating: int) -> tuple[str, str]:
    """Id and sentence for another function of the router's scores."""
    name = "sigmoid" if gating == SIGMOID else "softmax"
    return f"router-{name}", f"has {name} in the router"


def reweighed(factor: Factor) -> Callable[[], dict[str, Callable[..., Any]]]:
    """Outputs of experts times a factor, which is as good as other weights."""

    def make() -> dict[str, Callable[..., Any]]:
        seen: dict[str, Float] = {}  # p, and what the experts are chosen by, of the layer that runs: (T, X)

        def of(op: str) -> Callable[..., Float]:
            def scores(true: Any, x: Float) -> Float:
                y = cast(Float, getattr(true, op)(x))
                if y.ndim == 2 and y.shape[1] > 1:  # the gate of a shared expert has one
                    seen.update(p=y, suited=y)
                return y

            return scores

        def add_bias(true: Any, x: Float, b: Tensor, *rest: Any) -> Float:
            y = cast(Float, true.add_bias(x, b, *rest))
            if named(b, "exp_probs_b.bias"):
                seen.update(suited=y)
            return y

        def experts(true: Any, x: Float, w: Tensor, chosen: I64, *rest: Any) -> Float:
            y = cast(Float, true.experts(x, w, chosen, *rest))
            if not named(w, "ffn_down_exps"):
                return y
            p, suited = (of_chosen(seen[name], chosen) for name in ("p", "suited"))
            return cast(Float, (y * factor(p, suited)[:, :, None]).astype(y.dtype))

        return {"softmax": of("softmax"), "sigmoid": of("sigmoid"), "add_bias": add_bias, "experts": experts}

    return make


def of_chosen(p: Float, chosen: I64) -> Float:
    """Of p (T, X) that of the chosen experts (T, k); gpt-oss has no other."""
    return cast(Float, p if p.shape == chosen.shape else np.take_along_axis(p, chosen, axis=1))


def alike(p: Float, suited: Float) -> Float:
    """Weights that add up to as much and are alike."""
    return cast(Float, p.sum(1, keepdims=True) / (p.shape[1] * p))


def with_bias(*, normed: bool) -> Factor:
    """Weights that have the bias in them."""

    def factor(p: Float, suited: Float) -> Float:
        totals = p.sum(1, keepdims=True) / suited.sum(1, keepdims=True) if normed else 1
        return cast(Float, suited / p * totals)

    return factor


def without_bias_of(name: str) -> Callable[..., Float]:
    """Sums with a bias of that name which are none."""

    def add_bias(true: Any, x: Float, b: Tensor, *rest: Any) -> Float:
        return x if named(b, f"{name}.bias") else cast(Float, true.add_bias(x, b, *rest))

    return add_bias
