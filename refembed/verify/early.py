"""What is looked for first, because it takes seconds: one answer for every text, and every pooling of llama.cpp's.

Hidden states are computed once, for the noise floor; a pooling tried on them costs nothing. Normalization is judged on
top of each (`length`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refembed.arrays import F64
from refembed.errors import EngineError, RefembedError
from refembed.pooling.heads import rank_pooling, width
from refembed.verify.compare.floor import EVERYWHERE, LEAST, SCREEN, build_spread, distance, floor_of, relative_length
from refembed.verify.engines.base import Engine
from refembed.verify.hypotheses import cheap_hypotheses
from refembed.verify.hypotheses.back import TITLES
from refembed.verify.reference import Item, Reference, Vectors
from refembed.verify.verdict import Cause

# |a - b| / (1 + |a|) up to which two scores are one: `fast` and `ggml` are apart by 0.003 (F32), 0.028 (Q8_0) and 0.039
# (Q4_0) at most on a bert with a head of two labels and random weights; the first number of its mean is 0.3 away
NEAR_SCORE = 0.05
POOLINGS = ("mean", "cls", "last", "max", "weightedmean")  # that give one vector a text
EMPTY = 0.9  # of a vector: so much of it zero, and it is a score in a vector's place
TINY = 1e-30  # what memory that was never written holds, or 0
PROBED = 2  # texts that are asked for once more without normalization


def constant_cause(reference: Reference, items: Sequence[Item], vectors: Vectors) -> Cause | None:
    """A finding where texts of different tokens have the same vector, all of them. None otherwise."""
    if len({tuple(reference.ids_of(i)) for i in items}) < 2 or any(v.shape != vectors[0].shape for v in vectors):
        return None
    if any(not np.isfinite(v).all() for v in vectors) or vectors[0].ndim == 2:
        return None
    if not any(v.any() for v in vectors):
        return Cause("zero-vector", "gives a vector of zeros for every text", 1.0)
    if not all(is_same(v, vectors[0]) for v in vectors):
        return None
    ours = reference.vectors(items, SCREEN)
    if all(distance(x, ours[0]) <= LEAST for x in ours) or first_token_alone(reference, items, vectors):
        return None  # the model itself cannot tell these texts apart
    says, left = "gives the same vector for every text", None
    if ours[0].shape == vectors[0].shape:
        near = [distance(vectors[0], x) for x in ours]
        at = int(np.argmin(near))
        if near[at] <= max(build_spread(reference), LEAST):
            says, left = f"{says}: that of text {at}", 0.0
        elif causal_first_token(reference, items, vectors):
            return None  # the search names it
    return Cause("order-same", says, left)


def causal_first_token(reference: Reference, items: Sequence[Item], vectors: Vectors) -> bool:
    """Whether these are first tokens that see themselves alone: under a causal mask [CLS] is the same in every text."""
    if reference.pooling != "cls":
        return False
    for h in cheap_hypotheses(reference, items):
        if h.id == "causal":
            (ours,) = h.change(reference).vectors(items[:1], SCREEN)
            return distance(vectors[0], ours) <= max(build_spread(reference), LEAST)
    return False


def first_token_alone(reference: Reference, items: Sequence[Item], vectors: Vectors) -> bool:
    """Whether these are the first tokens of a decoder: they see no other token, and BOS is the same in every text."""
    if reference.pooling == "rank" or vectors[0].shape[-1] != width(reference.model.hparams, "cls"):
        return False
    ours = replace(reference, pooling="cls").vectors(items, SCREEN)
    return all(distance(x, ours[0]) <= LEAST for x in ours) and distance(vectors[0], ours[0]) <= build_spread(reference)


def is_same(y: F64, x: F64) -> bool:
    """Whether two answers are one, in direction and in length."""
    return distance(y, x) <= LEAST and relative_length(y, x) <= 1e-6


# -- pooling ---------------------------------------------------------------------------------------------------------


def has_head(reference: Reference) -> bool:
    """Whether the model can rank."""
    weights = reference.model.weights
    return any(getattr(weights, name, None) is not None for name in ("cls", "cls_output"))


def candidates(reference: Reference, n: int) -> list[Reference]:
    """The reference under every pooling that gives one vector of n numbers a text."""
    names = [*POOLINGS, *(["rank"] if has_head(reference) else [])]
    return [
        replace(reference, pooling=how)
        for how in names
        if how != reference.pooling and width(reference.model.hparams, how) == n
    ]


def nearest_pooling(reference: Reference, items: Sequence[Item], vectors: Vectors) -> tuple[Reference, bool] | None:
    """The reference under the pooling that comes nearest to these vectors, and whether it is within rounding.

    None where no pooling gives vectors of this length.
    """
    found: list[tuple[float, Reference, bool]] = []
    for changed in candidates(reference, vectors[0].shape[-1]):
        try:
            floor = floor_of(changed, items, (SCREEN,))
            distances = floor.distances(vectors)[0]
            good = bool((distances <= floor.bound).all())
            if not good and float(np.median(distances)) < 1e-2:  # the arithmetics of llama.cpp, where it is worth it
                floor = floor_of(changed, items, EVERYWHERE)
                distances = floor.distances(vectors)[0]
                good = bool((distances <= floor.bound).all())
        except RefembedError:
            continue  # a head that does not fit the model
        found.append((float(np.median(distances)), changed, good))
    if not found:
        return None
    _, best, good = min(found, key=lambda f: (not f[2], f[0]))
    return best, good


def title(pooling: str) -> str:
    """What a pooling takes: `the mean`."""
    short = {"mean": "the mean", "rank": "a reranker's score"}
    return short.get(pooling) or TITLES.get(pooling, pooling)


def why(reference: Reference, asked_for: bool) -> str:
    """Where the reference's pooling comes from."""
    return f"{reference.pooling} was asked for" if asked_for else f"the file names {reference.pooling}"


