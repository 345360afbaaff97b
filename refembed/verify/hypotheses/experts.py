"""Hypotheses about decoders with experts and about Gemma since 3n: routers, experts, sinks, per-layer inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Tap
from refembed.verify.hypotheses.changes import Row, hparams, named, remembering, replaced
from refembed.verify.hypotheses.routers import alike, reweighed, router_rows
from refembed.verify.hypothesis import Change
from refembed.verify.reference import Reference


def expert_rows(reference: Reference, used: frozenset[str], names: set[str]) -> Iterator[Row]:
    """Which experts a token takes, what they weigh, and what they compute."""
    hp = reference.model.hparams
    if "ffn_gate_inp.weight" not in names:
        return
    k, X = hp.n_expert_used, hp.n_expert
    for more, spelled in ((1, "one expert too many"), (-1, "one expert too few")):
        if 1 <= k + more <= X:
            yield f"experts{more:+d}", f"takes {spelled} for each token", hparams(n_expert_used=k + more), "experts"
    yield "experts-shifted", "takes the next expert for each that is chosen", replaced(experts=shifted(1)), "experts"
    yield "experts-shifted-back", "takes the expert before each that is chosen", replaced(
        experts=shifted(-1)), "experts"  # fmt: skip
    if "swiglu_oai" in used:
        yield "experts-alike", "weighs the experts of a token alike", remembering(reweighed(alike)), "router"
        yield "router-softmax-first", "takes the softmax over all experts, not over those that are chosen", remembering(
            softmax_of_all), "router"  # fmt: skip
        yield from oai_rows()
    else:
        yield from router_rows(reference, names, tap_names(reference))
    for name in sorted(n.removesuffix(".bias") for n in names if n.endswith("_exps.bias")):
        yield f"{name}-bias-missing", f"leaves out the biases of {name}", replaced(experts=without_bias(name)), "bias"
    if any(n.endswith("_exps.bias") for n in names):
        yield "expert-biases-missing", "leaves out the biases of all experts", replaced(
            experts=without_bias("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")), "bias"  # fmt: skip
    if "ffn_down_shexp.weight" in names:
        yield "shared-expert-missing", "leaves out the expert that every token takes", replaced(
            linear=nothing_of("ffn_down_shexp")), "shared expert"  # fmt: skip
    if "ffn_gate_inp_shexp.weight" in names:
        yield "shared-expert-gate-missing", "takes all of the shared expert, whatever its gate says", replaced(
            silu=lambda true, x: x if x.shape[-1] == 1 else true.silu(x),
            sigmoid=lambda true, x: x * 0 + 1 if x.shape[-1] == 1 else true.sigmoid(x)), "shared expert"  # fmt: skip
    if "ffn_down_exps.scale" in names:
        yield "expert-scale-missing", "leaves out the number that each expert's output is multiplied by", of_layers(
            lambda b: replace(b, experts_scale=None)), "experts"  # fmt: skip
        yield "router-scale-missing", "leaves out the weights of the router's input", of_layers(
            lambda b: replace(b, router_scale=ones(b.router_scale))), "router"  # fmt: skip


class Names:
    """A tap that keeps names, without the number of their layer."""

    active = True

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, name: str, x: Float) -> Float:
        self.seen.add(name.rpartition("-")[0] or name)
        return x


def tap_names(reference: Reference) -> set[str]:
    """Names of the tensors that the model shows."""
    tap = Names()
    reference.model.forward(reference.packed([[0, 1]]), reference.ops_of("fast"), tap)
    return tap.seen


def oai_rows() -> Iterator[Row]:
    """gpt-oss's gated unit computed otherwise."""

    def unclamped(true: Any, gate: Float, up: Float) -> Float:
        with np.errstate(over="ignore"):
            return cast(Float, (gate / (1 + np.exp(-1.702 * gate)) * (1 + up)).astype(gate.dtype))

    def without_one(true: Any, gate: Float, up: Float) -> Float:
        y = true.swiglu_oai(gate, up)
        return cast(Float, (y - true.swiglu_oai(gate, up * 0)).astype(gate.dtype))

    def usual_slope(true: Any, gate: Float, up: Float) -> Float:
        return cast(Float, true.swiglu(np.minimum(gate, 7), np.clip(up, -7, 7) + 1))

    yield "swiglu-plain", "has SwiGLU in the experts, without the limits, the slope and the 1 of gpt-oss", replaced(
        swiglu_oai=lambda true, gate, up: true.swiglu(gate, up)), "activation"  # fmt: skip
    yield "swiglu-unclamped", "does not clamp the inputs of the experts' gated unit", replaced(
        swiglu_oai=unclamped), "activation"  # fmt: skip
    yield "swiglu-without-one", "does not add 1 to what the experts' gate lets through", replaced(
        swiglu_oai=without_one), "activation"  # fmt: skip
    yield "swiglu-slope", "has 1, not 1.702, in the sigmoid of the experts' gated unit", replaced(
        swiglu_oai=usual_slope), "activation"  # fmt: skip
    yield "gate-order", "takes gate for up and up for gate", replaced(
        swiglu_oai=lambda true, gate, up: true.swiglu_oai(up, gate)), "gate"  # fmt: skip


