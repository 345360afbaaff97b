"""Products of bfloat16 numbers by tiles: the definition's bits, with the instruction and without; rows stand alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.exact.bfloat16 import LEAST, multiply_bfloat16, round_bfloat16
from refembed.kernels.llvm import bfloat16, bfloat16_tile, microkernel
from tests.kernels.llvm.test_integer import same_bits
from tests.kernels.longhand import random

NONE = np.empty(0, np.float32)
SHAPES = [(1, 1, 2), (2, 31, 33), (5, 48, 384), (6, 49, 96), (9, 100, 640), (8, 96, 1), (300, 40, 70), (0, 5, 32)]


def activations(T: int, K: int) -> Any:
    """Rows of different sizes, with halves between two bfloat16 numbers, and numbers near LEAST and the largest."""
    x = random(T, T, K) * np.exp(4 * random(T + 1, T, 1))
    if T > 1 and K > 32:
        x[0, :16] = 1 + np.arange(16) / 256
        x[-1, :16] = LEAST * (1 + np.arange(-8, 8) / 64)
        x[T // 2, 16:24], x[T // 2, 24:32] = 3e38, 1e-38
    return x.astype(np.float32)


def run(x: Any, w: Any, bias: Any = NONE) -> tuple[Any, Any]:
    """The compiled kernels, in one part: pairs and products."""
    pairs = np.empty((len(x), (x.shape[1] + 1) // 2), np.float32)
    out = np.full((len(x), len(w)), 7, np.float32)
    bfloat16.round_pairs(x, pairs, 0, len(x))
    bfloat16.product_bf16(pairs, bfloat16.pack_whole(w), bias, out, 0, 1, 0, len(x))
    return pairs, out


def test_products_have_the_bits_of_the_definition() -> None:
    for T, N, K in SHAPES:
        x, w = activations(T, K), random(N, N, K)
        rounded = round_bfloat16(x)
        for bias in (NONE, random(N, N)):
            pairs, out = run(x, w, bias)
            assert same_bits(out, multiply_bfloat16(rounded, round_bfloat16(w), bias if len(bias) else None))
        halves = pairs.view(np.uint16).reshape(T, 2 * pairs.shape[1])
        assert same_bits((halves.astype(np.uint32)[:, :K] << 16).view(np.float32), rounded)
        assert not halves[:, K:].any()


def test_rounding_is_to_the_nearest_of_8_bits() -> None:
    """Half a step away at most, as gguf-py rounds; and BF16 weights are such numbers already."""
    x = np.r_[random(1, 4000) * 100, np.float32(1) + np.arange(512, dtype=np.float32) / 512].astype(np.float32)
    y = round_bfloat16(x)
    assert not (y.view(np.uint32) & 0xFFFF).any()
    assert (np.abs(x.astype(np.float64) - y) <= np.abs(x) * 2.0**-8).all()
    assert same_bits(round_bfloat16(y), y)
    theirs = gguf.dequantize(
        gguf.quantize(x.reshape(1, -1), gguf.GGMLQuantizationType.BF16), gguf.GGMLQuantizationType.BF16
    )
    assert same_bits(y, np.ascontiguousarray(theirs[0]))
    assert round_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)).tolist() == [1, 1 + 2**-6]


def test_what_is_no_number_makes_its_whole_row_nan_and_no_other() -> None:
    x, w = activations(9, 96), np.abs(random(40, 40, 96)) + 1
    _, before = run(x, w)
    x[4, 40], x[6, 3], x[7, 95] = np.nan, np.inf, -np.inf
    _, out = run(x, w)
    assert np.isnan(out[4]).all()
    assert (out[6] == np.inf).all()
    assert (out[7] == -np.inf).all()
    rest = [0, 1, 2, 3, 5, 8]
    assert same_bits(out[rest], before[rest])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(1, 90), st.data())
def test_a_row_does_not_notice_its_neighbors(T: int, K: int, N: int, data: st.DataObject) -> None:
    """Not even such as are no numbers."""
    at, w = data.draw(st.integers(0, T - 1)), random(N, N, K)
    x = np.full((T, K), data.draw(st.sampled_from([0, 1, 3e38, np.inf, np.nan])), np.float32)
    x[at] = random(T, K)
    assert same_bits(run(x, w)[1][at], run(x[at : at + 1], w)[1][0])


@pytest.mark.parametrize("T", [1, 5, bfloat16.HIGH, bfloat16.HIGH + 3])
def test_cores_may_share_rows_or_panels(T: int) -> None:
    """Each part writes its own piece of out, to the bit."""
    x, w, bias = activations(T, 95), random(3, 250, 95), random(4, 250)
    pairs, want = run(x, w, bias)
    panels, out = bfloat16.pack_whole(w), np.full_like(want, np.nan)
    for begin, end in ((T // 3, T), (0, T // 3)):
        bfloat16.product_bf16(pairs, panels, bias, out, 0, 1, begin, end)
    assert same_bits(out, want)
    out[:] = np.nan
    for begin, end in ((1, len(panels)), (0, 1)):
        bfloat16.product_bf16(pairs, panels, bias, out, 0, 0, begin, end)
    assert same_bits(out, want)


AVX512 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+avx512f,+avx512bw,+avx512vl,+avx512dq"
CPUS = {  # a CPU that this one can pretend to be -> whether it has the instruction
    "AVX-512 BF16": ("cooperlake", AVX512 + ",+avx512bf16", True),
    "AVX-512": ("skylake-avx512", AVX512, False),
    "AVX2": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2", False),
    "SSE2": ("x86-64", "+sse,+sse2", False),
}
PROBE = """
from tests.kernels.llvm import test_bfloat16 as t
print(t.bfloat16_tile.ROAD.instruction)
t.SHAPES[:] = [(1, 1, 2), (5, 49, 97), (13, 100, 384)]
t.test_products_have_the_bits_of_the_definition()
"""


def run_as(cpu: str, code: str, cache: Path) -> None:
    """Run code in a process that compiles for a CPU of CPUS; it must print whether that has the instruction."""
    name, said, instruction = CPUS[cpu]
    wanted = {word[1:] for word in said.split(",")}
    if not wanted - {"sse", "sse2"} <= microkernel.features() or "avx2" not in microkernel.features():
        pytest.skip("this CPU cannot pretend to be that one")
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    env |= {"NUMBA_CPU_NAME": name, "NUMBA_CACHE_DIR": str(cache), "NUMBA_CPU_FEATURES": said}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(instruction)


@pytest.mark.slow  # compiles everything anew
@pytest.mark.parametrize("cpu", CPUS)
def test_every_road_has_the_bits_of_the_definition(cpu: str, tmp_path: Path) -> None:
    run_as(cpu, PROBE, tmp_path)


@pytest.mark.parametrize(
    ("have", "instruction"),
    [({"avx512bf16", "avx512f"}, True), ({"avx512f", "avx512bw"}, False), ({"avx2", "fma"}, False), (set(), False)],
)
def test_a_cpu_is_asked_for_nothing_that_it_lacks(have: set[str], instruction: bool) -> None:
    assert bfloat16_tile.road(have).instruction is instruction
