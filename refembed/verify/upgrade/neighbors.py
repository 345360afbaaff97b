"""Nearest neighbors before and after vectors moved, and how far they may move before a neighbor can change.

Vectors are divided by their lengths, and distances are Euclidean, d = sqrt(2 (1 - cos)): the order of neighbors is that
of cosine similarity, and the triangle inequality holds. A query that moves by m and documents that move by p and q
change the difference of the two distances by at most 2m + p + q. So of two documents whose distances differ by more the
order stays, whatever the corpus.

Documents at the same distance have no order. A vector of float32 numbers is up to UNIT = 2^-24 away from the one that
was meant, so distances that differ by TIE = 4 UNIT or less are the same distance: no neighbor changes where ties do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, I64

UNIT = 2.0**-24  # half a step of float32, relative
TIE = 4 * UNIT
NEAREST = 10  # neighbors that are compared, where there are twice as many documents
CELLS = 2**24  # distances in memory at a time
ROWS = 8192  # documents whose distances are computed at a time

Rows = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Neighbors:
    """What became of the neighbors of Q queries among N documents."""

    documents: int
    k: int
    first: I64  # queries whose nearest neighbor is another now
    kept: I64  # (Q) how many of the k nearest are still among them
    farther: float  # of the neighbors that took the first place: how much farther they were before, at most

    @property
    def queries(self) -> int:
        """How many were asked."""
        return len(self.kept)

    @property
    def overlap(self) -> float:
        """Mean share of the k nearest that stayed."""
        return float(self.kept.mean() / self.k) if len(self.kept) else 1.0

    @property
    def unchanged(self) -> bool:
        """Whether every query has the k nearest it had, and the same in front."""
        return not len(self.first) and bool((self.kept == self.k).all())


@dataclass(frozen=True)
class Gaps:
    """How far apart neighbors are, before anything moved: (Q) each; infinite where all documents tie."""

    first: F64  # from the nearest document to the next that is no tie
    last: F64  # from the k-th nearest to the next that is no tie


def unit_rows(x: npt.ArrayLike) -> F64:
    """Rows (N, D) divided by their lengths, in double; rows of zeros stay."""
    rows = np.asarray(x, np.float64)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def distances(queries: F64, documents: Rows) -> F64:
    """Euclidean distances of unit vectors: queries (Q, D), documents (N, D) -> (Q, N).

    documents  of any length, float16 to float64, also mapped from a file: a block of rows is read at a time
    """
    found = np.empty((len(queries), len(documents)))
    with np.errstate(invalid="ignore"):  # infinite numbers end in NaN
        for i in range(0, len(documents), ROWS):
            cosines = queries @ unit_rows(documents[i : i + ROWS]).T
            found[:, i : i + ROWS] = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    return found


def how_many(documents: int) -> int:
    """k for that many documents: NEAREST, or half of them where there are few."""
    return max(1, min(NEAREST, documents // 2))


def blocks(queries: int, documents: int) -> Iterator[slice]:
    """Queries whose distances fit into memory together."""
    step = max(1, CELLS // max(1, documents))
    return (slice(i, i + step) for i in range(0, queries, step))


def compare_neighbors(
    before: F64, after: F64, k: int, tie_before: float = TIE, tie_after: float = TIE
) -> tuple[list[int], list[int], float]:
    """One block of queries: distances (Q, N) before and after, infinite for a document that does not count.

    returns  queries whose nearest document is another, how many of the k nearest each has kept, and how much farther
             the worst new nearest document was before

    >>> before = np.array([[0.1, 0.2, 0.3, 0.4]])
    >>> compare_neighbors(before, np.array([[0.3, 0.2, 0.1, 0.4]]), 2)  # nearest were 0 and 1, now they are 2 and 1
    ([0], [1], 0.19999999999999998)
    >>> compare_neighbors(np.array([[0.1, 0.1, 0.3, 0.4]]), np.array([[0.2, 0.1, 0.3, 0.4]]), 2)  # 0 and 1 tied
    ([], [2], 0.0)
    """
    changed, kept, farther = [], [], 0.0
    for q, (d, e) in enumerate(zip(before, after, strict=True)):
        in_front = e <= e.min() + tie_after
        behind = float(d[in_front].min() - d.min())
        if behind > tie_before:
            changed.append(q)
            farther = max(farther, behind)
        old = d <= kth(d, k) + tie_before
        limit = kth(e, k)
        sure, may = e < limit - tie_after, np.abs(e - limit) <= tie_after
        places = k - int(sure.sum())
        kept.append(int((sure & old).sum()) + min(places, int((may & old).sum())))
    return changed, kept, farther


def gaps(before: F64, k: int, tie: float = TIE) -> Gaps:
    """What parts the nearest document from the next, and the k-th from the next: distances (Q, N) -> (Q) each.

    >>> gaps(np.array([[0.1, 0.25, 0.5], [0.2, 0.2, 0.3]]), 1).first.tolist()  # 0.25 - 0.1; 0.3 - 0.2, two are tied
    [0.15, 0.09999999999999998]
    """
    return Gaps(*(np.array([gap_behind(d, kth(d, n), tie) for d in before]) for n in (1, k)))


def gap_behind(d: F64, place: float, tie: float) -> float:
    """From the documents that tie with `place` to the next one."""
    behind = d[d > place + tie]
    return float(behind.min() - d[d <= place + tie].max()) if len(behind) else np.inf


def kth(d: F64, k: int) -> float:
    """The k-th smallest."""
    return float(np.partition(d, k - 1)[k - 1])
