"""Rows of a product by BLAS do not depend on their neighbors: the promise of `exact`, tried where it breaks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.kernels.exact import matmul

SHAPES = [(384, 384), (1536, 384), (384, 1536), (32, 32), (23, 17), (1, 7)]


def product(x: Any, w: Any) -> Any:
    """x Wᵀ as `exact` chooses it."""
    out = np.empty((len(x), len(w)))
    matmul.matmul(x, w, out)
    return out


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_a_row_has_the_same_bits_at_any_place_of_any_height(n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1100, k)), rng.standard_normal((n, k))
    whole = product(x, w)
    assert np.abs(whole - x @ w.T).max() <= 40 * np.finfo(np.float64).eps * np.sqrt(k)
    for height in (1, 2, 3, 7, 8, 9, 16, 33, 100, 512, 513, 700):
        for begin in (0, 5, 400):
            assert np.array_equal(product(x[begin : begin + height], w), whole[begin : begin + height])


@given(st.integers(0, 5000), st.integers(1, 4000), st.integers(1, 4000))
def test_tiles_cover_every_row_once_in_few_heights(rows: int, n: int, k: int) -> None:
    """Powers of two times the least, which is taller for a small W; the last may stand over."""
    heights, end = matmul.heights(n, k), 0
    assert all(high == 2 * low for high, low in itertools.pairwise(heights))
    assert heights[-1] * n * k >= matmul.SMALL
    for begin, height in matmul.tiles(rows, n, k):
        assert begin == end
        assert height in heights
        end += height
    assert rows <= end < rows + heights[-1]


@given(st.integers(1, 90), st.integers(1, 70), st.integers(1, 200))
def test_whole_numbers_are_exact_wherever_they_go(T: int, k: int, n: int) -> None:
    """Into an array of its own, or some columns of another, whose rest stays."""
    rng = np.random.default_rng(T + 100 * k)
    x, w, out = rng.integers(-9, 9, (T, k)), rng.integers(-9, 9, (n, k)), np.full((T, n + 5), np.nan)
    assert np.array_equal(product(x.astype(np.float64), w.astype(np.float64)), x @ w.T)
    matmul.by_blas(x.astype(np.float64), w.astype(np.float64), out[:, 2:-3])
    assert np.array_equal(out[:, 2:-3], x @ w.T)
    assert np.isnan(out[:, :2]).all()
    assert np.isnan(out[:, -3:]).all()


def test_the_probe_notices_a_blas_that_mixes_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose first row of a tile is rounded otherwise is refused."""

    class Mixing(np.ndarray):  # type: ignore[type-arg]
        def __matmul__(self, w: Any) -> Any:
            y = np.asarray(self) @ np.asarray(w)
            y[0] = np.nextafter(y[0], y.dtype.type(0))
            return y

    real = np.repeat
    assert matmul.rows_stand_alone.__wrapped__(8, 8, np.float64)
    monkeypatch.setattr(np, "repeat", lambda *a, **k: real(*a, **k).view(Mixing))
    assert not matmul.rows_stand_alone.__wrapped__(8, 8, np.float64)


PROBE = """
import numpy as np
from tests.kernels.exact.test_matmul import product
from refembed.kernels.exact import matmul
rng = np.random.default_rng(0)
for n, k in ((384, 384), (1536, 384), (384, 1536), (23, 17)):
    x, w = rng.standard_normal((600, k)), rng.standard_normal((n, k))
    whole = product(x, w)
    for height in (1, 3, 6, 13, 50, 259):
        for begin in (0, 1, 7):
            assert (product(x[begin : begin + height], w) == whole[begin : begin + height]).all(), (n, k, height)
    want = x[:20].astype(np.longdouble) @ w.T.astype(np.longdouble)
    assert np.abs(whole[:20] - want).max() <= 4e-15 * np.abs(want).max(), (n, k)
    print(n, k, "BLAS" if matmul.rows_stand_alone(n, k, np.float64) else "our own")
"""


SLOW = [pytest.param(core, marks=pytest.mark.slow) for core in ("SkylakeX", "Sandybridge", "Nehalem")]


@pytest.mark.parametrize("core", ["", "Haswell", *SLOW])
def test_rows_stand_alone_with_two_threads_and_other_cores_kernels(core: str) -> None:
    """OpenBLAS runs the kernels of the CPU that OPENBLAS_CORETYPE names; those that mix rows are then not used."""
    env = os.environ | ({"OPENBLAS_CORETYPE": core} if core else {}) | {"OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, timeout=300)
    if run.returncode < 0:
        pytest.skip(f"this CPU cannot run OpenBLAS's {core} kernels")
    assert run.returncode == 0, run.stderr