def pooling_cause(reference: Reference, found: Reference, asked_for: bool) -> Cause:
    """The finding that the engine pools as `found`."""
    return Cause(f"pooling-{found.pooling}", f"pools {title(found.pooling)}, where {why(reference, asked_for)}", 0.0)


def rank_cause(reference: Reference, asked_for: bool) -> Cause:
    """The finding that the engine ranks."""
    wants = "" if reference.pooling == "none" and not asked_for else f", where {why(reference, asked_for)}"
    return Cause("pooling-rank", f"gives a reranker's scores in place of vectors{wants}")


def unnamed_remark(reference: Reference, found: Reference, good: bool) -> str:
    """What to know where the file leaves the pooling to the engine."""
    says = "says pooling none" if reference.model.hparams.pooling == "none" else "names no pooling"
    if not good:
        return f"the file {says}; of the usual poolings {title(found.pooling)} comes nearest to this engine's vectors"
    useless = found.pooling == "cls" and found.model.hparams.causal
    why = ", which sees no other token and is the same in every text" if useless else ""
    return f"the file {says}; this engine pools {title(found.pooling)}{why}: pass --pooling {found.pooling}"


def only_last_pieces(reference: Reference, items: Sequence[Item], vectors: Vectors, bound: F64) -> bool:
    """Whether each vector is the mean of a text's last tokens, of all of them for some texts but not for all.

    llama.cpp pools each micro-batch by itself. With a KV cache of its own for each slot it cuts texts that run together
    into pieces of equal length, and the mean of the last piece replaces those before it.
    """
    if reference.pooling != "mean" or reference.pooler is not None or vectors[0].ndim != 1:
        return False
    ids = [reference.ids_of(item) for item in items]
    starts = []
    for hidden, own, y, limit in zip(reference.hidden(ids, SCREEN), ids, vectors, bound, strict=True):
        means = (reference.finish(hidden[k : len(own)], own[k:], SCREEN) for k in range(len(own)))
        start = next((k for k, x in enumerate(means) if distance(y, x) <= limit), None)
        if start is None:
            return False
        starts.append(start)
    return any(starts)


# -- scores in place of vectors --------------------------------------------------------------------------------------


