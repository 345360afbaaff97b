"""Measures of rankings and of pairs: examples computed by hand, laws, the rule of ties."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.errors import RequestError
from refembed.evaluate import Measure, pearson, ranking, score_run, spearman
from refembed.evaluate.metrics import MEASURES, ranks

QRELS = {"q": {"a": 3, "b": 2, "c": 0, "d": 1, "e": -1}}
RUN = {"q": {"b": 0.9, "x": 0.8, "a": 0.7, "e": 0.6, "c": 0.5}}  # levels 2, unjudged, 3, -1, 0; d is not found

log2 = math.log2
BY_HAND = {
    "ndcg": (2 + 3 / log2(4)) / (3 + 2 / log2(3) + 1 / log2(4)),
    "ndcg@1": 2 / 3,
    "ndcg@2": 2 / (3 + 2 / log2(3)),
    "recall": 2 / 3,
    "recall@2": 1 / 3,
    "mrr": 1,
    "map": (1 / 1 + 2 / 3 + 0) / 3,
    "map@2": 1 / 3,
    "p": 2 / 5,
    "p@3": 2 / 3,
    "p@10": 2 / 10,
}


@pytest.mark.parametrize("measure", BY_HAND)
def test_a_measure_is_what_a_hand_computes(measure: str) -> None:
    assert score_run(QRELS, RUN, [measure])["q"][measure] == pytest.approx(BY_HAND[measure], rel=1e-15)


def test_the_first_relevant_document_counts_for_mrr() -> None:
    run = {"q": {"c": 3.0, "x": 2.0, "d": 1.0}}
    assert score_run(QRELS, run, ["mrr", "mrr@3", "mrr@2"])["q"] == {"mrr": 1 / 3, "mrr@3": 1 / 3, "mrr@2": 0}


def test_ties_go_from_the_last_id_to_the_first_by_bytes() -> None:
    tied = dict.fromkeys(["10", "9", "a", "é", "z", "Z"], 0.5)
    assert ranking(tied) == ["é", "z", "a", "Z", "9", "10"]  # é is 0xC3 0xA9
    assert ranking(tied | {"10": 0.6}) == ["10", "é", "z", "a", "Z", "9"]


def test_scores_that_float32_does_not_tell_apart_are_tied() -> None:
    assert ranking({"a": 1.0 + 2**-40, "b": 1.0}) == ["b", "a"]
    assert ranking({"a": 1.0 + 2**-23, "b": 1.0}) == ["a", "b"]


def test_a_query_without_judgements_is_passed_over() -> None:
    assert score_run(QRELS, RUN | {"other": {"a": 1.0}}, ["map"]).keys() == {"q"}


def test_a_query_without_relevant_documents_counts_as_0() -> None:
    for name in MEASURES:
        assert Measure.parse(f"{name}@5").of([0, 0, -1], [0, -1]) == 0


@pytest.mark.parametrize("text", ["", "ndcg@", "ndcg@0", "ndcg@x", "f1", "ndcg@1.5", "ndcg@-1", "ndcg @1"])
def test_what_is_no_measure_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not a measure"):
        Measure.parse(text)


LEVELS = st.lists(st.integers(-1, 3), min_size=1, max_size=6)


@given(LEVELS, st.integers(1, 8))
def test_the_best_ranking_has_ndcg_1_and_no_other_has_more(judged: list[int], k: int) -> None:
    measure = Measure("ndcg", k)
    best = measure.of(sorted(judged, reverse=True), judged)
    assert best == (1 if max(judged) > 0 else 0)
    others = [measure.of(order, judged) for order in itertools.islice(itertools.permutations(judged), 120)]
    assert max(others) <= best


@given(LEVELS, st.permutations(range(6)))
def test_average_precision_is_its_definition_in_fractions(judged: list[int], order: list[int]) -> None:
    ranked = [judged[i] for i in order if i < len(judged)]
    relevant = [i for i, level in enumerate(ranked) if level > 0]
    exact = sum(Fraction(sum(j <= i for j in relevant), i + 1) for i in relevant) / max(len(relevant), 1)
    assert Measure("map").of(ranked, judged) == pytest.approx(float(exact), rel=1e-14)


@pytest.mark.parametrize("name", MEASURES)
@given(ranked=LEVELS)
def test_a_measure_is_from_0_to_1_and_no_worse_for_a_better_order(name: str, ranked: list[int]) -> None:
    value, best = (Measure(name, 3).of(order, ranked) for order in (ranked, sorted(ranked, reverse=True)))
    assert 0 <= value <= best <= 1


def test_ranks_of_equal_numbers_are_the_mean_of_theirs() -> None:
    assert ranks([2, 1, 2, 5, 2]).tolist() == [3, 1, 3, 5, 3]


def test_spearman_without_ties_is_the_formula_of_differences() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)), for every order of five."""
    for order in itertools.permutations(range(5)):
        exact = 1 - Fraction(6 * sum((i - r) ** 2 for i, r in enumerate(order)), 5 * 24)
        assert spearman(range(5), order) == pytest.approx(float(exact), abs=1e-15)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=20).filter(lambda x: len(set(x)) > 1), st.floats(0.1, 10))
def test_pearson_of_a_line_is_1_or_minus_1(x: list[int], slope: float) -> None:
    """Measured: 2.2e-16."""
    y = slope * np.array(x) + 3
    assert pearson(x, y) == pytest.approx(1, abs=1e-14)
    assert pearson(x, -y) == pytest.approx(-1, abs=1e-14)


def test_numbers_of_any_size_are_correlated() -> None:
    x = np.array([1.0, 2.0, 6.0])
    for scale in (1e-300, 1e300):
        assert pearson(x * scale, [1, 2, 3]) == pytest.approx(pearson(x, [1, 2, 3]), rel=1e-14)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        ([1, 2], [1, 2, 3], "2 and 3 numbers"),
        ([1], [1], "1 and 1 numbers"),
        ([1, 1], [1, 2], "all numbers are the same"),
        ([1, np.nan], [1, 2], "finite numbers"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x: list[float], y: list[float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        pearson(x, y)