def layer_kind_rows(reference: Reference, names: set[str]) -> Iterator[Row]:
    """Sinks, norms of values, per-layer inputs, and layers of two kinds taken for each other."""
    hp = reference.model.hparams
    if "attn_sinks.weight" in names:
        yield "sinks-missing", "leaves out the attention sinks", replaced(attention=without_sinks), "sinks"
        yield "sinks-negated", "has the sign of the attention sinks turned", of_layers(
            lambda b: replace(b, attn_sinks=negated(b.attn_sinks))), "sinks"  # fmt: skip
    if hp.arch.startswith(("gemma-embedding2", "gemma3n", "gemma4")):
        yield "value-norm-missing", "does not normalize values", replaced(rms_norm=values_as_they_are), "value norm"
    if "layer_output_scale.weight" in names:
        yield "layer-scale-missing", "leaves out layer_output_scale", of_layers(
            lambda b: replace(b, layer_output_scale=ones(b.layer_output_scale))), "layer scale"  # fmt: skip
    if "proj.weight" in names:
        yield "per-layer-inputs-missing", "leaves out the per-layer inputs", replaced(
            linear=nothing_of("proj")), "per-layer"  # fmt: skip
        yield "per-layer-first", "takes the first layer's per-layer input in every layer", replaced(
            split=the_first), "per-layer"  # fmt: skip
    if "per_layer_token_embd.weight" in names:
        yield "per-layer-projection-missing", "leaves out what the embeddings add to the per-layer inputs", replaced(
            linear=nothing_of("per_layer_model_proj")), "per-layer"  # fmt: skip
        yield "per-layer-rows-missing", "leaves out the tokens' rows of the per-layer inputs", replaced(
            get_rows=no_rows), "per-layer"  # fmt: skip
    if "laurel_r.weight" in names:
        yield "laurel-missing", "leaves out the product of low rank next to attention", replaced(
            linear=nothing_of("laurel_r")), "laurel"  # fmt: skip
    if any(hp.swa_layers) and not all(hp.swa_layers):
        other = tuple(not swa for swa in hp.swa_layers)
        yield "layer-kinds-swapped", "has the window in the layers that see all, and none in the others", hparams(
            swa_layers=other), "layer kinds"  # fmt: skip
        if hp.rope_freq_base != hp.rope_freq_base_swa:
            bases = {"rope_freq_base": hp.rope_freq_base_swa, "rope_freq_base_swa": hp.rope_freq_base}
            yield "rope-bases-swapped", "exchanges RoPE's bases of layers with and without a window", hparams(
                **bases), "layer kinds"  # fmt: skip
    if hp.n_layer_shared_kv:
        first = hp.n_layer - hp.n_layer_shared_kv
        yield "shared-keys-kind", "reads the keys of a layer of the other kind in layers that have none", remembering(
            other_keys(first, of_first=False)), "shared keys"  # fmt: skip
        yield "shared-keys-first", "reads the first layer's keys in layers that have none", remembering(
            other_keys(first, of_first=True)), "shared keys"  # fmt: skip


