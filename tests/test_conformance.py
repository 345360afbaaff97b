"""The suite under pytest: its data in the fast tier, its cases against live llama.cpp in the oracle tier."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from conformance import FOLDER
from conformance import bounds as bounds_file
from conformance.__main__ import command, main
from conformance.bounds import FACTOR, Bound, Bounds, bound_for, limit_of, load_bounds, round_up, write_bounds
from conformance.cases import Case, Test, choose_texts, load_cases, load_tests, load_texts, read_json, select
from conformance.checks import KINDS, Measure, class_of, gelu_table, worst_cosine
from conformance.measure import measure
from conformance.models import load_models
from conformance.oracle import RECORDED, Live, Recorded, digest, open_oracle
from conformance.report import as_json, show
from conformance.runner import Result, in_order, load_known, run
from conformance.session import ARRANGEMENTS, Session
from refembed import Embedder, Trace
from refembed.errors import EngineError, RequestError
from refembed.kernels.activations import gelu
from refembed.model.trace import Tap

MODAL = re.compile(
    r"\b(should|must|shall|ought|would|will|could|might|check that|checks that|test that|tests that)\b", re.I
)

# -- the data ---------------------------------------------------------------------------------------------------------


def test_texts_and_cases_fit_the_schema() -> None:
    assert len(load_texts()) >= 80
    assert len(load_cases()) >= 20


def test_every_folder_of_cases_has_cases() -> None:
    folders = {c.id.split("/")[0] for c in load_cases()}
    assert folders == {"tokenizer", "forward", "embed", "pooling", "normalize", "batch"}


@pytest.mark.parametrize("case", load_cases(), ids=lambda c: c.id)
def test_a_test_id_runs_that_test_alone(case: Case) -> None:
    for text in case.texts[:3]:
        found = select([f"{case.id}::{text.id}"])
        assert {t.id for t in found} == {f"{case.id}::{text.id}"}
        assert len({t.numerics for t in found}) == len(found)


def test_test_ids_are_unique() -> None:
    tests = [(t.id, t.numerics) for t in load_tests()]
    assert len(set(tests)) == len(tests)


def test_descriptions_are_facts_in_the_present_tense() -> None:
    described = {f"text {t.id}": t.description for t in load_texts().values()} | {
        c.id: c.description for c in load_cases()
    }
    assert not {name: d for name, d in described.items() if MODAL.search(d)}


def test_descriptions_tell_texts_apart() -> None:
    descriptions = [t.description for t in load_texts().values()]
    assert len(set(descriptions)) == len(descriptions)


def test_every_text_has_other_bytes() -> None:
    assert len({t.data for t in load_texts().values()}) == len(load_texts())


def test_texts_reach_the_corners() -> None:
    texts = load_texts()
    assert {2, 63, 64, 65, 511, 512} <= {t.n_tokens for t in texts.values()}
    assert b"\0" in texts["nul"].data
    for name in ("invalid-utf-8", "truncated-utf-8", "overlong-utf-8", "lone-continuations"):
        with pytest.raises(UnicodeDecodeError):
            texts[name].data.decode()


def test_cases_name_models_that_exist_and_every_model_has_cases() -> None:
    assert {c.model for c in load_cases()} == set(load_models())


def test_every_kind_of_check_has_cases() -> None:
    assert {c.kind for c in load_cases()} == set(KINDS)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a missing property": ({"kind": None}, "'kind' is missing"),
    "an unknown property": ({"tolerance": 1}, "'tolerance' is not a known property"),
    "an unknown kind": ({"kind": "vibes"}, "'vibes' is none of"),
    "an id of another form": ({"id": "embed//x"}, "does not match"),
    "a full stop": ({"description": "a sentence."}, "does not match"),
    "no texts": ({"texts": []}, "0 elements"),
    "a number for a text": ({"texts": [7]}, "string expected, found 7"),
    "a text twice": ({"texts": ["a", "a"]}, "occurs twice"),
    "true for a number": ({"options": {"normalize": True}}, "integer expected, found true"),
    "a number that is too small": ({"options": {"normalize": -2}}, "-2 is less than -1"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_the_schema_refuses(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    case: dict[str, Any] = {
        "id": "embed/x/y",
        "description": "a description",
        "kind": "embed",
        "model": "m",
        "texts": ["all"],
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps([case]))
    assert read_json(path, "cases") == [case]
    path.write_text(json.dumps([{k: v for k, v in {**case, **change}.items() if v is not None}]))
    with pytest.raises(RequestError, match=r"does not fit conformance/schema\.json") as e:
        read_json(path, "cases")
    assert message in str(e.value)


def test_the_schema_refuses_a_text_in_two_forms(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps([{"id": "a", "description": "two forms", "text": "a", "hex": "61"}]))
    with pytest.raises(RequestError, match="fits 2 of the alternatives"):
        read_json(path, "texts")


def test_the_loader_refuses_ids_that_occur_twice(tmp_path: Path) -> None:
    entry = {"id": "a", "description": "one text", "text": "a"}
    (tmp_path / "texts.json").write_text(json.dumps([entry, {**entry, "text": "b"}]))
    with pytest.raises(RequestError, match="text ids occur twice: a"):
        load_texts(tmp_path)


def test_the_loader_refuses_a_set_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="'tarce' is neither a text nor a set"):
        choose_texts(["tarce"], load_texts(), "here")


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(RequestError, match="no test has an id like 'embed/minilm-f64'"):
        select(["embed/minilm-f64"])


@pytest.mark.parametrize(
    "pattern", ["embed", "embed/", "embed/minilm-f32", "*/minilm-f32/mean", "*::hello", "embed/minilm-f32/mean::hel*"]
)
def test_patterns_reach_below_folders(pattern: str) -> None:
    assert "embed/minilm-f32/mean::hello" in {t.id for t in select([pattern])}


def test_tests_are_run_model_by_model_and_text_by_text() -> None:
    tests = in_order(select(["forward", "embed"]))
    models = [t.case.model for t in tests]
    assert sum(a != b for a, b in pairwise(models)) == len(set(models)) - 1
    texts = [t.text.id for t in tests if t.case.kind in ("local", "trace") and t.case.model == "minilm-f32"]
    assert sum(a != b for a, b in pairwise(texts)) == len(set(texts)) - 1


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_every_bound_that_is_named_exists_and_every_table_is_used() -> None:
    assert set(load_bounds().tables) == {t.bounds for t in load_tests() if t.bounds}


def test_cases_without_bounds_are_those_of_exact_kinds() -> None:
    assert {c.kind for c in load_cases() if not c.bounds} == {"tokens", "normalize", "batch"}


def rows() -> list[tuple[str, str, Bound]]:
    return [(table, metric, row) for table, found in load_bounds().tables.items() for metric, row in found.items()]


def test_bounds_follow_their_rule() -> None:
    assert not [(t, m, r) for t, m, r in rows() if not math.isclose(r.bound, bound_for(t, m, r.worst), rel_tol=0.06)]
    assert not [(t, m, r) for t, m, r in rows() if not r.least <= r.worst <= r.bound <= FACTOR * 1.1 * r.worst + 1e-300]


def test_bounds_are_within_the_limits() -> None:
    assert not [(t, m) for t, m, r in rows() if r.bound > limit_of(t, m)]
    assert limit_of("local.f32.exact", "Qcur") == 1e-6
    assert limit_of("local.f32.fast", "Qcur") <= 2e-6
    assert limit_of("local.f32.fast", "ffn_gelu") == math.inf
    assert limit_of("embed.f32.flash-off.fast", "one_minus_cos") == 1e-6


def test_bounds_tell_where_they_come_from() -> None:
    about = load_bounds().measured
    assert {"date", "refembed", "numpy", "blas", "cpu", "oracle", "oracle_sha256", "oracle_cpu", "rule"} <= set(about)
    assert re.fullmatch("[0-9a-f]{64}", about["oracle_sha256"])


def test_the_worst_of_each_bound_is_on_a_text_of_its_cases() -> None:
    texts: dict[str, set[str]] = {}
    for t in load_tests():
        texts.setdefault(t.bounds, set()).add(t.text.id)
    assert not [(table, metric) for table, metric, row in rows() if row.at not in texts[table]]


def test_rows_of_tensor_tables_are_tensors_that_refembed_shows(tiny: Path) -> None:
    shown = {class_of(name) for name in Embedder.load(tiny, numerics="exact").trace("the cat sat")}
    for table, found in load_bounds().tables.items():
        if table.startswith(("local.", "trace.")):
            assert set(found) - {"ffn_gelu table"} == shown, table


def test_rounding_up() -> None:
    assert [round_up(x) for x in (1.234e-7, 1.2e-7, 9.91e-3, 0.0, 1.0)] == [1.3e-7, 1.2e-7, 1e-2, 0.0, 1.0]
    assert round_up(math.inf) == math.inf


def test_bounds_survive_writing_and_reading(tmp_path: Path) -> None:
    row = Bound(1.2e-7, 5.68e-8, 0.0, "hello")
    bounds = Bounds(
        {"date": "2026-11-21", "cpu": 'a "quoted" name'}, {"local.f32.fast": {"Qcur": row, "ffn_gelu table": row}}
    )
    write_bounds(bounds, tmp_path / "bounds.toml")
    found = load_bounds(tmp_path / "bounds.toml")
    assert found.tables == bounds.tables
    assert found.measured == {**bounds.measured, "rule": bounds_file.RULE}
    assert [f.name for f in tmp_path.iterdir()] == ["bounds.toml"]


def test_a_row_that_is_missing_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"no row 'Qcur' in \[local.f64.fast\]"):
        load_bounds().find("local.f64.fast", "Qcur")


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


def test_the_list_of_known_failures_is_in_order() -> None:
    load_known()


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


def test_measuring_refuses_what_is_above_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    result = judged(2e-6, monkeypatch)
    case = replace(result.test.case, bounds="local.f32")
    result.test = replace(result.test, case=case)
    result.measures = [Measure("Qcur", 3e-6)]
    limit = limit_of("local.f32.fast", "Qcur")
    outcome = measure([result], Bounds({}, {}), {}, "2026-11-21")
    assert outcome.above == [f"[local.f32.fast] Qcur: 3e-06 on hello, limit {limit:.2g}"]
    assert outcome.bounds.tables["local.f32.fast"]["Qcur"].bound == limit


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_cosine_of_rows_does_not_cancel() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert worst_cosine(a, np.array([[2.0, 0.0], [3.0, 3e-7]])) == pytest.approx(5e-15, rel=1e-6)
    assert worst_cosine(a, a * np.nan) == math.inf
    assert worst_cosine(a, a[:1]) == math.inf


def table_trace(table: Any) -> Trace:
    """A trace whose GELU is looked up in a table of float16, as ggml's is."""
    x = np.linspace(-12, 12, 20001, dtype=np.float32)[None]
    y = np.where(x <= -10, 0, np.where(x >= 10, x, table(x.astype(np.float16).astype(np.float64)).astype(np.float16)))
    nodes: dict[str, Any] = {"nodes": [{"sources": []}, {"sources": [0]}]}
    return Trace([Tap("ffn_up_b-0", x, "ADD"), Tap("ffn_gelu-0", y.astype(np.float32), "GELU")], nodes)


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
    from rich.console import Console

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
    with pytest.raises(SystemExit) as e:
        command()
    return int(e.value.code or 0)


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


# -- live llama.cpp ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """One for all cases: engines, models, traces and vectors are shared."""
    with Live(engines=3, traces=16) as oracle:
        yield Session(oracle)


# texts of more than 200 tokens take half of the time: here one model has them, `python -m conformance run` has them all
LIVE = sorted({(t.case, t.numerics) for t in in_order(load_tests())}, key=lambda p: load_cases().index(p[0]))


@pytest.mark.oracle
@pytest.mark.parametrize(("case", "numerics"), LIVE, ids=lambda p: p.id if isinstance(p, Case) else p)
def test_refembed_is_llama_cpp(case: Case, numerics: str, session: Session) -> None:
    if not case.id.startswith("embed/minilm-f32/"):
        case = replace(case, texts=tuple(t for t in case.texts if "longest" not in t.sets))
    tests = [t for t in load_tests([case]) if t.numerics == numerics]
    results = run(session, tests, load_bounds(), load_known())
    assert not [f"{r.test.id}  {r.explain()}" for r in results if r.failed]
