"""Rows of a product do not depend on their neighbours: the promise behind batch invariance, tried where it breaks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.kernels import matmul, products

SHAPES = [(384, 384), (1536, 384), (384, 1536), (32, 32), (23, 17), (1, 7)]


def product(x: Any, w: Any) -> Any:
    """x Wᵀ as `exact` and `fast` choose it."""
    return matmul.matmul(x, w) if matmul.rows_stand_alone(*w.shape, x.dtype.type) else products.matmul(x, w)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_a_row_has_the_same_bits_at_any_place_of_any_height(n: int, k: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1100, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype)
    whole = product(x, w)
    assert np.abs(whole - x @ w.T).max() <= 40 * np.finfo(dtype).eps * np.sqrt(k)
    for height in (1, 2, 3, 4, 7, 15, 16, 17, 31, 33, 64, 100, 255, 511, 512, 513, 700):
        for begin in (0, 1, 5, 130, 400):
            assert np.array_equal(product(x[begin : begin + height], w), whole[begin : begin + height])


@given(st.integers(1, 90), st.integers(1, 70), st.integers(1, 200), st.sampled_from([np.float32, np.float64]))
def test_the_kernel_of_our_own_is_exact_on_whole_numbers(T: int, k: int, n: int, dtype: type) -> None:
    rng = np.random.default_rng(T + 100 * k)
    x, w = rng.integers(-9, 9, (T, k)), rng.integers(-9, 9, (n, k))
    assert np.array_equal(products.matmul(x.astype(dtype), w.astype(dtype)).astype(np.int64), x @ w.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernel_of_our_own_keeps_rows_apart(dtype: type) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((70, 384)).astype(dtype), rng.standard_normal((140, 384)).astype(dtype)
    whole = products.matmul(x, w)
    for height in (1, 2, 3, 4, 5, 31, 66):
        for begin in (0, 1, 2, 3):
            assert np.array_equal(products.matmul(x[begin : begin + height], w), whole[begin : begin + height])


def test_the_probe_notices_a_blas_that_mixes_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose first row of a tile is rounded otherwise is refused."""

    class Mixing(np.ndarray):  # type: ignore[type-arg]
        def __matmul__(self, w: Any) -> Any:
            y = np.asarray(self) @ np.asarray(w)
            y[0] = np.nextafter(y[0], y.dtype.type(0))
            return y

    real = np.repeat
    monkeypatch.setattr(np, "repeat", lambda *a, **k: real(*a, **k).view(Mixing))
    assert not matmul.rows_stand_alone.__wrapped__(8, 8, np.float32)


def one_giant(k: int, T: int = 3, n: int = 140) -> tuple[Any, Any]:
    """x (T, k) of ones and w (n, k) of ones but for 2^24, beside which float32 has no room for a 1, in front."""
    w = np.ones((n, k), np.float32)
    w[:, 0] = 2**24
    return np.ones((T, k), np.float32), w


@pytest.mark.parametrize("k", [128, 129, 384, 1536])
def test_a_large_product_swallows_those_of_its_block_and_no_others(k: int) -> None:
    """Products are added one after the other for 128 of them at most: all behind the first block arrive."""
    x, w = one_giant(k)
    for y in (matmul.matmul(x, w), products.matmul(x, w)):
        lost = 2**24 + k - 1 - y.astype(np.int64)
        assert (lost >= 0).all()
        assert (lost <= 128).all()
    assert np.array_equal(matmul.matmul(x.astype(np.float64), w.astype(np.float64))[0, :1], [2**24 + k - 1])


@pytest.mark.parametrize("k", [384, 1536])
@pytest.mark.parametrize("multiply", [product, products.matmul], ids=["as chosen", "our own"])
def test_rounding_stays_below_a_millionth_of_the_largest_result(k: int, multiply: Any) -> None:
    """Measured: 3.2e-7 to 5.9e-7; in one sum of 1536 it is up to 1.5e-6."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, w = rng.standard_normal((300, k)).astype(np.float32), rng.standard_normal((256, k)).astype(np.float32)
        want = x.astype(np.float64) @ w.T.astype(np.float64)
        assert np.abs(multiply(x, w) - want).max() <= 7e-7 * np.abs(want).max()


PROBE = """
import numpy as np, sys
from tests.kernels.test_matmul import product
from refembed.kernels import matmul
rng = np.random.default_rng(0)
for n, k in ((384, 384), (1536, 384), (384, 1536), (23, 17)):
    for dtype in (np.float32, np.float64):
        x, w = rng.standard_normal((600, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype)
        whole = product(x, w)
        for height in (1, 3, 6, 13, 50, 259):
            for begin in (0, 1, 7):
                same = product(x[begin : begin + height], w) == whole[begin : begin + height]
                assert same.all(), (n, k, height)
        if dtype == np.float32:
            want = x.astype(np.float64) @ w.T.astype(np.float64)
            assert np.abs(whole - want).max() <= 7e-7 * np.abs(want).max(), (n, k)
        print(n, k, dtype.__name__, "BLAS" if matmul.rows_stand_alone(n, k, dtype) else "our own")
"""


@pytest.mark.parametrize("core", ["Haswell", "SkylakeX", "Sandybridge", "Nehalem"])
def test_the_promise_holds_on_other_cores_kernels(core: str) -> None:
    """OpenBLAS runs the kernels of another CPU where told to: Haswell's sgemm mixes rows, and is then not used."""
    import os

    env = os.environ | {"OPENBLAS_CORETYPE": core}
    run = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, timeout=300)
    if run.returncode < 0:
        pytest.skip(f"this CPU cannot run OpenBLAS's {core} kernels")
    assert run.returncode == 0, run.stderr
