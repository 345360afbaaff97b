"""refembed tokenize and detokenize. The vocabulary of tests/tiny.py: [CLS] 2, [SEP] 3, hello 12, world 13."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refembed.tokenizer import load_tokenizer
from tests.cli.conftest import Cli, program
from tests.tiny import VOCAB
from tests.tokenizer.vocabs import with_keys
from tests.verify.tokens.test_compare import serving, tokenizing


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


# -- --explain and --compare ----------------------------------------------------------------------------------------


def test_explain_prints_a_line_a_stage(tokenize: Cli) -> None:
    r = tokenize("--explain", "Hello [SEP]")
    assert (r.code, r.err) == (0, "")
    assert [line.split("  (")[0].rstrip() for line in r.out.splitlines()] == [
        'text            "Hello [SEP]"',
        'special tokens  "Hello " [SEP]',
        'normalized      "hello" [SEP]',
        'pre-tokens      "hello" [SEP]',
        "pieces          ▁hello [SEP]",
        "added           [CLS] [SEP]",
        "ids             [2, 12, 3, 3]",
    ]
    assert all(line.endswith(")") for line in r.out.splitlines())


def test_explain_minds_the_switches(tokenize: Cli) -> None:
    lines = tokenize("--explain", "--no-special", "--no-parse-special", "a [SEP]", "\x1b[0m").out.splitlines()
    assert lines[0] == "[0] a [SEP]"
    assert lines[2].startswith('special tokens  "a [SEP]"')
    assert not any(line.startswith("added") for line in lines)
    assert any(line.startswith('text            "\\x1b[0m"') for line in lines)


def test_explain_as_json(tokenize: Cli) -> None:
    [line] = tokenize("--explain", "--json", "hello [SEP]").out.splitlines()
    stages = {s["name"]: s["parts"] for s in json.loads(line)["stages"]}
    assert stages["special tokens"] == ["hello ", {"id": 3, "token": "[SEP]"}]
    assert stages["ids"] == [2, 12, 3, 3]


@pytest.fixture
def other(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model, but it keeps capitals."""
    return with_keys(tiny, tmp_path / "cased.gguf", ("normalizer.lowercase", False, "BOOL"))


def test_compare_ends_with_0_where_all_texts_agree(tokenize: Cli, tiny: Path, other: Path) -> None:
    for same in (tiny, other):
        r = tokenize("--compare", str(same), "hello", "world")
        assert (r.code, r.out) == (0, f"2 texts: the same ids from {same}\n")
    assert json.loads(tokenize("--json", "--compare", str(other), stdin=b"hello\n").out) == {
        "texts": 1,
        "difference": None,
    }


def test_compare_ends_with_3_at_the_first_difference_and_its_cause(tokenize: Cli, tiny: Path, other: Path) -> None:
    r = tokenize("--compare", str(other), "hello", "the Hello world", "Hello")
    assert (r.code, r.err) == (3, "")
    assert r.out.splitlines() == [
        "text 2: the Hello world",
        "ids differ from place 2 on, after '[CLS] the'",
        f"  refembed ({tiny})",
        "    2 [CLS]  5 ▁the  >12 ▁hello<  13 ▁world  3 [SEP]",
        f"  {other}",
        "    2 [CLS]  5 ▁the  >1 [UNK]<  13 ▁world  3 [SEP]",
        "cause: normalization: the texts that are tokenized are not the same",
        "  'thehellowor', not 'theHellowor'",
    ]


def test_compare_as_json(tokenize: Cli, other: Path) -> None:
    r = tokenize("--json", "--compare", str(other), "Hello")
    found = json.loads(r.out)
    assert r.code == 3
    assert found["difference"]["at"] == 1
    assert [c["stage"] for c in found["difference"]["causes"]] == ["normalized"]
    assert found["difference"]["ours"] == {"ids": [2, 12, 3], "pieces": ["[CLS]", "▁hello", "[SEP]"]}


def test_compare_with_a_server(tokenize: Cli, tiny: Path, other: Path) -> None:
    with serving(tokenizing(load_tokenizer(tiny))) as url:
        assert tokenize("--compare", url, "Hello").code == 0
    with serving(tokenizing(load_tokenizer(other))) as url:
        assert tokenize("--compare", url, "Hello").code == 3
    gone = tokenize("--compare", url, "Hello")
    assert (gone.code, gone.raw) == (1, b"")
    assert "/tokenize cannot be reached" in gone.err


@pytest.mark.parametrize("what", ["no.gguf", "no.json"])
def test_compare_with_what_is_not_there(tokenize: Cli, what: str) -> None:
    r = tokenize("--compare", what, "Hello")
    assert (r.code, r.raw) == (2, b"")
    assert f"{what}: no such file" in r.err


def test_one_question_at_a_time(tokenize: Cli) -> None:
    r = tokenize("--ids", "--explain", "hello")
    assert (r.code, r.raw) == (1, b"")
    assert "exclude each other" in r.err


# -- detokenize -----------------------------------------------------------------------------------------------------


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
