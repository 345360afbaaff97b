"""Products of whole numbers by tiles: the definition's bits, on every road, and rows that stand alone."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.exact.integer import multiply_codes, quantize_rows
from refembed.kernels.llvm import integer, integer_road, integer_tile, microkernel
from refembed.kernels.quant import codes as weight_codes
from refembed.kernels.quant.codes import Scales
from tests.kernels.longhand import random

NONE = np.empty(0, np.float32)
SHAPES = [(1, 1, 96), (2, 31, 128), (5, 32, 384), (6, 33, 96), (7, 96, 640), (13, 70, 1536), (300, 40, 96), (0, 5, 32)]


def activations(T: int, K: int) -> Any:
    """Rows of different sizes, with blocks of zeros, halves, and numbers near both ends of float32."""
    x = random(T, T, K) * np.exp(4 * random(T + 1, T, 1))
    if T > 1:
        x[0, :32] = 0
        x[-1, :32] = np.arange(32) / 2
        x[-1, 31] = 127
        x[T // 2, 32:64] = 1e-38
        x[T // 2, 64:96] = 3e30
    return x


def weights(N: int, K: int, halves: int, minima: int) -> tuple[Any, Any, Scales]:
    """Weights in float32, and what they are made of: any byte, scales of both signs, one of them 0."""
    rng, group = np.random.default_rng(N + K), 16 if halves else 32
    u = rng.integers(0, 256, (N, K)).astype(np.uint8)
    u[0] = 255
    s = (rng.standard_normal((N, K // group)) * 0.01).astype(np.float32)
    m = rng.standard_normal(s.shape).astype(np.float32) if minima else None
    s[-1, 0] = 0
    wide = [None if a is None else np.repeat(a, group, axis=1) for a in (s, m)]
    w = wide[0] * (u.astype(np.float32) - (0 if minima else 128)) + (0 if m is None else wide[1])
    u[-1, :group] = 0 if minima else 128  # what a scale of 0 leaves
    return w.astype(np.float32), u, Scales(s, m)


def run(x: Any, w: Any, scales: Scales, bits: int, halves: int, bias: Any = NONE) -> tuple[Any, Any]:
    """The compiled kernels, in one part: codes and products."""
    quantize, product = integer.KERNELS[bits]
    codes = np.empty((len(x), x.shape[1] // 32 * integer_tile.words_of(bits)), np.float32)
    out = np.full((len(x), len(w)), 7, np.float32)
    quantize(x, codes, 0, len(x))
    product(codes, integer.pack_whole(w, *scales), halves, int(scales.m is not None), bias, out, 0, 1, 0, len(x))
    return codes, out


def same_bits(a: Any, b: Any) -> bool:
    return np.array_equal(a.view(np.int32), b.view(np.int32))


@pytest.mark.parametrize("bits", integer_tile.BITS)
@pytest.mark.parametrize("halves", [0, 1])
@pytest.mark.parametrize("minima", [0, 1])
def test_products_have_the_bits_of_the_definition(bits: int, halves: int, minima: int) -> None:
    for T, N, K in SHAPES:
        x, (w, u, scales) = activations(T, K), weights(N, K, halves, minima)
        for bias in (NONE, random(N, N)):
            q, d = quantize_rows(x, bits)
            codes, out = run(x, w, scales, bits, halves, bias)
            assert same_bits(out, multiply_codes(q, d, u, scales, bias if len(bias) else None))
            assert same_bits(codes.reshape(T, K // 32, integer_tile.words_of(bits))[:, :, bits].copy(), d)


@pytest.mark.parametrize("bits", integer_tile.BITS)
def test_codes_are_those_of_the_definition(bits: int) -> None:
    """And the sums that go with them."""
    x = activations(9, 160)
    q, d = quantize_rows(x, bits)
    codes = np.empty((9, 5, integer_tile.words_of(bits)), np.float32)
    integer.KERNELS[bits][0](x, codes.reshape(9, -1), 0, 9)
    stored = codes.view(np.int8).reshape(9, 5, -1)[:, :, : 4 * bits].astype(np.int64)
    found = stored if bits == 8 else 256 * stored[:, :, :32] + stored[:, :, 32:]
    assert np.array_equal(found.reshape(q.shape), q)
    halves = q.reshape(9, 5, 2, 16).sum(axis=3)
    sums = np.concatenate([halves, halves.sum(axis=2, keepdims=True)], axis=2)
    assert np.array_equal(codes.view(np.int32)[:, :, bits + 1 : bits + 4], -128 * sums)
    assert same_bits(np.ascontiguousarray(codes[:, :, bits + 4 : bits + 7]), d[:, :, None] * sums.astype(np.float32))


@pytest.mark.parametrize("bits", integer_tile.BITS)
@pytest.mark.parametrize("minima", [0, 1])
def test_the_largest_whole_numbers_fit(bits: int, minima: int) -> None:
    """32 x 255 x 32512 is 2.7e8, of 2^31."""
    x, w = np.full((3, 64), 5, np.float32), np.full((4, 64), 255.0 - 128 * (1 - minima), np.float32)
    one = np.ones((4, 2), np.float32)
    _, out = run(x, w + minima, Scales(one, one if minima else None), bits, 0)
    assert np.allclose(out, 64 * 5 * (256 if minima else 127), rtol=3e-7)  # 5 is a code times its scale, to rounding


@pytest.mark.parametrize("bits", integer_tile.BITS)
@pytest.mark.parametrize(("halves", "minima"), [(0, 0), (1, 1)])
def test_a_row_has_the_same_bits_among_any_others(bits: int, halves: int, minima: int) -> None:
    x, (w, _, scales) = activations(29, 384), weights(70, 384, halves, minima)
    _, whole = run(x, w, scales, bits, halves)
    for some in ([3], [28, 0], list(range(5, 17)), [int(i) for i in np.random.default_rng(1).permutation(29)]):
        assert same_bits(run(x[some].copy(), w, scales, bits, halves)[1], whole[some])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.integers(1, 90), st.sampled_from(integer_tile.BITS), st.data())
def test_a_row_does_not_notice_its_neighbors(T: int, blocks: int, N: int, bits: int, data: st.DataObject) -> None:
    """Not even such as are no numbers."""
    at, (w, _, scales) = data.draw(st.integers(0, T - 1)), weights(N, 32 * blocks, 0, 0)
    x = np.full((T, 32 * blocks), data.draw(st.sampled_from([0, 1, 3e38, np.inf, np.nan])), np.float32)
    x[at] = random(T, 32 * blocks)
    assert same_bits(run(x, w, scales, bits, 0)[1][at], run(x[at : at + 1], w, scales, bits, 0)[1][0])


@pytest.mark.parametrize("bits", integer_tile.BITS)
def test_what_is_no_number_makes_its_whole_row_nan_and_no_other(bits: int) -> None:
    x, (w, u, scales) = activations(9, 96), weights(40, 96, 0, 0)
    _, before = run(x, w, scales, bits, 0)
    x[4, 40], x[6, 3], x[7, 95] = np.nan, np.inf, -np.inf
    _, out = run(x, w, scales, bits, 0)
    assert np.isnan(out[[4, 6, 7]]).all()
    assert np.isnan(multiply_codes(*quantize_rows(x, bits), u, scales)[[4, 6, 7]]).all()
    rest = [0, 1, 2, 3, 5, 8]
    assert same_bits(out[rest], before[rest])


@pytest.mark.parametrize("bits", integer_tile.BITS)
@pytest.mark.parametrize("T", [1, 5, integer.HIGH, integer.HIGH + 3])
def test_cores_may_share_rows_or_panels(bits: int, T: int) -> None:
    """Each part writes its own piece of out, to the bit."""
    x, (w, _, scales), bias = activations(T, 96), weights(210, 96, 1, 0), random(3, 210)
    quantize, product = integer.KERNELS[bits]
    codes, want = run(x, w, scales, bits, 1, bias)
    panels, P = integer.pack_whole(w, *scales), integer_tile.P
    parts = np.empty_like(codes)
    for begin, end in ((T // 3, T), (0, T // 3)):
        quantize(x, parts, begin, end)
    assert same_bits(parts, codes)
    out = np.full_like(want, np.nan)
    for begin, end in ((T // 3, T), (0, T // 3)):
        product(codes, panels, 1, 0, bias, out, 0, 1, begin, end)
    assert same_bits(out, want)
    out = np.full_like(want, np.nan)
    for begin, end in ((1, len(panels)), (0, 1)):
        before = out.copy()
        product(codes, panels, 1, 0, bias, out, 0, 0, begin, end)
        others = np.r_[0 : begin * P, end * P : 210] if end * P < 210 else np.r_[0 : begin * P]
        assert same_bits(out[:, others].copy(), before[:, others].copy())
    assert same_bits(out, want)


def test_blocks_are_of_one_length_everywhere() -> None:
    assert microkernel.Q8_BLOCK == weight_codes.BLOCK == integer.BLOCK == 32


AVX512 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+avx512f"
CPUS = {  # a CPU that this one can pretend to be -> its road
    "AVX-512 VNNI, 512 bits": ("cascadelake", AVX512 + ",+avx512bw,+avx512vl,+avx512dq,+avx512vnni", "vpdpbusd 16"),
    "AVX-512 VNNI, 256 bits": ("cascadelake", AVX512 + ",+avx512vl,+avx512vnni", "vpdpbusd 8"),
    "AVX-512": ("skylake-avx512", AVX512 + ",+avx512bw,+avx512vl,+avx512dq", "pmaddwd 16"),
    "AVX2": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2", "pmaddwd 8"),
    "SSE2": ("x86-64", "+sse,+sse2", "pmaddwd 4"),
    "no vectors named": ("generic", None, "multiply 4"),
}
PROBE = """
from tests.kernels.llvm import test_integer as t
print(t.integer_road.ROAD.name, t.integer_tile.LANES)
t.SHAPES[:] = [(1, 1, 96), (5, 33, 128), (13, 70, 384)]
for bits in (8, 16):
    t.test_codes_are_those_of_the_definition(bits)
    for halves, minima in ((0, 0), (0, 1), (1, 0), (1, 1)):
        t.test_products_have_the_bits_of_the_definition(bits, halves, minima)
