"""refembed evaluate: the table, JSON, the page, and what it refuses."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from refembed.evaluate import Collection, Grid, evaluate_retrieval, read_qrels, read_texts
from tests.cli.conftest import Cli

FILES = {
    "q.jsonl": '{"_id": "q1", "text": "the cat"}\n{"_id": "q2", "text": "hello"}\n{"_id": "q3", "text": "a dog"}\n',
    "c.jsonl": '{"_id": "d1", "title": "cat", "text": "the cat sat"}\n{"_id": "d2", "text": "hello world"}\n'
    '{"_id": "d3", "text": "a dog on a mat"}\n{"_id": "d4", "text": "embed"}\n',
    "qrels.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td3\t1\nq2\td2\t1\n",
    "pairs.tsv": "the cat\ta cat\t5\nhello\tthe mat\t1\na dog\tthe cat sat\t3\na\tworld\t0\n",
}


@pytest.fixture
def evaluate(cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    (tmp_path / "m.gguf").symlink_to(tiny)
    three = ("--queries", "q.jsonl", "--corpus", "c.jsonl", "--qrels", "qrels.tsv")

    def call(*args: str | Path, retrieval: bool = True, stdin: bytes = b"") -> object:
        return cli("evaluate", "-m", "m.gguf", *(three if retrieval else ()), *args, stdin=stdin)

    return call  # type: ignore[return-value]


def test_the_table_has_a_line_for_each_combination(evaluate: Cli) -> None:
    r = evaluate("--vectors", "float32", "--vectors", "ubinary", "--weights", "F32", "--weights", "Q8_0")
    assert r.code == 0
    head, *rows = r.out.splitlines()
    assert re.split(r"\s{2,}", head.strip())[:6] == ["model", "weights", "vectors", "nDCG@10", "95%", "Δ 95%"]
    assert [row.split()[:3] for row in rows] == [
        ["m.gguf", weights, vectors] for weights in ("F32", "Q8_0") for vectors in ("float32", "ubinary")
    ]
    assert "note: queries without judgements, left out: 1 of 3 (q3)" in r.err
    assert "2 queries, 4 documents" in r.err


def test_json_is_the_report(evaluate: Cli) -> None:
    r = evaluate("--json", "--measure", "map", "--measure", "ndcg@3", "--seed", "4", "--resamples", "50")
    found = json.loads(r.out)
    c = Collection.of(read_texts("q.jsonl"), read_texts("c.jsonl"), read_qrels("qrels.tsv"))
    same = evaluate_retrieval(c, Grid(("m.gguf",)), ["map", "ndcg@3"], seed=4, resamples=50).as_object()
    for report in (found, same):
        for line in report["lines"]:  # type: ignore[attr-defined]
            for name in ("seconds", "tokens_per_second"):
                assert line.pop(name) > 0
    assert found == json.loads(json.dumps(same))
    assert found["measures"] == ["MAP", "nDCG@3"]


def test_pairs_have_correlations(evaluate: Cli) -> None:
    r = evaluate("--sts", "pairs.tsv", "--json", "-q", retrieval=False)
    assert (r.code, r.err) == (0, "")
    assert json.loads(r.out)["measures"] == ["Spearman", "Pearson"]


class Page(HTMLParser):
    """Elements in order, and whether all that open are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "wbr") and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_has_a_drawing_with_words_and_every_number(evaluate: Cli, tmp_path: Path) -> None:
    """Lines of two weight types: drawn over bytes, over the file's size and over speed."""
    r = evaluate(
        "--vectors", "float32", "--vectors", "int8", "--weights", "F32", "--weights", "Q8_0", "--html", "p.html"
    )
    assert r.code == 0
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    drawings = [a for tag, a in page.found if tag == "svg" and a.get("role") == "img"]
    assert len(drawings) == 3
    counts = [re.match(r"nDCG@10 of (\d) lines over", a["aria-label"] or "") for a in drawings]
    assert [match and match[1] for match in counts] == ["4", "2", "2"]  # one code for two sizes and speeds
    for cell in [c for row in r.out.splitlines()[1:] for c in re.split(r"\s{2,}", row)]:
        assert f">{cell}</td>" in text
    assert "src=" not in text
    assert "http:" not in text
    assert "https:" not in text


def test_the_page_of_one_line_has_its_numbers_and_no_drawing(evaluate: Cli, tmp_path: Path) -> None:
    r = evaluate("--measure", "map", "--html", "p.html")
    assert r.code == 0
    page = Page()
    page.feed((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert [tag for tag, _ in page.found if tag == "svg"] == []
    assert [tag for tag, _ in page.found if tag == "tr"] == ["tr", "tr"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--queries", "q.jsonl"], "Give --queries, --corpus and --qrels, or --sts"),
        (["--sts", "pairs.tsv", "--measure", "map"], "--sts takes the place of queries"),
        (["--sts", "pairs.tsv", "--qrels", "qrels.tsv"], "--sts takes the place of queries"),
        (["--sts", "nosuch.tsv"], "nosuch.tsv: No such file"),
        (["--sts", "q.jsonl"], "lines that are no pair with a score: 3 (1, 2, 3)"),
        (
            ["--queries", "q.jsonl", "--corpus", "c.jsonl", "--qrels", "pairs.tsv"],
            "the qrels name queries that are not",
        ),
        (["--sts", "pairs.tsv", "--vectors", "nosuch"], "'nosuch' is not a scheme"),
        (["--sts", "pairs.tsv", "--html", "pairs.tsv"], "would write over it"),
    ],
)
def test_mistakes_are_one_clear_sentence(evaluate: Cli, args: list[str], said: str) -> None:
    r = evaluate(*args, retrieval=False)
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err
    assert "Traceback" not in r.err


def test_an_unknown_measure_is_an_error_before_a_model_is_loaded(evaluate: Cli) -> None:
    r = evaluate("--measure", "f1", "-m", "nosuch.gguf")
    assert r.code == 1
    assert "'f1' is not a measure" in r.err
