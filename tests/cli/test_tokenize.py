"""refembed tokenize and detokenize. The vocabulary of tests/tiny.py: [CLS] 2, [SEP] 3, hello 12, world 13."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, program
from tests.tiny import VOCAB


@pytest.fixture
def tokenize(cli: Cli, tiny: Path) -> Cli:
    return lambda *args, stdin=b"": cli("tokenize", "-m", tiny, *args, stdin=stdin)


@pytest.fixture
def detokenize(cli: Cli, tiny: Path) -> Cli:
    return lambda *args, stdin=b"": cli("detokenize", "-m", tiny, *args, stdin=stdin)


def test_the_vocabulary_is_as_these_tests_think() -> None:
    assert [VOCAB[i] for i in (2, 3, 12, 13)] == ["[CLS]", "[SEP]", "▁hello", "▁world"]


def test_a_table_of_tokens(tokenize: Cli) -> None:
    r = tokenize("hello world")
    assert (r.code, r.err) == (0, "")
    assert [line.split() for line in r.out.splitlines()] == [
        ["#", "id", "token", "bytes"],
        ["0", "2", "[CLS]", *b"[CLS]".hex(" ").split()],
        ["1", "12", "▁hello", *b" hello".hex(" ").split()],
        ["2", "13", "▁world", *b" world".hex(" ").split()],
        ["3", "3", "[SEP]", *b"[SEP]".hex(" ").split()],
    ]


def test_several_texts_have_heads(tokenize: Cli) -> None:
    lines = tokenize("hello", "\x1b[31m").out.splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[0] hello", "[1] \\x1b[31m"]


def test_ids_alone(tokenize: Cli) -> None:
    assert tokenize("--ids", "hello world").out == "[2, 12, 13, 3]\n"
    assert tokenize("--ids", stdin=b"hello\n\nworld\n").out == "[2, 12, 3]\n[2, 3]\n[2, 13, 3]\n"


def test_without_special_tokens(tokenize: Cli) -> None:
    assert tokenize("--ids", "--no-special", "hello").out == "[12]\n"


def test_names_of_special_tokens_in_the_text(tokenize: Cli) -> None:
    assert tokenize("--ids", "hello [SEP] world").out == "[2, 12, 3, 13, 3]\n"
    assert 3 not in json.loads(tokenize("--ids", "--no-special", "--no-parse-special", "hello [SEP]").out)


def test_json_is_an_object_a_line(tokenize: Cli) -> None:
    lines = [json.loads(line) for line in tokenize("--json", "hello", "world").out.splitlines()]
    assert lines == [
        {"index": 0, "text": "hello", "ids": [2, 12, 3], "pieces": ["[CLS]", "▁hello", "[SEP]"]},
        {"index": 1, "text": "world", "ids": [2, 13, 3], "pieces": ["[CLS]", "▁world", "[SEP]"]},
    ]


def test_json_is_utf_8_whatever_the_terminal_is(tiny: Path) -> None:
    done = program(
        "tokenize", "-m", tiny, "--json", "hello \U0001f600", env={"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    )
    assert json.loads(done.stdout)["pieces"][1] == "▁hello"
    assert json.loads(done.stdout)["text"] == "hello \U0001f600"


def test_a_long_text_is_no_error(tokenize: Cli) -> None:
    assert len(json.loads(tokenize("--ids", "hello " * 99).out)) == 101


@pytest.mark.parametrize("args", [["2", "12", "13", "3"], ["[2, 12, 13, 3]"], ["2,12", "13,3"], ["[2", "12]", "13 3"]])
def test_ids_in_any_spelling_become_a_text(detokenize: Cli, args: list[str]) -> None:
    assert detokenize(*args).out == "[CLS] hello world[SEP]\n"
    assert detokenize("--no-special", *args).out == " hello world\n"


def test_each_line_of_standard_input_is_a_text(detokenize: Cli) -> None:
    assert detokenize(stdin=b"[2, 12, 3]\n[]\n13\n").out == "[CLS] hello[SEP]\n\n world\n"


@pytest.mark.parametrize(
    ("ids", "said"),
    [("hello", "'hello' is not a token id"), ("1.5", "'1.5' is not a token id"), ("999", "ids are 0 to 87")],
)
def test_what_is_no_id_is_an_error(detokenize: Cli, ids: str, said: str) -> None:
    r = detokenize(ids)
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err
    assert len(VOCAB) == 88


def test_a_bad_model_ends_with_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nonsense")
    for verb in ("tokenize", "detokenize"):
        r = cli(verb, "-m", tmp_path / "x.gguf", "1")
        assert (r.code, r.raw) == (2, b"")
