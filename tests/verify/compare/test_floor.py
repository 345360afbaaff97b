"""The noise floor: distances by arithmetic on small numbers, bounds from the spread of arithmetics."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from refembed import Embedder
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.floor import BUILDS, EVERYWHERE, LEAST, Floor, distance, floor_of, shared_spread
from refembed.verify.compare.length import length_of
from refembed.verify.reference import reference_of
from refembed.verify.texts import LADDER, TEXTS, default_texts


def test_distance_is_one_minus_the_cosine():
    angle = 0.3
    x, y = np.array([1.0, 0]), 7 * np.array([math.cos(angle), math.sin(angle)])
    assert distance(y, x) == pytest.approx(1 - math.cos(angle))


def test_distance_of_token_vectors_is_the_worst_row():
    x = np.array([[1.0, 0], [0, 1]])
    assert distance(np.array([[5.0, 0], [1, 0]]), x) == pytest.approx(1)


@pytest.mark.parametrize("y", [np.array([np.nan, 1.0]), np.array([[1.0, 0]]), np.array([np.inf, 0])])
def test_what_cannot_be_compared_is_as_far_as_can_be(y):
    assert distance(y, np.array([1.0, 0])) == 1


def test_a_shorter_vector_is_compared_as_far_as_it_goes():
    assert distance(np.array([1.0, 2]), np.array([2.0, 4, 9])) == pytest.approx(0, abs=1e-15)


def test_distance_of_huge_and_tiny_vectors():
    assert distance(np.array([1e300, 1e300]), np.array([1e-300, 1e-300])) == pytest.approx(0, abs=1e-15)


def test_a_bound_is_never_below_the_builds_or_the_least():
    floor = Floor({"a": []}, np.array([0.0, 1e-4]), 1e-6, 0.0)
    assert floor.bound == pytest.approx([2e-7, 2e-4])
    assert Floor({"a": []}, np.array([0.0]), 0.0, 0.0).bound == pytest.approx([LEAST])


@pytest.mark.parametrize("numbers", [1, 2])
def test_few_numbers_that_agree_by_luck_have_the_floor_of_others(numbers: int) -> None:
    """Four texts whose vectors move by 0, 0.001, 0.002 and 0.1, at a right angle where they can."""
    sizes, moves = np.array([0.5, 1.0, 2.0, 4.0]), np.array([0, 0.001, 0.002, 0.1])
    vectors = [np.array([s, 0.0][:numbers]) for s in sizes]
    assert shared_spread((moves / sizes) ** 2 / 2, vectors) == pytest.approx(0.1**2 / sizes**2 / 2)


def test_the_floor_of_a_model_is_small_and_not_zero(tiny):
    r = reference_of(Embedder.load(tiny))
    floor = floor_of(r, ["hello world", "cat"], sample=True)
    assert floor.builds == BUILDS["F32"]
    assert (floor.spread > 0).all()
    assert (floor.spread < 1e-5).all()
    d, nearest = floor.distances(r.vectors(["hello world", "cat"], "ggml"))
    assert d == pytest.approx([0, 0], abs=1e-16)
    assert nearest == ["ggml", "ggml"]


def test_floors_are_kept_by_length():
    x = [np.array([3.0, 4.0]), np.array([6.0, 8.0])]
    kind = lambda ys, tokens=(2, 5): length_of(ys, x, tokens, 1e-4).id  # noqa: E731
    assert kind(x) == "raw"
    assert kind([v / np.linalg.norm(v) for v in x]) == "unit"
    assert kind([v / np.abs(v).sum() for v in x]) == "scaled-taxicab"
    assert kind([2 * x[0], 5 * x[1]]) == "scaled-sum"
    assert kind([3 * v for v in x]) == "scaled"
    assert kind([x[0] * 3, x[1] * 17]) == "scaled-unevenly"


def test_default_texts_fit_the_window_and_climb():
    count = lambda t: len(t.split()) + 2  # noqa: E731
    texts = default_texts(count, 128)
    assert max(map(count, texts)) <= 128
    long = [count(t) for t in texts[len(TEXTS) :]]
    assert long == sorted(long)  # the last two are of one length, in other words
    assert {n for n in LADDER if n < 124} <= {round(n) for n in long}
    assert long[-1] == 126


def test_where_weights_are_quantized_an_engine_may_be_near_to_int8(tmp_path):
    """The floor itself is measured without it: bounds stay what they are."""
    texts = [[1, 5, 9, 12], [3, 4], list(range(2, 30))]
    for type_name, there in (("Q8_0", True), ("F32", False)):
        path = synthetic(tmp_path / f"{type_name}.gguf", "bert", type_name=type_name, C=192, F=96, D=32)
        r = reference_of(Embedder.load(path), "mean")
        floor = floor_of(r, texts)
        assert ("int8" in floor.by_numerics) == there
        three = [floor.by_numerics[w] for w in EVERYWHERE]
        apart = [max(distance(a[i], b[i]) for a, b in combinations(three, 2)) for i in range(3)]
        assert floor.spread == pytest.approx(apart)
    with pytest.warns(
        UserWarning, match=r"F32.gguf: no weight is quantized, so that numerics int8 is fast with attention in bfloat16"
    ):
        Embedder.load(path, numerics="int8")


def test_a_text_whose_token_may_go_to_another_expert_has_the_floor_of_the_text_that_moves_most(tmp_path):
    """One text of twenty of a small Q8_0 model moved by 1e-4 in llama.cpp's batch, the others by 1e-7."""
    path = synthetic(tmp_path / "m.gguf", "nomic-bert-moe", type_name="Q8_0", C=64, H=2, F=64, X=4)
    floor = floor_of(reference_of(Embedder.load(path, numerics="fast")), list(TEXTS[:4]))
    rows = [floor.by_numerics[w] for w in EVERYWHERE]
    moved = [distance(a, b) for xs in rows for ys in rows for a, b in zip(xs, ys, strict=True)]
    assert floor.spread == pytest.approx([max(moved)] * 4)
