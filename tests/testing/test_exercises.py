"""`check_exercise`: what it reports of functions that are right, wrong, or break."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest

from refembed import RequestError
from refembed.testing import check_exercise
from refembed.testing.exercises import EXERCISES


def rope_without_a_sign(x: Any, pos: Any, freq_base: float) -> Any:
    half = x.shape[1] // 2
    theta = pos[:, None] * freq_base ** (-np.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    return np.hstack([a * np.cos(theta) + b * np.sin(theta), a * np.sin(theta) + b * np.cos(theta)])


def test_the_report_shows_the_smallest_input_found_and_what_came_out() -> None:
    report = check_exercise("mean_pooling", lambda hidden, offsets: [hidden[i] for i in offsets[:-1]])
    assert not report
    failure = report.failures["mean_is_the_sum_over_the_count"]
    assert failure.law.startswith("mean(x) = (x_1 + ... + x_n) / n")
    shrunk = re.fullmatch(r"text = \[\[0\.0\], \[(-?[1-4]\.0)\]\]", failure.given)
    assert shrunk, failure.given  # two tokens of one channel, one of them 0: fewer would not do
    assert failure.why.startswith(f"mean[0]: 0.0, expected {float(shrunk[1]) / 2}, off by")
    shown = repr(report)
    assert "holds  one token is its own vector" in shown
    assert "FAILS  mean is the sum over the count" in shown
    assert f"given  {failure.given}" in shown


def test_only_the_first_failure_is_shown_in_full() -> None:
    report = check_exercise("rope", rope_without_a_sign)
    assert len(report.failures) > 1
    assert [bool(failure.given) for failure in report.failures.values()] == [True] + [False] * (
        len(report.failures) - 1
    )


def test_the_same_function_gets_the_same_report() -> None:
    assert repr(check_exercise("rope", rope_without_a_sign)) == repr(check_exercise("rope", rope_without_a_sign))


@pytest.mark.parametrize("name", EXERCISES)
def test_a_function_that_raises_fails_everything(name: str) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("my own mistake")

    report = check_exercise(name, broken, max_examples=5)
    assert set(report.failures) == set(report.properties)
    assert "ZeroDivisionError: my own mistake" in repr(report)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_function_that_gives_nothing_fails(name: str) -> None:
    """What a student's cell holds at first: `...`."""
    assert not check_exercise(name, lambda *args: None, max_examples=5)


def test_a_function_that_ends_the_program_fails_and_does_not_end_it() -> None:
    report = check_exercise("mean_pooling", lambda hidden, offsets: sys.exit(3), max_examples=5)
    assert not report
    assert "exit code 3" in str(report)


def test_an_unknown_exercise_is_named() -> None:
    with pytest.raises(RequestError, match=re.escape("there is no exercise 'rop'")):
        check_exercise("rop", rope_without_a_sign)
