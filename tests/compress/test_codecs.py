"""Codecs: the contract of codes, the stated bound of each scheme, and what it refuses."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refembed.compress import (
    SCHEMES,
    Binary,
    Float16,
    Matryoshka,
    PerVector,
    ProductQuantizer,
    Ranged,
    fit,
    quantize,
    ranges_of,
)
from refembed.compress.pq import means
from refembed.compress.schemes import parse
from refembed.errors import RequestError
from refembed.testing import CodeContract
from refembed.testing.strategies import vector_rows

LEARNERS = ("int8", "uint8", "int8-global", "pq:2")
ALL = ("float32", "float16", "int8", "uint8", "int8-global", "int8-vector", "binary", "ubinary", "pq:2", "matryoshka:3")
RNG = np.random.default_rng(7)
X = RNG.standard_normal((300, 12)).astype(np.float32)


def wild_rows(rows: int = 6, D: int = 4) -> Any:
    """Vectors of any finite float32: subnormal, huge, zero."""
    size = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return hnp.arrays(np.float32, st.tuples(st.integers(2, rows), st.integers(1, D)), elements=size)


class TestBytes(CodeContract):
    """sentence-transformers' four."""

    def quantize(self, x: Any, precision: str, ranges: Any) -> Any:
        return quantize(x, precision, ranges if precision in ("int8", "uint8") else None)


# --- bounds, the errors taken exactly, in fractions ---


def errors(x: Any, y: Any) -> Any:
    """|x - y| without rounding, as fractions."""
    pairs = zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
    return np.array([abs(Fraction(a) - Fraction(b)) for a, b in pairs], object).reshape(x.shape)


def fractions(x: Any) -> Any:
    return np.array([Fraction(v) for v in np.asarray(x, np.float64).ravel().tolist()], object).reshape(np.shape(x))


@given(x=vector_rows(max_rows=8))
@pytest.mark.parametrize("scheme", ["int8", "uint8", "int8-global"])
def test_a_range_costs_half_a_step(scheme: str, x: Any) -> None:
    """|x - decode(encode(x))| <= step/2 + 2^-21 max(|low|, |high|) + 2^-141, where step = (high - low)/255."""
    both = np.concatenate([x, x])  # two vectors at least
    codec = fit(scheme, both)
    low, high = (x.min(), x.max()) if scheme == "int8-global" else (x.min(axis=0), x.max(axis=0))
    step = (fractions(high) - fractions(low)) / 255
    slack = fractions(2.0**-21 * np.maximum(np.abs(low), np.abs(high)) + 2.0**-141)
    assert (errors(x, codec.decode(codec.encode(x))) <= step / 2 + slack).all()


@given(x=wild_rows())
def test_ranges_hold_for_the_smallest_and_the_largest_floats(x: Any) -> None:
    """The same bound, or one error where high - low is no float32."""
    width = x.max(axis=0).astype(np.float64) - x.min(axis=0)
    if (width > np.finfo(np.float32).max).any():
        with pytest.raises(RequestError, match="the range of dimension"):
            fit("int8", x)
        return
    codec = fit("int8", x)
    low, high = fractions(x.min(axis=0)), fractions(x.max(axis=0))
    bound = (high - low) / 510 + np.maximum(abs(low), abs(high)) * Fraction(2) ** -21 + Fraction(2) ** -141
    assert (errors(x, codec.decode(codec.encode(x))) <= bound).all()


@given(x=wild_rows(), ranges=wild_rows())
def test_the_bound_method_says_it_for_numbers_outside_too(x: Any, ranges: Any) -> None:
    x, ranges = np.resize(x, (3, 2)), np.sort(np.resize(ranges, (2, 2)), axis=0)
    if (np.ptp(ranges.astype(np.float64), axis=0) > np.finfo(np.float32).max).any():
        return
    codec = Ranged(ranges)
    assert (errors(x, codec.decode(codec.encode(x))) <= fractions(codec.bound(x) * (1 + 2.0**-50))).all()


def test_the_largest_floats_come_back_finite() -> None:
    """Half a step above the largest float32, and 127 times a scale that was rounded up, would be infinite."""
    most = np.finfo(np.float32).max
    x = np.array([[most, -most, 0], [most / 2, -most / 2, 1]], np.float32)
    for codec, share in ((PerVector(3), 1 / 254), (fit("int8", x), 1 / 1020)):
        assert np.abs(codec.decode(codec.encode(x)).astype(np.float64) - x).max() <= 1.001 * share * float(most)


def test_a_dimension_that_never_changes_comes_back_exactly() -> None:
    x = np.column_stack([np.full(5, 0.1), np.arange(5), np.full(5, -3e30)]).astype(np.float32)
    codec = fit("int8", x)
    assert np.array_equal(codec.decode(codec.encode(x))[:, [0, 2]], x[:, [0, 2]])


