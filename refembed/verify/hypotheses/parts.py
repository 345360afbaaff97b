"""Hypotheses about one part of the model: one layer, one matrix, one head or one bias of those that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops
from refembed.model import Model
from refembed.verify.hypotheses.changes import replaced
from refembed.verify.hypotheses.weights import requantized
from refembed.verify.hypothesis import Change, Hypothesis
from refembed.verify.reference import Reference, tensor_names

LAYERS = 12  # of deeper models, single layers are tried at both ends only
STORED = ("F16", "BF16", "Q8_0", "Q4_0")


def part_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Layers in another order, and each matrix or bias spoiled, in one layer or in all."""
    names = sorted(set(tensor_names(reference)))
    n_layer = reference.model.hparams.n_layer
    layers = [i for i in range(n_layer) if i < LAYERS // 2 or n_layer - i <= LAYERS // 2]
    found = list(layer_hypotheses(n_layer, layers))
    matrices = [n for n in names if n.startswith("blk.") and n.endswith(".weight") and "norm" not in n]
    kinds = sorted({re.sub(r"^blk\.\d+\.", "", n) for n in matrices})
    scopes = [
        (f"{kind.removesuffix('.weight')}", f"^blk\\.\\d+\\.{re.escape(kind)}$", "in all layers") for kind in kinds
    ]
    scopes += [
        (n.removesuffix(".weight"), f"^{re.escape(n)}$", f"in layer {n.split('.')[1]}")
        for n in matrices
        if int(n.split(".")[1]) in layers and n_layer > 1
    ]
    for name, pattern, where in scopes:
        found += matrix_hypotheses(name, re.compile(pattern), where)
    found += bias_hypotheses(names, layers, n_layer)
    found += head_hypotheses(reference)
    return [h for h in found if h.id not in ("last-layer-missing", "first-layer-missing")]


def layer_hypotheses(n_layer: int, layers: list[int]) -> Iterator[Hypothesis]:
    """Layers left out, run twice, exchanged."""
    rows: list[tuple[str, str, list[int]]] = []
    every = list(range(n_layer))
    for i in layers:
        if 0 < i < n_layer - 1:
            rows.append((f"layer-{i}-missing", f"leaves out layer {i}, counted from 0", every[:i] + every[i + 1 :]))
        rows.append((f"layer-{i}-twice", f"runs layer {i}, counted from 0, twice", every[: i + 1] + every[i:]))
        if i + 1 < n_layer:
            order = [*every[:i], i + 1, i, *every[i + 2 :]]
            rows.append((f"layers-{i}-{i + 1}-swapped", f"exchanges layers {i} and {i + 1}", order))
    if n_layer > 2:
        rows.append(("layers-backwards", "runs the layers in reverse order", every[::-1]))
    for keep in layers:
        if 0 < keep < n_layer - 1:
            rows.append((f"layers-{keep}", f"runs the first {keep} layers of {n_layer} only", every[:keep]))
    for id, says, order in rows:
        yield Hypothesis(id, "model", says, partial(reordered, order), "layer")


def reordered(order: list[int], reference: Reference) -> Reference:
    """The model with these layers."""
    return replace(reference, model=layers_of(reference.model, order))


def layers_of(model: Model, order: list[int]) -> Model:
    """Layers chosen by number."""
    hp, blk = model.hparams, tuple(model.weights.blk[i] for i in order)
    names = [
        n
        for n in ("swa_layers", "moe_layers", "recurrent_layers", "head_counts_kv", "n_ffs")
        if len(getattr(hp, n)) == hp.n_layer
    ]
    lists: dict[str, Any] = {n: tuple(getattr(hp, n)[i] for i in order) for n in names}
    return replace(model, hparams=replace(hp, n_layer=len(blk), **lists), weights=replace(model.weights, blk=blk))


def on_matrix(which: re.Pattern[str], other: Callable[..., Float]) -> Change:
    """The product with some matrices computed otherwise, without its bias."""

    def linear(true: Any, x: Float, w: Tensor, b: Tensor | None = None, *tap: Any) -> Float:
        if not which.match(w.name):
            return cast(Float, true.linear(x, w, b, *tap))
        y = other(true, x, w)
        return np.ascontiguousarray(y if b is None else y + b.dequantize(), x.dtype)

    return replaced(linear=linear)


def matrix_hypotheses(name: str, which: re.Pattern[str], where: str) -> Iterator[Hypothesis]:
    """One kind of matrix spoiled."""
    short = re.sub(r"^blk\.\d+\.", "", name)
    rows: list[tuple[str, str, Callable[..., Float]]] = [
        ("zero", f"takes {short} for 0 {where}", lambda true, x, w: true.linear(x, w) * 0),
        ("negated", f"has the sign of {short} turned {where}", lambda true, x, w: -true.linear(x, w)),
        ("rows-rolled", f"has the rows of {short} one further on {where}",
         lambda true, x, w: np.roll(true.linear(x, w), 1, axis=1)),
        ("rows-rolled-back", f"has the rows of {short} one further back {where}",
         lambda true, x, w: np.roll(true.linear(x, w), -1, axis=1)),
        ("columns-rolled", f"has the columns of {short} one further on {where}",
         lambda true, x, w: true.linear(np.ascontiguousarray(np.roll(x, -1, axis=1)), w)),
        ("columns-rolled-back", f"has the columns of {short} one further back {where}",
         lambda true, x, w: true.linear(np.ascontiguousarray(np.roll(x, 1, axis=1)), w)),
        ("transposed", f"reads {short} transposed {where}",
         lambda true, x, w: x @ w.dequantize() if w.shape[0] == w.shape[1] else true.linear(x, w)),
        *((t, f"has {short} as {t} {where}", partial(as_type, t)) for t in STORED),
        ("int8", f"has {short} in 8 bits with one scale for each row {where}", partial(by_row, 127)),
        ("int8-one-scale", f"has {short} in 8 bits with one scale for all of it {where}", partial(by_matrix, 127)),
        ("int4", f"has {short} in 4 bits with one scale for each row {where}", partial(by_row, 7)),
    ]  # fmt: skip
    for id, says, other in rows:
        yield Hypothesis(f"{name}-{id}", "model", says, on_matrix(which, other), "matrix")


KEPT: dict[tuple[int, str], tuple[Tensor, Any]] = {}  # matrices in another type, the last few


def kept(w: Tensor, how: str, make: Callable[[], Any]) -> Any:
    """What was made of a tensor before."""
    key = id(w), how
    if key not in KEPT or KEPT[key][0] is not w:
        if len(KEPT) > 64:
            KEPT.clear()
        KEPT[key] = w, make()
    return KEPT[key][1]


def as_type(type_name: str, true: Any, x: Float, w: Tensor) -> Float:
    """x times the matrix as that type stores it."""
    return cast(Float, true.linear(x, kept(w, type_name, lambda: requantized(w, type_name))))


def by_row(most: int, true: Any, x: Float, w: Tensor) -> Float:
    """Whole numbers up to that, times one scale for each row."""
    return cast(Float, x @ kept(w, f"row {most}", lambda: rounded(w.dequantize(), most, 1)).T)


def by_matrix(most: int, true: Any, x: Float, w: Tensor) -> Float:
    """Whole numbers up to that, times one scale."""
    return cast(Float, x @ kept(w, f"all {most}", lambda: rounded(w.dequantize(), most, None)).T)


def rounded(w: Float, most: int, axis: int | None) -> Float:
    """w to the nearest of 2 most + 1 steps."""
    step = np.abs(w).max(axis=axis, keepdims=True) / most
    return cast(Float, (np.round(w / np.where(step > 0, step, 1)) * step).astype(np.float32))


def bias_hypotheses(names: list[str], layers: list[int], n_layer: int) -> Iterator[Hypothesis]:
    """One bias left out, in one layer."""
    for name in names if n_layer > 1 else ():
        if not name.startswith("blk.") or not name.endswith(".bias") or int(name.split(".")[1]) not in layers:
            continue
        kind, layer = name.split(".")[2], name.split(".")[1]
        change = replaced(linear=partial(no_bias_of, name), layer_norm=partial(norm_without, name))
        yield Hypothesis(
            f"{name.removesuffix('.bias')}-bias-missing", "model", f"leaves out the bias of {kind} in layer {layer}",
            change, "bias",
        )  # fmt: skip
    for name in names:
        if (
            "norm" in name
            and name.endswith(".weight")
            and (not name.startswith("blk.") or int(name.split(".")[1]) in layers)
        ):
            change = replaced(layer_norm=partial(norm_of_ones, name), rms_norm=partial(norm_of_ones, name))
            says = f"takes the weights of {name} for 1"
            yield Hypothesis(f"{name.removesuffix('.weight')}-ones", "model", says, change, "norm")
    change = replaced(layer_norm=partial(norm_of_ones, ""), rms_norm=partial(norm_of_ones, ""))
    yield Hypothesis("norm-weights-ones", "model", "takes the weights of all norms for 1", change, "norm")


def no_bias_of(name: str, true: Any, x: Float, w: Tensor, b: Tensor | None = None, *tap: Any) -> Float:
    """The product without one bias."""
    return cast(Float, true.linear(x, w, None if b is not None and b.name == name else b, *tap))


def norm_without(name: str, true: Any, x: Float, w: Tensor, b: Tensor | None, *rest: Any) -> Float:
    """LayerNorm without one bias."""
    return cast(Float, true.layer_norm(x, w, None if b is not None and b.name == name else b, *rest))


def norm_of_ones(name: str, true: Any, x: Float, w: Tensor | None, *rest: Any) -> Float:
    """A norm without its weights: LayerNorm's bias stays."""
    layer = bool(rest) and not isinstance(rest[0], (int, float, np.floating))
    own = true.layer_norm if layer else true.rms_norm
    if w is None or (name and w.name != name):
        return cast(Float, own(x, w, *rest))
    if not layer:
        return cast(Float, true.rms_norm(x, None, *rest))
    b, eps = rest[0], rest[1]
    wide = x.astype(np.float64)
    y = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + eps)
    return (y + (0 if b is None else b.dequantize())).astype(x.dtype)


