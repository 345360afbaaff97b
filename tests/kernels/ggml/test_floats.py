"""Products with float weights against ggml's own, bit for bit; and each order's definition against its kernel."""

import itertools
import math

import numpy as np
import pytest

from refembed.kernels.ggml import floats
from refembed.kernels.ggml.profile import PROFILES
from tests.kernels.ggml.live import Typed, run

AVX2 = PROFILES["avx2"]
KINDS = ("F32", "F16", "BF16")
SHAPES = (  # rows of activations, rows of weights, length: every path of the dispatch, and what is left over in each
    (1, 8, 384), (1, 8, 100), (1, 5, 63), (1, 3, 31), (1, 4, 1),
    (2, 8, 384), (4, 8, 32), (4, 8, 100), (3, 8, 15), (33, 12, 75), (64, 200, 256), (8, 4, 1536),
    (9, 7, 384), (4, 7, 100), (5, 66, 47),
)  # fmt: skip


def matrices(shape, seed=0, scale=1.0):
    """Activations (n, k) and weights (m, k)."""
    rng = np.random.default_rng(seed)
    n, m, k = shape
    return tuple((rng.standard_normal((rows, k)) * scale).astype(np.float32) for rows in (n, m))


def stored(w, kind):
    """Weights that are exact in that type, and how ggml is given them."""
    w = floats.rounded(w, kind)
    raw = {"F32": w, "F16": w.astype(np.float16), "BF16": (w.view(np.uint32) >> 16).astype(np.uint16)}[kind]
    return w, Typed(kind, raw, w.shape)


def differ(ours, theirs):
    """How many numbers are not the same bits; NaN is NaN."""
    theirs = theirs.reshape(ours.shape)
    same = (ours.view(np.int32) == theirs.view(np.int32)) | (np.isnan(ours) & np.isnan(theirs))
    return int((~same).sum())


@pytest.mark.oracle
def test_products_have_the_bits_of_ggml_mul_mat():
    """Every float type, every path of the dispatch, every kind of remainder."""
    calls, ours = [], []
    for (i, shape), kind in itertools.product(enumerate(SHAPES), KINDS):
        x, w = matrices(shape, i)
        w, given = stored(w, kind)
        calls.append(("ggml_mul_mat", [given, x]))
        ours.append(floats.mul_mat(x, w, kind, AVX2))
    faults = [differ(y, t) for y, t in zip(ours, run(calls), strict=True)]
    assert faults == [0] * len(calls)


@pytest.mark.oracle
def test_activations_of_any_size_are_rounded_as_ggml_rounds_them():
    """Subnormal, huge, infinite: float16 overflows, bfloat16 and float32 do not."""
    calls, ours = [], []
    for scale, kind in itertools.product((1e-40, 1e-7, 1e5, 1e30), KINDS):
        x, w = matrices((3, 8, 64), 1, scale)
        w, given = stored(w / np.float32(scale), kind)
        calls.append(("ggml_mul_mat", [given, x]))
        with np.errstate(all="ignore"):
            ours.append(floats.mul_mat(x, w, kind, AVX2))
    assert [differ(y, t) for y, t in zip(ours, run(calls), strict=True)] == [0] * len(calls)


def in_order(x, w, order):
    """One dot product by the definition of an order: FMA in double, rounded to float32 after each step."""
    f32 = np.float32
    x1, w1 = (np.append(a, f32(0)) for a in (x, w))
    acc = [f32(0)] * len(order.elements)
    for a, elements in enumerate(order.elements):
        for i in elements:
            acc[a] = f32(np.float64(x1[i]) * np.float64(w1[i]) + np.float64(acc[a]))
    for a, b in order.tree:
        acc[a] = f32(acc[a] + acc[b])
    total, rest = acc[0], list(zip(x[order.rest :], w[order.rest :], strict=True))
    if order.chunk == 0:
        registers = [acc[0], *([acc[order.second]] if order.second else [])]
        return f32(math.fsum([*map(np.float64, registers), *(np.float64(f32(a * b)) for a, b in rest)]))
    whole = len(rest) // order.chunk * order.chunk
    for a, b in rest[:whole]:
        total = f32(total + f32(a * b))
    for a, b in rest[whole:]:
        total = f32(np.float64(a) * np.float64(b) + np.float64(total))
    return total


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_adds_in_the_order_that_the_data_say(profile, kind):
    """Numba against longhand, both profiles, rows that do not fill a group and outputs that do not fill a panel."""
    for i, (n, m, k) in enumerate(((1, 3, 150), (2, 4, 96), (5, 4, 150), (3, 4, 70))):
        x, w = matrices((n, m, k), i)
        x, w = floats.rounded(x, kind), floats.rounded(w, kind)
        order = floats.order_of(kind, n, w.shape, profile)
        found = floats.multiply(x, floats.pack(w, order), order, m)
        expected = np.array([[in_order(a, b, order) for b in w] for a in x])
        assert differ(found, expected) == 0


def test_every_element_is_added_once():
    """Whatever the length: each element is in one accumulator, or left over."""
    for profile, kind, n, k in itertools.product(PROFILES.values(), KINDS, (1, 2), (1, 7, 8, 31, 32, 33, 64, 100, 384)):
        order = floats.order_of(kind, n, (4, k), profile)
        taken = [int(i) for i in order.elements.ravel() if i >= 0] + list(range(order.rest, k))
        assert sorted(taken) == list(range(k))


def test_nan_stays_nan_in_bfloat16():
    """Rounding adds to the bits; a NaN with all of them set does not turn into zero."""
    x = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(floats.rounded(x, "BF16")).all()
