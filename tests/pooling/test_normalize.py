"""Normalizing: the contract, worked examples, a second implementation, llama.cpp bit for bit, and bad input."""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from refembed.errors import RequestError
from refembed.pooling.normalize import ROWS_AT_A_TIME, normalize, power
from refembed.testing import NormalizeContract
from refembed.testing.strategies import NORMS, vectors, wild_vectors


class TestNormalize(NormalizeContract):
    """float32: half a 2^-24 for the squares, one each for the factor and the product."""

    rounding = 2.5 * 2.0**-24

    def normalize(self, x: Any, p: int) -> Any:
        return normalize(x, p)


class TestNormalizeInDouble(NormalizeContract):
    """float64: a rounding a number summed."""

    dtype = np.float64
    rounding = 24 * 2.0**-53  # up to 16 numbers

    def normalize(self, x: Any, p: int) -> Any:
        return normalize(x, p)


F32_MAX, F32_LEAST = float(np.finfo(np.float32).max), 2.0**-149


@pytest.mark.parametrize(
    ("x", "p", "expected"),
    [
        ([3, -4], -1, [3, -4]),
        ([3, -4], 0, [24570, -32760]),
        ([3, -5], 1, [0.375, -0.625]),
        ([3, -4], 2, [0.6, -0.8]),
        ([1, -1, 1, 1, 1, 1, 1, 1], 3, [0.5, -0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ([7], 2, [1]),
        ([0, 0], 2, [0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_worked_example(x: list[float], p: int, expected: list[float], dtype: type[np.floating[Any]]) -> None:
    y = normalize(np.array(x, dtype), p)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=3 * np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("x", "p", "expected"),
    [
        # zeros, and the sign of a zero
        ([0.0, -0.0], 2, [0.0, -0.0]),
        ([0.0, -0.0], 0, [0.0, -0.0]),
        # NaN: no length, so all else is 0; the largest magnitude is found past it
        ([np.nan, 3], 2, [np.nan, 0]),
        ([np.nan, 3], 1, [np.nan, 0]),
        ([np.nan, 3], 3, [np.nan, 0]),
        ([np.nan, 4], 0, [np.nan, 32760]),
        # infinity: the factor is 0
        ([np.inf, 3], 2, [np.nan, 0]),
        ([-np.inf, 3], 0, [np.nan, 0]),
        # beyond what float32 can square
        ([1e20, 1], 2, [0, 0]),
        ([1e-24, 1e-24], 2, [0, 0]),
        # a factor beyond float32
        ([F32_LEAST, 0], 1, [np.inf, np.nan]),
        ([F32_LEAST, 0], 0, [np.inf, np.nan]),
        # powers that underflow, or overflow
        ([0.1, 0.1], 400, [0, 0]),
        ([F32_MAX, 1], 9, [0, 0]),
    ],
)
def test_float32_corner_cases_are_llama_cpp_s(x: list[float], p: int, expected: list[float]) -> None:
    y = normalize(np.array(x, np.float32), p)
    np.testing.assert_array_equal(y, np.array(expected, np.float32))
    assert np.signbit(y[~np.isnan(y)]).tolist() == np.signbit(np.array(expected)[~np.isnan(expected)]).tolist()


@pytest.mark.parametrize("p", [0, 1, 2, 3, 400])
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e20, 1e300])
def test_a_float64_vector_of_any_size_has_its_length(p: int, scale: float) -> None:
    expected = normalize(np.array([3.0, -4.0, 0.0]), p)
    np.testing.assert_allclose(normalize(np.array([3.0, -4.0, 0.0]) * scale, p), expected, rtol=1e-15)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize(("x", "expected"), [([np.nan, 3], [np.nan, 0]), ([np.inf, 3], [np.nan, 0]), ([0, 0], [0, 0])])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_float64_follows_the_same_rules_where_there_is_no_length(x: list[float], expected: list[float], p: int) -> None:
    np.testing.assert_array_equal(normalize(np.array(x, np.float64), p), expected)


@given(x=vectors())
def test_a_second_implementation_in_decimal_agrees(x: Any) -> None:
    """50 digits, nothing of NumPy; float64 within 16 roundings, float32 within two and a half of its own."""
    with localcontext() as context:
        context.prec = 50
        values = [Decimal(float(v)) for v in x]
        for p in NORMS:
            if p == -1:
                length = Decimal(1)
            elif p == 0:
                length = max(map(abs, values)) / 32760
            else:
                length = sum(abs(v) ** p for v in values) ** (Decimal(1) / p)
            expected = np.array([float(v / length) for v in values])
            double, single = normalize(x.astype(np.float64), p), normalize(x, p)
            assert (np.abs(double - expected) <= 24 * 2.0**-53 * np.abs(expected)).all(), p
            assert (np.abs(single - expected) <= 2.5 * 2.0**-24 * np.abs(expected)).all(), p


def test_powers_are_the_c_library_s() -> None:
    """Python's own `**` asks it too; NumPy has vector code that differs in the last bit on some machines."""
    x = np.abs(np.random.default_rng(0).standard_normal(2000)).astype(np.float32)
    for exponent in (3, 5, 1 / 3):
        assert power(x, exponent).tolist() == [float(v) ** float(exponent) for v in x]


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_shape_gives_each_vector_the_same_bits(p: int, dtype: type[np.floating[Any]]) -> None:
    """A cube, a strided view, Fortran order, more rows than are taken at a time."""
    x = np.random.default_rng(0).standard_normal((2, ROWS_AT_A_TIME // 2 + 3, 5)).astype(dtype)
    one_by_one = np.array([[normalize(v, p) for v in plane] for plane in x])
    assert np.array_equal(normalize(x, p), one_by_one)
    assert np.array_equal(normalize(x.reshape(-1, 5), p).reshape(x.shape), one_by_one)
    assert np.array_equal(normalize(np.asfortranarray(x), p), one_by_one)
    assert np.array_equal(normalize(x[:, ::2], p), one_by_one[:, ::2])
    assert np.array_equal(normalize(np.repeat(x, 2, axis=2)[..., ::2], p), one_by_one)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
@pytest.mark.parametrize("p", NORMS)
def test_nothing_to_normalize_stays_nothing(shape: tuple[int, ...], p: int) -> None:
    y = normalize(np.empty(shape, np.float32), p)
    assert (y.shape, y.dtype) == (shape, np.float32)


@pytest.mark.parametrize("p", NORMS)
def test_the_input_is_left_as_it_was_and_never_shared(p: int) -> None:
    x = np.array([[3, 4]], np.float32)
    y = normalize(x, p)
    y[:] = 9
    assert x.tolist() == [[3, 4]]


@pytest.mark.parametrize("x", [[3, 4], [3.0, 4.0], np.array([3, 4], np.float16), np.array([3, 4], np.int64)])
def test_other_numbers_are_taken_as_double(x: Any) -> None:
    y = normalize(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, [0.6, 0.8], rtol=1e-15)


def test_a_numpy_whole_number_is_a_norm() -> None:
    assert np.array_equal(normalize(np.array([3, 5], np.float32), np.int32(1)), np.array([0.375, 0.625], np.float32))


# --- bad input ---


@pytest.mark.parametrize("p", [-2, -100])
def test_a_norm_below_minus_one_is_refused(p: int) -> None:
    """llama.cpp takes it and answers numbers like 1e31."""
    with pytest.raises(RequestError, match=f"normalize {p}: there is no such norm\n  hint: -1 as it is, 0 largest"):
        normalize(np.ones(2, np.float32), p)


@pytest.mark.parametrize("p", [2.0, 1.5, "2", None, np.float32(2)])
def test_a_norm_that_is_no_whole_number_is_refused(p: Any) -> None:
    with pytest.raises(RequestError, match="not a whole number"):
        normalize(np.ones(2, np.float32), p)


@pytest.mark.parametrize("p", [True, False, np.True_])
def test_yes_and_no_are_refused(p: Any) -> None:
    """sentence-transformers' normalize_embeddings=True would otherwise silently be the taxicab norm."""
    with pytest.raises(RequestError, match=r"name the norm\n  hint: 2 makes vectors of length 1"):
        normalize(np.ones(2, np.float32), p)


@pytest.mark.parametrize("x", [["a"], 3.0, np.float32(3), [[1.0], [1.0, 2.0]], [1j], None, [True]])
def test_what_is_no_vector_is_refused(x: Any) -> None:
    with pytest.raises(RequestError, match="vector"):
        normalize(x)


# --- llama.cpp ---


def hostile(rng: np.random.Generator, rows: int, D: int) -> dict[str, Any]:
    """Vectors of every kind that float32 has."""
    holes = rng.standard_normal((rows, D))
    holes[rng.random((rows, D)) < 0.3] = -0.0
    holes[rng.random((rows, D)) < 0.02] = np.nan
    holes[rng.random((rows, D)) < 0.02] = np.inf
    holes[: rows // 8] = 0
    sizes = np.exp(rng.uniform(-70, 70, (rows, 1)))
    with np.errstate(over="ignore"):
        scaled = (rng.standard_normal((rows, D)) * sizes).astype(np.float32)
    return {
        "ordinary": rng.standard_normal((rows, D)).astype(np.float32),
        "holes": holes.astype(np.float32),
        "scaled": scaled,
        "bits": rng.integers(0, 2**32, (rows, D), dtype=np.uint32).view(np.float32),
        "subnormal": rng.integers(0, 2**23, (rows, D), dtype=np.uint32).view(np.float32),
    }


@pytest.mark.oracle
def test_float32_equals_llama_cpp_bit_for_bit() -> None:
    """Over a million numbers; of a NaN the payload is free, its place is not."""
    from refembed.verify.engines.llamacpp import LlamaCpp

    rng = np.random.default_rng(0)
    with LlamaCpp(None) as engine:
        for D in (1, 2, 3, 7, 384, 768):
            for name, x in hostile(rng, 40 if D > 7 else 300, D).items():
                for p in (-1, 0, 1, 2, 3, 5, 7, 40, 400):
                    ours, theirs = normalize(x, p), engine.normalize(x, p)
                    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
                    assert same.all(), (name, D, p, x[~same.all(axis=1)][0], ours[~same][0], theirs[~same][0])


@given(x=wild_vectors())
def test_no_finite_vector_warns_or_changes_shape(x: Any) -> None:
    for p in NORMS:
        assert normalize(x, p).shape == x.shape
