"""refembed chunk: pieces as JSON Lines, of a file and of standard input, late chunking, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.chunk import chunk
from tests.cli.conftest import Cli

TEXT = "Hello world. The cat sat on a mat!\r\n\r\nA dog: naïve café.\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_bytes(TEXT.encode())
    return tmp_path / "t.txt"


def test_pieces_are_lines_and_together_the_file(cli: Cli, tiny: Path, file: Path) -> None:
    r = cli("chunk", file, "-m", tiny, "--tokens", "12", "--overlap", "4")
    assert r.code == 0
    found = [json.loads(line) for line in r.out.splitlines()]
    assert "".join(piece["text"][piece["overlap"] :] for piece in found) == TEXT
    wanted = chunk(TEXT, 12, 4, tokenizer=Embedder.load(tiny).tokenizer)
    assert found == [piece._asdict() for piece in wanted]
    assert f"{len(wanted)} pieces of at most" in r.err
    assert cli("chunk", "-", "-m", tiny, "--tokens", "12", "--overlap", "4", stdin=TEXT.encode()).raw == r.raw


def test_without_a_number_a_piece_is_what_the_model_reads(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("The cat sat. " * 40)
    r = cli("chunk", tmp_path / "long.txt", "-m", tiny, "-q")
    assert [json.loads(line)["tokens"] for line in r.out.splitlines()] == [62, 62, 42]  # 15 sentences of 4, and 2


def test_late_pieces_have_vectors(cli: Cli, tiny: Path, file: Path, tmp_path: Path) -> None:
    r = cli("chunk", file, "-m", tiny, "--tokens", "12", "--late", "--pooling", "cls", "-o", tmp_path / "p.jsonl")
    assert (r.code, r.raw) == (0, b"")
    found = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    e = Embedder.load(tiny)
    expected = e.embed_chunks(TEXT, [(p["start"], p["end"]) for p in found], pooling="cls")
    assert np.array_equal(np.array([p["embedding"] for p in found], np.float32), expected)


def test_an_empty_file_has_no_pieces(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    r = cli("chunk", tmp_path / "empty.txt", "-m", tiny)
    assert (r.code, r.raw) == (0, b"")
    assert "0 pieces" in r.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nosuch.txt"], "nosuch.txt: No such file"),
        (["latin1.txt"], "latin1.txt: not UTF-8: invalid continuation byte at byte 3"),
        (["t.txt", "--late", "--prefix", "query: "], "no piece has a prefix"),
        (["t.txt", "--pooling", "cls"], "--pooling belongs to --late"),
        (["t.txt", "--tokens", "2"], "has 3 tokens with the special ones, more than a chunk's 2"),
        (["t.txt", "--tokens", "5", "--overlap", "5"], "chunks of 5 tokens with 5 repeated"),
        (["t.txt", "--output", "t.txt"], "would write over it"),
    ],
)
def test_mistakes_are_one_clear_sentence(
    cli: Cli, tiny: Path, file: Path, args: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    Path("latin1.txt").write_bytes(b"caf\xe9 a")
    r = cli("chunk", *args, "-m", tiny)
    assert (r.code, r.raw) == (1, b"")
    assert said in r.err
