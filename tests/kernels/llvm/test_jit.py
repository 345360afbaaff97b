"""Row reductions of the compiled kernels: the largest number, sums in double, softmax of hard rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refembed.kernels.llvm import jit
from tests.kernels.longhand import random

INF, NAN = np.float32(np.inf), np.float32(np.nan)
LEAST = np.float32(1e-45)  # subnormal


@given(arrays(np.float32, st.integers(1, 70), elements=st.floats(width=32, allow_nan=False)))
def test_the_largest_number_of_a_row_is_found(x: Any) -> None:
    assert jit.largest(x) == max(float(v) for v in x)


@pytest.mark.parametrize(
    ("row", "largest"),
    [
        ([-3, -1, -2], -1),
        ([-INF, -3e38], -3e38),
        ([-INF, -INF], -INF),
        ([3e38, INF, 0], INF),
        ([-LEAST, -1], -LEAST),
        ([LEAST, 0, -1], LEAST),
    ],
)
def test_the_largest_of_negative_tiny_and_infinite_numbers(row: list[float], largest: float) -> None:
    assert jit.largest(np.array(row, np.float32)) == np.float32(largest)


def test_zero_is_above_minus_zero() -> None:
    for row in ([0.0, -0.0], [-0.0, 0.0], [-0.0, -1.0, 0.0]):
        assert math.copysign(1, jit.largest(np.array(row, np.float32))) == 1
    assert math.copysign(1, jit.largest(np.array([-0.0, -0.0, -5], np.float32))) == -1


@pytest.mark.parametrize("nan", [NAN, -NAN])
@pytest.mark.parametrize("at", [0, 3, 39])
def test_not_a_number_spoils_its_own_row(nan: float, at: int) -> None:
    """Whatever its sign: an error is not to be hidden by softmax."""
    x = random(1, 3, 40)
    x[1, at] = nan
    want = x.copy()
    jit.softmax_rows(want, 0, 1)
    jit.softmax_rows(x, 0, 3)
    assert np.isnan(x[1]).all()
    assert x[0].tobytes() == want[0].tobytes()
    assert np.isfinite(x[2]).all()


def test_softmax_of_a_row_with_minus_infinities_gives_them_nothing() -> None:
    x = np.array([[-INF, 1.0, -INF, 1.0]], np.float32)
    jit.softmax_rows(x, 0, 1)
    np.testing.assert_allclose(x, [[0, 0.5, 0, 0.5]], atol=2e-38)


@given(arrays(np.float32, st.integers(0, 300), elements=st.floats(-(2.0**99), 2.0**99, width=32)), st.integers(0, 9))
def test_sums_are_in_double_wherever_the_row_lies(x: Any, offset: int) -> None:
    """n additions of n numbers: n u of the sum of magnitudes at most; the same bits at any address."""
    total = float(jit.sum_of(x))
    assert abs(total - math.fsum(map(float, x))) <= len(x) * 2.0**-53 * math.fsum(map(abs, map(float, x)))
    moved = np.full(len(x) + offset + 1, NAN, np.float32)[offset : offset + len(x)]
    moved[:] = x
    assert float(jit.sum_of(moved)).hex() == total.hex()


def test_a_sum_does_not_lose_small_numbers_next_to_a_large_one() -> None:
    """As float32 does: 2^24 + 1 = 2^24 there."""
    x = np.ones(1001, np.float32)
    x[0] = 2**24
    assert jit.sum_of(x) == 2**24 + 1000
