"""Hypotheses about what happens behind the model: pooling, and what is done to the vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from refembed.arrays import F64, Float
from refembed.pooling.poolers import POOLERS
from refembed.verify.hypotheses.front import closing
from refembed.verify.hypotheses.precision import bfloat16, float16
from refembed.verify.hypothesis import Change, Hypothesis
from refembed.verify.reference import Reference

Row = tuple[str, str, Change]
TITLES = {
    "mean": "the mean of all tokens", "cls": "the first token", "last": "the last token",
    "max": "the largest of each channel",
    "weightedmean": "the mean weighted by position",
}  # fmt: skip


def pooling_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Other ways from the tokens' states to the text's vector."""
    if reference.pooling in ("none", "rank"):
        return []
    usual = [
        (f"pooling-{how}", f"pools {title}", pooled_by(partial(by_name, how)))
        for how, title in TITLES.items()
        if how != reference.pooling
    ]
    rows: list[Row] = [*usual, *mean_rows(reference), *extreme_rows(), *single_rows(), *weighted_rows(), *half_rows()]
    found = [Hypothesis(id, "pooling", says, change, "pooling") for id, says, change in rows]
    return found + dense_hypotheses(reference)


def mean_rows(reference: Reference) -> list[Row]:
    """Means of some tokens."""
    vocab = reference.tokenizer.vocab
    special = {i for i in (vocab.bos, vocab.eos, closing(vocab)) if i is not None}
    rows: list[tuple[str, str, Callable[[list[int]], Any]]] = [
        ("without-specials", "the tokens that are not special",
         lambda ids: [k for k, i in enumerate(ids) if i not in special]),
        ("without-first", "all tokens but the first", lambda ids: range(1, len(ids))),
        ("without-last", "all tokens but the last", lambda ids: range(len(ids) - 1)),
        ("without-ends", "all tokens but the first and the last (1:-1)", lambda ids: range(1, len(ids) - 1)),
        ("every-second", "every second token", lambda ids: range(0, len(ids), 2)),
        ("unique", "tokens, equal ones once", lambda ids: [k for k, i in enumerate(ids) if i not in ids[:k]]),
    ]  # fmt: skip
    names = {"every-second": "pooling-every-second", "unique": "pooling-unique"}
    return [
        (names.get(id, f"pooling-mean-{id}"), f"pools the mean of {of}", pooled_by(partial(mean_of, which)))
        for id, of, which in rows
    ]


def extreme_rows() -> list[Row]:
    """The largest, the smallest, or the middle of each channel."""
    return [
        ("pooling-max-without-ends", "pools the largest of each channel over all tokens but the first and the last",
         pooled_by(lambda h, ids: h[1 : len(ids) - 1].max(axis=0) if len(ids) > 2 else h.max(axis=0))),
        ("pooling-max-without-first", "pools the largest of each channel over all tokens but the first",
         pooled_by(lambda h, ids: h[min(1, len(ids) - 1) : len(ids)].max(axis=0))),
        ("pooling-max-without-last", "pools the largest of each channel over all tokens but the last",
         pooled_by(lambda h, ids: h[: max(1, len(ids) - 1)].max(axis=0))),
        ("pooling-min", "pools the smallest of each channel", pooled_by(lambda h, ids: h[: len(ids)].min(axis=0))),
        ("pooling-median", "pools the median of each channel",
         pooled_by(lambda h, ids: np.median(h[: len(ids)], axis=0))),
        ("pooling-largest-magnitude", "pools the number with the largest magnitude of each channel",
         pooled_by(lambda h, ids: np.take_along_axis(h[: len(ids)], np.abs(h[: len(ids)]).argmax(0)[None], 0)[0])),
        ("pooling-root-mean-square", "pools the root mean square of each channel",
         pooled_by(lambda h, ids: np.sqrt((h[: len(ids)].astype(np.float64) ** 2).mean(axis=0)))),
        ("pooling-mean-of-magnitudes", "pools the mean of magnitudes",
         pooled_by(lambda h, ids: np.abs(h[: len(ids)]).mean(axis=0))),
        ("pooling-variance", "pools the standard deviation of each channel",
         pooled_by(lambda h, ids: h[: len(ids)].astype(np.float64).std(axis=0))),
    ]  # fmt: skip


