"""Softmax, GELU and norms sixteen numbers at a time: the formulas, at any place and of any length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.kernels.fast import elementwise
from refembed.kernels.fast.elementwise import ROOM
from tests.kernels.longhand import random


def softmax(x: Any, at: int, scale: float = 1.0) -> Any:
    """Of x (n), with strangers before it; they stay."""
    row = np.full(at + len(x) + ROOM, 777, np.float32)
    row[at : at + len(x)] = x
    elementwise.softmax(row, at, len(x), np.float32(scale))
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
    elementwise.gelu(x, whole, 0, 9)
    assert np.abs(whole - np.array(want)).max() <= 4e-7 * np.abs(want).max()
    left = set(range(9))
    for begin, end in ((3, 4), (0, 3), (4, 9)):
        elementwise.gelu(x, out, begin, end)
        left -= set(range(begin, end))
        assert set(np.flatnonzero(np.isnan(out).all(axis=1)).tolist()) == left  # no other row is written
    assert out.tobytes() == whole.tobytes()


def test_gelu_keeps_what_is_no_number() -> None:
    x, out = np.zeros((2, 40), np.float32), np.empty((2, 40), np.float32)
    x[0, 3] = x[1, 39] = np.nan
    elementwise.gelu(x, out, 0, 2)
    assert np.array_equal(np.isnan(out), np.isnan(x))


def of_one_row(x: Any, g: Any, b: Any, eps: float, centered: bool) -> list[float]:
    """A norm in double, term by term."""
    mean = math.fsum(x) / len(x) if centered else 0.0
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x) + eps)
    return [(v - mean) / deviation * float(w) + float(c) for v, w, c in zip(x, g, b, strict=True)]


@given(st.integers(1, 400), st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([1e-12, 1e-5]), st.booleans())
def test_norms_are_their_formulas_whatever_the_rows_length(C: int, offset: float, eps: float, biased: bool) -> None:
    """Rows whose mean is far from 0 lose no more than its digits; rows done apart have the bits of all together."""
    x, plus = random(C, 7, C, scale=2), random(C + 1, 7, C) + np.float32(offset)
    g, b = random(C + 2, C), random(C + 3, C) if biased else np.zeros(C, np.float32)
    z = (x + plus).astype(np.float64)
    layer, rms, apart = (np.full((8, C), np.nan, np.float32)[:7] for _ in range(3))
    elementwise.layer_norm(x, plus, g, b if biased else b[:0], eps, layer, 0, 7)
    elementwise.rms_norm(x + plus, g, eps, rms, 0, 7)
    for got, centered in ((layer, True), (rms, False)):
        want = np.array([of_one_row(row.tolist(), g, b if centered else b * 0, eps, centered) for row in z])
        lost = 1 + np.abs(z).max() / max(float(z.std(1).min()), 1e-3) if centered else 1
        assert np.abs(got - want).max() <= 3e-7 * lost * max(np.abs(want).max(), 1)
    elementwise.layer_norm(x + plus, x[:0], g, b if biased else b[:0], eps, apart, 2, 5)
    elementwise.layer_norm(x, plus, g, b if biased else b[:0], eps, apart, 5, 7)
    elementwise.layer_norm(x, plus, g, b if biased else b[:0], eps, apart, 0, 2)
    assert apart.tobytes() == layer.tobytes()
    elementwise.rms_norm((x + plus)[3:], g, eps, apart, 0, 4)
    assert apart[:4].tobytes() == rms[3:].tobytes()


@pytest.mark.parametrize("C", [1, 15, 16, 40, 384])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_norms_write_their_rows_alone_and_keep_what_is_no_number(C: int, bad: float) -> None:
    x, g = random(1, 3, C), np.ones(C, np.float32)
    x[1, C - 1] = bad
    for norm in (
        lambda *a: elementwise.layer_norm(x, x[:0], g, g, 1e-5, *a),
        lambda *a: elementwise.rms_norm(x, g, 1e-5, *a),
    ):
        out = np.full((5, C), 777, np.float32)
        norm(out[1:4], 0, 3)
        assert (out[[0, 4]] == 777).all()
        assert np.isfinite(out[[1, 3]]).all()
        assert not np.isfinite(out[2]).all()
