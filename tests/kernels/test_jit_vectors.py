"""Softmax and GELU sixteen numbers at a time: the formulas, at any place and of any length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.kernels import jit_vectors
from refembed.kernels.jit_vectors import ROOM
from tests.kernels.longhand import random


def softmax(x: Any, at: int, scale: float = 1.0) -> Any:
    """Of x (n), with strangers before it; they stay."""
    row = np.full(at + len(x) + ROOM, 777, np.float32)
    row[at : at + len(x)] = x
    jit_vectors.softmax(row, at, len(x), np.float32(scale))
    assert (row[:at] == 777).all()
    return row[at : at + len(x)]


@given(st.integers(1, 400), st.integers(0, 40), st.sampled_from([0.125, 1.0, 3.0]))
def test_softmax_is_its_formula_wherever_the_row_lies(n: int, at: int, scale: float) -> None:
    x = random(n, n, scale=2)
    e = np.exp(scale * (x.astype(np.float64) - x.max()))
    got = softmax(x, at, scale)
    assert np.abs(got - e / e.sum()).max() <= 1e-6 * (e / e.sum()).max()
    assert got.tobytes() == softmax(x, 0, scale).tobytes()
    assert abs(math.fsum(got) - 1) <= 1e-6


@pytest.mark.parametrize("n", [1, 5, 15, 16, 17, 40, 128, 129, 300])
def test_the_largest_number_is_found_at_any_place(n: int) -> None:
    """It alone keeps exp from overflowing."""
    for at in range(n):
        x = np.full(n, -3e38, np.float32)
        x[at] = 3e38 if at % 2 else -1e3
        y = softmax(x, 3)
        assert y[at] == 1
        assert (np.delete(y, at) <= 2e-38).all()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("n", [1, 5, 16, 23, 300])
def test_what_is_no_number_spoils_its_row(n: int, bad: float) -> None:
    for at in {0, n // 2, n - 1}:
        x = random(1, n)
        x[at] = bad
        assert np.isnan(softmax(x, 7)).any()
        assert not np.isfinite(softmax(x, 7)).all()


@pytest.mark.parametrize("F", [1, 15, 16, 17, 48, 100])
def test_gelu_is_its_formula_whatever_rows_are_done_together(F: int) -> None:
    x = random(2, 9, F, scale=4)
    want = [
        [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in map(float, r)] for r in x
    ]
    whole, out = np.empty_like(x), np.full_like(x, np.nan)
    jit_vectors.gelu(x, whole, 0, 9)
    assert np.abs(whole - np.array(want)).max() <= 4e-7 * np.abs(want).max()
    for begin, end in ((3, 4), (0, 3), (4, 9)):
        jit_vectors.gelu(x, out, begin, end)
        assert np.isnan(out[end:]).all() or begin < 3
    assert out.tobytes() == whole.tobytes()


def test_gelu_keeps_what_is_no_number() -> None:
    x, out = np.zeros((2, 40), np.float32), np.empty((2, 40), np.float32)
    x[0, 3] = x[1, 39] = np.nan
    jit_vectors.gelu(x, out, 0, 2)
    assert np.array_equal(np.isnan(out), np.isnan(x))