"""


@pytest.mark.slow  # compiles everything anew
@pytest.mark.parametrize("cpu", CPUS)
def test_every_road_has_the_bits_of_the_definition(cpu: str, tmp_path: Any) -> None:
    name, said, road = CPUS[cpu]
    wanted = {word[1:] for word in (said or "").split(",") if word}
    if not wanted - {"sse", "sse2"} <= microkernel.features() or "avx2" not in microkernel.features():
        pytest.skip("this CPU cannot pretend to be that one")
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    env |= {"NUMBA_CPU_NAME": name, "NUMBA_CACHE_DIR": str(tmp_path)} | ({"NUMBA_CPU_FEATURES": said} if said else {})
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == road


@pytest.mark.parametrize(
    ("have", "road"),
    [
        ({"avx512vnni", "avx512bw", "avx512vl", "avx2", "fma"}, ("vpdpbusd", 16)),
        ({"avxvnni", "avx2", "fma"}, ("vpdpbusd", 8)),
        ({"avx512f", "avx512bw", "avx2", "fma"}, ("pmaddwd", 16)),
        ({"avx2", "fma"}, ("pmaddwd", 8)),
        ({"neon"}, ("multiply", 4)),
    ],
)
def test_a_cpu_is_asked_for_nothing_that_it_lacks(have: set[str], road: tuple[str, int]) -> None:
    found = integer_road.road(have)
    assert (found.name, found.lanes) == road