def head_hypotheses(reference: Reference) -> Iterator[Hypothesis]:
    """Heads of attention lost, turned around, or on other keys."""
    H = reference.model.hparams.n_head
    for h in range(min(H, 32)):
        yield Hypothesis(f"head-{h}-lost", "model", f"loses head {h} of attention, counted from 0, in every layer",
                         replaced(attention=partial(without_head, h)), "heads")  # fmt: skip
    for by in (1, -1):
        word = "further on" if by > 0 else "further back"
        yield Hypothesis(f"heads-rolled{'-back' * (by < 0)}", "model", f"gives the results of heads one place {word}",
                         replaced(attention=partial(rolled_heads, by)), "heads")  # fmt: skip
    yield Hypothesis("heads-backwards", "model", "gives the results of heads in reverse order",
                     replaced(attention=partial(rolled_heads, 0)), "heads")  # fmt: skip
    yield Hypothesis("attention-to-self-missing", "model", "lets no token see itself", replaced(
        attention=without_self), "mask")  # fmt: skip
    yield Hypothesis("attention-uniform", "model", "attends to all tokens alike", replaced(
        attention=lambda true, q, k, v, *rest, **more: true.attention(q * 0, k, v, *rest, **more)), "mask")  # fmt: skip
    yield Hypothesis("attention-missing", "model", "takes the results of attention for 0", replaced(
        attention=lambda true, *rest, **more: true.attention(*rest, **more) * 0), "mask")  # fmt: skip


def without_head(
    head: int, true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any
) -> Float:
    """One head's results are 0."""
    y = np.array(true.attention(q, k, v, spec, *rest, **more))
    D = y.shape[1] // spec.n_head
    y[:, head * D : (head + 1) * D] = 0
    return y


def rolled_heads(
    by: int, true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any
) -> Float:
    """Heads in another order; by 0: backwards."""
    y = true.attention(q, k, v, spec, *rest, **more).reshape(len(q), spec.n_head, -1)
    y = np.roll(y, by, axis=1) if by else y[:, ::-1]
    return np.ascontiguousarray(y.reshape(len(q), -1))


def without_self(
    true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
) -> Float:
    """A token's own score is minus infinity, where there are other tokens."""
    if spec.mask.causal or more.get("bias") is not None:
        raise ValueError("a token that sees no other cannot leave itself out")
    n = int(np.diff(offsets).max())
    bias = np.where(np.eye(n, dtype=bool), -1e30, 0.0)[None].repeat(spec.n_head, 0).astype(q.dtype)
    return true.attention(q, k, v, spec, offsets, *rest, **{**more, "bias": bias})
