"""How good a ranking is, as trec_eval computes it, and how well similarities follow people's scores.

    measure    of one query, over its first k documents                        trec_eval's name
    ndcg@k     sum level_i / log2(i + 1), over that of the best ranking        ndcg_cut.k
    recall@k   relevant documents found, over all that are relevant            recall.k
    mrr@k      1 / the place of the first relevant document, 0 without one     recip_rank, over k documents
    map@k      mean over relevant documents of the precision at their places   map_cut.k
    p@k        relevant documents found, over k                                P.k

Places count from 1. A document's level is a whole number that a person gave; above 0 it is relevant, and without
one it counts as 0. nDCG takes levels themselves as gains (Järvelin & Kekäläinen 2002, ACM TOIS 20(4)), as trec_eval
and BEIR do, not 2^level - 1. Without `@k` all documents count.

**Ties.** Scores are rounded to float32, as trec_eval keeps them, and documents of equal score are ranked by their ids
from the last to the first, compared as bytes: "b" before "a", "9" before "10". So a ranking depends on nothing but
scores and ids.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64
from refembed.errors import RequestError

Levels = Sequence[int]  # of documents


def ndcg(ranked: Levels, judged: Levels, k: int | None = None) -> float:
    """Normalized discounted cumulative gain.

    ranked  levels of the documents found, best first; 0 of those that were not judged
    judged  levels of all documents that were judged for this query, in any order
    k       how many of the first count; None: all
    returns 0 to 1; 0 where no document is relevant

    >>> ndcg([0, 1], [2, 1])  # (1 / log2 3) / (2 + 1 / log2 3)
    0.23981246656813146
    """
    best = discounted(sorted(judged, reverse=True), k)
    return discounted(ranked, k) / best if best > 0 else 0.0


def discounted(levels: Levels, k: int | None = None) -> float:
    """sum level_i / log2(i + 1) over the first k; levels below 0 gain nothing.

    >>> discounted([3, 0, 2])  # 3 / 1 + 2 / 2
    4.0
    """
    return sum(level / math.log2(i + 1) for i, level in enumerate(levels[:k], 1) if level > 0)


def recall(ranked: Levels, judged: Levels, k: int | None = None) -> float:
    """The share of the relevant documents that is among the first k. Arguments as of `ndcg`.

    >>> recall([1, 0, 2], [1, 2, 1, 0], 2)  # one of three
    0.3333333333333333
    """
    relevant = relevant_in(judged)
    return relevant_in(ranked[:k]) / relevant if relevant else 0.0


def reciprocal_rank(ranked: Levels, judged: Levels, k: int | None = None) -> float:
    """1 / the place of the first relevant document, 0 if none is among the first k. Arguments as of `ndcg`.

    >>> reciprocal_rank([0, 0, 1], [1]), reciprocal_rank([0, 0, 1], [1], 2)
    (0.3333333333333333, 0.0)
    """
    return next((1 / i for i, level in enumerate(ranked[:k], 1) if level > 0), 0.0)


def average_precision(ranked: Levels, judged: Levels, k: int | None = None) -> float:
    """The precision at the place of each relevant document, averaged over all that are relevant; 0 for one not found.

    Arguments as of `ndcg`.

    >>> average_precision([1, 0, 1], [1, 1, 1, 0])  # (1/1 + 2/3 + 0) / 3
    0.5555555555555555
    """
    relevant = relevant_in(judged)
    places = [i for i, level in enumerate(ranked[:k], 1) if level > 0]
    return sum(found / i for found, i in enumerate(places, 1)) / relevant if relevant else 0.0


def precision(ranked: Levels, judged: Levels, k: int | None = None) -> float:
    """The share of the first k that is relevant; k counts even where fewer were found. Arguments as of `ndcg`.

    >>> precision([1, 0], [1, 1], 4)
    0.25
    """
    k = len(ranked) if k is None else k
    return relevant_in(ranked[:k]) / k if k else 0.0


def relevant_in(levels: Levels) -> int:
    """How many are above 0."""
    return sum(level > 0 for level in levels)


MEASURES: dict[str, tuple[str, Callable[[Levels, Levels, int | None], float]]] = {
    "ndcg": ("nDCG", ndcg),
    "recall": ("Recall", recall),
    "mrr": ("MRR", reciprocal_rank),
    "map": ("MAP", average_precision),
    "p": ("P", precision),
}


@dataclass(frozen=True)
class Measure:
    """A measure with its k: `Measure.parse("ndcg@10")`.

    >>> m = Measure.parse("nDCG@2")
    >>> m.label, m.of([0, 1, 2], [2, 1])  # 2 / log2 4 is at the third place, which does not count
    ('nDCG@2', 0.23981246656813146)
    """

    name: str
    k: int | None = None

    @classmethod
    def parse(cls, text: str) -> Measure:
        """The measure that a text names. RequestError for none."""
        match = re.fullmatch(r"([a-z]+)(?:@([1-9][0-9]{0,6}))?", text.lower())
        if match is None or match[1] not in MEASURES:
            names = ", ".join(f"{name}@10" for name in MEASURES)
            raise RequestError(f"{text!r} is not a measure", hint=f"one of {names}, with any number, or map without")
        return cls(match[1], int(match[2]) if match[2] else None)

    @property
    def label(self) -> str:
        """As papers write it."""
        return MEASURES[self.name][0] + (f"@{self.k}" if self.k else "")

    def of(self, ranked: Levels, judged: Levels) -> float:
        """Its value for one query; arguments as of `ndcg`."""
        return MEASURES[self.name][1](ranked, judged, self.k)


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Ids of documents, best first, ties by the rule at the top.

    >>> ranking({"a": 0.5, "b": 0.5, "c": 1.0})
    ['c', 'b', 'a']
    """
    order = sorted(scores, key=by_bytes, reverse=True)
    return sorted(order, key=lambda id: -np.float32(scores[id]))