@given(x=wild_rows())
def test_a_scale_costs_half_of_it(x: Any) -> None:
    """int8-vector: |x - decode(encode(x))| <= max|x|/254 + 2^-22 max|x| + 2^-141; zeros and signs stay."""
    codec = PerVector(x.shape[1])
    y = codec.decode(codec.encode(x))
    largest = fractions(np.abs(x).max(axis=1))[:, None]
    assert (errors(x, y) <= largest / 254 + largest * Fraction(2) ** -22 + Fraction(2) ** -141).all()
    assert (y[x == 0] == 0).all()
    assert (np.sign(y) * np.sign(x) >= 0).all()


@given(x=hnp.arrays(np.float32, (2, 5), elements=st.floats(-65504, 65504, width=32)))
def test_float16_costs_2_to_the_minus_11(x: Any) -> None:
    codec = Float16(5)
    assert (errors(x, codec.decode(codec.encode(x))) <= fractions(np.maximum(2.0**-11 * np.abs(x), 2.0**-25))).all()


@given(x=vector_rows())
@pytest.mark.parametrize("scheme", ["binary", "ubinary"])
def test_the_cosine_that_bits_keep_is_the_mean_magnitude_over_the_length(scheme: str, x: Any) -> None:
    """cos(x, decode(encode(x))) = sum|x_i| / (sqrt(D) |x|), and a code is what its vector encodes to."""
    codec = Binary(x.shape[1], scheme)
    codes = codec.encode(x)
    y = codec.decode(codes)
    assert np.array_equal(codec.encode(y), codes)
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        if a.any():
            length = math.sqrt(math.fsum(a * a))
            cosine = math.fsum(a * b) / (length * math.sqrt(math.fsum(b * b)))
            assert cosine == pytest.approx(math.fsum(abs(a)) / (math.sqrt(len(a)) * length), rel=0, abs=1e-6)


@given(x=vector_rows(), keep=st.integers(1, 16))
def test_the_cosine_that_a_cut_keeps_is_the_length_of_the_prefix(x: Any, keep: int) -> None:
    """Where |x| = 1: cos(x, decode(encode(x))) = |x[:keep]|; the code has length 1, or is zero."""
    keep = min(keep, x.shape[1])
    codec = Matryoshka(x.shape[1], keep)
    codes = codec.encode(x)
    for a, b, code in zip(x.astype(np.float64), codec.decode(codes).astype(np.float64), codes, strict=True):
        whole, prefix = (math.sqrt(math.fsum(v * v)) for v in (a, a[:keep]))
        if prefix == 0:
            assert not code.any()
            continue
        assert math.sqrt(math.fsum(code.astype(np.float64) ** 2)) == pytest.approx(1, rel=1e-6)
        assert math.fsum(a * b) / whole == pytest.approx(prefix / whole, abs=1e-6)
        assert not b[keep:].any()


# --- product quantization ---


@given(x=vector_rows(max_rows=6))
def test_each_part_gets_the_nearest_centroid(x: Any) -> None:
    """By brute force, in double: no centroid is nearer than the one taken."""
    x = np.resize(x, (6, 4))
    codec = ProductQuantizer(np.round(RNG.standard_normal((2, 5, 2)) * 8))
    gaps = x.astype(np.float64).reshape(6, 2, 1, 2) - codec.codebooks
    squares = (gaps**2).sum(axis=-1)  # (N, M, K)
    taken = np.take_along_axis(squares, codec.encode(x).astype(np.int64)[..., None], axis=2)[..., 0]
    assert (taken <= squares.min(axis=2) * (1 + 1e-6) + 1e-30).all()


