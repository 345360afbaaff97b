"""compare(a, b): every number against its definition, in exact arithmetic where there is one."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refembed.errors import RequestError
from refembed.verify.compare.arrays import compare, ulps, worst_heads, worst_rows

F32 = np.float32
SMALLEST = np.nextafter(F32(0), F32(1))  # a denormal
LARGEST = np.finfo(F32).max

anything = st.floats(width=32)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
whole = st.integers(-50, 50)


def matrices(elements, dtype=F32):
    """Two matrices of one shape, as a (2, n, m) array."""
    return hnp.array_shapes(min_dims=2, max_dims=2, max_side=5).flatmap(
        lambda shape: hnp.arrays(dtype, (2, *shape), elements=elements)
    )


@given(hnp.arrays(F32, hnp.array_shapes(min_dims=0), elements=anything))
def test_an_array_differs_from_itself_in_nothing(x):
    """Also with NaN and infinity in it."""
    d = compare(x, x.copy())
    assert d.identical
    assert d.nonfinite_agree
    assert str(d) == "identical"
    assert (d.max_ulps, d.max_abs, d.rel_peak, d.rel_each, d.nmse, d.cosine) == (0, 0, 0, 0, 0, 0)
    assert d.worst is None
    assert d.worst_row is None


@given(matrices(anything))
def test_what_has_no_reference_is_symmetric(pair):
    """Distances that do not divide by a are the same from both sides; counts change sides."""
    d, e = compare(*pair), compare(*pair[::-1])
    for name in ("identical", "nonfinite_agree", "max_ulps", "max_abs", "worst", "worst_row"):
        assert getattr(d, name) == getattr(e, name)
    assert d.cosine == pytest.approx(e.cosine, abs=1e-15)
    assert (d.nonfinite_a, d.nonfinite_a_at) == (e.nonfinite_b, e.nonfinite_b_at)


@given(finite.filter(lambda x: abs(x) < 3e38), st.integers(1, 20))
def test_k_steps_of_nextafter_are_k_ulps(x, k):
    """Across zero and through the denormals too."""
    for toward in (F32(np.inf), F32(-np.inf)):
        y = F32(x)
        for _ in range(k):
            y = np.nextafter(y, toward)
        assert compare(np.array([x], F32), np.array([y])).max_ulps == k


@given(finite, finite, finite)
def test_ulps_add_up_along_the_line(x, y, z):
    """From the least to the greatest is from the least to the middle and on."""
    a, b, c = (np.array([v], F32) for v in sorted((x, y, z)))
    assert ulps(a, c) == ulps(a, b) + ulps(b, c)


@pytest.mark.parametrize(
    ("x", "y", "n"),
    [
        (0.0, -0.0, 0),
        (0.0, SMALLEST, 1),
        (-SMALLEST, SMALLEST, 2),
        (1.0, 1 + 2**-23, 1),
        (1.0, 1 - 2**-24, 1),
        (1.0, 2.0, 2**23),
        (-LARGEST, LARGEST, 2 * 0x7F7FFFFF),
    ],
)
def test_ulps_of_known_pairs(x, y, n):
    """The bits of a positive float32 count its steps from zero (IEEE 754)."""
    assert compare(np.array([x], F32), np.array([y], F32)).max_ulps == n


def test_minus_zero_is_no_ulp_away_but_not_identical():
    d = compare(np.array([0.0], F32), np.array([-0.0], F32))
    assert not d.identical
    assert d.max_ulps == 0
    assert d.max_abs == 0


def test_a_float64_that_rounds_to_the_float32_is_no_ulp_away_but_not_identical():
    d = compare(np.array([1 + 2.0**-40]), np.array([1], F32))
    assert (d.identical, d.max_ulps, d.max_abs) == (False, 0, 2.0**-40)


@given(hnp.arrays(np.float16, 5, elements=st.floats(width=16)))
def test_the_same_numbers_in_a_wider_type_are_identical(x):
    assert compare(x, x.astype(F32)).identical
    assert compare(x.astype(np.float64), x).identical


@given(matrices(whole, np.int64))
def test_measures_are_their_definitions(pair):
    """Against rational arithmetic."""
    a, b = pair
    d = compare(a.astype(F32), b.astype(F32))
    gaps = [abs(int(x) - int(y)) for x, y in zip(a.flat, b.flat, strict=True)]
    peak, energy = int(np.abs(a).max()), sum(int(x) ** 2 for x in a.flat)
    assert d.max_abs == max(gaps)
    assert d.rel_peak == (float(Fraction(max(gaps), peak)) if peak else (math.inf if max(gaps) else 0))
    each = [Fraction(g, abs(int(x))) if x else (math.inf if g else 0) for g, x in zip(gaps, a.flat, strict=True)]
    assert d.rel_each == float(max(each))
    squares = sum(g * g for g in gaps)
    assert d.nmse == pytest.approx(squares / energy if energy else (math.inf if squares else 0), rel=1e-15)
    dot, other = sum(int(x) * int(y) for x, y in zip(a.flat, b.flat, strict=True)), sum(int(y) ** 2 for y in b.flat)
    if energy and other:
        assert d.cosine == pytest.approx(1 - dot / math.sqrt(energy * other), abs=1e-14)
    else:
        assert d.cosine == (0 if energy == other else 1)


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-4, 0.5, math.pi / 2, math.pi])
def test_cosine_distance_does_not_cancel(angle):
    """1 - cos t is 2 sin^2(t/2), to the last digits even where cos t rounds to 1."""
    d = compare(np.array([1.0, 0.0]), np.array([math.cos(angle), math.sin(angle)]))
    assert d.cosine == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-9)


@given(matrices(st.floats(-10, 10, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)), st.integers(-60, 60))
def test_relative_measures_do_not_change_with_the_unit(pair, k):
    a, b = pair.astype(np.float64)
    d, e = compare(a, b), compare(a * 2.0**k, b * 2.0**k)
    assert (d.rel_peak, d.rel_each, d.nmse, d.cosine) == (e.rel_peak, e.rel_each, e.nmse, e.cosine)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e307, 5e-324])
def test_squares_neither_overflow_nor_vanish(scale):
    """One of two numbers is halved: a quarter of half the energy is the difference."""
    d = compare(np.array([4.0, 4.0]) * scale, np.array([4.0, 2.0]) * scale)
    assert d.nmse == pytest.approx(0.125)
    assert d.cosine == pytest.approx(1 - 3 / math.sqrt(10))
    assert d.rel_peak == 0.5


def test_denormals_count():
    d = compare(np.array([0, SMALLEST], F32), np.array([SMALLEST, SMALLEST], F32))
    assert d.max_ulps == 1
    assert d.max_abs == 2.0**-149
    assert d.rel_each == math.inf
    assert d.nmse == 1


def test_what_is_not_finite_comes_first_and_spoils_nothing_else():
    a = np.array([[1, np.nan, 3], [-np.inf, 5, 6]], F32)
    b = np.array([[1, 2, np.inf], [-np.inf, 5, 7]], F32)
    d = compare(a, b)
    assert (d.nonfinite_a, d.nonfinite_b) == (2, 2)
    assert (d.nonfinite_a_at, d.nonfinite_b_at) == (((0, 1), (1, 0)), ((0, 2), (1, 0)))
    assert not d.nonfinite_agree
    assert (d.max_abs, d.worst, d.worst_row) == (1, (1, 2), (1,))
    assert d.nmse == pytest.approx(1 / (1 + 25 + 36))
    assert str(d).startswith("not finite: 2 | 2, first at (0, 1); ")


@pytest.mark.parametrize(
    ("x", "y", "agree"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (np.inf, -np.inf, False),
        (np.nan, np.inf, False),
        (1, np.nan, False),
    ],
)
def test_the_same_nan_or_infinity_agrees(x, y, agree):
    d = compare(np.array([x, 1], F32), np.array([y, 1], F32))
    assert d.nonfinite_agree is agree
    assert d.identical is agree


def test_only_the_first_places_are_kept():
    d = compare(np.full(100, np.nan), np.zeros(100))
    assert d.nonfinite_a == 100
    assert d.nonfinite_a_at == tuple((i,) for i in range(8))


def test_the_worst_element_and_the_worst_row_can_be_in_different_rows():
    a = np.zeros((3, 4), F32)
    b = a.copy()
    b[0, 2] = 3
    b[2] = 2
    d = compare(a, b)
    assert d.worst == (0, 2)
    assert d.worst_row == (2,)


def test_numbers_without_axes_and_empty_arrays_can_be_compared():
    d = compare(np.float32(1), np.float32(3))
    assert (d.max_abs, d.worst, d.worst_row) == (2, (), ())
    assert compare(np.empty((0, 4)), np.empty((0, 4))).identical


def test_whole_numbers_can_be_compared():
    assert compare(np.array([1, 2], np.int32), np.array([1, 5], np.int32)).max_abs == 3


def test_shapes_that_differ_are_refused():
    with pytest.raises(RequestError, match=r"cannot compare shapes \(2, 3\) and \(3, 2\)"):
        compare(np.zeros((2, 3)), np.zeros((3, 2)))


def test_the_worst_rows_come_first_with_their_share():
    """Squared differences 0, 9 and 1: row 1 holds nine tenths."""
    a = np.zeros((3, 4), F32)
    b = a.copy()
    b[1, 2], b[2, 0] = 3, 1
    found = worst_rows(a + 1, b + 1)
    assert [(s.index, s.share) for s in found] == [(1, 0.9), (2, 0.1)]
    assert found[0].nmse == 9 / 4
    assert worst_rows(a, a) == ()


def test_the_worst_heads_are_found_side_by_side_and_on_either_axis():
    """Head 2 of 3, in the three layouts that traces have."""
    a = np.ones((5, 3, 2), F32)  # (T, H, D)
    b = a.copy()
    b[:, 2] = 7
    assert [s.index for s in worst_heads(a, b, 3)] == [2]
    assert [s.index for s in worst_heads(a.reshape(5, 6), b.reshape(5, 6), 3)] == [2]
    assert [s.index for s in worst_heads(a.transpose(1, 0, 2), b.transpose(1, 0, 2), 3)] == [2]


def test_rows_of_shapes_that_do_not_fit_are_refused():
    for a, b in ((np.zeros((2, 3)), np.zeros((3, 2))), (np.zeros(3), np.zeros(3))):
        with pytest.raises(RequestError, match="cannot compare the rows"):
            worst_rows(a, b)
    with pytest.raises(RequestError, match="has no 4 heads"):
        worst_heads(np.zeros((2, 6)), np.zeros((2, 6)), 4)
