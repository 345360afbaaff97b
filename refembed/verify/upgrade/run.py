"""May an index of the old engine's vectors stay, now that the new engine answers? The questions in order.

width     vectors of another length, or one a token: another model, another pooling
tokens    where both engines show them
movement  how far the vectors of the same texts lie apart
neighbors whether nearest neighbors change, and whether a movement of that size could change them
cause     where the model file is known: `verify` of either engine
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.verify.asking import ask_all
from refembed.verify.engines.base import Engine
from refembed.verify.engines.recorded import RecordedVectors
from refembed.verify.reference import Item, Reference, Vectors, reference_of
from refembed.verify.run import items_of
from refembed.verify.texts import default_texts
from refembed.verify.upgrade import decide
from refembed.verify.upgrade.answer import Search, Upgrade
from refembed.verify.upgrade.movement import HALF_STEPS, Movement, movement_of, storage_error
from refembed.verify.upgrade.neighbors import UNIT, Rows, unit_rows
from refembed.verify.upgrade.search import Collection, key, same_text, same_vector, search, with_documents_left

WINDOW = 256  # tokens of the longest text used unasked, where the model is not known
QUERIES = 1000  # texts of a corpus that are looked for in it, where no queries are given
FEWEST = 3  # texts that have neighbors to speak of
Ids = tuple[str, list[int], list[int]]  # text, old, new


@dataclass
class Measured:
    """What is known of two engines."""

    items: list[Item]
    old: Vectors
    new: Vectors
    infos: tuple[dict[str, Any], dict[str, Any]]
    names: tuple[str, str]
    ids: list[Ids] = field(default_factory=list)
    show_tokens: bool = False  # whether both engines show them
    remarks: list[str] = field(default_factory=list)
    movement: Movement | None = None
    search: Search | None = None
    verdicts: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[float, float]:
        """How far vectors of length 1 may be from those that were computed."""
        return storage_error(self.infos[0], self.old), storage_error(self.infos[1], self.new)

    @property
    def pooled(self) -> tuple[bool, bool]:
        """Whether each engine gives one vector a text."""
        return all(v.ndim == 1 for v in self.old), all(v.ndim == 1 for v in self.new)


def verify_upgrade(
    old: Engine,
    new: Engine,
    texts: Sequence[Item] | None = None,
    *,
    corpus: Sequence[str] | Rows | None = None,
    queries: Sequence[str] | None = None,
    model: str | Path | Embedder | Reference | None = None,
    pooling: str = "native",
    prefix: str = "",
    budget: float | None = None,
    progress: Callable[[str], object] = lambda message: None,
) -> Upgrade:
    """Whether vectors of the old engine may stay in an index that the new engine searches and adds to.

    old, new   of `refembed.verify.engines.base.open_engine`: servers, recordings, builds
    texts      what both embed; None: a recording's own texts, else texts that provoke differences
    corpus     documents whose neighbors are compared: texts, or the old engine's stored vectors (N, D); None: `texts`
    queries    what is looked for; None: the texts of the corpus themselves, or `texts` where it is vectors
    model      the GGUF file that both are meant to run: names the cause of a difference, as `verify` does
    pooling, prefix, budget, progress  as of `verify`
    Raises EngineError, RequestError, GGUFError, ModelError.

    >>> from refembed.verify.engines.callables import CallableEngine
    >>> angles = {"north": 0.0, "east": 90.0, "south": 180.0, "west": 269.0}
    >>> def at(by):  # vectors on a circle, all turned
    ...     return lambda texts: [[np.cos(a), np.sin(a)] for a in (np.radians(angles[t] + by) for t in texts)]
    >>> answer = verify_upgrade(CallableEngine(at(0)), CallableEngine(at(0.01)), list(angles))
    >>> answer.kind, round(answer.moved, 6)  # 2 sin(0.005 degrees)
    ('valid', 0.000175)
    >>> answer = verify_upgrade(CallableEngine(at(0)), CallableEngine(at(40)), list(angles))
    >>> answer.kind, answer.search.arrangements[0].changed  # west, at 309 degrees now, has north nearest, not south
    ('re-embed', 1)
    """
    reference = known_model(model, pooling, prefix)
    name_rows(old, new, texts)
    infos = dict(old.info), dict(new.info)
    items, remarks = texts_of(infos, texts, reference, old)
    documents = None if corpus is None or isinstance(corpus, np.ndarray) else list(corpus)
    asked = list(queries) if queries is not None else some(documents, QUERIES) if documents else items
    everything = distinct([*items, *(documents or ()), *asked])
    found = ask_both(old, new, everything, infos, progress)
    found.remarks[:0] = remarks
    found.ids, found.show_tokens = token_changes(old, new, found.items)
    if all(found.pooled) and found.old[0].shape == found.new[0].shape:
        found.movement = movement_of(found.old, found.new)
        if not found.movement.same_bits:
            progress("comparing neighbors")
            found.search = neighbors_of(found, documents or corpus, asked if corpus is not None else None)
    if reference is not None and not (found.movement is not None and found.movement.same_bits):
        found.verdicts = decide.verdicts(reference, (old, new), found, budget, progress)
    return decide.answer(found)


def known_model(model: str | Path | Embedder | Reference | None, pooling: str, prefix: str) -> Reference | None:
    """The reference that both engines are held against, where there is one."""
    if model is None or isinstance(model, Reference):
        return model
    embedder = model if isinstance(model, Embedder) else Embedder.load(model, numerics="fast")
    reference = reference_of(embedder, pooling)
    return reference.add(text=partial(str.__add__, prefix)) if prefix else reference


def name_rows(old: Engine, new: Engine, texts: Sequence[Item] | None) -> None:
    """Rows that a file does not name are of the given texts, or of the other file's, where there are as many."""
    for engine, other in ((old, new), (new, old)):
        if isinstance(engine, RecordedVectors) and engine.items is None:
            given = other.info.get("texts") if texts is None else texts
            if given is not None and len(given) == len(engine.vectors):
                engine.items = list(given)


