"""`check_exercise(name, function)`: whether a function does what a lesson of docs/course asks for.

A function is held against a contract of this package: properties, each tried on many small inputs. Where one fails, the
report has the law, the smallest input found, and what came out.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

import numpy as np

from refembed.errors import RequestError
from refembed.testing import operation_properties as operations
from refembed.testing.contract import Contract, Property
from refembed.testing.pooling_properties import PoolingContract

from hypothesis import HealthCheck, Phase, Verbosity, given, settings  # isort: skip


class MeanPoolingContract(PoolingContract):
    """`PoolingContract` of a function that has one mode."""

    modes = ("mean",)
    batch_exact = False  # an exercise may add as it likes
    exceptions: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            "none_keeps_every_token", "cls_is_the_first_token_and_last_the_last", "max_is_reached_and_never_passed",
            "mean_sqrt_len_is_the_sum_over_the_root_of_the_count", "the_first_token_is_the_last_one_backwards",
            "forwards_and_backwards_the_weights_even_out", "a_weight_is_as_good_as_a_repetition",
        ),
        "of other modes",
    ) | {"channels_do_not_mix": "it holds to the bit, and NumPy adds a lone column in another order"}  # fmt: skip

    def mean_pooling(self, hidden: Any, offsets: Any) -> Any:
        """(T, C), (S+1) -> (S, C)."""
        raise NotImplementedError

    def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
        """The one mode there is."""
        return self.mean_pooling(hidden, offsets)


EXERCISES: dict[str, type[Contract]] = {  # name of the function -> what it must do; in the order of the lessons
    "wordpiece": operations.WordPieceContract,
    "embed": operations.EmbeddingContract,
    "attention": operations.AttentionContract,
    "layer_norm": operations.LayerNormContract,
    "swiglu": operations.SwigluContract,
    "rope": operations.RopeContract,
    "mean_pooling": MeanPoolingContract,
    "q8_0": operations.Q8Contract,
}


WIDTH = 84  # of a report, in letters


@dataclass(frozen=True)
class Failure:
    """A property that does not hold: its law, the smallest input found, and what happened there."""

    law: str
    given: str
    why: str


@dataclass(frozen=True)
class ExerciseReport:
    """What `check_exercise` found: `failures` by the name of the property, empty where all hold. True where all do."""

    name: str
    properties: tuple[str, ...]
    failures: dict[str, Failure]

    def __bool__(self) -> bool:
        return not self.failures

    def __repr__(self) -> str:
        held = len(self.properties) - len(self.failures)
        lines = [f"{self.name}: {held} of {len(self.properties)} properties hold"]
        for name in self.properties:
            failure = self.failures.get(name)
            lines.append(f"  {'FAILS' if failure else 'holds'}  {name.replace('_', ' ')}")
            if failure and failure.given:
                for what, said in (("law", failure.law), ("given", failure.given), ("found", failure.why)):
                    lines += folded(said, f"         {what:6} ")
        return "\n".join(lines)


def check_exercise(name: str, function: Callable[..., Any], max_examples: int = 30) -> ExerciseReport:
    """Try a function on every property of an exercise, always on the same examples.

    name      of the exercise: "wordpiece", "embed", "attention", "layer_norm", "swiglu", "rope", "mean_pooling", "q8_0"
    function  called as that exercise says; what it raises counts as a failure
    Raises RequestError for another name.

    >>> def mean_pooling(hidden, offsets):
    ...     return [hidden[i:j].mean(axis=0) for i, j in zip(offsets[:-1], offsets[1:])]
    >>> bool(check_exercise("mean_pooling", mean_pooling, max_examples=5))
    True
    >>> report = check_exercise("mean_pooling", lambda hidden, offsets: hidden[offsets[:-1]], max_examples=5)
    >>> bool(report), "mean_is_the_sum_over_the_count" in report.failures  # the first token is not the mean
    (False, True)
    """
    if name not in EXERCISES:
        raise RequestError(f"there is no exercise {name!r}", hint=f"one of {', '.join(EXERCISES)}")
    contract: Contract = type("Yours", (EXERCISES[name],), {name: staticmethod(without_exits(function))})()
    properties = {key: prop for key, prop in contract.properties().items() if key not in contract.exceptions}
    failures: dict[str, Failure] = {}
    with np.errstate(all="ignore"):
        for key, prop in properties.items():
            if why := contract.failure(key, max_examples):
                shown = any(failure.given for failure in failures.values())
                smallest = None if shown else smallest_failure(contract, prop, max_examples)
                failures[key] = smallest or Failure(law_of(prop), "", why)
    return ExerciseReport(name, tuple(properties), failures)


def without_exits(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose `exit()` is an error like another: it would end the notebook, or the test run."""

    @wraps(function)
    def run(*arguments: Any, **more: Any) -> Any:
        try:
            return function(*arguments, **more)
        except SystemExit as e:
            raise RuntimeError(f"the function ended the program, with exit code {e.code}") from None

    return run


def folded(words: str, head: str) -> list[str]:
    """Lines of words behind a head, indented as far as it is."""
    lines = [part for line in words.splitlines() for part in textwrap.wrap(line, WIDTH - len(head)) or [""]]
    return [(head if i == 0 else " " * len(head)) + line for i, line in enumerate(lines)]


def law_of(prop: Property) -> str:
    """A property in words: its docstring."""
    return " ".join((prop.check.__doc__ or "").split())


def smallest_failure(contract: Contract, prop: Property, max_examples: int) -> Failure | None:
    """The failure on the smallest input that Hypothesis finds; None where it finds none."""
    last: dict[str, Any] = {}

    def remembered(self: Contract, **drawn: Any) -> None:
        try:
            prop.check(self, **drawn)
        except Exception as error:
            last.update(drawn=drawn, error=error)
            raise

    quiet = settings(
        max_examples=max_examples, database=None, derandomize=True, deadline=None,
        phases=[Phase.generate, Phase.shrink], verbosity=Verbosity.quiet, report_multiple_bugs=False,
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip
    with contextlib.suppress(Exception):  # whatever the function raised: it is in `last`
        quiet(given(**prop.strategies)(remembered))(contract)
    if not last:
        return None
    drawn = "\n".join(f"{key} = {quoted(value)}" for key, value in last["drawn"].items())
    error = last["error"]
    why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return Failure(law_of(prop), drawn, why)


def quoted(value: Any) -> str:
    """An input as it would be written."""
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    if isinstance(value, tuple):
        return ", ".join(map(quoted, value))
    return repr(value)
