"""Searching codes: the best k for a query, perhaps looked at twice, and how many of them are the right ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, F64, I64
from refembed.compress.codec import Codec, Codes, as_rows, check_finite
from refembed.errors import RequestError

MULTIPLIER = 4  # candidates for each result that is wanted, where they are scored again


class Stage(NamedTuple):
    """Codes and what reads them. `Stage(Float32(D), vectors)` scores by the vectors themselves."""

    codec: Codec
    codes: Codes


def search(
    first: Stage, queries: npt.ArrayLike, k: int, *, rescore: Stage | None = None, multiplier: int = MULTIPLIER
) -> tuple[I64, F32]:
    """The k best rows for each query.

    first       what is searched through, by its codec's quick `scores`
    queries     (Q, D) floats
    k           results a query; fewer where there are fewer rows
    rescore     the same rows in codes that hold more: the first stage then finds `multiplier` k candidates, and these
                are ordered by <query, decoded>. The first stage itself is a choice too: for binary it is the product of
                the query's floats and the signs, where the first stage compared bits
    returns     rows (Q, k) best first, equals in order of rows, and scores (Q, k)
    Raises RequestError for k < 1, a multiplier < 1, stages of different lengths, and queries that do not fit.
    """
    if k < 1 or multiplier < 1:
        raise RequestError(f"k {k}, multiplier {multiplier}: both at least 1")
    if rescore is not None and len(rescore.codes) != len(first.codes):
        raise RequestError(f"{len(first.codes)} codes to search, but {len(rescore.codes)} to score them again")
    rows, _ = as_rows(queries, first.codec.dimensions)
    prepared = first.codec.prepare(first.codec.check_codes(first.codes))
    k = min(k, len(first.codes))
    found, scores = np.empty((len(rows), k), np.int64), np.empty((len(rows), k), np.float32)
    for i, query in enumerate(check_finite(rows).astype(np.float32)):
        found[i], scores[i] = best(first.codec, prepared, query, k, rescore, multiplier)
    return found, scores


def best(
    codec: Codec, prepared: Any, query: F32, k: int, rescore: Stage | None = None, multiplier: int = MULTIPLIER
) -> tuple[I64, F32]:
    """`search` for one query (D), in prepared codes."""
    near = codec.scores(query, prepared)
    if rescore is None:
        rows = top(near, k)
        return rows, near[rows]
    candidates = np.sort(top(near, k * multiplier))
    again = rescore.codec.refine(query, rescore.codes[candidates])
    order = top(again, k)
    return candidates[order], again[order]


def top(scores: npt.NDArray[np.floating], k: int) -> I64:
    """Rows of the k largest scores (N), best first, equals in order of rows; all N where k is larger."""
    k = min(k, len(scores))
    if k == 0:
        return np.empty(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > least)
    rows = np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]])
    return rows[np.lexsort((rows, -scores[rows]))]


def recall(exact: F32, found: I64, k: int) -> F64:
    """The share of the first k found that belong to the best k, for each query.

    exact    (Q, N)   the true score of every row
    found    (Q, >=k) rows, best first
    returns  (Q)      a row belongs to the best k if its true score is at least the k-th best: equals are all right
    """
    least = np.partition(exact, exact.shape[1] - k, axis=1)[:, exact.shape[1] - k]
    return (np.take_along_axis(exact, found[:, :k], axis=1) >= least[:, None]).mean(axis=1)