def single_rows() -> list[Row]:
    """One token, or two."""
    return [
        ("pooling-middle", "pools the token in the middle", pooled_by(lambda h, ids: h[len(ids) // 2])),
        ("pooling-second-to-last", "pools the token before the last",
         pooled_by(lambda h, ids: h[max(len(ids) - 2, 0)])),
        ("pooling-second", "pools the token behind the first", pooled_by(lambda h, ids: h[min(1, len(ids) - 1)])),
        ("pooling-first-and-last", "pools the mean of the first and the last token",
         pooled_by(lambda h, ids: (h[0] + h[len(ids) - 1]) / 2)),
    ]  # fmt: skip


def weighted_rows() -> list[Row]:
    """Means in which some tokens count more."""
    return [
        ("pooling-weightedmean-backwards", "pools the mean in which the first token counts most",
         pooled_by(lambda h, ids: np.arange(len(ids), 0, -1) @ h[: len(ids)].astype(np.float64))),
        ("pooling-weighted-from-0", "pools the mean weighted by position, counted from 0",
         pooled_by(lambda h, ids: np.arange(len(ids) == 1, len(ids) + (len(ids) == 1)) @ h[: len(ids)])),
        ("pooling-weighted-by-length", "pools the mean in which a token counts as much as its vector is long",
         pooled_by(lambda h, ids: np.linalg.norm(h[: len(ids)], axis=1) @ h[: len(ids)])),
        ("pooling-of-unit-rows", "normalizes the tokens' vectors before it pools them",
         pooled_by(lambda h, ids: (h / np.linalg.norm(h, axis=1, keepdims=True)).mean(axis=0))),
    ]  # fmt: skip


def half_rows() -> list[Row]:
    """The mean in numbers of half the width."""
    return [
        ("pooling-float16", "pools in float16", pooled_by(partial(in_half, float16))),
        ("pooling-bfloat16", "pools in bfloat16", pooled_by(partial(in_half, bfloat16))),
    ]


def dense_hypotheses(reference: Reference) -> list[Hypothesis]:
    """The dense layers behind pooling left out, where vectors stay as wide."""
    names = [n for n in ("dense_2", "dense_3") if getattr(reference.model.weights, n, None) is not None]
    if "dense_2" not in names or width_without(reference) != reference.info.n_embd_out:
        return []
    says = f"leaves out the dense layers behind pooling ({', '.join(names)})"
    return [Hypothesis("dense-missing", "pooling", says, without_dense, "dense")]


def width_without(reference: Reference) -> int:
    """Numbers of a vector without dense layers."""
    return reference.model.width


def without_dense(reference: Reference) -> Reference:
    """No dense layers."""
    w = reference.model.weights
    none = {n: None for n in ("dense_2", "dense_3") if hasattr(w, n)}
    return replace(reference, model=replace(reference.model, weights=replace(w, **none)))


def pooled_by(pooler: Callable[[Float, list[int]], Any]) -> Change:
    """Another way to pool."""
    return lambda reference: replace(reference, pooler=pooler)


def by_name(how: str, hidden: Float, ids: list[int]) -> Any:
    """A row of POOLERS."""
    return POOLERS[how](hidden[: len(ids)])


def mean_of(which: Callable[[list[int]], Any], hidden: Float, ids: list[int]) -> Any:
    """The mean of some rows; of all where there are none such."""
    chosen = list(which(ids))
    return hidden[chosen].mean(axis=0) if chosen else hidden[: len(ids)].mean(axis=0)


def in_half(round_: Callable[[Float], Float], hidden: Float, ids: list[int]) -> Any:
    """A running mean whose every step is rounded."""
    total = np.zeros(hidden.shape[1], np.float32)
    for row in hidden[: len(ids)]:
        total = round_(total + round_(row.astype(np.float32)))
    return round_(total / np.float32(len(ids)))


# -- the vector ------------------------------------------------------------------------------------------------------


def unit(x: F64) -> F64:
    """x over its length."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)


def sigmoid(x: F64) -> F64:
    """1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):
        y: F64 = 1 / (1 + np.exp(-x))
    return y


def soft_max(x: F64) -> F64:
    """Shares of 1."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y: F64 = e / e.sum(axis=-1, keepdims=True)
    return y


def centered(x: F64) -> F64:
    """Mean 0."""
    return x - x.mean(axis=-1, keepdims=True)


def to_decimals(n: int, x: F64) -> F64:
    """The normalized vector to n decimals."""
    return np.round(unit(x), n)


def int8(x: F64) -> F64:
    """Rounded to steps of 1/127 of the largest."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    return np.round(x / np.where(largest > 0, largest, 1) * 127)


VECTOR: tuple[tuple[str, str, Callable[[F64], Any]], ...] = (
    ("vector-negated", "gives the vector with its sign turned", lambda x: -x),
    ("vector-reversed", "gives the vector backwards", lambda x: x[..., ::-1]),
    ("vector-absolute", "gives magnitudes", np.abs),
    ("vector-relu", "sets negative numbers of the vector to 0", lambda x: np.maximum(x, 0)),
    ("vector-rolled", "gives the vector one place further on", lambda x: np.roll(x, 1, axis=-1)),
    ("vector-rolled-back", "gives the vector one place further back", lambda x: np.roll(x, -1, axis=-1)),
    ("vector-halves-swapped", "exchanges the halves of the vector",
     lambda x: np.roll(x, x.shape[-1] // 2, axis=-1)),
    ("vector-centered", "takes the mean off the vector", centered),
    ("vector-tanh", "puts tanh over the vector (BERT's pooler does)", np.tanh),
    ("sigmoid", "puts a sigmoid over the outputs", sigmoid),
    ("sigmoid-twice", "puts a sigmoid over the outputs twice", lambda x: sigmoid(sigmoid(x))),
    ("sigmoid-of-unit", "puts a sigmoid over the normalized vector", lambda x: sigmoid(unit(x))),
    ("softmax", "puts softmax over the outputs", soft_max),
    ("vector-float16", "gives the vector in float16", lambda x: float16(unit(x).astype(np.float32)).astype(np.float64)),
    ("vector-bfloat16", "gives the vector in bfloat16",
     lambda x: bfloat16(unit(x).astype(np.float32)).astype(np.float64)),
    ("vector-int8", "gives the vector as 8-bit whole numbers", int8),
    ("vector-int8-unit", "gives the normalized vector times 127 as whole numbers", lambda x: np.round(unit(x) * 127)),
    ("vector-binary", "gives the signs of the vector", lambda x: np.where(x > 0, 1.0, -1.0)),
    ("vector-bits", "gives 1 for positive numbers of the vector, 0 for others", lambda x: (x > 0) * 1.0),
    *((f"vector-{n}-decimals", f"gives {n} decimals of the normalized vector", partial(to_decimals, n))
      for n in (5, 4, 3, 2)),
    ("vector-squared", "gives squares", lambda x: x * np.abs(x)),
    ("vector-zeroed-half", "sets the second half of the vector to 0",
     lambda x: np.where(np.arange(x.shape[-1]) < x.shape[-1] // 2, x, 0.0)),
)  # fmt: skip


def vector_hypotheses(reference: Reference) -> list[Hypothesis]:
    """The rows of VECTOR."""
    return [
        Hypothesis(id, "vector", says, lambda r, f=change: r.add(vector=f), "vector")  # type: ignore[misc]
        for id, says, change in VECTOR
    ]
