"""The harness is tested by breaking things: data, runs, and refembed itself; every mutant is caught by some case."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from conformance import FOLDER, environment
from conformance.__main__ import command, main
from conformance.bounds import Bound, Bounds, limit_of, load_bounds
from conformance.cases import Case, Test, load_tests, load_texts, select
from conformance.checks import KINDS, Measure, by_class, class_of, gelu_table, propagated, worst_cosine
from conformance.measure import measure
from conformance.mutants import MUTANTS, Mutant, caught_by, run_mutant
from conformance.oracle import RECORDED, Live, Recorded, digest, open_oracle
from conformance.report import as_json, show
from conformance.runner import Result, load_known, run
from conformance.session import ARRANGEMENTS, Session
from refembed import Trace
from refembed.errors import EngineError, RequestError
from refembed.kernels.exact.activations import gelu
from refembed.model.trace import TracedTensor
from tests import machine

pytestmark = pytest.mark.system

REQUIRED = {"gelu-erf", "eps-1e-5", "variance-unbiased"}  # cosine > 0.99999 passes all three

# -- judging ----------------------------------------------------------------------------------------------------------


def one_test(kind: str = "embed") -> Test:
    case = Case(f"{kind}/m/c", "a case", kind, "m", (load_texts()["hello"],), "table", {})
    return Test(case, case.texts[0], "fast")


class FakeOracle(Live):
    """An oracle that is never asked."""

    reason = ""

    def why_not(self, case: Case) -> str:
        return self.reason


def judged(
    value: float, monkeypatch: pytest.MonkeyPatch, known: dict[tuple[str, str], str] | None = None, **more: Any
) -> Result:
    measured = Measure("max_abs", value, "somewhere", **more)
    monkeypatch.setitem(KINDS, "embed", lambda session, test: iter([measured]))
    bounds = Bounds({}, {"table.fast": {"max_abs": Bound(1e-3, 5e-4, 0, "hello")}})
    return run(Session(FakeOracle()), [one_test()], bounds, known or {})[0]


def test_a_value_at_its_bound_passes_and_one_above_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(1e-3, monkeypatch).status == "ok"
    result = judged(1.1e-3, monkeypatch)
    assert result.status == "differs"
    assert "max_abs 0.0011, bound 0.001 (somewhere)" in result.explain()


def test_nan_and_infinity_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(math.inf, monkeypatch).failed
    assert judged(math.nan, monkeypatch).failed


def test_an_exact_measure_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(1, monkeypatch, exact=True).failed
    assert not judged(0, monkeypatch, exact=True).failed


def test_a_known_failure_is_known_and_one_that_passes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {("embed/m/c::hello", "fast"): "a reason"}
    failing = judged(1.0, monkeypatch, known)
    assert (failing.status, failing.note, failing.failed) == ("known", "a reason", False)
    passing = judged(0.0, monkeypatch, known)
    assert (passing.status, passing.failed) == ("passes unexpectedly", True)


def test_an_error_of_refembed_is_a_failure_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(session: Session, test: Test) -> Iterator[Measure]:
        raise EngineError("it broke")

    monkeypatch.setitem(KINDS, "embed", broken)
    result = run(Session(FakeOracle()), [one_test()], Bounds({}, {}), {})[0]
    assert (result.status, result.note, result.failed) == ("error", "EngineError: it broke", True)


def test_what_the_oracle_cannot_tell_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeOracle, "reason", "not on record")
    result = judged(1.0, monkeypatch)
    assert (result.status, result.note, result.failed) == ("skipped", "not on record", False)


def test_known_failures_are_tests_that_exist_each_with_a_reason() -> None:
    known = load_known()
    assert set(known) <= {(t.id, t.numerics) for t in load_tests()}
    assert all(reason.strip() for reason in known.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("embed/minilm-f32/mean::hello | fast", "not `id | numerics | reason`"),
        ("embed/minilm-f32/mean::hello | fast |", "not `id | numerics | reason`"),
        ("embed/minilm-f32/mean::helo | fast | a reason", "no test 'embed/minilm-f32/mean::helo' in 'fast'"),
        ("embed/minilm-f32/mean::hello | slow | a reason", "in 'slow'"),
    ],
)
def test_a_known_failure_needs_a_test_and_a_reason(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(RequestError, match=re.escape(message)):
        load_known(tmp_path / "x.txt")


def test_measuring_keeps_the_worst_and_tells_what_would_loosen(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [judged(v, monkeypatch) for v in (1e-4, 3e-3)]
    old = Bounds({}, {"table.fast": {"max_abs": Bound(1e-3, 5e-4, 0, "hello")}, "other.fast": {}})
    outcome = measure(results, old, {"cpu": "one"}, "2026-11-21")
    assert outcome.bounds.tables["table.fast"]["max_abs"] == Bound(6e-3, 3e-3, 1e-4, "hello")
    assert outcome.bounds.measured == {"date": "2026-11-21", "cpu": "one"}
    assert "other.fast" in outcome.bounds.tables
    assert outcome.raised == ["[table.fast] max_abs: 0.001 -> 0.006, on hello"]


def test_measuring_one_more_machine_keeps_what_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Bounds({"date": "2026-11-20", "blas": "one"}, {"table.fast": {"max_abs": Bound(1e-3, 5e-4, 1e-5, "empty")}})
    where = {"blas": "another", "cpu": "other"}
    kept = measure([judged(1e-4, monkeypatch)], old, where, "2026-11-21", add=True).bounds
    assert kept.tables["table.fast"]["max_abs"] == Bound(1e-3, 5e-4, 1e-5, "empty")
    assert kept.measured == {"date": "2026-11-20", "blas": "one", "also": ["2026-11-21: another, other"]}
    worse = measure([judged(7e-4, monkeypatch)], old, where, "2026-11-21", add=True).bounds
    assert worse.tables["table.fast"]["max_abs"] == Bound(1.4e-3, 7e-4, 1e-5, "hello")


def test_measuring_refuses_what_is_above_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    result = judged(2e-6, monkeypatch)
    case = replace(result.test.case, bounds="local.f32")
    result.test = replace(result.test, case=case)
    result.measures = [Measure("Qcur", 5e-6)]
    limit = limit_of("local.f32.fast", "Qcur")
    outcome = measure([result], Bounds({}, {}), {}, "2026-11-21")
    assert outcome.above == [f"[local.f32.fast] Qcur: 5e-06 on hello, limit {limit:.2g}"]
    assert outcome.bounds.tables["local.f32.fast"]["Qcur"].bound == limit


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_cosine_of_rows_does_not_cancel() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert worst_cosine(a, np.array([[2.0, 0.0], [3.0, 3e-7]])) == pytest.approx(5e-15, rel=1e-6, abs=0)
    assert worst_cosine(a, a * np.nan) == math.inf
    assert worst_cosine(a, a[:1]) == math.inf


def test_of_a_class_the_worst_tensor_counts_and_nan_is_the_worst() -> None:
    pairs = [("kq-0", 1e-7), ("kq-1", 3e-7), ("kq-2", 2e-7), ("embd", 0.0)]
    found = {m.metric: m for m in by_class(Measure(class_of(name), value, name) for name, value in pairs)}
    assert {name: (m.value, m.where) for name, m in found.items()} == {"kq": (3e-7, "kq-1"), "embd": (0.0, "embd")}
    theirs = np.array([[1.0, -4.0], [2.0, 0.0]], np.float32)
    ours = theirs.astype(np.float64)
    ours[1, 0] += 1e-3
    assert propagated("kq-3", theirs, ours[None]) == Measure("kq", pytest.approx(2.5e-4), "kq-3 at (1, 0)")
    ours[0, 1] = np.nan
    assert propagated("kq-3", theirs, ours) == Measure("kq", math.inf, "kq-3 at (0, 1)")


def table_trace(table: Any) -> Trace:
    """A trace whose GELU is looked up in a table of float16, as ggml's is."""
    x = np.linspace(-12, 12, 20001, dtype=np.float32)[None]
    y = np.where(x <= -10, 0, np.where(x >= 10, x, table(x.astype(np.float16).astype(np.float64)).astype(np.float16)))
    nodes: dict[str, Any] = {"nodes": [{"sources": []}, {"sources": [0]}]}
    return Trace(
        [TracedTensor("ffn_up_b-0", x, "ADD"), TracedTensor("ffn_gelu-0", y.astype(np.float32), "GELU")], nodes
    )


