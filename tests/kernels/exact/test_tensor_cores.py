"""The definition of products on tensor cores: rounding held against fractions and against Python's own float16."""

from __future__ import annotations

import doctest
import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from refembed.kernels.exact import tensor_cores
from tests.kernels.longhand import random

FORMATS = {"tf32": (11, -126), "fp16": (11, -14), "bf16": (8, -126)}  # bits of mantissa, the least exponent


def drawn(seed: int, n: int) -> Any:
    """Numbers of all sizes, some of them in the middle between two numbers of each format or one step from it."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, n, np.uint64).astype(np.uint32)
    for fraction in (13, 16):  # bits of float32 that tf32 and fp16, or bf16, have not
        some = rng.random(n) < 0.2
        middle = (bits >> fraction << fraction) | np.uint32(1 << (fraction - 1))
        bits = np.where(some, (middle.astype(np.int64) + rng.integers(-1, 2, n)).astype(np.uint32), bits)
    exponents = rng.integers(127 - 26, 127 + 17, n).astype(np.uint32)  # where fp16 has numbers
    bits = np.where(rng.random(n) < 0.6, (bits & np.uint32(0x807FFFFF)) | (exponents << 23), bits)
    x = bits.astype(np.uint32).view(np.float32)
    return x[np.isfinite(x)]


def nearest(x: float, name: str) -> Fraction:
    """By exact arithmetic: x in steps of the format, rounded."""
    bits, least = FORMATS[name]
    exponent = max(math.frexp(x)[1] - 1, least) if x else least
    step = Fraction(2) ** (exponent - bits + 1)
    steps = Fraction(x) / step
    if name != "tf32":
        return round(steps) * step  # of a Fraction: halves to even
    return math.floor(abs(steps) + Fraction(1, 2)) * step * (-1 if x < 0 else 1)


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_is_to_the_nearest_number_of_the_format(name: str) -> None:
    bits, least = FORMATS[name]
    beyond = Fraction(2) ** (2 - least)
    with np.errstate(over="ignore"):
        x = drawn(1, 6000)
        got = getattr(tensor_cores, f"round_{name}")(x)
    met = {"beyond": 0, "tie": 0, "subnormal": 0}
    for given, rounded in zip(x.tolist(), got.tolist(), strict=True):
        want = nearest(given, name)
        met["tie"] += (abs(Fraction(given) - want) / Fraction(2) ** (math.frexp(given)[1] - bits)) == Fraction(1, 2)
        met["subnormal"] += 0 < abs(given) < 2.0**least
        if abs(want) >= beyond:
            met["beyond"] += 1
            assert math.isnan(rounded) if name == "fp16" else rounded == math.copysign(math.inf, given)
        else:
            assert Fraction(rounded) == want
            assert math.copysign(1, rounded) == math.copysign(1, given)
    assert met["tie"] > 50
    assert met["subnormal"] > 5
    assert met["beyond"] > 50 or name != "fp16"


def test_float16_is_pythons() -> None:
    """struct's format e, which ends in an error where there is no such number."""
    x = drawn(2, 4000)
    for given, rounded in zip(x.tolist(), tensor_cores.round_fp16(x).tolist(), strict=True):
        try:
            (want,) = struct.unpack("e", struct.pack("e", given))
        except OverflowError:
            assert math.isnan(rounded)
        else:
            assert rounded == want


@pytest.mark.parametrize("name", FORMATS)
def test_nan_and_infinities(name: str) -> None:
    """fp16 has no infinity: what is beyond it would go through a sigmoid as a number."""
    with np.errstate(all="ignore"):
        got = getattr(tensor_cores, f"round_{name}")(np.array([np.nan, np.inf, -np.inf, 3e38], np.float32))
    assert np.isnan(got[0])
    assert np.isnan(got[1:]).all() if name == "fp16" else got[1] == -got[2] == np.inf


@pytest.mark.parametrize("name", FORMATS)
def test_a_product_is_the_sum_of_products_of_rounded_numbers(name: str) -> None:
    """In float64; measured: 1.3e-7 of the sum of all |x w|."""
    x, w = random(1, 5, 100), random(2, 7, 100)
    rounded = [np.vectorize(lambda v: float(nearest(float(v), name)))(a) for a in (x, w)]
    want, size = rounded[0] @ rounded[1].T, np.abs(rounded[0]) @ np.abs(rounded[1]).T
    got = getattr(tensor_cores, f"matmul_{name}")(x, w)
    assert (got.dtype, got.shape) == (np.float32, (5, 7))
    assert (np.abs(got - want) <= 2e-7 * size).all()
    assert np.abs(got - x.astype(np.float64) @ w.T).max() > 1e-5  # it does round


def test_examples_hold() -> None:
    found = doctest.testmod(tensor_cores)
    assert (found.failed, found.attempted > 6) == (0, True)
