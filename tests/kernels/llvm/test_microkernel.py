"""The innermost loop of `fast`, bit for bit: one chain of multiply-adds for each element, and nothing outside of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.llvm import microkernel as tiles
from tests.kernels.longhand import chain

BOTH = [np.float32, np.float64]
SENTINEL = 12345.678


@numba.njit  # not cached: the cache looks at this file, not at kernels/llvm/microkernel.py
def call(  # type: ignore[no-untyped-def]
    rows, vectors, x, x_at, x_step, w, w_at, w_step, depth, out, out_at, out_step, width, more,
    bias, bias_at, biased, scales, scales_at, ahead,
):  # fmt: skip
    tiles.tile(
        rows, vectors, x, x_at, x_step, w, w_at, w_step, depth, out, out_at, out_step, width, more,
        bias, bias_at, biased, scales, scales_at, ahead,
    )  # fmt: skip


@numba.njit
def each_row(x, w, out):  # type: ignore[no-untyped-def]
    """x w, a tile for each row, one after the other."""
    lanes, n = w.shape[1], out.shape[1]
    for t in range(len(x)):
        tiles.tile(1, 1, x, t * x.shape[1], 0, w, 0, lanes, len(w), out, t * n, 0, n, False, x, 0, False, x, 0, 0)


@numba.njit
def ask_for(x, at):  # type: ignore[no-untyped-def]
    tiles.prefetch(x, at)


def numbers(seed: int, *shape: int) -> Any:
    """Every bit random, large and small numbers mixed."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * np.exp(rng.uniform(-3, 3, shape))


def multiply(
    x: Any, w: Any, out: Any, rows: int, width: int, more: bool, bias: Any = None, scales: Any = None, ahead: int = 0
) -> None:
    """`tile` of rows of x (R, K) and w (K, V lanes) into the middle of out; NaN around all that is to be read."""
    vectors = w.shape[1] // tiles.lanes(x.itemsize)
    x_room, bias_room = np.full((rows, x.shape[1] + 3), np.nan, x.dtype), np.full(7 + width, np.nan, x.dtype)
    w_room = np.full((len(w), w.shape[1] + 5), np.nan if w.dtype.kind == "f" else 99, w.dtype)
    scales_room = np.full((1 if scales is None else len(scales), w.shape[1] + 5), np.nan, x.dtype)
    x_room[:, 2:-1], w_room[:, 1:-4], bias_room[7:] = x, w, 0 if bias is None else bias[:width]
    scales_room[:, 4:-1] = 0 if scales is None else scales
    call(
        rows, vectors, x_room, 2, x_room.shape[1], w_room, 1, w_room.shape[1], len(w),
        out, out.shape[1] + 3, out.shape[1], width, more, bias_room, 7, bias is not None, scales_room, 4, ahead,
    )  # fmt: skip


