"""Every cell of every lesson runs, in order, as a reader would run them; and what the prose says is what they give.

A cell tagged `wrong` ends with the check of a typical mistake, which must fail; one tagged `solution` with one that
must pass. Jupyter is not needed: `tools/lessons.py` reads the files.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from refembed import Embedder
from refembed.html.figures import Figure
from refembed.testing.exercises import EXERCISES, ExerciseReport
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tools.lessons import COURSE, ROOT, Cell, cells, lessons, prose

pytestmark = pytest.mark.system

LESSONS = [path.stem for path in lessons()]
BY_STEM = {path.stem: path for path in lessons()}
NUMBER = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w])")
FREE = 12  # whole numbers up to here count things in plain sight
NOT_RESULTS = re.compile(  # numbers in the prose that are no results
    r"\b(?:18|19|20)\d\d\b|\b(?:section|equation|chapter|figure|lesson|text)s? [\d.]+"
    r"|\b(?:Llama|Qwen|Gemma|xllamacpp|IEEE) [\d.]+"
    r"|\]\([^)]*\)|`[^`]*`|^#+ .*$|^\d+\. ",
    re.MULTILINE,
)


class Done(NamedTuple):
    """A cell that has run: what it printed, and what its last expression gave."""

    cell: Cell
    printed: str
    value: Any

    @property
    def output(self) -> str:
        """All that a reader sees of it."""
        return f"{self.printed}\n{'' if self.value is None else repr(self.value)}"


@cache
def run(stem: str) -> list[Done]:
    """Run a lesson."""
    space: dict[str, Any] = {"__name__": "lesson"}
    return [run_cell(cell, space, BY_STEM[stem].name) for cell in cells(BY_STEM[stem])]


def run_cell(cell: Cell, space: dict[str, Any], name: str) -> Done:
    """Run one cell; the value of an expression at its end is kept."""
    body = ast.parse("\n" * (cell.line - 1) + cell.code, name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module(body, []), name, "exec"), space)
            value = eval(compile(ast.Expression(last.value), name, "eval"), space) if last else None
    except Exception as error:
        raise AssertionError(f"{name}:{cell.line}: {type(error).__name__}: {error}") from error
    return Done(cell, printed.getvalue(), value)


def numbers(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in NUMBER.findall(text)}


@pytest.fixture(autouse=True)
def fetched(minilm: Path) -> Path:
    """The model is there before a lesson asks for it."""
    return minilm


def test_there_are_eight_lessons_and_the_first_page_links_them_in_order() -> None:
    assert len(LESSONS) == 8
    index = (BY_STEM[LESSONS[0]].parent / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d\d-[\w-]+)\.md\)", index) == LESSONS
    assert re.findall(r"^(\d\d-[\w-]+)$", index, re.MULTILINE) == LESSONS


@pytest.mark.parametrize("stem", LESSONS)
def test_the_wrong_answer_fails_and_the_solution_passes(stem: str) -> None:
    wrong, solution = ([done for done in run(stem) if tag in done.cell.tags] for tag in ("wrong", "solution"))
    assert [isinstance(done.value, ExerciseReport) for done in (*wrong, *solution)] == [True, True]
    assert not wrong[0].value
    assert solution[0].value
    assert wrong[0].value.name == solution[0].value.name == list(EXERCISES)[LESSONS.index(stem)]
    first = next(iter(wrong[0].value.failures.values()))
    assert first.given, "the report shows no input"


@pytest.mark.parametrize("stem", LESSONS)
def test_pictures_say_in_words_what_they_show(stem: str) -> None:
    figures = [done.value for done in run(stem) if "picture" in done.cell.tags]
    assert figures
    assert all(isinstance(figure, Figure) and len(figure.alt.split()) >= 8 for figure in figures)
    for figure in figures:
        assert ET.fromstring(figure.svg()).attrib["role"] == "img"
        assert "var(" not in figure.svg()


@pytest.mark.parametrize("stem", LESSONS)
def test_every_number_of_the_prose_is_in_a_cell(stem: str) -> None:
    """Either a cell prints it, or it is part of a calculation on paper that a cell repeats."""
    known = numbers("\n".join(f"{done.cell.code}\n{done.output}" for done in run(stem)))
    said = numbers(NOT_RESULTS.sub(" ", prose(BY_STEM[stem])))
    assert {n for n in said - known if n > FREE or n != int(n)} == set()


def test_what_lessons_compute_by_themselves_is_what_refembed_computes() -> None:
    """In float64 within a few last bits (2e-15 on an AMD EPYC); the finished vector within its rounding to float32."""
    said = re.compile(r"largest difference to refembed:? ([\d.e+-]+)")
    found = {stem: [float(x) for done in run(stem) for x in said.findall(done.output)] for stem in LESSONS[1:7]}
    assert {stem: len(gaps) for stem, gaps in found.items()} == dict(zip(LESSONS[1:7], (1, 2, 2, 3, 2, 1), strict=True))
    assert max(found.pop(LESSONS[6])) < 8e-9  # half a step of float32 is 7.5e-9 there
    assert max(gap for gaps in found.values() for gap in gaps) < 1e-13


@pytest.mark.parametrize("stem", LESSONS)
def test_files_that_are_named_or_linked_are_there(stem: str) -> None:
    text = prose(BY_STEM[stem])
    named = re.findall(r"`((?:refembed|tests|docs)/[\w./-]+)`", text)
    linked = re.findall(r"\]\(([^)#:]+\.md)\)", text)
    assert linked
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [path for path in linked if not (COURSE / path).exists()] == []


def test_tensors_keys_and_taps_that_are_named_are_those_of_a_model(minilm: Path, tmp_path: Path) -> None:
    """Of MiniLM, or of the small decoder that lesson 6 makes."""
    encoder = Embedder.load(minilm, numerics="exact")
    decoder = Embedder.load(synthetic(tmp_path / "small.gguf", "qwen3", n_layer=1, pooling=3), numerics="exact")
    traces = [encoder.trace("the cat"), decoder.trace("the cat")]
    text = "\n".join(prose(path) for path in lessons())
    taps = set(re.findall(r"`([A-Za-z_]+-0|inp_embd|embd|result_[a-z_]+)`", text))
    assert len(taps) > 15
    assert {tap for tap in taps if not any(tap in trace for trace in traces)} == set()
    tensors = set(re.findall(r"`((?:blk\.0|token|position)[\w.]*\.weight)`", text))
    assert len(tensors) > 12
    assert tensors <= encoder.file.tensors.keys() | decoder.file.tensors.keys()
    keys = set(re.findall(r"`((?:bert|qwen3)\.[\w.]+)`", text))
    optional = {"qwen3.rope.freq_base"}  # files may leave it out: 10000 then
    assert keys - optional <= set(encoder.file.metadata) | set(decoder.file.metadata)


@pytest.mark.parametrize("stem", LESSONS)
def test_a_reader_without_matplotlib_can_run_every_cell(stem: str) -> None:
    code = "\n".join(cell.code for cell in cells(BY_STEM[stem]))
    assert {name.split(".")[0] for name in re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE)} <= {
        "refembed", "numpy", "math", "tempfile", "pathlib"
    }  # fmt: skip


@pytest.mark.oracle
def test_the_numbers_recorded_in_the_last_lesson_are_llama_cpps(minilm: Path) -> None:
    done = next(done for done in run(LESSONS[-1]) if "RECORDED" in done.cell.code)
    recorded = re.search(r'RECORDED = """\n(.*?)\n"""', done.cell.code, re.DOTALL)
    assert recorded
    with LlamaCpp(minilm, flash_attn=True) as engine:
        vector = engine.normalize(engine.embed(["the bank of the river"])[0])
    wanted = [float.fromhex(number) for number in recorded[1].split()]
    assert vector[: len(wanted)].tolist() == wanted
