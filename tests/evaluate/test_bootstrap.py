"""Intervals: next to all draws that there are, the normal distribution, and what pairing brings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.evaluate import mean_intervals, pearson
from refembed.evaluate.bootstrap import counts, statistic_intervals

RNG = np.random.default_rng(3)


def test_the_draws_are_those_that_there_are() -> None:
    """Of 4 queries there are 256 draws; the quantiles of their means are what many random draws come to."""
    values = np.array([0.0, 1.0, 2.0, 7.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    low, high = np.quantile(means, [0.025, 0.975])
    found = mean_intervals([values], resamples=20_000)[0]
    assert found.low == pytest.approx(low, abs=0.25)  # means come in steps of a quarter
    assert found.high == pytest.approx(high, abs=0.25)


def test_of_many_queries_the_interval_is_the_normal_one() -> None:
    """Mean ± 1.96 standard errors. Of 10,000 draws a quantile is 0.03 standard errors off (one standard deviation)."""
    values = np.random.default_rng(8).random(400)
    found, error = mean_intervals([values], resamples=10_000)[0], values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_lines_are_drawn_together() -> None:
    """Two lines that differ by 0.01 for every query differ by that in every draw."""
    values = RNG.random(30)
    interval = mean_intervals([values + 0.01 - values], resamples=100)[0]
    assert interval == pytest.approx((0.01, 0.01), abs=1e-12)
    one, other = mean_intervals([values, values + 0.01], resamples=100)
    assert np.subtract(other, one) == pytest.approx((0.01, 0.01), abs=1e-12)


def test_the_seed_decides() -> None:
    values = RNG.random((2, 30))
    assert mean_intervals(values, seed=1) == mean_intervals(values, seed=1)
    assert mean_intervals(values, seed=1) != mean_intervals(values, seed=2)


def test_every_query_is_drawn_as_often_as_others() -> None:
    """20,000 draws of 5: each query 20,000 times, give or take four standard deviations."""
    drawn = counts(5, 20_000)
    assert (drawn.sum(axis=1) == 5).all()
    assert np.abs(drawn.sum(axis=0) - 20_000).max() < 4 * np.sqrt(100_000 * 0.2 * 0.8)


def test_a_statistic_of_pairs_is_drawn_likewise() -> None:
    y = RNG.standard_normal(60)
    lines = np.stack([y + RNG.standard_normal(60), y, -y])
    own, less = statistic_intervals(lines, y, pearson, resamples=300)
    assert own[1] == pytest.approx((1, 1), abs=1e-12)
    assert own[2] == pytest.approx((-1, -1), abs=1e-12)
    assert own[0].low < pearson(lines[0], y) < own[0].high
    assert less[0] == (0, 0)
    assert less[1] == pytest.approx((1 - own[0].high, 1 - own[0].low), abs=1e-12)


def test_draws_without_a_correlation_are_passed_over() -> None:
    """Of two pairs every other draw has one score twice."""
    own, _ = statistic_intervals([[1.0, 2.0]], [1.0, 2.0], pearson, resamples=50)
    assert own[0] == pytest.approx((1, 1))
    with pytest.raises(RequestError, match="no draw of the pairs"):
        statistic_intervals([[1.0, 2.0]], [1.0, 1.0], pearson, resamples=50)


@pytest.mark.parametrize(("n", "resamples"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(n: int, resamples: int) -> None:
    with pytest.raises(RequestError, match="at least one of each"):
        counts(n, resamples)