def by_bytes(id: str) -> bytes:
    """What ids are compared by."""
    return id.encode("utf-8", "surrogatepass")


def score_run(
    qrels: Mapping[str, Mapping[str, int]], run: Mapping[str, Mapping[str, float]], measures: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Each measure of each query, of a ranking that any program made.

    qrels     query -> document -> level
    run       query -> document -> score, larger is better; queries without judgements are passed over, as in trec_eval
    measures  "ndcg@10", "map" ...
    returns   query -> measure -> value, for the queries that are in both

    >>> score_run({"q": {"a": 1, "b": 2}}, {"q": {"a": 0.9, "c": 0.8, "b": 0.1}}, ["p@2", "mrr"])
    {'q': {'p@2': 0.5, 'mrr': 1.0}}
    """
    parsed = [(name, Measure.parse(name)) for name in measures]
    found = {}
    for query, scores in run.items():
        if query in qrels:
            levels = qrels[query]
            ranked, judged = [levels.get(id, 0) for id in ranking(scores)], list(levels.values())
            found[query] = {name: measure.of(ranked, judged) for name, measure in parsed}
    return found


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Pearson's correlation of two lists of numbers, -1 to 1.

    Raises RequestError for lists of different lengths, of fewer than two numbers, or all the same number.

    >>> round(pearson([1, 2, 3], [1, 2, 6]), 12)  # 5 / sqrt(2 * 14)
    0.944911182523
    """
    a, b = centered(x), centered(y)
    if len(a) != len(b) or len(a) < 2:
        raise RequestError(f"{len(a)} and {len(b)} numbers to correlate", hint="as many of each, two at least")
    aa, bb = float(a @ a), float(b @ b)
    if aa == 0 or bb == 0:
        raise RequestError("all numbers are the same: nothing to correlate", hint="scores have to differ")
    return float(np.clip(a @ b / math.sqrt(aa * bb), -1, 1))


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's correlation: Pearson's of ranks, equal numbers having the mean of their ranks. Errors as of `pearson`.

    >>> round(spearman([10, 20, 30], [1, 2, 600]), 12)
    1.0
    >>> round(spearman([1, 1, 3], [1, 2, 3]), 12)  # ranks 1.5 1.5 3 and 1 2 3: 1.5 / sqrt(1.5 * 2)
    0.866025403784
    """
    return pearson(ranks(x), ranks(y))


def centered(x: npt.ArrayLike) -> F64:
    """Numbers (n), less their mean; divided by the largest of them, so that no square leaves double."""
    array = np.asarray(x, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise RequestError("numbers to correlate: a list of finite numbers", hint="one number a pair")
    less = array - array.mean() if len(array) and array.min() < array.max() else array * 0
    largest = np.abs(less).max(initial=0)
    return less / largest if largest > 0 else less


def ranks(x: npt.ArrayLike) -> F64:
    """Ranks from 1; equal numbers have the mean of theirs.

    >>> ranks([30, 10, 30])
    array([2.5, 1. , 2.5])
    """
    array = np.asarray(x, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = np.array([(a + 1 + b) / 2 for a, b in itertools.pairwise([0, *last.tolist()])])
    return middle[inverse.reshape(array.shape)] if len(array) else array
