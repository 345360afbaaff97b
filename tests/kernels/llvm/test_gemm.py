"""Products by tiles: bit for bit the chains they are made of, and rows that stand alone by construction."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.arrays import aligned
from refembed.kernels.llvm import gemm, microkernel
from tests.kernels.longhand import chain, random

BOTH = [np.float32, np.float64]
NONE: dict[type, Any] = {dtype: np.empty(0, dtype) for dtype in BOTH}


def blocks_of_chains(x: Any, w: Any, step: int) -> Any:
    """x (T, k) times w (n, k) transposed: a chain for each `step` terms, and their sums in order."""
    whole = None
    for k in range(0, x.shape[1], step):
        part = chain(x[:, k : k + step], w.T[k : k + step], fused=microkernel.FUSED)
        whole = part if whole is None else whole + part
    return whole


@pytest.mark.parametrize(("T", "k", "n"), [(1, 1, 1), (3, 127, 50), (5, 128, 97), (9, 129, 48), (2, 300, 33)])
def test_a_float32_product_is_chains_of_128_terms_added_in_order(T: int, k: int, n: int) -> None:
    x, w = random(1, T, k), random(2, n, k)
    assert gemm.matmul(x, w).tobytes() == blocks_of_chains(x, w, 128).tobytes()


def test_a_float64_product_is_one_chain() -> None:
    """Digits to spare."""
    x, w = np.random.default_rng(1).standard_normal((3, 200)), np.random.default_rng(2).standard_normal((26, 200))
    assert gemm.matmul(x, w).tobytes() == blocks_of_chains(x, w, 200).tobytes()


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 300), st.integers(1, 200), st.sampled_from(BOTH))
def test_an_element_is_as_near_as_its_number_of_roundings_allows(T: int, k: int, n: int, dtype: Any) -> None:
    """A chain of m multiply-adds: (1 + u)^m - 1 of the sum of magnitudes at most (Higham 2002, section 3.1).

    Without fused ones, a term is rounded once more; sums of B blocks round B - 1 times more.
    """
    x, w = random(T, T, k).astype(dtype), random(k, n, k).astype(dtype)
    wide = np.longdouble
    want, magnitude = x.astype(wide) @ w.T.astype(wide), np.abs(x).astype(wide) @ np.abs(w.T).astype(wide)
    block = 128 if dtype == np.float32 else k
    roundings = min(k, block) + 1 + -(-k // block) - 1 + 1
    bound = math.expm1(roundings * math.log1p(float(np.finfo(dtype).eps) / 2)) * magnitude
    assert (np.abs(gemm.matmul(x, w) - want) <= bound).all()


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 70), st.integers(1, 200), st.sampled_from(BOTH))
def test_whole_numbers_are_exact(T: int, k: int, n: int, dtype: Any) -> None:
    rng = np.random.default_rng(T + 100 * k)
    x, w = rng.integers(-9, 9, (T, k)), rng.integers(-9, 9, (n, k))
    assert np.array_equal(gemm.matmul(x.astype(dtype), w.astype(dtype)).astype(np.int64), x @ w.T)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize(("n", "k"), [(384, 384), (1536, 384), (384, 1536), (32, 32), (23, 17), (1, 7)])
def test_a_row_has_the_same_bits_at_any_place_of_any_height(n: int, k: int, dtype: Any) -> None:
    x, w = random(0, 2 * gemm.HIGH + 9, k).astype(dtype), random(1, n, k).astype(dtype)
    whole = gemm.matmul(x, w)
    for height in (1, 2, 7, 8, 9, gemm.HIGH - 1, gemm.HIGH, gemm.HIGH + 1):
        for begin in (0, 1, 5, gemm.HIGH - 3):
            assert gemm.matmul(x[begin : begin + height], w).tobytes() == whole[begin : begin + height].tobytes()


@settings(max_examples=40)
@given(st.integers(1, 220), st.integers(1, 300), st.integers(1, 110), st.data(), st.sampled_from(BOTH))
def test_a_row_does_not_notice_its_neighbors(T: int, k: int, n: int, data: st.DataObject, dtype: Any) -> None:
    """Not even such as overflow."""
    at, w = data.draw(st.integers(0, T - 1)), random(n, n, k).astype(dtype)
    x = np.full((T, k), data.draw(st.sampled_from([0, 1, 3e38, np.inf, np.nan])), dtype)
    x[at] = random(T, k)
    assert gemm.matmul(x, w)[at].tobytes() == gemm.matmul(x[at : at + 1], w)[0].tobytes()


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (47, 5), (48, 16), (49, 17), (130, 33)])
def test_a_panel_has_all_outputs_of_a_step_side_by_side(n: int, k: int, dtype: Any) -> None:
    P, w = gemm.panel(np.dtype(dtype).itemsize), random(3, n, k).astype(dtype)
    packed = gemm.pack(w)
    assert packed.shape == (-(-n // P), k, P)
    for p, c, j in np.ndindex(*packed.shape):
        assert packed[p, c, j] == (w[p * P + j, c] if p * P + j < n else 0)


def test_panels_begin_with_a_cache_line() -> None:
    for n in (1, 7, 100):
        assert aligned((n, 3), np.int8).ctypes.data % 64 == 0
        assert aligned((n, 3), np.float32).shape == (n, 3)


@pytest.mark.parametrize("dtype", BOTH)
def test_packing_a_range_of_panels_leaves_the_others(dtype: Any) -> None:
    P, w = gemm.panel(np.dtype(dtype).itemsize), random(3, 200, 21).astype(dtype)
    whole, some = gemm.pack(w), np.full((-(-200 // P), 21, P), 7, dtype)
    gemm.pack_rows(w[P : 2 * P + 3], some, 1, 3)
    assert np.array_equal(some[1], whole[1])
    assert np.array_equal(some[2, :, :3], whole[2, :, :3])
    assert (some[2, :, 3:] == 0).all()
    assert (np.delete(some, [1, 2], axis=0) == 7).all()


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("T", [1, 5, gemm.HIGH, gemm.HIGH + 3])
def test_cores_may_share_rows_or_panels(T: int, dtype: Any) -> None:
    """Each part writes its own piece of out, to the bit, with the bias added once."""
    x, w, bias = (random(i, *shape).astype(dtype) for i, shape in enumerate([(T, 150), (210, 150), (210,)]))
    want, packed = gemm.matmul(x, w) + bias, gemm.pack(w)
    out = np.full((T, 210), np.nan, dtype)
    cuts = sorted({0, T // 3, T})
    for begin, end in itertools.pairwise(cuts):
        gemm.by_rows(x, packed, bias, out, 0, begin, end)
        assert np.isnan(out[end:]).all()
    assert out.tobytes() == want.tobytes()

    out = np.full((T, 210), np.nan, dtype)
    P = packed.shape[2]
    for begin, end in ((1, 3), (0, 1), (3, len(packed))):
        before = out.copy()
        gemm.by_panels(x, packed, bias, out, 0, begin, end)
        assert out[:, begin * P : end * P].tobytes() == want[:, begin * P : end * P].tobytes()
        for others in (slice(0, begin * P), slice(end * P, None)):
            assert out[:, others].tobytes() == before[:, others].tobytes()


@pytest.mark.skipif(not microkernel.CONVERTS_F16, reason="this processor does not turn F16 into float32")
@pytest.mark.parametrize("T", [1, 7, 24, 90])
@pytest.mark.parametrize(("n", "k"), [(210, 150), (48, 128), (5, 1), (130, 300)])
def test_f16_gives_the_bits_of_its_numbers(T: int, n: int, k: int) -> None:
    x, w, bias = random(1, T, k), random(2, n, k).astype(np.float16), random(3, n)
    want, P = gemm.matmul(x, w.astype(np.float32)) + bias, gemm.panel(4)
    halves, out = np.empty((-(-n // P), k, P), np.int16), np.full((T, n), np.nan, np.float32)
    gemm.pack_rows(w.view(np.int16), halves, 0, len(halves))
    for begin, end in ((len(halves) // 2, len(halves)), (0, len(halves) // 2)):
        gemm.by_f16(x, halves, bias, out, begin, end)
    assert out.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", BOTH)
def test_a_matrix_may_come_some_rows_at_a_time(dtype: Any) -> None:
    """`first` is the column where the given panels begin; the columns of others stay."""
    x, w = random(4, 11, 40).astype(dtype), random(5, 250, 40).astype(dtype)
    P, want = gemm.panel(np.dtype(dtype).itemsize), gemm.matmul(x, w)
    out = np.full((11, 250), np.nan, dtype)
    gemm.by_rows(x, gemm.pack(w[2 * P :]), NONE[dtype], out, 2 * P, 0, 11)
    assert np.isnan(out[:, : 2 * P]).all()
    assert out[:, 2 * P :].tobytes() == want[:, 2 * P :].tobytes()
    gemm.by_panels(x, gemm.pack(w[: 2 * P]), NONE[dtype], out, 0, 0, 2)
    assert out.tobytes() == want.tobytes()


@pytest.mark.parametrize("k", [128, 129, 384, 1536])
def test_a_large_product_swallows_those_of_its_block_and_no_others(k: int) -> None:
    """2^24, next to which float32 has no room for a 1, in front of ones: all behind the first block arrive."""
    x, w = np.ones((3, k), np.float32), np.ones((140, k), np.float32)
    w[:, 0] = 2**24
    lost = 2**24 + k - 1 - gemm.matmul(x, w).astype(np.int64)
    assert (lost >= 0).all()
    assert (lost <= 128).all()


@pytest.mark.parametrize("k", [384, 1536])
def test_rounding_stays_below_a_millionth_of_the_largest_result(k: int) -> None:
    """Measured: 3.2e-7 to 5.9e-7; in one sum of 1536 it is up to 1.5e-6."""
    for seed in range(3):
        x, w = random(seed, 300, k), random(seed + 9, 256, k)
        want = x.astype(np.float64) @ w.T.astype(np.float64)
        assert np.abs(gemm.matmul(x, w) - want).max() <= 7e-7 * np.abs(want).max()


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 110))
def test_codes_give_the_bits_of_their_weights(T: int, blocks: int, n: int) -> None:
    """Packed and multiplied: 1 to 9 blocks of 32 codes with a scale each, a scale of 0 among them."""
    k, P, rng = blocks * microkernel.Q8_BLOCK, gemm.panel(4), np.random.default_rng(T + 41 * n)
    d = (rng.standard_normal((n, blocks)) * rng.integers(0, 3, (n, blocks))).astype(np.float16).astype(np.float32)
    w = rng.integers(-127, 128, (n, k)).astype(np.float32) * np.repeat(d, microkernel.Q8_BLOCK, axis=1)
    codes, scales = np.empty((-(-n // P), k, P), np.int8), np.empty((-(-n // P), blocks, P), np.float32)
    assert gemm.pack_q8(w, d, codes, scales, 0, len(codes))
    x, bias, out = random(T, T, k), random(n, n), np.full((T, n), np.nan, np.float32)
    for begin, end in itertools.pairwise(sorted({0, len(codes) // 2, len(codes)})):
        gemm.by_q8(x, codes, scales, bias, out, begin, end)
    assert out.tobytes() == (gemm.matmul(x, w) + bias).tobytes()


@pytest.mark.parametrize("value", [0.3, 128.0, -129.0, np.nan, np.inf])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_weights_that_are_no_codes_are_noticed(value: float, scale: float) -> None:
    """Wherever the one is."""
    P = gemm.panel(4)
    for at in ((0, 0), (P + 1, 40), (P + 1, 63)):
        w, d = np.zeros((P + 2, 64), np.float32), np.full((P + 2, 2), scale, np.float32)
        codes, scales = np.empty((2, 64, P), np.int8), np.empty((2, 2, P), np.float32)
        assert gemm.pack_q8(w, d, codes, scales, 0, 2)
        w[at] = value
        assert not gemm.pack_q8(w, d, codes, scales, 0, 2)
