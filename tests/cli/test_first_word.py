"""refembed/cli/first_word.py: `embed MODEL TEXT...`, as Mullama and Ollama have it, and texts that look like it."""

from __future__ import annotations

from pathlib import Path

import pytest

from refembed.cli.first_word import kind_of
from tests.cli.conftest import Cli

TAKEN = "is taken as the model, as with -m; `--` before it makes it a text"


@pytest.mark.parametrize(
    "word",
    ["llama3.2:1b", "qwen3-embedding:0.6b", "all-minilm:latest", "mixtral:8x7b-instruct", "nomic-embed-text:v1.5",
     "gemma3:4b-it-q4_K_M", "user/model:latest", "nomic-embed-text", "mxbai-embed-large", "bge-m3", "BAAI/bge-m3",
     "llama3.2", "intfloat/e5-base-v2", "nosuch.gguf", "dir/nosuch.GGUF"],
)  # fmt: skip
def test_names_of_models_look_like_models(word: str) -> None:
    assert kind_of(word) in ("perhaps", "model")


@pytest.mark.parametrize(
    "word",
    ["", "hello", "10:30", "Mark 12:3", "note:todo", "http://localhost:8080", "and/or", "TCP/IP", "24/7", "a:b", "1:1",
     "C:\\x", "llama", "the bge-m3 model", "embed", "phi", "my model.gguf is lost", "x" * 5000, "a\0b", "re:v"],
)  # fmt: skip
def test_texts_do_not(word: str) -> None:
    assert kind_of(word) == ""


def test_a_file_in_front_is_the_model(cli: Cli, tiny: Path) -> None:
    wanted = cli("embed", "-m", tiny, "--numerics", "exact", "hello").raw
    r = cli("embed", tiny, "--numerics", "exact", "hello")
    assert (r.code, r.raw) == (0, wanted)
    assert f"note: {tiny} {TAKEN}" in r.err
    assert cli("embed", tiny, "--numerics", "exact", "--file", "-", stdin=b"hello\n").raw == wanted
    assert TAKEN not in cli("embed", "-q", tiny, "--numerics", "exact", "hello").err


@pytest.mark.parametrize("verb", ["tokenize", "trace", "explain"])
def test_of_every_verb_that_takes_texts(cli: Cli, tiny: Path, verb: str) -> None:
    assert cli(verb, tiny, "hello").raw == cli(verb, "-m", tiny, "hello").raw


def test_behind_two_dashes_and_behind_a_model_it_is_a_text(cli: Cli, tiny: Path) -> None:
    form = ("--numerics", "exact", "--format", "csv")
    for args in (["-m", tiny, *form, "llama3.2:1b", "hello"], ["-m", tiny, *form, "--", tiny, "hello"]):
        r = cli("embed", *args)
        assert (r.code, len(r.out.splitlines())) == (0, 3), r.err


def test_a_model_without_a_text_is_questioned(cli: Cli) -> None:
    r = cli("tokenize", "minilm")
    assert r.code == 0
    assert "warning: 'minilm' is taken as a text; if it is the model: refembed tokenize -m minilm TEXT" in r.err


def test_what_only_looks_like_one_says_what_to_write(cli: Cli) -> None:
    assert "`ollama show --modelfile llama3.2:1b`" in cli("embed", "llama3.2:1b", "Hello").err
    assert "-m BAAI/bge-m3 (pip install huggingface_hub)" in cli("embed", "BAAI/bge-m3", "Hello").err
    assert "check the path" in cli("embed", "nosuch.gguf", "Hello").err


def test_hf_is_m(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("refembed.hub.resolve", lambda name, **options: asked.append(str(name)) or tiny)
    for verb in ("embed", "tokenize", "trace", "explain", "info", "doctor"):
        texts = [] if verb in ("info", "doctor") else ["hello"]
        assert cli(verb, "-hf", "org/model:Q8_0", *texts).code == 0
    assert cli("embed", "-hf", "org/model", "-hff", "m.gguf", "hello").code == 0
    assert asked == ["org/model:Q8_0"] * 6 + ["org/model:m.gguf"]
