"""Queries and documents of two engines: what their nearest neighbors are now, and what they can become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refembed.arrays import F64, I64
from refembed.errors import RequestError
from refembed.verify.upgrade.answer import REACH, Arrangement, Search
from refembed.verify.upgrade.neighbors import (
    TIE,
    Neighbors,
    Rows,
    blocks,
    compare_neighbors,
    distances,
    gaps,
    how_many,
)

STORED, MIXED, NEW = "new queries, stored documents", "the same, every second document new", "queries and documents new"


@dataclass(frozen=True)
class Collection:
    """What is searched, in both engines' vectors."""

    old_queries: F64  # (Q, D), length 1
    new_queries: F64
    stored: Rows  # (N, D) the old engine's documents
    new: Rows | None = None  # (N, D) the new engine's; None: only the stored vectors are there
    left_out: tuple[I64, ...] = ()  # of each query: documents that are the query itself; (): of none

    @property
    def k(self) -> int:
        """How many neighbors are compared."""
        return how_many(len(self.stored) - max((len(x) for x in self.left_out), default=0))


def search(c: Collection, most: float, errors: tuple[float, float] = (TIE / 4, TIE / 4)) -> Search:
    """Neighbors before and after, in each arrangement that the vectors allow.

    most    the largest movement of any text
    errors  how far old and new vectors may be from those that were computed (movement.storage_error)
    """
    ties = 4 * errors[0], 4 * max(errors)
    chosen = [(STORED, c.stored)]
    if c.new is not None:
        mixed = np.array(c.stored, np.float64)
        mixed[1::2] = c.new[1::2]
        chosen += [(MIXED, mixed), (NEW, c.new)]
    parts: dict[str, list[Neighbors]] = {name: [] for name, _ in chosen}
    first, last = [], []
    for part in blocks(len(c.old_queries), len(c.stored)):
        before = without(distances(c.old_queries[part], c.stored), c.left_out[part])
        found = gaps(before, c.k, ties[0])
        first.append(found.first)
        last.append(found.last)
        for name, documents in chosen:
            after = without(distances(c.new_queries[part], documents), c.left_out[part])
            changed, kept, farther = compare_neighbors(before, after, c.k, *ties)
            parts[name].append(
                Neighbors(len(c.stored), c.k, np.array(changed, np.int64) + part.start, np.array(kept), farther)
            )
    gap, gap_last = np.concatenate(first), np.concatenate(last)
    joined = [arrangement(name, found) for name, found in parts.items()]
    return Search(
        len(gap), len(c.stored), c.k, median(gap), median(gap_last), int((gap > REACH * most).sum()), tuple(joined)
    )


def without(found: F64, left_out: Sequence[I64]) -> F64:
    """Distances (Q, N), infinite where a document is the query itself."""
    for row, places in zip(found, left_out, strict=bool(left_out)):
        row[places] = np.inf
    return found


def median(gap: F64) -> float:
    """Of all queries; infinite gaps count as large ones."""
    return float(np.sort(gap)[(len(gap) - 1) // 2]) if len(gap) else np.inf


def arrangement(name: str, found: Sequence[Neighbors]) -> Arrangement:
    """The blocks of one arrangement together."""
    kept = np.concatenate([n.kept for n in found])
    changed = sum(len(n.first) for n in found)
    return Arrangement(name, changed, float(kept.mean() / found[0].k), max(n.farther for n in found))


def same_text(queries: Sequence[object], documents: Sequence[object]) -> tuple[I64, ...]:
    """Of each query the places of documents that are the same text."""
    places: dict[object, list[int]] = {}
    for i, d in enumerate(documents):
        places.setdefault(key(d), []).append(i)
    return tuple(np.array(places.get(key(q), []), np.int64) for q in queries)


def same_vector(queries: F64, documents: Rows, tie: float) -> tuple[I64, ...]:
    """Of each query (Q, D) the places of documents (N, D) that are the same vector: no farther away than `tie`.

    RequestError for documents with numbers that are not finite.
    """
    found: list[I64] = []
    for part in blocks(len(queries), len(documents)):
        d = distances(queries[part], documents)
        bad = np.flatnonzero(np.isnan(d).any(axis=0))
        if len(bad):
            raise RequestError(f"document {bad[0]} of the corpus has numbers that are not finite")
        found += [np.flatnonzero(row <= tie) for row in d]
    return tuple(found)


def with_documents_left(c: Collection) -> Collection:
    """Without the queries whose documents are all left out. RequestError where that is every query."""
    n = len(c.stored)
    rows = [i for i in range(len(c.old_queries)) if not c.left_out or len(c.left_out[i]) < n]
    if not rows:
        raise RequestError("the corpus has no document but the queries themselves", hint="--corpus FILE takes others")
    chosen = tuple(c.left_out[i] for i in rows) if c.left_out else ()
    return Collection(c.old_queries[rows], c.new_queries[rows], c.stored, c.new, chosen)


def key(item: object) -> object:
    """A text, or ids as what can be looked up."""
    return tuple(item) if isinstance(item, list) else item