def scores_among(vectors: Vectors, n: int) -> Vectors | None:
    """The n scores that llama-server puts in front of a vector of unused memory (`--pooling rank`); None: none such."""
    if any(v.ndim != 1 or v.shape[-1] <= n for v in vectors):
        return None
    rest = np.stack([v[n:] for v in vectors])
    empty = np.abs(rest) <= np.maximum(TINY, 1e-9 * np.abs(np.stack(vectors)).max(axis=1, keepdims=True))
    found = [v[:n] for v in vectors]
    return found if empty.mean() >= EMPTY and any(v.any() for v in found) else None


class Scores:
    """An engine whose answers are read as a reranker's n scores, which llama-server puts in front of unused memory."""

    def __init__(self, engine: Engine, n: int) -> None:
        self.engine, self.n = engine, n

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def embed(self, items: Sequence[Item]) -> list[Any]:
        """(n) for each item."""
        found = raw_vectors(self.engine, items)
        if found is None:
            raise EngineError(f"{self.engine.name} gives no scores", hint="start it with --reranking")
        return [v[: self.n] for v in found]

    embed_together = embed


def scores_in_front(reference: Reference, engine: Engine, items: Sequence[Item]) -> Scores | None:
    """The engine as one that gives scores, where the numbers in front of its vectors are near the reference's.

    What stands behind them is memory that llama-server does not write: zeros, an earlier request's numbers, or NaN.
    """
    n = width(reference.model.hparams, "rank") if reference.pooling == "rank" else 0
    if not n or not hasattr(engine, "embed_raw"):
        return None
    some = sorted(items, key=lambda item: len(reference.ids_of(item)))[:3]
    try:
        found = raw_vectors(engine, some)
    except EngineError:
        return None
    if found is None or any(v.ndim != 1 or len(v) <= n for v in found):
        return None
    ours = reference.vectors(some, SCREEN)
    near = all(np.allclose(v[:n], x, rtol=NEAR_SCORE, atol=NEAR_SCORE) for v, x in zip(found, ours, strict=True))
    return Scores(engine, n) if near or mostly_empty(found) else None


def mostly_empty(vectors: Vectors) -> bool:
    """Whether most numbers are nothing compared with the largest, or are not finite: no model gives such vectors."""
    with np.errstate(invalid="ignore"):
        return all(float((~(np.abs(v) > 1e-9 * np.abs(v).max())).mean()) > 0.5 for v in vectors if v.ndim == 1)


def ranks(reference: Reference, engine: Engine, items: Sequence[Item], vectors: Vectors | None = None) -> bool:
    """Whether the engine's "vectors" are a reranker's scores: those of the model's head, or where it has none the
    first numbers of the hidden state, which llama.cpp takes for scores.

    What stands behind them in the answer is memory that was never written: nothing is expected of it.
    """
    n = reference.model.hparams.n_cls_out
    if reference.pooling == "rank":  # as it is to be
        return False
    if vectors is not None and scores_among(vectors, n) is not None:
        return True
    raw = raw_vectors(engine, items[:PROBED])
    if raw is None or any(v.ndim != 1 or v.shape[-1] <= n for v in raw):
        return False
    if scores_among(raw, n) is not None:
        return True
    how = "rank" if has_head(reference) else rank_pooling(reference.model.hparams)
    try:
        ours = replace(reference, pooling=how).vectors(items[:PROBED], SCREEN)
    except RefembedError:
        return False
    both = [(y, x) for y, x in zip(raw, ours, strict=True)]
    alike = all(np.allclose(y[:n], x[:n], rtol=1e-3, atol=1e-4) for y, x in both)
    return alike and (how == "rank" or any(distance(y, x) > 0.1 for y, x in both))


def raw_vectors(engine: Engine, items: Sequence[Item]) -> Vectors | None:
    """What the engine gives without normalization; None where it has no switch for that."""
    ask = getattr(engine, "embed_raw", None)
    try:
        found = ask(items) if ask else None
    except RefembedError:
        return None
    return None if found is None else [np.asarray(v, np.float64) for v in found]
