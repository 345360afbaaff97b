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

import pytest

from conformance import bounds as bounds_file
from conformance.bounds import FACTOR, Bound, Bounds, bound_for, limit_of, load_bounds, round_up, write_bounds
from conformance.cases import Case, choose_texts, load_cases, load_tests, load_texts, read_json, select
from conformance.checks import KINDS, class_of
from conformance.models import load_models
from conformance.oracle import Live
from conformance.runner import in_order, load_known, run
from conformance.session import Session
from refembed import Embedder
from refembed.errors import RequestError

pytestmark = pytest.mark.system

MODAL = re.compile(
    r"\b(should|must|shall|ought|would|will|could|might|check that|checks that|test that|tests that)\b", re.I
)

# -- the data ---------------------------------------------------------------------------------------------------------


def test_texts_and_cases_fit_the_schema() -> None:
    assert len(load_texts()) >= 80
    assert len(load_cases()) >= 20


def test_every_folder_of_cases_has_cases() -> None:
    folders = {c.id.split("/")[0] for c in load_cases()}
    assert folders == {"tokenizer", "forward", "embed", "pooling", "normalize", "batch", "ggml"}


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
    assert {c.kind for c in load_cases() if not c.bounds} == {"tokens", "normalize", "batch", "bits", "operations"}


def rows() -> list[tuple[str, str, Bound]]:
    return [(table, metric, row) for table, found in load_bounds().tables.items() for metric, row in found.items()]


def test_bounds_follow_their_rule() -> None:
    assert not [(t, m, r) for t, m, r in rows() if not math.isclose(r.bound, bound_for(t, m, r.worst), rel_tol=1e-9)]
    assert not [(t, m, r) for t, m, r in rows() if not r.least <= r.worst <= r.bound <= FACTOR * 1.1 * r.worst + 1e-300]


def test_bounds_are_within_the_limits() -> None:
    assert not [(t, m) for t, m, r in rows() if r.bound > limit_of(t, m)]
    assert limit_of("local.f32.exact", "Qcur") == 1e-6
    assert limit_of("local.f32.fast", "Qcur") <= 4e-6
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


# -- live llama.cpp ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """One for all cases: engines, models, traces and vectors are shared."""
    with Live(engines=3, traces=16) as oracle:
        yield Session(oracle)


# texts of more than 200 tokens take half of the time: here one model has them, `python -m conformance run` has them all
PLACES = {case.id: place for place, case in enumerate(load_cases())}
LIVE = sorted({(t.case, t.numerics) for t in in_order(load_tests())}, key=lambda p: (PLACES[p[0].id], p[1]))


@pytest.mark.oracle
@pytest.mark.parametrize(("case", "numerics"), LIVE, ids=lambda p: p.id if isinstance(p, Case) else p)
def test_refembed_is_llama_cpp(case: Case, numerics: str, session: Session) -> None:
    if not case.id.startswith("embed/minilm-f32/"):
        case = replace(case, texts=tuple(t for t in case.texts if "longest" not in t.sets))
    tests = [t for t in load_tests([case]) if t.numerics == numerics]
    results = run(session, tests, load_bounds(), load_known())
    assert not [f"{r.test.id}  {r.explain()}" for r in results if r.failed]
