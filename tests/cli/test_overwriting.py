"""No command writes over what it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refembed.cli import run

TEXT = "one text\nanother\n"


@pytest.mark.parametrize("link", ["", "symbolic", "hard"])
@pytest.mark.parametrize("name", ["same.txt", "same.jsonl", "same.npy"])
def test_a_corpus_is_not_written_over(
    name: str, link: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, output = tmp_path / name, tmp_path / f"link-{name}"
    corpus.write_text(TEXT)
    if link == "hard":
        os.link(corpus, output)
    elif link:
        output.symlink_to(corpus)
    else:
        output = corpus
    args = ["embed", "-m", str(tiny), "--file", str(corpus), "--output", str(output)]
    assert run(args + (["--resume"] if name.endswith("jsonl") else [])) == 1
    assert "would write over it" in capsys.readouterr().err
    assert corpus.read_text() == TEXT
    assert len(list(tmp_path.iterdir())) == 1 + bool(link)


@pytest.mark.parametrize(
    "args",
    [
        ["quantize", "FILE", "FILE", "Q8_0"],
        ["embed", "-m", "FILE", "a", "-o", "FILE"],
        ["trace", "-m", "FILE", "a", "--save", "FILE"],
        ["explain", "-m", "FILE", "a", "--html", "FILE"],
    ],
    ids=lambda args: args[0],
)
def test_a_model_is_not_written_over(args: list[str], tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(tiny.read_bytes())
    assert run([str(model) if a == "FILE" else a for a in args]) == 1
    assert model.read_bytes() == tiny.read_bytes()


def test_what_comes_from_standard_input_is_not_written_over(tiny: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "same.txt"
    corpus.write_text(TEXT)
    command = [sys.executable, "-m", "refembed", "embed", "-m", str(tiny), "--file", "-", "--output", str(corpus)]
    with corpus.open() as f:
        done = subprocess.run(command, stdin=f, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "standard input" in done.stderr) == (1, True)
    assert corpus.read_text() == TEXT


def test_another_file_is_written(tiny: Path, tmp_path: Path) -> None:
    corpus, output = tmp_path / "a.txt", tmp_path / "b.npy"
    corpus.write_text(TEXT)
    output.write_text("old")
    assert run(["embed", "-m", str(tiny), "--file", str(corpus), "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x93NUMPY")