def test_codebooks_are_the_same_for_the_same_seed_and_come_back_as_themselves() -> None:
    a, b, c = (ProductQuantizer.fit(X, 3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(a.codebooks, b.codebooks)
    assert not np.array_equal(a.codebooks, c.codebooks)
    codes = RNG.integers(0, 256, (50, 3), np.uint8)
    y = a.decode(codes)
    assert np.array_equal(a.decode(a.encode(y)), y)


def test_more_steps_of_k_means_never_make_it_worse() -> None:
    """Lloyd's steps lower the mean squared error; 900 vectors, 256 centroids a part."""
    x = np.concatenate([X, X + 0.3, X - 0.2])
    codecs = [ProductQuantizer.fit(x, 2, steps=n) for n in (0, 1, 3, 25)]
    losses = [float(((codec.decode(codec.encode(x)) - x) ** 2).sum()) for codec in codecs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_a_centroid_without_vectors_takes_the_vector_that_is_worst_off() -> None:
    x = np.array([[0, 0], [2, 0], [0, 9], [1, 0]], np.float32)
    squares = (x**2).sum(axis=1)
    book = means(x, np.zeros(4, np.uint8), squares, np.zeros((3, 2), np.float32))
    assert book.tolist() == [[0.75, 2.25], [0, 9], [2, 0]]


def test_few_or_equal_vectors_come_back_as_they_are() -> None:
    for x in (X[:40], np.repeat(X[:9], 40, axis=0)):
        codec = ProductQuantizer.fit(x)
        assert codec.bytes == 3
        assert np.abs(codec.decode(codec.encode(x)) - x).max() <= 1e-6


# --- every scheme ---


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_vectors_code_does_not_depend_on_its_neighbors(scheme: str, dtype: Any) -> None:
    codec = fit(scheme, X)
    x = X.astype(dtype)
    codes = codec.encode(x)
    assert codes.dtype == codec.code_dtype
    assert codes.nbytes == codec.bytes * len(X)
    for i in (0, 77, 299):
        assert codec.encode(x[i]).tobytes() == codec.encode(x[i : i + 1]).tobytes() == codes[i].tobytes()
        assert np.array_equal(codec.decode(codes[i]), codec.decode(codes)[i])
    assert codec.decode(codes).shape == X.shape
    assert codec.decode(codes).dtype == np.float32
    assert codec.decode(codec.encode(x[:0])).shape == (0, 12)


@pytest.mark.parametrize("scheme", ALL)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((2, 12), np.nan), "vector 0, number 0 is nan"),
        (np.array([[0.0] * 12, [0.0] * 11 + [np.inf]]), "vector 1, number 11 is inf"),
        (np.full((2, 12), 1e39), "not a number that float32 holds"),
        (np.zeros((2, 5)), "vectors of 5 numbers, but this codec is for 12"),
        (np.zeros((2, 2, 12)), "these are not vectors"),
        (np.zeros((2, 0)), "these are not vectors"),
        (np.zeros((2, 12), np.int8), "compressed already"),
        ([["a"] * 12], "these are not vectors"),
        ([[1.0], [1.0, 2.0]], "not vectors of one length"),
    ],
)
def test_bad_vectors_are_refused(scheme: str, x: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fit(scheme, X).encode(x)


@pytest.mark.parametrize("scheme", ALL)
def test_bad_codes_are_refused(scheme: str) -> None:
    codec = fit(scheme, X)
    for codes in (np.zeros((2, 99), np.uint8), np.zeros((2, 12), np.complex64), np.zeros((), np.float32)):
        with pytest.raises(RequestError, match=f"codes of {scheme} are"):
            codec.decode(codes)


def test_a_code_without_a_centroid_is_refused() -> None:
    codec = ProductQuantizer.fit(X[:40], 3)
    with pytest.raises(RequestError, match="names centroid 40, and there are 40"):
        codec.decode(np.full((1, 3), 40, np.uint8))


@pytest.mark.parametrize("scheme", LEARNERS)
def test_one_vector_is_not_enough_to_learn_from(scheme: str) -> None:
    """sentence-transformers#2837: int8 of a single query was all zeros."""
    with pytest.raises(RequestError, match="learns from vectors, and 1 is not enough"):
        fit(scheme, X[:1])


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("int4", "'int4' is not a scheme\n  hint: one of float32, float16, int8"),
        ("int8:3", "int8 takes no number"),
        ("matryoshka", "how many"),
        ("matryoshka:", "'' is not a whole number"),
        ("matryoshka:-1", "'-1' is not a whole number"),
        ("matryoshka:13", "the vectors have 12 numbers"),
        ("matryoshka:0", "the vectors have 12 numbers"),
        ("pq:5", "do not divide into 5 parts\n  hint: one of 1, 2, 3, 4, 6, 12"),
        ("pq:0", "do not divide into 0 parts"),
    ],
)
def test_bad_schemes_are_refused(scheme: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fit(scheme, X)


@pytest.mark.parametrize(
    "ranges", [[1, 2], np.zeros((3, 2)), [[1, 1], [0, 2]], [[np.nan, 0], [1, 1]], [[-3e38], [3e38]], np.zeros((2, 0))]
)
def test_bad_ranges_are_refused(ranges: Any) -> None:
    with pytest.raises(RequestError, match="range"):
        Ranged(ranges)


def test_what_float16_and_pq_cannot_hold_is_refused() -> None:
    with pytest.raises(RequestError, match="beyond 65504"):
        Float16(1).encode([[65505.0]])
    with pytest.raises(RequestError, match=r"beyond 1e\+15"):
        ProductQuantizer.fit(X * np.float32(1e16))


def test_every_scheme_is_tested() -> None:
    assert {s.partition(":")[0] for s in ALL} == set(SCHEMES)
    assert all(parse(s)[0].learns == (s in LEARNERS) for s in ALL)


# --- quantize ---


def test_quantize_takes_ranges_from_its_argument() -> None:
    half = X[:150]
    assert np.array_equal(quantize(X, "int8", ranges_of(half)), quantize(X, "int8", calibration_embeddings=half))
    assert not np.array_equal(quantize(X, "int8"), quantize(X, "int8", calibration_embeddings=half))
    with pytest.raises(RequestError, match="precision 'int4'"):
        quantize(X, "int4")
