"""The table of architectures: its data is whole, its verdicts are right, and llama.cpp agrees with every row."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conformance import architectures as table
from conformance.architectures import Row, Variant, judge, load_data, load_own_bounds, load_variants, run, select
from conformance.architectures_faults import FAULTS, Fault, broken, planted, variant_of
from conformance.architectures_page import PAGE, measured, presence, section, tensors
from conformance.architectures_report import report
from conformance.bounds import Bound, Bounds, bound_for
from refembed import Embedder
from refembed.errors import RequestError
from refembed.gguf import open_gguf
from refembed.kernels.fast.ops import cores
from refembed.model import ARCHITECTURES, Model
from refembed.model.trace import Trace
from refembed.verify.compare.replay import replay
from refembed.verify.engines.llamacpp import LlamaCpp

# -- the data ---------------------------------------------------------------------------------------------------------


def test_every_architecture_has_variants_traps_and_faults() -> None:
    found, faults = load_data(), [arch for arch, _, _ in planted()]
    assert list(found) == list(ARCHITECTURES)
    for arch, about in found.items():
        assert len(about["variants"]) >= 3, arch
        assert about["traps"], arch
        assert faults.count(arch) >= 3, arch


def test_ids_of_variants_are_unique() -> None:
    ids = [v.id for v in load_variants()]
    assert len(set(ids)) == len(ids)


def declared_names(declaration: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Weights and biases, a layer's without its number: there `always`, `optional`, or `somewhere`: in some layers."""
    for f in dataclasses.fields(declaration):
        m, name = f.metadata, prefix + f.metadata.get("name", f.name)
        if m["kind"] == "blocks":
            yield from declared_names(m["block"], f"{name}.")
            continue
        if m["presence"] == "absent":
            continue
        how = "optional" if m["presence"] == "optional" or m["unless"] else "somewhere" if m["layers"] else "always"
        yield f"{name}.{m.get('end', 'weight')}".removesuffix("."), "somewhere" if m.get("needed") else how
        if m["bias"] != "absent":
            yield f"{name}.bias", how if m["bias"] == "required" else "optional"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_optional_tensor_is_in_one_variant_and_not_in_another(arch: str, tmp_path: Path) -> None:
    having: dict[str, int] = {}
    variants = select([arch])
    for v in variants:
        file = open_gguf(v.write(tmp_path / "m.gguf", type_name="F32"))
        names = set(file.tensors) - {"enc.blk.0.attn_rel_b.weight"}  # which T5's other layers may lack
        for name in {re.sub(r"\.\d+\.", ".", name) for name in names}:
            having[name] = having.get(name, 0) + 1
    expected = dict(declared_names(ARCHITECTURES[arch].Weights))
    assert set(having) == set(expected)
    for name, how in expected.items():
        if how != "somewhere":
            assert (having[name] == len(variants)) == (how == "always"), name


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    assert [v.id for v in select(["bert/reranker"])] == ["bert/reranker"]
    gemmas = {"gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "gemma-embedding", "gemma-embedding2"}
    assert {v.arch for v in select(["gemma*"])} == gemmas
    with pytest.raises(RequestError, match="no variant fits 'brt'"):
        select(["brt"])


# -- verdicts ---------------------------------------------------------------------------------------------------------

BOUNDS = Bounds(
    {},
    {
        "architectures.local.fast": {"ADD": Bound(2e-7, 1e-7, 1e-8, "")},
        "architectures.whole.fast": {"bert": Bound(2e-6, 1e-6, 1e-7, "")},
        "architectures.distance.fast": {"bert": Bound(2e-9, 1e-9, 1e-12, "")},
    },
)
FAST: dict[str, Any] = {"local": {"ADD": (1e-7, "x")}, "whole": 1e-6, "distance": 1e-9, "floor": 1e-8}


@pytest.mark.parametrize(
    ("numerics", "facts", "failure"),
    [
        ("fast", {}, ""),
        ("fast", {"local": {"ADD": (3e-7, "x[0] ADD")}}, "x[0] ADD: 3.00e-07 is beyond 2.00e-07 of ADD"),
        ("fast", {"local": {"ADD": (float("nan"), "x")}}, "nan is beyond"),
        ("fast", {"local": {"MUL": (1e-9, "x")}}, "has no row 'MUL'"),
        ("fast", {"whole": 3e-6}, "beyond 2.00e-06 of bert"),
        ("fast", {"distance": 3e-9}, "beyond 2.00e-09 of bert"),
        ("fast", {"distance": 1.5e-9, "floor": 1.2e-9}, "1 - cos 1.50e-09 is beyond the floor, 1.20e-09"),
        ("fast", {"distance": float("nan")}, "1 - cos nan"),
        ("fast", {"unaligned": ["kq-0"]}, "kq-0 has no partner"),
        ("fast", {"batch": 2}, "2 numbers change with the batch"),
        ("fast", {"broke": "llama.cpp cannot load this model"}, "llama.cpp cannot load this model"),
        ("ggml", {}, ""),
        ("ggml", {"local": {"ADD": (1.0, "x")}}, ""),  # bits are what counts
        ("ggml", {"wrong": ["kq-0[0] MUL_MAT"]}, "kq-0[0] MUL_MAT has other bits"),
        ("ggml", {"vectors": 1}, "1 numbers of vectors have other bits"),
        ("ggml", {"batch": 1}, "1 numbers change with the batch"),
    ],
)
def test_a_row_fails_by_what_is_wrong_with_it(numerics: str, facts: dict[str, Any], failure: str) -> None:
    failed = judge(Row("bert", "plain", "bert", numerics, **{**FAST, **facts}), BOUNDS).failed
    assert bool(failed) == bool(failure)
    assert failure in " ".join(failed)


def test_a_bound_is_added_but_never_loosened() -> None:
    row = Row("bert", "plain", "bert", "fast", local={"ADD": (1.0, "x"), "MUL": (1.234e-7, "y")}, **{"whole": 1.0})
    found = table.with_new_rows([row], BOUNDS, {"date": "today"})
    assert found.tables["architectures.local.fast"]["ADD"].bound == 2e-7
    assert found.tables["architectures.whole.fast"]["bert"].bound == 2e-6
    assert found.tables["architectures.local.fast"]["MUL"] == Bound(2.5e-7, 1.234e-7, 1.234e-7, "bert/plain: y")


def test_bounds_follow_the_rule_and_name_their_build() -> None:
    bounds = load_own_bounds()
    assert bounds.measured["oracle_sha256"]
    assert len(bounds.tables) == 6
    for name, rows in bounds.tables.items():
        for metric, row in rows.items():
            worst = float(f"{row.worst:.2e}")
            assert row.bound <= bound_for(name, metric, worst * 1.006), (name, metric)


def test_floats_are_bounded_as_floats() -> None:
    """Products with float32 weights, and all that is no product, to 1e-5 of RoPE's angles; GELU and scores apart."""
    for numerics in ("exact", "fast"):
        rows = load_own_bounds().tables[f"architectures.local.{numerics}"]
        rounds = {name for name, row in rows.items() if row.bound > 1e-5}
        assert {
            name
            for name in rounds
            if not re.search(r"GELU|GEGLU| (F16|Q|IQ|MXFP4)| of a (head|shared expert's gate)$", name)
        } == set()


def test_writing_is_for_the_whole_table(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="leave the patterns out"):
        report(["bert"], None, True, 1, {}, "today", Console(file=StringIO()))


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_tensor_fault_and_trap() -> None:
    """`--write` makes it anew."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = {part.split("\n", 1)[0]: part for part in parts[1:]}
    assert list(sections) == [*ARCHITECTURES, "Measured"]
    for arch, module in ARCHITECTURES.items():
        for line in [*tensors(module.Weights), *(f"- {trap}" for trap in load_data()[arch]["traps"])]:
            assert f"{line}\n" in sections[arch], arch
        mine = [f"- {name}: `{first}`" for a, name, first in planted() if a == arch]
        assert f"Faults planted, {len(mine)}, each" in sections[arch]
        assert [line for line in sections[arch].splitlines() if re.fullmatch(r"- .*: `.*\[\d\]`", line)] == mine


def test_the_page_has_a_row_for_every_variant() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## Measured")[1]
    rows = [tuple(line.split(" | ")[:2]) for line in text.splitlines() if line.startswith("| ")][1:]
    assert [(arch[2:], name) for arch, name in rows] == [(v.arch, v.name) for v in load_variants()]
    assert {line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| ")} == {"`ggml` |", "0 |"}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_section_of_the_page_is_what_the_architecture_says_today(arch: str) -> None:
    assert "\n".join(section(arch)) in PAGE.read_text(encoding="utf-8")


def test_presence_is_said_in_words() -> None:
    facts = {"presence": "required", "unless": "", "layers": "", "first": None}
    assert presence(facts) == "always"
    assert presence(facts | {"presence": "optional", "layers": "moe"}) == "optional, layers with experts"
    assert presence(facts | {"presence": "optional", "first": "required"}) == "optional, required in layer 0"


def test_measured_rows_need_all_three_numerics() -> None:
    rows = [Row("bert", "plain", "bert", numerics) for numerics in ("exact", "fast")]
    assert list(measured(rows)) == []
    (line,) = measured([*rows, Row("bert", "plain", "bert", "ggml")])
    assert line.startswith("| bert | plain | 0 |")


# -- against llama.cpp ------------------------------------------------------------------------------------------------


def failures(variants: list[Variant]) -> dict[str, list[str]]:
    found = run(variants, load_own_bounds(), cores())
    return {f"{r.arch}/{r.variant}, {r.numerics}": r.failed for rows in found for r in rows if r.failed}


def test_no_bound_is_infinite() -> None:
    """One would let anything pass."""
    bounds = load_own_bounds()
    rows = [(section, name, row) for section, rows in bounds.tables.items() for name, row in rows.items()]
    assert len(rows) > 600
    assert [(section, name) for section, name, row in rows if not 0 <= row.bound < math.inf] == []


def test_an_error_is_of_what_is_finite_and_of_masks_that_differ() -> None:
    inf = np.inf
    assert table.peak([1.0, 3.0, -inf], [1.0, 2.0, -inf]) == 0.5
    assert table.peak([-inf, 1.0], [-inf, 1.0]) == 0
    for x, y in (([1.0, -inf], [1.0, 2.0]), ([1.0, 2.0], [1.0, -inf]), ([inf], [-inf]), ([np.nan], [1.0])):
        assert table.peak(x, y) == inf


@pytest.mark.oracle
def test_one_variant_of_every_architecture_is_llama_cpps() -> None:
    first = {v.arch: v for v in reversed(load_variants())}
    assert set(first) == set(ARCHITECTURES)
    assert failures(list(first.values())) == {}


@pytest.mark.oracle
@pytest.mark.slow
def test_every_variant_of_every_architecture_is_llama_cpps() -> None:
    assert failures(list(load_variants())) == {}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Fault -> the file of its variant, and llama.cpp's trace of 33 tokens; each made once."""

    @cache
    def make(id_: str) -> tuple[Path, Trace]:
        (v,) = select([id_])
        path = v.write(tmp_path_factory.mktemp("fault") / "m.gguf")
        with LlamaCpp(path, pooling=v.pooling, flash_attn=False) as engine:
            return path, engine.trace(table.some_ids(33))

    return lambda fault: make(variant_of(fault).id)


@pytest.mark.oracle
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.arch}: {f.name}")
def test_a_fault_is_found_where_it_is(fault: Fault, traced: Any) -> None:
    path, theirs = traced(fault)
    e, v = Embedder.load(path, numerics="ggml", flash_attn=False, repack=False), variant_of(fault)
    e.model = Model(e.model.hparams, e.model.weights, broken(e.model.module, fault))
    ids = theirs.meta["tokens"]
    found = replay(lambda tap: e.trace(ids, pooling=v.pooling, tap=tap), theirs)
    wrong = [f"{d.name}[{d.k}]" for d in found if not d.difference.identical]
    assert wrong[:1] == [fault.first]


@pytest.mark.oracle
def test_a_fault_fails_its_rows() -> None:
    """The whole way: a row of each numerics fails, by its local error, when an epsilon is another."""
    (v,) = select(["qwen3/plain"])
    module = ARCHITECTURES["qwen3"]
    fault = next(f for f in FAULTS if f.arch == "qwen3" and f.name == "no epsilon")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forward", broken(module, fault).forward)
        (rows,) = run([v], load_own_bounds())
    assert [bool(row.failed) for row in rows] == [True, True, True]
    assert any("norm-0[0]" in line for line in rows[2].failed)
