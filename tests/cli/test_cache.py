"""refembed cache, and refembed embed with a cache, a prompt, a corpus."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from tests.cli.conftest import ENVIRONMENT, Cli
from tests.cli.test_main import heed_interrupts
from tests.copies import copied

TEXTS = ["hello", "the cat", "", "hello"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default cache is in a folder of the test's own."""
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return tmp_path / "texts.txt"


@pytest.fixture(scope="session")
def e5(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model under a name that has prompts."""
    return copied(tiny, tmp_path_factory.mktemp("e5") / "e5.gguf", {"general.name": ("e5-base-v2", "STRING")})


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv", "npy", "raw"])
def test_a_cache_changes_no_byte_of_the_output(embed: Cli, texts: Path, form: str) -> None:
    plain = embed("--file", texts, "--format", form)
    for _ in range(2):
        cached = embed("--cache", "--file", texts, "--format", form)
        assert (cached.code, cached.raw, cached.err) == (0, plain.raw, "")


def test_the_cache_says_how_many_were_there(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    args = ("embed", "-m", tiny, "--numerics", "exact", "--cache-file", tmp_path / "v.sqlite", "hello")
    assert cli(*args).err.endswith("cache: 0 of 1 texts were there\n")
    assert cli(*args).err.endswith("cache: 1 of 1 texts were there\n")
    assert cli(*args, "--pooling", "cls").err.endswith("cache: 0 of 1 texts were there\n")
    about = json.loads(cli("cache", "info", tmp_path / "v.sqlite", "--check", "--json").out)
    assert about["vectors"] == 2
    assert about["damage"] == []


def test_cache_is_pruned_and_cleared(cli: Cli, embed: Cli, texts: Path) -> None:
    embed("--cache", "--file", texts)
    assert "vectors    3\n" in cli("cache").out
    assert cli("cache", "prune", "--limit", "1M").err == "0 vectors removed\n"
    assert cli("cache", "clear").err == "3 vectors removed\n"
    assert json.loads(cli("cache", "--json").out)["vectors"] == 0


@pytest.mark.parametrize("limit", ["0", "-1", "1X", "x", ""])
def test_a_size_that_is_none_is_one_error(cli: Cli, limit: str) -> None:
    r = cli("cache", "prune", f"--limit={limit}")
    assert (r.code, r.out) == (1, "")
    assert "is no size" in r.err


def test_no_cache_and_no_cache_of_ours_are_one_error(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    r = cli("cache")
    assert r.code == 1
    assert "there is no cache" in r.err
    (tmp_path / "notes").write_text("my notes")
    for args in (
        ("cache", "clear", tmp_path / "notes"),
        ("embed", "-q", "-m", tiny, "--cache-file", tmp_path / "notes", "hi"),
    ):
        r = cli(*args)
        assert (r.code, r.out) == (1, "")
        assert "not a cache of refembed; it is left as it is" in r.err
    assert (tmp_path / "notes").read_text() == "my notes"


# Prompts


def test_a_known_model_without_a_prompt_gets_one_note_and_no_prefix(cli: Cli, e5: Path, e: Embedder) -> None:
    r = cli("embed", "-m", e5, "--numerics", "exact", "--format", "npy", "hello")
    assert r.err.count("note:") == 1
    assert 'trained with prompts: query "query: ", document "passage: " (https://huggingface.co/intfloat/' in r.err
    assert "; none is added (--prompt-name query|document|none)" in r.err
    assert r.raw.endswith(e.embed("hello").tobytes())
    for args in (["-q"], ["--prompt-name", "none"], ["--prefix", ""]):
        quiet = cli("embed", "-m", e5, "--numerics", "exact", "--format", "npy", "hello", *args)
        assert "note:" not in quiet.err
        assert quiet.raw == r.raw


@pytest.mark.parametrize(
    ("args", "prefix"),
    [(["--prompt-name", "query"], "query: "), (["--prompt-name", "passage"], "passage: "), (["--prefix", "a "], "a ")],
)
def test_a_prompt_that_was_asked_for_begins_each_text(
    cli: Cli, e5: Path, e: Embedder, args: list[str], prefix: str
) -> None:
    r = cli("embed", "-m", e5, "--numerics", "exact", "--format", "jsonl", *args, "hello", "the cat")
    assert f'each text begins with "{prefix}"' in r.err
    lines = [json.loads(line) for line in r.out.splitlines()]
    assert [line["text"] for line in lines] == ["hello", "the cat"]
    expected = e.embed([prefix + "hello", prefix + "the cat"])
    assert np.array_equal(np.array([line["embedding"] for line in lines], np.float32), expected)


def test_an_unknown_prompt_is_one_error(cli: Cli, tiny: Path, e5: Path) -> None:
    assert "not known to have prompts" in cli("embed", "-m", tiny, "--prompt-name", "query", "hello").err
    assert "no prompt 'title'" in cli("embed", "-m", e5, "--prompt-name", "title", "hello").err
    assert "not both" in cli("embed", "-m", e5, "--prompt-name", "query", "--prefix", "x", "hello").err


# Corpora


def test_a_corpus_is_what_the_plain_output_is(embed: Cli, texts: Path, tmp_path: Path) -> None:
    for suffix in ("npy", "jsonl"):
        embed("--file", texts, "--output", tmp_path / f"plain.{suffix}")
        r = embed("--file", texts, "--output", tmp_path / f"corpus.{suffix}", "--resume")
        assert (r.code, r.out, r.err) == (0, "", "")
        assert (tmp_path / f"corpus.{suffix}").read_bytes() == (tmp_path / f"plain.{suffix}").read_bytes()


def test_parquet_has_keys_texts_and_vectors(embed: Cli, e: Embedder, texts: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet`")
    (tmp_path / "keys.txt").write_text("a\nb\nc\nd\n")
    r = embed("--file", texts, "--output", tmp_path / "x.parquet", "--keys", tmp_path / "keys.txt")
    assert (r.code, r.err) == (0, "")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["id"].to_pylist() == list("abcd")
    assert table["text"].to_pylist() == TEXTS
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), e.embed(TEXTS))


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_is_one_error(embed: Cli, tmp_path: Path) -> None:
    r = embed("hello", "--output", tmp_path / "x.parquet")
    assert r.code == 1
    assert r.err == "error: .parquet needs pyarrow\n  hint: pip install pyarrow (refembed's extra `parquet`)\n"


@pytest.mark.parametrize(
    "args",
    [
        ["--resume"],
        ["--resume", "--output", "x.csv"],
        ["--no-text", "--output", "-"],
        ["--resume", "--output", "x.npy", "--format", "jsonl"],
        ["--resume", "--output", "x.npy", "--compare"],
        ["--resume", "--output", "x.npy", "--pooling", "none"],
        ["--keys", "no.txt", "--output", "x.jsonl"],
    ],
)
def test_a_corpus_that_cannot_be_is_one_error(
    embed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    r = embed("hello", "the cat", *args)
    assert (r.code, r.out) == (1, "")
    assert r.err.count("error: ") == 1
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "cache"])


def test_a_text_that_is_too_long_keeps_the_rest_for_later(embed: Cli, e: Embedder, texts: Path, tmp_path: Path) -> None:
    texts.write_text("hello\nthe cat\n" + "hello " * 80 + "\n")
    args = ("--file", texts, "--output", tmp_path / "x.npy", "--resume", "--batch-tokens", "1")
    r = embed(*args)
    assert r.code == 1
    assert f"{texts}, line 3: 82 tokens" in r.err
    texts.write_text("hello\nthe cat\na dog\n")
    assert embed(*args).code == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), e.embed(["hello", "the cat", "a dog"]))


def test_ctrl_c_leaves_what_is_done(tiny: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "refembed", "embed", "-q", "-m", str(tiny), "--numerics", "exact"]
    args += ["--output", str(tmp_path / "x.npy"), "--resume", "--batch-tokens", "4"]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_interrupts}
    with subprocess.Popen(args, env=ENVIRONMENT, **options) as child:
        assert child.stdin is not None
        part = tmp_path / "x.npy.part"
        child.stdin.write(b"hello\n" * 9000)
        child.stdin.flush()
        while not (part.exists() and part.stat().st_size > 3000):
            assert child.poll() is None
        os.kill(child.pid, signal.SIGINT)
        child.stdin.close()
        assert child.stderr is not None
        left = f"{part} keeps the texts that are done; the same command with --resume goes on behind them"
        assert child.stderr.read().decode() == f"refembed: interrupted; {left}\n"
        assert child.wait(timeout=60) == 130
    assert part.exists()
    assert not (tmp_path / "x.npy").exists()