@pytest.mark.parametrize(("more", "biased"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", BOTH)
def test_each_pair_of_rows_and_vectors_is_one_chain_in_order_of_k(dtype: Any, more: bool, biased: bool) -> None:
    """Added to what is there, then to the bias, with widths up to whole vectors; what lies around stays as it was."""
    lanes = tiles.lanes(np.dtype(dtype).itemsize)
    for rows in range(1, tiles.ROWS + 1):
        for vectors in range(1, tiles.VECTORS + 1):
            x, w = numbers(rows, rows, 9).astype(dtype), numbers(vectors, 9, vectors * lanes).astype(dtype)
            product = chain(x, w, fused=tiles.FUSED)
            for width in {(vectors - 1) * lanes + n for n in (1, lanes // 2 + 1, lanes - 1, lanes) if n}:
                out = np.full((rows + 2, 4 + vectors * lanes), SENTINEL, dtype)
                out[1:-1, 3 : 3 + width] = numbers(width, rows, width)
                want = out.copy()
                bias = numbers(width, width).astype(dtype) if biased else None
                sums = out[1:-1, 3 : 3 + width] + product[:, :width] if more else product[:, :width]
                want[1:-1, 3 : 3 + width] = sums if bias is None else sums + bias
                multiply(x, w, out, rows, width, more, bias)
                assert out.tobytes() == want.tobytes(), (rows, vectors, width)


def test_codes_are_what_they_stand_for() -> None:
    """A code times the scale of its 32, rounded, in place of a weight; every pair of rows and vectors."""
    lanes, rng = tiles.lanes(4), np.random.default_rng(1)
    for rows, vectors in np.ndindex(tiles.ROWS, tiles.VECTORS):
        n, width = (vectors + 1) * lanes, vectors * lanes + lanes // 2 + 1
        codes = rng.integers(-128, 128, (3 * tiles.Q8_BLOCK, n)).astype(np.int8)
        scales, x = numbers(rows, 3, n).astype(np.float32), numbers(vectors, rows + 1, len(codes)).astype(np.float32)
        weights = codes * np.repeat(scales, tiles.Q8_BLOCK, axis=0)
        bias, out = numbers(2, width).astype(np.float32), np.full((rows + 3, 4 + n), SENTINEL, np.float32)
        want = out.copy()
        want[1:-1, 3 : 3 + width] = (out[1:-1, 3 : 3 + width] + chain(x, weights, fused=tiles.FUSED)[:, :width]) + bias
        multiply(x, codes, out, rows + 1, width, True, bias, scales)
        assert out.tobytes() == want.tobytes(), (rows, vectors)


@pytest.mark.skipif(not tiles.CONVERTS_F16, reason="this processor does not turn F16 into float32")
def test_f16_is_what_it_stands_for() -> None:
    """Every pair of rows and vectors; every F16 that is a number, subnormal ones too."""
    lanes = tiles.lanes(4)
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    for rows, vectors in np.ndindex(tiles.ROWS, tiles.VECTORS):
        n, width = (vectors + 1) * lanes, vectors * lanes + lanes // 2 + 1
        w = np.random.default_rng(rows).permutation(every)[: 40 * n].reshape(-1, n)
        x, bias = numbers(vectors, rows + 1, len(w)).astype(np.float32), numbers(2, width).astype(np.float32)
        out = np.full((rows + 3, 4 + n), SENTINEL, np.float32)
        want = out.copy()
        want[1:-1, 3 : 3 + width] = chain(x, w.astype(np.float32), fused=tiles.FUSED)[:, :width] + bias
        multiply(x, w.view(np.int16), out, rows + 1, width, False, bias)
        assert out.tobytes() == want.tobytes(), (rows, vectors)


@pytest.mark.parametrize("ahead", [1, 48, -7, 1 << 40])
@pytest.mark.parametrize("dtype", BOTH)
def test_sending_for_memory_changes_nothing(dtype: Any, ahead: int) -> None:
    width = tiles.VECTORS * tiles.lanes(np.dtype(dtype).itemsize)
    x, w = numbers(1, tiles.ROWS, 33).astype(dtype), numbers(2, 33, width).astype(dtype)
    out = [np.zeros((tiles.ROWS + 2, 4 + width), dtype) for _ in range(2)]
    for one, send in zip(out, (0, ahead), strict=True):
        multiply(x, w, one, tiles.ROWS, width, False, ahead=send)
    assert out[0].any()
    assert out[0].tobytes() == out[1].tobytes()


@pytest.mark.parametrize("dtype", BOTH)
def test_sums_begin_at_zero_each_time(dtype: Any) -> None:
    lanes = tiles.lanes(np.dtype(dtype).itemsize)
    x, w, out = numbers(1, 5, 8).astype(dtype), numbers(2, 8, lanes).astype(dtype), np.empty((5, lanes - 1), dtype)
    each_row(x, w, out)
    assert out.tobytes() == chain(x, w, fused=tiles.FUSED)[:, :-1].tobytes()


@pytest.mark.parametrize("dtype", BOTH)
def test_no_steps_add_nothing(dtype: Any) -> None:
    out = np.full((3, 4 + tiles.lanes(np.dtype(dtype).itemsize)), 5, dtype)
    x, w = np.empty((1, 0), dtype), np.empty((0, tiles.lanes(np.dtype(dtype).itemsize)), dtype)
    multiply(x, w, out, 1, 1, True)
    assert (out == 5).all()
    multiply(x, w, out, 1, 1, False)
    assert out[1, 3] == 0
    assert (np.delete(out.reshape(-1), out.shape[1] + 3) == 5).all()


def test_what_was_there_is_not_read_unless_more_is_asked() -> None:
    """Fresh memory may hold NaN."""
    x, w = np.ones((2, 3), np.float32), np.ones((3, tiles.lanes(4)), np.float32)
    out = np.full((4, 4 + w.shape[1]), np.nan, np.float32)
    multiply(x, w, out, 2, w.shape[1] - 1, False)
    assert (out[1:-1, 3:-2] == 3).all()


@pytest.mark.parametrize("dtype", BOTH)
def test_asking_for_memory_ahead_may_point_anywhere(dtype: Any) -> None:
    x = np.ones(3, dtype)
    for at in (0, 2, 3, 1 << 20, 1 << 40, -5):
        ask_for(x, at)
    assert (x == 1).all()


@settings(max_examples=60)
@given(st.integers(1, tiles.ROWS), st.integers(1, tiles.VECTORS), st.integers(1, 70), st.data(), st.sampled_from(BOTH))
def test_a_row_has_the_same_bits_at_any_place_among_any_neighbors(
    rows: int, vectors: int, depth: int, data: st.DataObject, dtype: Any
) -> None:
    """In rows next to NaN and infinities, and each output as if it were the only one."""
    lanes = tiles.lanes(np.dtype(dtype).itemsize)
    at, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, vectors * lanes - 1))
    row, w = numbers(depth, 1, depth).astype(dtype), numbers(depth + 1, depth, vectors * lanes).astype(dtype)
    x = np.full((rows, depth), data.draw(st.sampled_from([0, 1e30, np.inf, np.nan])), dtype)
    x[at] = row
    out = np.empty((rows + 2, 4 + vectors * lanes), dtype)
    multiply(x, w, out, rows, vectors * lanes, False)

    alone, one = np.zeros((depth, lanes), dtype), np.empty((3, 4 + lanes), dtype)
    alone[:, 0] = w[:, column]
    multiply(row, alone, one, 1, 1, False)
    assert out[1 + at, 3 + column].tobytes() == one[1, 3].tobytes()


@pytest.mark.parametrize(
    ("have", "shape"),
    [
        ({"avx512f", "avx2", "fma", "avx"}, (64, 8, True)),
        ({"avx2", "fma", "avx"}, (32, 4, True)),
        ({"avx"}, (16, 4, False)),
        (set(), (16, 4, False)),
        ({"neon"}, (16, 8, True)),
    ],
)
def test_a_tile_fills_the_registers_that_the_cpu_has(have: set[str], shape: tuple[int, int, bool]) -> None:
    """ROWS x VECTORS sums, VECTORS of W and one number of x: at most 32 registers of AVX-512 and NEON, else 16."""
    assert tiles.shape(have) == shape
    assert shape[1] * tiles.VECTORS + tiles.VECTORS + 1 <= (32 if have & {"avx512f", "neon"} else 16)


@pytest.mark.parametrize(
    ("name", "said", "have"),
    [
        ("generic", "", set()),
        ("haswell", "+avx,+avx2,+fma,-avx512f", {"avx", "avx2", "fma"}),
        (None, "", set()),
        (None, "+avx", {"avx"}),
    ],
)
def test_the_cpu_is_the_one_that_numba_compiles_for(
    name: str | None, said: str, have: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", name)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", said)
    assert tiles.features() - {"neon"} == have  # which every 64-bit ARM has


def test_a_cpu_whose_abilities_llvm_cannot_tell_gets_the_plain_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some ARM systems, where Numba too goes on without."""

    def unknown() -> Any:
        raise RuntimeError("failed to get host cpu features.")

    monkeypatch.setattr(numba.config, "CPU_NAME", None)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", unknown)
    assert tiles.features() - {"neon"} == set()


def test_avx_that_numba_is_set_to_avoid_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """NUMBA_ENABLE_AVX=0."""
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(numba.config, "ENABLE_AVX", 0)
    assert tiles.shape(tiles.features())[0] == 16


PROBE = """
import numpy as np
from refembed.kernels.llvm import gemm as products, microkernel as tile
from refembed.kernels.fast.ops import Fast
from tests.kernels.longhand import chain, close, random
from tests.kernels.fast.test_attention import compare
print(tile.WIDTH, tile.ROWS, tile.FUSED)
for dtype in (np.float32, np.float64):
    x, w = random(1, 19, 100).astype(dtype), random(2, 77, 100).astype(dtype)
    whole = products.matmul(x, w)
    assert whole.tobytes() == chain(x, w.T, fused=tile.FUSED).tobytes()
    for begin, end in ((0, 1), (3, 8), (5, 19)):
        assert products.matmul(x[begin:end], w).tobytes() == whole[begin:end].tobytes()
for k in (384, 1536):
    x, w = random(3, 130, k), random(4, 300, k)
    want = x.astype(np.float64) @ w.T.astype(np.float64)
    assert np.abs(products.matmul(x, w) - want).max() <= 1e-6 * np.abs(want).max(), k
compare(Fast(), 140, 40)
"""

CPUS = [("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2", "32 4 True"), ("generic", None, "16 4 False")]


@pytest.mark.slow  # compiles everything anew
@pytest.mark.parametrize(("name", "said", "shape"), CPUS, ids=[cpu for cpu, *_ in CPUS])
def test_other_cpus_get_tiles_of_their_own(name: str, said: str | None, shape: str, tmp_path: Path) -> None:
    """With AVX2, and with SSE2 alone, whose multiply-add rounds twice: the chains' bits, and 1e-6 of the largest."""
    if np.dtype(np.intp).itemsize != 8 or not tiles.features() >= {"avx2", "fma"}:
        pytest.skip("an x86 CPU with AVX2 can pretend to be these")
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    env |= {"NUMBA_CPU_NAME": name, "NUMBA_CACHE_DIR": str(tmp_path)} | ({"NUMBA_CPU_FEATURES": said} if said else {})
    run = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[0] == shape