def test_a_float16_table_of_gelu_is_within_half_a_step_and_one_of_erf_is_not() -> None:
    (right,) = gelu_table(gelu, table_trace(gelu))
    assert right.value <= 1
    erf = np.vectorize(math.erf)
    (wrong,) = gelu_table(gelu, table_trace(lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))))
    assert wrong.value > 20


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements_keep_every_text(name: str) -> None:
    texts = list(load_texts().values())
    batches = ARRANGEMENTS[name](texts)
    assert sorted(t.id for b in batches for t in b) == sorted(t.id for t in texts)
    assert all(len(b) > 1 for b in batches[:-1])


# -- the record, the report, the command line -------------------------------------------------------------------------


def test_the_record_is_small_and_tells_where_it_comes_from() -> None:
    path = RECORDED / "minilm-f32.npz"
    assert path.stat().st_size < 300_000
    build = Recorded().build()
    assert build["wheel"]
    assert len(build["files"][0]["sha256"]) == 64
    assert "/" not in build["files"][0]["path"]


def test_the_record_is_of_the_texts_as_they_are_now() -> None:
    recorded = Recorded()
    for text in load_texts().values():
        recorded.row("minilm-f32", text)
    with pytest.raises(RequestError, match="has changed since"):
        recorded.row("minilm-f32", replace(load_texts()["hello"], data=b"hullo"))
    assert len(digest(load_texts()["hello"])) == 16


