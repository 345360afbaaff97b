"""How sure a mean over queries is: the paired bootstrap.

Efron & Tibshirani 1993, *An Introduction to the Bootstrap*: the queries are drawn again, with replacement, as many as
there are, many times over; the middle 95% of the means is the interval. The draws are the same for every line of a
table, so that a difference of two lines is a difference over the same queries (Sakai 2006, SIGIR): it is often far
surer than either mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64
from refembed.errors import RequestError

RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """From `low` to `high`: 95% of the means that other draws of the queries would give.

    >>> mean_intervals([[0.5, 0.5]])[0]  # every draw has that mean
    Interval(low=0.5, high=0.5)
    """

    low: float
    high: float


def counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.int64]:
    """How often each of n queries is drawn: (resamples, n), each row with the sum n.

    >>> counts(5, resamples=3).sum(axis=1)
    array([5, 5, 5])
    """
    if n < 1 or resamples < 1:
        raise RequestError(f"a bootstrap of {n} queries, {resamples} times", hint="at least one of each")
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    found = np.zeros((resamples, n), np.int64)
    np.add.at(found, (np.arange(resamples)[:, None], drawn), 1)
    return found


def mean_intervals(values: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """The interval of each line's mean.

    values   (lines, n)  a number for each query
    returns  one Interval a line; the same draws of queries for all

    >>> mean_intervals([[1, 1, 1], [0, 0, 3]], resamples=1000)  # of three draws of the second none, or all, may be 3
    [Interval(low=1.0, high=1.0), Interval(low=0.0, high=3.0)]
    """
    x = np.atleast_2d(np.asarray(values, np.float64))
    means = counts(x.shape[1], resamples, seed) @ x.T / x.shape[1]  # (resamples, lines)
    return intervals(means)


def statistic_intervals(
    values: npt.ArrayLike, target: npt.ArrayLike, statistic: Callable[[F64, F64], float], *,
    resamples: int = RESAMPLES, seed: int = 0,
) -> tuple[list[Interval], list[Interval]]:  # fmt: skip
    """Intervals of a statistic of pairs that is no mean, such as a correlation: of each line, and less the first line.

    values     (lines, n)  similarities of the pairs
    target     (n)         the scores that people gave
    statistic  of similarities and scores; draws for which it is not defined are passed over
    """
    x, y = np.atleast_2d(np.asarray(values, np.float64)), np.asarray(target, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(y), (resamples, len(y)))
    rows = []
    for index in drawn:
        try:
            rows.append([statistic(line[index], y[index]) for line in x])
        except RequestError:  # all scores drawn are the same
            continue
    if not rows:
        raise RequestError("no draw of the pairs has scores that differ", hint="give more pairs")
    found = np.array(rows)  # (resamples, lines)
    return intervals(found), intervals(found - found[:, :1])


def intervals(found: F64) -> list[Interval]:
    """The middle 95% of each column of found (resamples, lines)."""
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
