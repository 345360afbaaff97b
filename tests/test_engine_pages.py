"""The pages "Is my engine right?" show what `refembed verify` prints of engines with and without planted faults."""

from __future__ import annotations

import re

import pytest

from tests.engine_runs import RUNS, on_page, printed

FAST = ("pooling",)  # seconds; the others take up to a minute each
MARKS = {
    name: [pytest.mark.peers] if run.needs else [pytest.mark.oracle, *([] if name in FAST else [pytest.mark.slow])]
    for name, run in RUNS.items()
}
NUMBER = re.compile(r"\b\d[\d.,]*(?:e[+-]?\d+)?")


def said(report: str) -> tuple[str, str]:
    """The verdict with its cause, and what to do: the first paragraph and the last, without their numbers."""
    paragraphs = [" ".join(p.split()) for p in report.split("\n\n")]
    return NUMBER.sub("N", paragraphs[0]), NUMBER.sub("N", paragraphs[-1])


@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in MARKS.items()])
def test_the_page_shows_what_verify_says(name: str) -> None:
    assert said(printed(name)) == said(on_page(name))


@pytest.mark.parametrize("name", RUNS)
def test_the_page_has_the_run_and_its_command(name: str) -> None:
    """Without the engine: the blocks are there, behind the command that prints them."""
    from tests.engine_runs import DOCS

    page = (DOCS / RUNS[name].page).read_text(encoding="utf-8")
    before = page.partition(f"<!-- run: {name} -->")[0]
    assert before.rstrip().endswith("```")
    assert f"refembed verify {RUNS[name].arguments}\n" in before[before.rstrip().removesuffix("```").rfind("```") :]
    assert on_page(name).split(":")[0] in ("IDENTICAL", "WITHIN ROUNDING", "DIFFERS", "UNEXPLAINED")