def texts_of(
    infos: tuple[dict[str, Any], dict[str, Any]], texts: Sequence[Item] | None, reference: Reference | None, old: Engine
) -> tuple[list[Item], list[str]]:
    """What both engines are to embed, and remarks about what was left out."""
    if texts is not None:
        if not texts:
            raise RequestError("there are no texts to compare on", hint="one text a line in --texts FILE")
        return list(texts), []
    recorded = [info for info in infos if "count" in info or info.get("texts")]
    named: list[list[Item]] = [list(info["texts"]) for info in recorded if info.get("texts")]
    if named:
        keys = [{key(i) for i in side} for side in named]
        both = distinct([i for i in named[0] if all(key(i) in other for other in keys)])
        if not both:
            raise RequestError("the two recordings have no text in common", hint="record the same texts with both")
        left = len(set().union(*keys)) - len(both)
        return both, [f"{left} texts that only one of the recordings has were left out"] if left else []
    if recorded:
        counts = {int(info["count"]) for info in recorded}
        if len(recorded) < 2:
            hint = "--texts FILE says which texts its vectors are of, in their order"
            raise RequestError("the recording does not name its texts, so the other engine cannot be asked", hint=hint)
        if len(counts) > 1:
            raise RequestError(
                f"the two recordings have {' and '.join(map(str, sorted(counts)))} vectors, and no texts"
            )
        return [f"vector {i}" for i in range(counts.pop())], []
    if reference is not None:
        return items_of(reference, {}, None), []
    count = (lambda t: len(old.tokenize(t))) if old.can_tokenize else lambda t: 2 * len(t.split())
    return list(default_texts(count, WINDOW, WINDOW)), []


