"""The report: the word first, one paragraph, then tables whose columns line up."""

from __future__ import annotations

import numpy as np
import pytest

from refembed import Embedder
from refembed.verify.report.html import report_page
from refembed.verify.report.html_data import report_data
from refembed.verify.report.text import (
    aligned,
    first_apart,
    fitted,
    legend,
    paragraph,
    preview,
    tables,
    text_report,
)
from refembed.verify.run import verify
from tests.verify.engine import Shown, Stub

TEXTS = ["hello world", "Hello, world!", "the cat sat on the mat"]


@pytest.fixture(scope="module")
def e(tiny):
    return Embedder.load(tiny, numerics="fast")


def test_the_verdict_comes_first_in_one_paragraph(e):
    report = text_report(verify(e, Stub(lambda t: e.embed(t)[::-1]), TEXTS))
    first = report.split("\n\n")[0]
    assert first.startswith("DIFFERS: stub on ")
    assert "The engine gives the vectors in reverse order." in " ".join(first.split())
    assert all(len(line) <= 100 for line in first.splitlines())


def test_tokens_that_differ_are_shown(e):
    v = verify(e, Stub(lambda t: e.embed([e.tokenize(x)[:-1] for x in t]), lambda t: e.tokenize(t)[:-1]), TEXTS)
    titles = [title for title, _, _ in tables(v)]
    assert titles[0] == "tokens that differ"
    assert v.causes[0].id == "no-eos"


def test_texts_furthest_beyond_their_bound_come_first(e):
    def answer(texts):
        vectors = e.embed(texts)
        vectors[2:, :5] *= -1
        return vectors

    v = verify(e, Stub(answer), TEXTS)
    rows = next(rows for title, _, rows in tables(v) if title == "texts")
    assert rows[0][0] == preview(TEXTS[2])
    assert [row[-1] for row in rows] == ["beyond", "", ""]


def test_a_traced_engine_has_its_tensors_shown(e):
    v = verify(e, Shown(e), TEXTS)
    assert any(title.startswith("tensors of") for title, _, _ in tables(v))
    assert "IDENTICAL" in paragraph(v)


def test_the_worst_tokens_of_the_first_wrong_tensor_are_named(e):
    """One token's row of FFN is off: it holds all of the difference."""

    class Off:
        def __getattr__(self, name):
            return getattr(e.ops, name)

        def gelu(self, x):
            y = np.array(e.ops.gelu(x))
            y[3] *= 2
            return y

    v = verify(e, Shown(Embedder(e.info, e.tokenizer, e.model, Off())), TEXTS)
    assert v.first_wrong_tensor == "ffn_gelu-0"
    assert "worst tokens of ffn_gelu-0: 3 (100 %)" in text_report(v)


def test_the_verdict_is_one_sentence_and_the_evidence_follows_it(e):
    for engine, words in (
        (Stub(e.embed), "All 3 texts agree: the furthest is "),
        (Stub(lambda t: -e.embed(t)), "3 of 3 texts differ: the worst is "),
    ):
        first, second, *_ = text_report(verify(e, engine, TEXTS)).split("\n\n")
        assert " ".join(first.split()).count(". ") == 1
        assert second.startswith(words)


def test_of_many_texts_that_agree_a_few_are_listed(e):
    many = [f"the cat {i}" for i in range(12)]
    v = verify(e, Stub(e.embed), many)
    rows = next(rows for title, _, rows in tables(v) if title == "texts")
    assert len(rows) == 5
    assert "5 of 12 are shown, the others agree" in legend(v, "texts")
    wrong = verify(e, Stub(lambda t: -e.embed(t)), many)
    assert "are shown" not in legend(wrong, "texts")


def test_a_narrow_terminal_does_without_the_columns_that_matter_least(e):
    v = verify(e, Stub(lambda t: e.embed(t)[::-1]), TEXTS)
    heads, rows = next((heads, rows) for title, heads, rows in tables(v) if title == "texts")
    assert fitted(heads, rows, 200) == (heads, rows)
    narrow, cells = fitted(heads, rows, 72)
    assert narrow[:4] == ["text", ">tokens", ">1-cos", ">bound"]
    assert narrow[-1] == "verdict"
    assert len(narrow) < len(heads)
    assert all(len(line) <= 74 for line in aligned(narrow, cells))  # which are set in by two
    assert [(row[0], row[-1]) for row in cells] == [(row[0], row[-1]) for row in rows]
    assert fitted(heads, rows, 20)[0] == ["text", ">tokens", ">1-cos", ">bound", "verdict"]


def test_ids_that_part_are_located():
    assert first_apart([1, 2, 3], [1, 5, 3]) == "token 1: ours 2 3, theirs 5 3 (3 and 3 in all)"
    assert first_apart([1, 2], [1]) == "token 1: ours 2, theirs (end) (2 and 1 in all)"


def test_columns_line_up():
    assert aligned(["a", ">number"], [["x", "1"], ["long", "23"]]) == [
        "  a     number",
        "  x          1",
        "  long      23",
    ]


def test_a_text_is_shown_on_one_line_without_control_characters():
    assert preview("a\x1b[2J\nb") == "'a [2J b'"
    assert len(preview("x" * 500)) <= 36


def test_the_html_report_takes_every_verdict(e):
    for engine in (Shown(e), Stub(lambda t: -e.embed(t))):
        v = verify(e, engine, TEXTS)
        page = report_page(report_data(v, engine, e))
        assert v.kind in page
        assert page.count(v.cause[1:]) == 1 or not v.cause  # the verdict is said once
        assert '<th scope="col"></th>' not in page


def test_the_page_has_the_arithmetic_that_was_compared(e, tiny):
    """An engine that is ggml to the last bit has each token's very share, and its attention is shown with it."""
    for flash_attn, numerics in ((False, "ggml, plain"), (True, "ggml")):
        other = Embedder.load(tiny, numerics="ggml", flash_attn=flash_attn)
        v = verify(e, Shown(other), TEXTS)
        data = report_data(v, Shown(other), e)
        assert v.kind == "identical"
        assert data.environment["arithmetic of our tensors here"] == numerics
        assert list(data.contributions) == list(data.their_contributions)
        assert len(data.contributions) == len(data.traced)
        assert data.attention