# -- experts ---------------------------------------------------------------------------------------------------------


def shifted(by: int) -> Callable[..., Float]:
    """Another expert than the one that is chosen."""

    def experts(true: Any, x: Float, w: Tensor, chosen: I64, *rest: Any) -> Float:
        return cast(Float, true.experts(x, w, (chosen + by) % w.shape[0], *rest))

    return experts


def without_bias(*names: str) -> Callable[..., Float]:
    """Experts whose bias is left out."""

    def experts(
        true: Any, x: Float, w: Tensor, chosen: I64, b: Tensor | None = None, tap: Tap = NO_TAP, product: str = ""
    ) -> Float:
        return cast(Float, true.experts(x, w, chosen, None if named(w, *names) else b, tap, product))

    return experts


def softmax_of_all() -> dict[str, Callable[..., Any]]:
    """A softmax over the router's scores of all experts, where the chosen ones alone are asked for."""
    scores: list[Float] = []

    def linear(true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        y = true.linear(x, w, *rest)
        if named(w, "ffn_gate_inp"):
            scores[:] = [y]
        return cast(Float, y)

    def softmax(true: Any, x: Float) -> Float:
        high = scores[0].max(1, keepdims=True)
        return cast(Float, (np.exp(x - high) / np.exp(scores[0] - high).sum(1, keepdims=True)).astype(x.dtype))

    return {"linear": linear, "softmax": softmax}


def nothing_of(name: str) -> Callable[..., Float]:
    """A product that is 0."""

    def linear(true: Any, x: Float, w: Tensor, *rest: Any) -> Float:
        y = true.linear(x, w, *rest)
        return cast(Float, y * 0 if named(w, name) else y)

    return linear


# -- layers of several kinds -----------------------------------------------------------------------------------------


def of_layers(change: Callable[[Any], Any]) -> Change:
    """Weights of every layer changed."""

    def changed(r: Reference) -> Reference:
        w = r.model.weights
        return replace(r, model=replace(r.model, weights=replace(w, blk=tuple(change(b) for b in w.blk))))

    return changed


def ones(w: Tensor | None) -> Tensor | None:
    """A tensor of ones in the place of another."""
    return None if w is None else Tensor.of(np.ones(w.shape), f"{w.name} of ones")


def negated(w: Tensor) -> Tensor:
    """Every number with the other sign."""
    return Tensor.of(-w.dequantize(), f"{w.name} negated")


def without_sinks(true: Ops, *rest: Any, **more: Any) -> Float:
    """Attention whose shares add up to 1."""
    return true.attention(*rest, **{**more, "sinks": None})


def values_as_they_are(true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
    """Norms of heads without a weight are values'."""
    return x if w is None and x.ndim == 3 else cast(Float, true.rms_norm(x, w, *rest))


def the_first(true: Any, x: Float, widths: Any) -> list[Float]:
    """The first part for all, where all are as wide."""
    parts = true.split(x, widths)
    return [parts[0]] * len(parts) if len(set(widths)) == 1 and len(widths) > 3 else parts


def no_rows(true: Any, w: Tensor, ids: Any) -> Float:
    """Rows of 0."""
    x = true.get_rows(w, ids)
    return cast(Float, x * 0 if named(w, "per_layer_token_embd") else x)


def other_keys(first: int, *, of_first: bool) -> Callable[[], dict[str, Callable[..., Any]]]:
    """Keys and values of another layer in layers `first` and on: of the first one, or of one of the other kind."""

    def make() -> dict[str, Callable[..., Any]]:
        seen: list[tuple[Float, Float]] = []

        def attention(true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any) -> Float:
            seen.append((k, v))
            if len(seen) > first:
                of_last = k.shape == seen[first - 1][0].shape and np.array_equal(k, seen[first - 1][0])
                k, v = seen[0] if of_first else seen[first - 2 if of_last else first - 1]
            return true.attention(q, k, v, spec, *rest, **more)

        return {"attention": attention}

    return make
