"""Runs tests and judges them: each number against its bound, each failure against the list of known ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance import FOLDER
from conformance.bounds import Bounds
from conformance.cases import Test, load_tests
from conformance.checks import KINDS, Measure
from conformance.models import why_not
from conformance.session import Session
from refembed.errors import RefembedError, RequestError

XFAILS = FOLDER / "xfails" / "refembed.txt"
FAILURES = ("differs", "error", "passes unexpectedly")


@dataclass
class Result:
    """What came of one test."""

    test: Test
    status: str = "ok"  # ok, differs, error, skipped, known, passes unexpectedly
    measures: list[Measure] = field(default_factory=list)
    over: list[tuple[Measure, float]] = field(default_factory=list)  # what is above its bound, and that bound
    note: str = ""  # why it was skipped, what the error was, the reason in the list of known failures
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it makes the run fail."""
        return self.status in FAILURES

    def explain(self) -> str:
        numbers = "; ".join(
            f"{m.metric} {m.value:.3g}, bound {bound:.3g}" + (f" ({m.where})" if m.where else "")
            for m, bound in self.over
        )
        return f"{self.status}: " + " ".join(filter(None, [numbers, self.note]))


def judge(result: Result, bounds: Bounds) -> None:
    """Compare the measures with their bounds. RequestError where a bound is missing."""
    for m in result.measures:
        bound = 0.0 if m.exact else bounds.find(result.test.bounds, m.metric).bound
        if not m.value <= bound:
            result.over.append((m, bound))
    if result.over:
        result.status = "differs"


def run_test(session: Session, test: Test, bounds: Bounds | None) -> Result:
    """Run one test; without bounds it is only measured. What goes wrong becomes part of the result."""
    result, start = Result(test), time.perf_counter()
    reason = session.oracle.why_not(test.case) or why_not(test.case.model)
    if reason:
        result.status, result.note = "skipped", reason
        return result
    try:
        result.measures = list(KINDS[test.case.kind](session, test))
        if bounds is not None:
            judge(result, bounds)
    except RefembedError as e:
        result.status, result.note = "error", f"{type(e).__name__}: {e}"
    result.seconds = time.perf_counter() - start
    return result


def in_order(tests: Sequence[Test]) -> list[Test]:
    """Tests so that models and engines are opened once, and the tests that share a trace follow each other."""
    cases = {t.case.id: i for i, t in enumerate(tests)}
    models = list(dict.fromkeys(t.case.model for t in tests))

    def place(item: tuple[int, Test]) -> tuple[int, bool, bool, str, int]:
        i, t = item
        traced = t.case.kind in ("trace", "local", "operations")
        neighbors = t.text.id if traced else f"{cases[t.case.id]:06}"
        return models.index(t.case.model), traced, t.case.options.get("flash_attn", False), neighbors, i

    return [t for _, t in sorted(enumerate(tests), key=place)]


def run(
    session: Session,
    tests: Sequence[Test],
    bounds: Bounds | None,
    known: dict[tuple[str, str], str],
    each: Callable[[Result], object] = lambda result: None,
    fail_fast: bool = False,
) -> list[Result]:
    """Run tests in a handy order; results come back in the order of `tests`.

    known  (id, numerics) -> reason: failures that are expected
    each   called with every result as it comes
    """
    results: dict[Test, Result] = {}
    for test in in_order(tests):
        result = run_test(session, test, bounds)
        if (test.id, test.numerics) in known and result.status != "skipped":
            result.note = known[test.id, test.numerics]
            result.status = "known" if result.failed else "passes unexpectedly"
        results[test] = result
        each(result)
        if fail_fast and result.failed:
            break
    return [results[t] for t in tests if t in results]


def load_known(path: Path = XFAILS) -> dict[tuple[str, str], str]:
    """The list of known failures. RequestError for a line without a reason, or that fits no test."""
    tests = {(t.id, t.numerics) for t in load_tests()}
    known = {}
    for number, parts in lines(path):
        if len(parts) != 3 or not parts[2]:
            raise RequestError(f"{path}:{number}: not `id | numerics | reason`")
        key = (parts[0], parts[1])
        if key not in tests:
            raise RequestError(
                f"{path}:{number}: no test {parts[0]!r} in {parts[1]!r}", hint="remove or correct the line"
            )
        known[key] = parts[2]
    return known


def lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is no comment."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [part.strip() for part in line.split("|")]
