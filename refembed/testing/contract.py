"""A contract: what any right implementation does, as properties to run against one.

    class TestMine(PoolingContract):
        def pool(self, hidden, offsets, how):
            return my_engine.pool(hidden, offsets, how)

pytest then finds one test for each property. A property that cannot hold for your engine goes, with the reason, into
`exceptions = {"name": "reason"}` and is skipped; a name that is no property's is an error, so the list cannot rot.

How it works: `@for_all(x=vectors())` keeps a method and its strategies as a Property, and each subclass gets a test of
its own from every Property it inherits (Hypothesis wants `@given` on the class that runs, not on its parent).
"""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from refembed.testing.strategies import Strategy  # first: it says what to install where Hypothesis is absent

from hypothesis import HealthCheck, Phase, Verbosity, given, settings  # isort: skip


@dataclass(frozen=True)
class Property:
    """A method `check(self, **drawn)` that raises AssertionError where the property does not hold, and what to draw."""

    check: Callable[..., None]
    strategies: dict[str, Strategy[Any]]

    def test(self) -> Callable[[Any], None]:
        """A new Hypothesis test of it."""
        return given(**self.strategies)(self.check)


def for_all(**strategies: Strategy[Any]) -> Callable[[Callable[..., None]], Property]:
    """Make a method a Property: what it says holds for all inputs that the strategies can draw.

    >>> from hypothesis import strategies as st
    >>> class Halving(Contract):
    ...     @for_all(n=st.integers())
    ...     def twice_the_half_is_the_whole(self, n):
    ...         assert n // 2 * 2 == n
    >>> Halving().failures(max_examples=20)
    {'twice_the_half_is_the_whole': 'AssertionError: '}
    """
    return lambda check: Property(check, strategies)


class Contract:
    """Base of PoolingContract, NormalizeContract and SimilarityContract.

    >>> from refembed.testing import NormalizeContract
    >>> class Wrong(NormalizeContract):
    ...     norms = (2,)
    ...     exceptions = {"zero_stays_zero": "this engine never sees a zero vector"}
    ...     def normalize(self, x, p):
    ...         return x / np.abs(x).max(axis=1, keepdims=True)  # by the largest number, not by the length
    >>> "its_length_is_one" in Wrong.properties(), "its_length_is_one" in Wrong().failures(max_examples=5)
    (True, True)
    >>> Wrong().failure("its_length_is_one", max_examples=5).partition(":")[0]
    'AssertionError'
    """

    exceptions: ClassVar[dict[str, str]] = {}  # property -> why it does not hold for this implementation

    def __init_subclass__(cls) -> None:
        properties = cls.properties()
        if unknown := set(cls.exceptions) - set(properties):
            raise TypeError(f"{cls.__name__}.exceptions: no such property: {', '.join(sorted(unknown))}")
        for name, prop in properties.items():
            setattr(cls, f"test_{name}", skipped(prop, cls.exceptions[name]) if name in cls.exceptions else prop.test())

    @classmethod
    def properties(cls) -> dict[str, Property]:
        """Name -> property, in the order of the file."""
        found = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        return {name: value for name, value in found.items() if isinstance(value, Property)}

    def failure(self, name: str, max_examples: int = 100) -> str:
        """Try one property without pytest, always on the same examples: what went wrong, or ""."""
        quiet = settings(
            max_examples=max_examples, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
            verbosity=Verbosity.quiet, report_multiple_bugs=False, suppress_health_check=[*HealthCheck],
        )  # fmt: skip
        try:
            quiet(self.properties()[name].test())(self)
        except unittest.SkipTest:
            return ""
        except Exception as error:  # an implementation under test may break in any way
            return f"{type(error).__name__}: {error}"
        return ""

    def failures(self, max_examples: int = 100) -> dict[str, str]:
        """Try all properties but the exceptions: name -> what went wrong, empty where nothing did."""
        tried = {name: self.failure(name, max_examples) for name in self.properties() if name not in self.exceptions}
        return {name: why for name, why in tried.items() if why}


def skipped(prop: Property, reason: str) -> Callable[[Any], None]:
    """A test that says why there is none."""

    @functools.wraps(prop.check, assigned=("__name__", "__doc__"), updated=())
    def test(self: Any) -> None:
        raise unittest.SkipTest(reason)

    del test.__wrapped__  # or pytest takes the arguments of `check` for fixtures
    return test


def same(actual: npt.ArrayLike, expected: npt.ArrayLike, what: str) -> None:
    """Equal shape and equal numbers (-0 is 0, NaN is NaN), or AssertionError."""
    close(actual, expected, 0.0, what)


def close(actual: npt.ArrayLike, expected: npt.ArrayLike, within: npt.ArrayLike, what: str) -> None:
    """|actual - expected| <= within, number by number, or AssertionError that shows the worst one."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if a.shape != e.shape:
        raise AssertionError(f"{what}: shape {a.shape}, expected {e.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf, which `a == e` has settled
        excess = np.where((a == e) | (np.isnan(a) & np.isnan(e)), -np.inf, np.abs(a - e) - within)
    excess = np.where(np.isnan(excess), np.inf, excess)
    if (excess > 0).any():
        at = np.unravel_index(int(excess.argmax()), excess.shape)
        bound = np.broadcast_to(np.asarray(within, np.float64), a.shape)[at]
        place = "".join(f"[{int(i)}]" for i in at)
        found, wanted = float(a[at]), float(e[at])
        off = abs(found - wanted)
        raise AssertionError(f"{what}{place}: {found!r}, expected {wanted!r}, off by {off:.3g} of {bound:.3g}")


def at_most(low: npt.ArrayLike, high: npt.ArrayLike, slack: npt.ArrayLike, what: str) -> None:
    """low <= high + slack, number by number, or AssertionError that shows the worst one."""
    a, b = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    close(np.maximum(a, b), b, slack, what)
