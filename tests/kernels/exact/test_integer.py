"""The definition of products of whole numbers, held against fractions and against ggml's own codes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from refembed.gguf import BY_NAME
from refembed.kernels.exact.integer import LARGEST, fused, multiply_codes, quantize_rows
from refembed.kernels.quant.codes import Scales
from refembed.kernels.quant.quantize import quantize
from tests.kernels.longhand import random


def nearest(true: Fraction, got: Any) -> bool:
    """Whether no neighbor of a float32 is nearer."""
    near = [got, np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))]
    return min(near, key=lambda v: abs(Fraction(float(v)) - true)) == got


def test_a_fused_multiply_add_is_rounded_once() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        a, b, c = (np.float32(v) for v in rng.standard_normal(3) * [1, 1, 10.0 ** rng.integers(-8, 8)])
        assert nearest(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)), fused(a, b, c))


def test_the_second_of_two_roundings_would_show() -> None:
    """a b + c lies a little above the middle of two float32, by less than double shows next to it."""
    a, b, c = np.float32(1 + 2**-23), np.float32(2**-24), np.float32(1)  # 1 + 2^-24 + 2^-47: above the middle
    assert fused(a, b, c) == np.float32(1 + 2**-23)
    a, b, c = np.float32(2**-24), np.float32(1 + 2**-23), np.float32(2**7 + 2**-16)
    true = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    assert nearest(true, fused(a, b, c))
    tie = np.float32(1 + 2**-23), np.float32(2**-24), np.float32(-(2**-60))  # what is cut off is below 1 + 2^-24
    assert nearest(Fraction(float(tie[0])) * Fraction(float(tie[1])) + Fraction(float(tie[2])), fused(*tie))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_number_is_at_most_half_a_step_from_its_code(bits: int) -> None:
    """And the largest of a block has the largest code."""
    x = random(1, 40, 96) * np.exp(8 * random(2, 40, 1))
    q, d = quantize_rows(x, bits)
    step = np.repeat(d, 32, axis=1).astype(np.float64)
    assert (np.abs(x - q * step) <= step * (0.5 + 3 * 2.0**-24 * LARGEST[bits])).all()
    assert (np.abs(q).reshape(40, 3, 32).max(axis=2) == LARGEST[bits]).all()


def test_codes_of_8_bits_are_those_that_ggml_makes() -> None:
    """quantize_row_q8_0 takes the same scale, and rounds it to float16 only after its codes are made."""
    x = random(3, 50, 320)
    theirs = np.frombuffer(np.ascontiguousarray(quantize(x, "Q8_0")), BY_NAME["Q8_0"].block)
    q, d = quantize_rows(x, 8)
    assert np.array_equal(q, theirs["qs"].reshape(q.shape))
    assert np.array_equal(d.astype(np.float16), theirs["d"].reshape(d.shape))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("minima", [False, True])
@pytest.mark.parametrize("group", [16, 32])
def test_groups_are_added_in_order_each_rounded_once(bits: int, minima: bool, group: int) -> None:
    x, bias = random(4, 2, 64), random(5, 3)
    rng = np.random.default_rng(6)
    u, s = rng.integers(0, 256, (3, 64)).astype(np.uint8), random(7, 3, 64 // group)
    m = random(8, *s.shape) if minima else None
    q, d = quantize_rows(x, bits)
    got = multiply_codes(q, d, u, Scales(s, m), bias)
    for t, n in np.ndindex(2, 3):
        y = np.float32(0)
        for g in range(64 // group):
            some = range(g * group, (g + 1) * group)
            dot = sum(int(q[t, i]) * (int(u[n, i]) - (0 if minima else 128)) for i in some)
            d_g = d[t, g * group // 32]
            y = fused(np.float32(dot), d_g * s[n, g], y)
            if m is not None:
                y = fused(d_g * np.float32(sum(int(q[t, i]) for i in some)), m[n, g], y)
        assert got[t, n] == y + bias[n]


@pytest.mark.parametrize(("bits", "error"), [(8, 9e-3), (16, 4e-5)])
def test_products_are_as_near_as_their_codes(bits: int, error: float) -> None:
    """Of random numbers, over the largest result; measured 6.6e-3 and 2.1e-5."""
    x, w = random(9, 20, 384), random(10, 30, 384)
    u = np.rint(w.reshape(30, 12, 32) / (s := np.abs(w.reshape(30, 12, 32)).max(axis=2)[:, :, None] / 127)) + 128
    exact = x.astype(np.float64) @ ((u - 128) * s.astype(np.float64)).reshape(30, 384).T
    got = multiply_codes(*quantize_rows(x, bits), u.astype(np.uint8).reshape(30, 384), Scales(s[:, :, 0]))
    assert 0 < np.abs(got - exact).max() <= error * np.abs(exact).max()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_block_that_is_not_finite_has_no_scale(bits: int, wrong: float) -> None:
    x = random(11, 2, 64)
    x[1, 40] = wrong
    q, d = quantize_rows(x, bits)
    assert np.isnan(d[1, 1])
    assert np.isfinite(d[[0, 0, 1], [0, 1, 0]]).all()
    assert (q[1, 32:] == 0).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_numbers_too_small_for_a_scale_are_zero(bits: int) -> None:
    q, d = quantize_rows(np.full((1, 32), 1e-34, np.float32), bits)
    assert (q == 0).all()
    assert np.isfinite(d).all()