def test_refembed_agrees_with_the_record() -> None:
    tests = select(["tokenizer/minilm", "embed/minilm-f32/mean"], models=["minilm-f32"], numerics=["fast"])
    short = [t for t in tests if t.case.kind == "tokens" or "longest" not in t.text.sets]
    results = run(Session(Recorded()), short, load_bounds(), {})
    assert not [r.explain() for r in results if r.status != "ok"]
    assert len(results) >= 4 * len(load_texts()) - 4


def test_the_record_skips_what_it_does_not_hold() -> None:
    results = run(
        Session(Recorded()), select(["*::rare-word"], kinds=["trace", "local", "normalize"]), load_bounds(), {}
    )
    assert {r.status for r in results} == {"skipped"}


def test_a_report_shows_every_tensor_and_every_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, test = judged(2e-3, monkeypatch), select(["forward/minilm-f32/local::rare-word"])[0]
    good = Result(test, measures=[Measure("Qcur", 1e-7, "Qcur-3 at (0, 1)")])
    tables = {**load_bounds().tables, "table.fast": {"max_abs": Bound(1e-3, 5e-4, 0, "hello")}}
    data = as_json([bad, good], {"cpu": "one"}, Bounds({}, tables))
    assert json.loads(json.dumps(data)) == data
    show(data, Console(width=160))
    shown = capsys.readouterr().out
    assert "Qcur" in shown
    assert "1.00e-07" in shown
    assert "embed/m/c::hello" in shown
    assert "max_abs 2.00e-03, bound 0.001 (somewhere)" in shown
    assert "2 tests: 1 differs, 1 ok" in shown


def test_list_prints_ids() -> None:
    result = CliRunner().invoke(main, ["list", "embed/minilm-f32/mean"])
    assert result.exit_code == 0
    assert "embed/minilm-f32/mean::rare-word  a rare word falls into pieces" in result.output
    assert len(result.output.splitlines()) == len(load_texts())


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["conformance", *arguments])
    try:
        command()
    except SystemExit as e:
        return int(e.code or 0)
    return 0


RECORDED_TEST = ("run", "tokenizer/minilm/parsed::hello", "--oracle", "recorded")


def test_a_run_that_agrees_ends_with_0_and_prints_where_it_ran_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code(monkeypatch, *RECORDED_TEST, "--json", str(tmp_path / "run.json")) == 0
    shown = capsys.readouterr().out
    for name in ("refembed", "numpy", "blas", "cpu", "oracle", "oracle_sha256"):
        assert 0 < shown.index(f"{name} ") + 1 < shown.index("tokenizer/minilm/parsed")
    assert "1 tests: 1 ok" in shown
    assert exit_code(monkeypatch, "report", str(tmp_path / "run.json")) == 0
    assert "1 tests: 1 ok" in capsys.readouterr().out


def test_a_run_that_differs_ends_with_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(KINDS, "tokens", lambda session, test: [Measure("different ids", 2, "id 1", exact=True)])
    assert exit_code(monkeypatch, *RECORDED_TEST) == 3
    assert "different ids 2.00e+00, bound 0 (id 1)" in capsys.readouterr().out


