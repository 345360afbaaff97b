"""Files of queries, documents, judgements and pairs: every format, and errors that say how many and which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from refembed.errors import RequestError
from refembed.evaluate import Collection, Pair, read_pairs, read_qrels, read_texts

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        (tmp_path / "file").write_text(text, encoding="utf-8", newline="")
        return tmp_path / "file"

    return write


BEIR = """{"_id": "d1", "title": "Cat", "text": "A small animal.", "metadata": {}}
{"_id": "d2", "title": "", "text": "Rain\\tis near."}

{"_id": 3, "text": " unicode: é "}
"""


def test_json_lines_as_beir_has_them(write: Write) -> None:
    assert read_texts(write(BEIR)) == {"d1": "Cat A small animal.", "d2": "Rain\tis near.", "3": "unicode: é"}


def test_ids_and_texts_with_a_tab_between(write: Write) -> None:
    assert read_texts(write("\ufeffq1\twhat is a cat\r\nq 2\ta\tb\r\n")) == {"q1": "what is a cat", "q 2": "a b"}


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n",  # BEIR
        "q1\td1\t2\nq1\td2\t0.0\nq2\td1\t1",  # the same without names, as some publish it
        "q1 0 d1 2\nq1 Q0 d2 0\nq2\t0\td1\t1\n",  # TREC
        "q1 0 d1 2\r\nq1 0  d2 0\r\n\r\nq2 0 d1 1\r\n",
        "q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\nq2 0 d1 1\n",  # a judgement that stands there twice
    ],
)
def test_judgements_of_both_formats(write: Write, text: str) -> None:
    assert read_qrels(write(text)) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


@pytest.mark.parametrize("names", ["query-id\tcorpus-id\tscore", "qid 0 docid rel", "query_id\tdoc_id\tlabel"])
def test_a_first_line_of_names_is_no_judgement(write: Write, names: str) -> None:
    assert read_qrels(write(f"{names}\nq1\td1\t2\n")) == {"q1": {"d1": 2}}


def test_beirs_ids_may_have_spaces(write: Write) -> None:
    assert read_qrels(write("query-id\tcorpus-id\tscore\nq 1\td 1\t1\n")) == {"q 1": {"d 1": 1}}


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a\tb\t5\nc\td\t0.5\n", [Pair("a", "b", 5), Pair("c", "d", 0.5)]),
        ("score\tid\tsentence2\tsentence1\n5\t1\tb\ta\n0.5\t2\td\tc\n", [Pair("a", "b", 5), Pair("c", "d", 0.5)]),
    ],
)
def test_pairs_with_and_without_names_of_columns(write: Write, text: str, pairs: list[Pair]) -> None:
    assert read_pairs(write(text)) == pairs


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_texts, "", "the corpus is empty"),
        (read_texts, " \n\n", "the corpus is empty"),
        (read_texts, "q1 without a tab\n", "line 1: neither a JSON object nor an id and a text"),
        (read_texts, 'a\tb\n{"_id": "x"}\n', 'line 2: no "_id" and "text"'),
        (read_texts, '{"_id": true, "text": "x"}\n', 'line 1: no "_id" and "text"'),
        (read_texts, '{"_id": "x", "text": 3}\n', 'line 1: no "_id" and "text"'),
        (read_texts, '{"_id": "x",\n', "line 1: no JSON object"),
        (read_texts, "a\tx\nb\tx\na\ty\nb\tz\n", "ids of two texts: 2 (a, b)"),
        (read_qrels, "", "the qrels are empty"),
        (read_qrels, "q1 d1\nq1 d1\n", "line 1: not a judgement: 'q1 d1'"),
        (read_qrels, "q1 0 d1 good\n", "line 1: the only line, and not a judgement: 'q1 0 d1 good'"),
        (read_qrels, "q1 0 d1 good\nq1 0 d2 1\n", "line 1: not a judgement: 'q1 0 d1 good'"),
        (read_qrels, "q1\td1\tgood\nq2\td1\t1\n", "line 1: not a judgement"),
        (read_qrels, "q1\td1\t1e999\nq2\td2\t1\n", "line 1: not a judgement"),
        (read_qrels, "q1\td1\tnan\nq2\td2\t1\n", "line 1: not a judgement"),
        (read_qrels, "q1 0 d1 1\nq1 0 d2 good\n", "line 2: not a judgement: 'q1 0 d2 good'"),
        (read_qrels, "q1 0 d1 1\nq1 0 d2 0.5\n", "line 2: not a judgement"),
        (read_qrels, "q1 0 d1 1\nq1 0 d1 2\n", "documents with two levels for one query: 1 (q1 d1)"),
        (read_pairs, "", "the pairs are empty"),
        (read_pairs, "a\tb\t1\na b 2\nc\td\tx\n", "lines that are no pair with a score: 2 (2, 3)"),
        (read_pairs, "a\tb\tnan\na\tb\t2\n", "lines that are no pair with a score: 1 (1)"),
        (read_pairs, "a\tb\t1\n", "1 pairs, too few"),
    ],
)
def test_what_does_not_fit_is_one_error(write: Write, read: Callable[[Path], object], text: str, said: str) -> None:
    with pytest.raises(RequestError) as error:
        read(write(text))
    assert said in error.value.message
    assert error.value.message.startswith(str(write("")))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        read_texts(tmp_path / "absent")
    (tmp_path / "latin1").write_bytes(b"a\tcaf\xe9\n")
    with pytest.raises(RequestError, match="not UTF-8"):
        read_texts(tmp_path / "latin1")


QUERIES, DOCUMENTS = {f"q{i}": "a" for i in range(8)}, {"a": "1", "b": "2", "é": "3", "10": "4", "9": "5"}


def test_documents_stand_in_the_order_of_ties() -> None:
    c = Collection.of(QUERIES, DOCUMENTS, {q: {"a": 1} for q in QUERIES})
    assert list(c.documents) == ["é", "b", "a", "9", "10"]
    assert (list(c.queries), c.notes) == (list(QUERIES), ())


def test_queries_without_judgements_are_left_out_and_named() -> None:
    c = Collection.of(QUERIES, DOCUMENTS, {"q3": {"a": 1}})
    assert list(c.queries) == ["q3"]
    assert c.notes == ("queries without judgements, left out: 7 of 8 (q0, q1, q2, q4, q5, ...)",)


def test_queries_that_nothing_answers_are_named() -> None:
    c = Collection.of({"q0": "x", "q1": "y"}, DOCUMENTS, {"q0": {"a": 0, "b": -1}, "q1": {"a": 1}})
    assert list(c.queries) == ["q0", "q1"]
    assert c.notes == ("queries without a relevant document, which count as 0, as in trec_eval: 1 of 2 (q0)",)


def test_judgements_of_what_is_not_there_are_an_error_or_left_out() -> None:
    qrels = {"q0": {"a": 1, "x": 1}, "q1": {"y": 1}, "nosuch": {"a": 1}}
    both = r"queries that are not there: 1 of 3 \(nosuch\); .* documents that are not there: 2 of 3 \(x, y\)"
    with pytest.raises(RequestError, match=both):
        Collection.of(QUERIES, DOCUMENTS, qrels)
    del qrels["nosuch"]
    with pytest.raises(RequestError, match=r"documents that are not there: 2 of 3 \(x, y\)"):
        Collection.of(QUERIES, DOCUMENTS, qrels)
    c = Collection.of(QUERIES, DOCUMENTS, qrels, skip_unknown=True)
    assert c.qrels == {"q0": {"a": 1}}
    assert c.notes[0] == "the qrels name documents that are not there: 2 of 3 (x, y); left out"
    with pytest.raises(RequestError, match="no judgement is left"):
        Collection.of(QUERIES, DOCUMENTS, {"q0": {"z": 1}}, skip_unknown=True)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_nothing_is_an_error(part: int) -> None:
    parts: list[dict[str, object]] = [{"q": "x"}, {"d": "x"}, {"q": {"d": 1}}]
    parts[part] = {}
    with pytest.raises(RequestError, match="empty"):
        Collection.of(*parts)  # type: ignore[arg-type]


def test_texts_without_a_word_are_counted() -> None:
    c = Collection.of({"q": " ", "r": "a cat"}, {"a": "", "b": "\n", "c": "cats"}, {"q": {"c": 1}, "r": {"c": 1}})
    assert c.notes == ("queries without text: 1 of 2 (q)", "documents without text: 2 of 3 (a, b)")