def ask_both(
    old: Engine, new: Engine, items: list[Item], infos: tuple[dict[str, Any], dict[str, Any]],
    progress: Callable[[str], object],
) -> Measured:  # fmt: skip
    """Vectors of all texts that both take."""
    sides = []
    for name, engine in (("old", old), ("new", new)):
        progress(f"asking the {name} engine for {len(items)} texts")
        sides.append(ask_all(engine, items))
    taken = [{key(i): v for i, v in zip(side.items, side.vectors, strict=True)} for side in sides]
    both = [i for i in items if all(key(i) in side for side in taken)]
    if not both:
        raise RequestError("there is no text that both engines take", hint="shorter texts in --texts FILE")
    remarks = [
        f"{len(side.left_out)} texts are too long for the {name} engine and were left out; it answers {side.refusal}"
        for name, side in zip(("old", "new"), sides, strict=True)
        if side.left_out
    ]
    vectors = [[side[key(i)] for i in both] for side in taken]
    return Measured(both, vectors[0], vectors[1], infos, (old.name, new.name), remarks=remarks)


def token_changes(old: Engine, new: Engine, items: Sequence[Item]) -> tuple[list[Ids], bool]:
    """Texts whose tokens changed, and whether both engines show tokens."""
    if not (old.can_tokenize and new.can_tokenize):
        return [], False
    pairs = [(t, [int(i) for i in old.tokenize(t)], [int(i) for i in new.tokenize(t)]) for t in items
             if isinstance(t, str)]  # fmt: skip
    return [p for p in pairs if p[1] != p[2]], bool(pairs)


def neighbors_of(found: Measured, corpus: Any, queries: Sequence[Item] | None) -> Search | None:
    """Neighbors among the corpus, or among the texts themselves; None where there are too few and nothing moved.

    RequestError where no query has one document nearer than another: no movement can be held against that.
    """
    m = found.movement
    assert m is not None
    place = {key(item): i for i, item in enumerate(found.items)}
    old, new = unit_rows(np.stack(found.old)), unit_rows(np.stack(found.new))
    rows = [place[key(q)] for q in (found.items if queries is None else queries) if key(q) in place]
    if not rows:
        raise RequestError("there is no query that both engines take", hint="one query a line in --queries FILE")
    errors = found.errors
    if isinstance(corpus, np.ndarray):
        check_stored(corpus, old.shape[1])
        errors = max(errors[0], HALF_STEPS.get(str(corpus.dtype), UNIT)), errors[1]
        c = Collection(old[rows], new[rows], corpus, left_out=same_vector(old[rows], corpus, 4 * errors[0]))
    else:
        listed = found.items if corpus is None else [d for d in corpus if key(d) in place]
        if len(listed) < FEWEST:
            if m.most <= sum(errors):
                return None
            hint = f"--texts FILE with {FEWEST} lines and more, or --corpus FILE"
            raise RequestError(f"{len(listed)} texts have no neighbors to compare, and their vectors moved", hint=hint)
        of = [place[key(d)] for d in listed]
        c = Collection(old[rows], new[rows], old[of], new[of], same_text([found.items[i] for i in rows], listed))
    result = search(with_documents_left(c), m.most, errors)
    if result.gap == np.inf and m.most > sum(errors):
        says = "half of the queries or more have all documents at one distance, so how far vectors moved says nothing"
        raise RequestError(says, hint="--corpus FILE takes documents that differ")
    return result


def check_stored(corpus: Rows, width: int) -> None:
    """RequestError for an array that holds no vectors of the old engine."""
    if corpus.ndim != 2 or corpus.shape[1] != width or not len(corpus) or corpus.dtype.kind not in "fiu":
        kind = "" if corpus.dtype.kind in "fiu" else f"is {corpus.dtype} and "
        numbers = f"the corpus {kind}has shape {corpus.shape}, the engines' vectors {width} numbers"
        raise RequestError(numbers, hint="stored vectors are (N, D), of the old engine")


def distinct(items: Sequence[Item]) -> list[Item]:
    """Each once, in order."""
    return list({key(i): i for i in items}.values())


def some(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many, evenly spread."""
    step = -(-len(items) // most)
    return list(items[::step])