def test_fail_fast_stops_at_the_first_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KINDS, "tokens", lambda session, test: [Measure("different ids", 2, "id 1", exact=True)])
    assert exit_code(monkeypatch, "run", "tokenizer", "--oracle", "recorded", "--fail-fast") == 3
    assert "1 tests: 1 differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "no/such/case"),
        ("run", "--model", "no-such-model"),
        ("run", "--kind", "vibes"),
        ("report", "no-such-file"),
    ],
)
def test_wrong_usage_ends_with_1(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, *arguments) == 1
    assert "no" in capsys.readouterr().err.lower()


def test_a_report_of_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text("[]")
    assert exit_code(monkeypatch, "report", str(tmp_path / "x.json")) == 1
    assert "not written by" in capsys.readouterr().err


def test_without_the_wheel_the_record_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conformance.oracle.find_spec", lambda name: None)
    assert open_oracle("auto").name == "recorded"


def test_without_a_record_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nothing is recorded there"):
        Recorded(tmp_path)


def test_every_file_of_the_folder_is_short() -> None:
    assert not [p.name for p in FOLDER.rglob("*.py") if len(p.read_text().splitlines()) > 500]


# -- mutants -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """llama.cpp with room for all traces of the selection."""
    with Live(engines=4, traces=4) as oracle:
        yield oracle


@pytest.fixture(scope="module")
def bounds() -> Bounds:
    """bounds.toml."""
    return load_bounds()


@pytest.mark.oracle
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_refembed_as_it_is_passes_the_selection(numerics: str, live: Live, bounds: Bounds) -> None:
    results = run_mutant(None, numerics, live, bounds)
    assert not [r.explain() for r in results if r.failed]
    assert {r.test.case.kind for r in results} == {"tokens", "local", "trace", "embed", "batch"}


BROKEN = [(m, "fast") for m in MUTANTS] + [(m, "exact") for m in MUTANTS if m.id in REQUIRED]


@pytest.mark.oracle
@pytest.mark.parametrize(("mutant", "numerics"), BROKEN, ids=lambda p: p.id if isinstance(p, Mutant) else p)
def test_some_case_catches_every_mutant(mutant: Mutant, numerics: str, live: Live, bounds: Bounds) -> None:
    caught = caught_by(run_mutant(mutant, numerics, live, bounds))
    print(f"\n{mutant.id:22} {numerics:5}  {caught}")
    assert caught, f"no case catches {mutant.id}: {mutant.description}"
    assert mutant.shown_by in caught


def test_the_three_faults_that_a_cosine_cannot_see_are_among_them() -> None:
    assert {m.id for m in MUTANTS} >= REQUIRED


def test_ids_of_mutants_are_unique() -> None:
    assert len({m.id for m in MUTANTS}) == len(MUTANTS)


def test_a_run_names_the_processor_and_where_bounds_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    there = load_bounds().measured
    monkeypatch.setattr(environment, "cpu_name", lambda: "Test CPU")
    lines = "\n".join(machine.header())
    assert f"processor: Test CPU, {machine.cores()} cores; {' '.join(environment.vector_sets())}" in lines
    assert environment.blas() in lines
    assert version("xllamacpp") in lines
    assert f"bounds (bounds.toml, architectures-bounds.toml): measured on {there['cpu']}" in lines
    assert "this is Test CPU" in lines
    assert there["cpu"] in machine.warning()


def test_bounds_of_this_very_processor_need_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    there = load_bounds().measured
    monkeypatch.setattr(environment, "cpu_name", lambda: there["cpu"].split(";")[0])
    monkeypatch.setattr(environment, "blas", lambda: there["blas"])
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert environment.measured_elsewhere(there) == ""
    assert machine.warning() == ""
    assert "measured on a processor like this one" in "\n".join(machine.header())


def test_a_failed_run_says_that_bounds_are_another_processors(capsys: Any) -> None:
    failed = {"status": "differs", "numerics": "fast", "id": "a::b", "kind": "embed", "model": "m", "note": "x"}
    data = {"results": [failed | {"measures": []}], "bounds": {"cpu": "Other CPU; Linux x86_64", "blas": "b"}}
    show(data, Console(width=300))
    assert "bounds were measured on Other CPU; Linux x86_64, b; this is " in capsys.readouterr().out
