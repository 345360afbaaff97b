"""ordered_sum: the order that llama.cpp's norms add in, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.kernels.exact.sums import ordered_sum

HARD = [2.0**60, 1.0, -(2.0**60), 1.0, 3.0, 1e-3, 2.0**55, 7.0, -(2.0**55), 5.0]


def plain(x: list[float]) -> float:
    """The sum as a loop has it."""
    total = 0.0
    for v in x:
        total += v
    return total


@pytest.mark.parametrize("n", [1, 2, 8, 9, 100, 9000])
@pytest.mark.parametrize("C", [1, 2, 3, 64])
def test_terms_are_added_one_after_the_other(n: int, C: int) -> None:
    """NumPy's own sum adds in pairs for C = 1; a loop in Python is the judge."""
    x = (np.random.default_rng(n).standard_normal((n, C)) * np.resize(HARD, (n, 1))).astype(np.float32)
    expected = [plain([float(v) for v in column]) for column in x.T]
    assert ordered_sum(x).tolist() == expected
    assert ordered_sum(np.asfortranarray(x)).tolist() == expected
    assert ordered_sum(x[:, 0]) == expected[0]


def test_sums_are_in_double() -> None:
    assert ordered_sum(np.full(3, 2.0**24 + 2, np.float32)).dtype == np.float64
    assert ordered_sum(np.array([[2.0**24], [1.0]], np.float32)).tolist() == [2.0**24 + 1]


def test_nothing_sums_to_zero() -> None:
    assert ordered_sum(np.zeros((0, 3), np.float32)).tolist() == [0, 0, 0]
    assert ordered_sum(np.zeros((0, 1), np.float32)).tolist() == [0]
    assert ordered_sum(np.zeros((3, 0), np.float32)).tolist() == []
