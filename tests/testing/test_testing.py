"""How a contract works, and that implementations an outside author might bring pass."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest

from refembed.testing import Contract, PoolingContract, SimilarityContract, for_all
from refembed.testing.contract import at_most, close, same
from refembed.testing.strategies import MODES, numbers_from, packed, vectors
from tests.plain import PlainNormalize, PlainPooling, PlainSimilarity, plain_cosine, plain_pool


class TestPlainPooling(PlainPooling):
    """A float32 implementation fits the default bounds."""


class TestPlainNormalize(PlainNormalize):
    """Likewise."""


class TestPlainSimilarity(PlainSimilarity):
    """Likewise."""


# --- how a contract works ---


def test_a_subclass_gets_a_test_of_its_own_from_each_property() -> None:
    names = [n for n in vars(TestPlainPooling) if n.startswith("test_")]
    assert names == [f"test_{n}" for n in PoolingContract.properties()]
    assert all(vars(TestPlainPooling)[n] is not vars(PlainPooling)[n] for n in names)
    assert not any(n.startswith("test_") for n in vars(PoolingContract) if n not in names)


def test_an_exception_is_a_skipped_test_that_says_why() -> None:
    with pytest.raises(SkipTest, match="NumPy adds a lone row in another order"):
        PlainNormalize().test_rows_stand_alone()  # type: ignore[attr-defined]  # made by the contract


def test_an_exception_that_is_no_property_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"Stale\.exceptions: no such property: gone"):
        type("Stale", (PlainPooling,), {"exceptions": {"gone": "was renamed"}})


def test_the_properties_of_a_measure_that_is_not_there_are_skipped() -> None:
    class CosineAlone(SimilarityContract):
        def cosine(self, a: Any, b: Any) -> float:
            return plain_cosine(a, b)

    assert CosineAlone().failures(10) == {}
    with pytest.raises(SkipTest, match="CosineAlone has no dot"):
        CosineAlone().test_dot_is_linear()  # type: ignore[attr-defined]  # made by the contract


def test_a_contract_of_ones_own() -> None:
    class Halving(Contract):
        @for_all(x=vectors())
        def half_of_twice_is_the_same(self, x: Any) -> None:
            same(self.half(2 * x), x, "half")

        def half(self, x: Any) -> Any:
            return x / 2

    class Broken(Halving):
        def half(self, x: Any) -> Any:
            return x / 3

    assert Halving().failures() == {}
    assert set(Broken().failures()) == {"half_of_twice_is_the_same"}


def test_a_method_that_is_missing_is_named() -> None:
    class Empty(PoolingContract):
        pass

    assert "Empty needs a method pool(self, hidden, offsets, how)" in Empty().failure("none_keeps_every_token")


def test_a_missing_vector_is_found() -> None:
    class Short(PoolingContract):
        def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
            return plain_pool(hidden, offsets, how)[:1]

    assert "1 vectors of" in Short().failure("neighbors_do_not_matter")


def test_an_engine_without_batch_invariance_can_say_so() -> None:
    """A last bit that depends on the batch fails where it is promised, and passes where it is not."""

    class Wobbling(PlainPooling):
        modes = ("mean",)

        def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
            factor = np.float32(1 + 2.0**-23) if len(offsets) > 2 else np.float32(1)
            return [v * factor for v in plain_pool(hidden, offsets, how)]

    class Tolerated(Wobbling):
        batch_exact = False

    assert Wobbling().failure("neighbors_do_not_matter")
    assert Tolerated().failures(20) == {}


# --- comparisons ---


def test_a_comparison_shows_the_worst_number() -> None:
    with pytest.raises(AssertionError, match=r"^here\[1\]: .*5\.0.*, expected .*3\.0.*, off by 2 of 0\.5$"):
        close([1, 5, 3], [1.4, 3, 2], 0.5, "here")
    with pytest.raises(AssertionError, match=r"^here: shape \(1,\), expected \(2,\)$"):
        close([1], [1, 2], 9, "here")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_comparison_is_not_fooled_by_what_is_not_finite(wrong: float) -> None:
    with pytest.raises(AssertionError):
        close([wrong], [1.0], 1e9, "x")
    with pytest.raises(AssertionError):
        close([1.0], [wrong], 1e9, "x")
    close([wrong], [wrong], 0, "x")


def test_less_than_allows_its_slack_and_no_more() -> None:
    at_most([1.0, 2.0], 2.0, 0, "x")
    at_most(2.1, 2.0, 0.2, "x")
    with pytest.raises(AssertionError):
        at_most(2.1, 2.0, 0.05, "x")
    with pytest.raises(AssertionError):
        at_most(np.nan, 2.0, 0.05, "x")


# --- strategies ---


def test_numbers_come_out_as_described() -> None:
    """From all kinds of bytes: zero, small whole numbers, or magnitudes from 2^-15 to 2^13; never NaN."""
    x = np.abs(numbers_from(np.random.default_rng(0).bytes(400_000)))
    assert x.dtype == np.float32
    assert numbers_from(bytes(8)).tolist() == [0, 0]
    assert x[x > 0].min() >= 2**-15
    assert x.max() < 2**13
    assert 0.2 < np.isin(x, range(5)).mean() < 0.3


def test_packing_lays_texts_end_to_end() -> None:
    batch = packed([np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)])
    assert batch.offsets.tolist() == [0, 2, 3]
    assert [t.tolist() for t in batch.texts] == [[[1, 1, 1]] * 2, [[0, 0, 0]]]


def test_the_modes_are_all_those_of_refembed() -> None:
    from refembed.pooling.poolers import POOLERS

    assert set(MODES) == set(POOLERS)


# --- the package ---

WITHOUT_HYPOTHESIS = "import sys; sys.modules['hypothesis'] = None\n"


@pytest.mark.parametrize("name", ["PoolingContract", "NormalizeContract", "SimilarityContract", "Contract", "for_all"])
def test_without_hypothesis_one_error_says_what_to_install(name: str) -> None:
    code = f"{WITHOUT_HYPOTHESIS}import refembed.testing\nfrom refembed.testing import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ImportError: refembed.testing needs Hypothesis\n  hint: pip install hypothesis\n")


def test_public_names_exist() -> None:
    import refembed.testing as package

    assert package.__all__ == sorted(package.__all__) == dir(package)
    for name in package.__all__:
        assert getattr(package, name)
    with pytest.raises(AttributeError, match=r"module 'refembed\.testing' has no attribute 'x'"):
        package.x  # noqa: B018
