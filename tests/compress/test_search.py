"""Searching codes: the Numba kernels against their definitions, the best k, scoring again, recall, the report."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refembed.compress import Float32, ProductQuantizer, Stage, fit, kernels, plain, recall, search
from refembed.compress.report import default_schemes, measure
from refembed.compress.search import top
from refembed.compress.sentences import sentences
from refembed.errors import RequestError
from refembed.pooling.normalize import normalize
from refembed.similarity import hamming

RNG = np.random.default_rng(11)
X = normalize(RNG.standard_normal((500, 16)).astype(np.float32), 2)
QUERIES = X[:20] + normalize(RNG.standard_normal((20, 16)).astype(np.float32), 2) / 4
SCHEMES = (
    "float32",
    "float16",
    "int8",
    "uint8",
    "int8-global",
    "int8-vector",
    "binary",
    "ubinary",
    "pq:4",
    "matryoshka:8",
)
SHAPES = [(1, 1), (3, 6), (17, 5), (1000, 13)]

# --- kernels ---


@pytest.mark.parametrize(("N", "W"), SHAPES)
def test_hamming_is_its_definition_and_that_of_similarity(N: int, W: int) -> None:
    codes = RNG.integers(0, 2**64, (N, W), np.uint64)
    codes[0] = 2**64 - 1
    query = codes[-1] ^ RNG.integers(0, 2**64, W, np.uint64)
    found = kernels.hamming(query, codes)
    assert np.array_equal(found, plain.hamming(query, codes))
    assert np.array_equal(found, hamming(query.view(np.uint8), codes.view(np.uint8)))


@pytest.mark.parametrize(("N", "M"), SHAPES)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_dot_codes_is_its_definition_to_rounding(N: int, M: int, dtype: Any) -> None:
    """The bound is that of any order of summation: M 2^-24 times the sum of magnitudes (measured: 1.7 2^-24)."""
    info = np.iinfo(dtype)
    codes = RNG.integers(info.min, info.max, (N, M), dtype, endpoint=True)
    query = RNG.standard_normal(M).astype(np.float32)
    exact = codes.astype(np.float64) @ query.astype(np.float64)
    slack = M * 2.0**-24 * (np.abs(codes.astype(np.float64)) @ np.abs(query)) + 1e-30
    for found in (kernels.dot_codes(query, codes), plain.dot_codes(query, codes)):
        assert (np.abs(found - exact) <= slack).all()


@pytest.mark.parametrize(("N", "M"), SHAPES)
def test_sum_table_and_nearest_are_their_definitions_bit_for_bit(N: int, M: int) -> None:
    table = RNG.standard_normal((M, 256)).astype(np.float32)
    codes = RNG.integers(0, 256, (N, M), np.uint8)
    assert np.array_equal(kernels.sum_table(table, codes), plain.sum_table(table, codes))
    x, book = RNG.integers(-3, 4, (N, M)).astype(np.float32), RNG.integers(-3, 4, (9, M)).astype(np.float32)
    for a, b in zip(kernels.nearest(x, book), plain.nearest(x, book), strict=True):  # with ties: the first wins
        assert np.array_equal(a, b)
    for a, b in zip(kernels.nearest(x / 3, book / 7), plain.nearest(x / 3, book / 7), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_the_hamming_kernel_is_many_times_faster_than_its_definition() -> None:
    """Measured 113 times on 200,000 codes of 384 bits, two cores, AVX-512."""
    codes = RNG.integers(0, 2**64, (200_000, 6), np.uint64)
    kernels.hamming(codes[0], codes)

    def fastest(f: Any) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            f(codes[0], codes)
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(plain.hamming) > 5 * fastest(kernels.hamming)


# --- the best k ---


@given(scores=hnp.arrays(np.float32, st.integers(1, 40), elements=st.integers(-3, 3)), k=st.integers(1, 50))
def test_the_top_k_are_those_of_a_stable_sort(scores: Any, k: int) -> None:
    assert top(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quick_scores_rank_as_their_definition(scheme: str) -> None:
    """Products with the decoded vectors, in double; Hamming distance; the distance to the decoded vectors."""
    codec = fit(scheme, X)
    codes = codec.encode(X)
    decoded = codec.decode(codes).astype(np.float64)
    for query in QUERIES.astype(np.float64):
        if scheme.endswith("binary"):
            expected = -((query > 0) != (X > 0)).sum(axis=1).astype(np.float64)
        elif scheme.startswith("pq"):
            expected = -((query - decoded) ** 2).sum(axis=1)
        else:
            expected = decoded @ query
        found = codec.scores(query.astype(np.float32), codec.prepare(codes))
        assert np.abs(found - expected).max() <= 2e-6


@pytest.mark.parametrize("D", [1, 7, 8, 63, 64, 65, 130])
def test_bits_of_any_number_of_dimensions_are_searched(D: int) -> None:
    """The last byte, and the last word, are filled with zeros on both sides."""
    x = RNG.standard_normal((30, D)).astype(np.float32)
    for scheme in ("binary", "ubinary"):
        codec = fit(scheme, x)
        found = codec.scores(x[3], codec.prepare(codec.encode(x)))
        assert np.array_equal(-found, ((x[3] > 0) != (x > 0)).sum(axis=1))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scored_again_by_its_floats_among_all_rows_a_search_is_exact(scheme: str) -> None:
    codec = fit(scheme, X)
    rows, scores = search(Stage(codec, codec.encode(X)), QUERIES, 10, rescore=Stage(Float32(16), X), multiplier=50)
    exact = QUERIES @ X.T
    assert np.array_equal(rows, np.argsort(-exact, axis=1, kind="stable")[:, :10])
    assert np.abs(scores - np.take_along_axis(exact, rows, axis=1)).max() <= 1e-6


def test_scoring_bits_again_by_the_query_s_floats_tells_more() -> None:
    """ubinary: recall@10 by Hamming, by floats times signs, by int8, by float32 never falls in this order."""
    bits, bytes_ = fit("ubinary", X), fit("int8", X)
    first = Stage(bits, bits.encode(X))
    ways = (None, first, Stage(bytes_, bytes_.encode(X)), Stage(Float32(16), X))
    exact = QUERIES @ X.T
    recalls = [recall(exact, search(first, QUERIES, 10, rescore=way)[0], 10).mean() for way in ways]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


def test_a_search_takes_what_there_is_and_refuses_the_rest() -> None:
    codec = Float32(16)
    rows, _ = search(Stage(codec, X[:3]), QUERIES[0], 10)
    assert rows.shape == (1, 3)
    assert search(Stage(codec, X[:0]), QUERIES, 10)[0].shape == (20, 0)
    for bad, message in (({"k": 0}, "at least 1"), ({"k": 1, "multiplier": 0}, "at least 1")):
        with pytest.raises(RequestError, match=message):
            search(Stage(codec, X), QUERIES, **bad)
    with pytest.raises(RequestError, match="500 codes to search, but 3 to score them again"):
        search(Stage(codec, X), QUERIES, 1, rescore=Stage(codec, X[:3]))
    with pytest.raises(RequestError, match="this codec is for 16"):
        search(Stage(codec, X), QUERIES[:, :5], 1)


def test_recall_counts_equals_as_right() -> None:
    exact = np.array([[0.9, 0.5, 0.5, 0.1]])
    assert recall(exact, np.array([[0, 2, 1]]), 2).tolist() == [1.0]
    assert recall(exact, np.array([[3, 0, 1]]), 2).tolist() == [0.5]
    assert recall(exact, np.array([[3, 0, 1]]), 1).tolist() == [0.0]


def test_the_asymmetric_distance_is_that_to_the_decoded_vector() -> None:
    codec = ProductQuantizer.fit(X, 4)
    codes = codec.encode(X)
    expected = ((QUERIES[0].astype(np.float64) - codec.decode(codes)) ** 2).sum(axis=1)
    assert np.abs(-codec.scores(QUERIES[0], codes) - expected).max() <= 2e-6


# --- the report ---


def test_the_report_has_every_scheme_and_float32_is_exact() -> None:
    found = measure(X, timed_rows=0)
    assert (found.queries, found.vectors, found.dimensions) == (100, 400, 16)
    lines = {(line.scheme, line.rescore): line for line in found.lines}
    assert [s for s, r in lines if not r] == default_schemes(16)
    assert lines["float32", ""].recall == {1: 1.0, 10: 1.0, 100: 1.0}
    assert lines["int8", ""].bytes == 16
    assert lines["ubinary", ""].ratio == 32
    assert [r for s, r in lines if s == "ubinary"] == ["", "itself", "int8", "float32"]
    assert all(line.time > 0 for line in found.lines)
    for (scheme, rescore), line in lines.items():
        if rescore == "float32":
            assert line.recall[10] >= lines[scheme, ""].recall[10]
    again = measure(X, timed_rows=0)
    assert [line.recall for line in again.lines] == [line.recall for line in found.lines]


def test_a_small_corpus_has_no_recall_at_100() -> None:
    found = measure(X[:60], ["int8"], timed_rows=0)
    assert (found.queries, found.vectors) == (12, 48)
    assert found.lines[0].recall[100] is None
    with pytest.raises(RequestError, match="11 vectors: too few"):
        measure(X[:11])
    with pytest.raises(RequestError, match="vector 2 is zero"):
        measure(np.where(np.arange(60)[:, None] == 2, 0, X[:60]))


@pytest.mark.parametrize("D", [1, 2, 3, 7, 384, 768])
def test_default_schemes_fit_any_dimensions(D: int) -> None:
    x = RNG.standard_normal((20, D))
    for scheme in default_schemes(D):
        codec = fit(scheme, x)
        assert codec.decode(codec.encode(x)).shape == (20, D)


def test_sentences_are_different_and_the_same_for_the_same_seed() -> None:
    made = sentences(3000)
    assert len(set(made)) == 3000
    assert made == sentences(3000)
    assert made[:50] != sentences(50, seed=1)
    assert len(sentences(20_000)) == 20_000
