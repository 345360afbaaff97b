"""`refembed convert`: what it writes is convert()'s business (tests/convert/test_convert.py); here, the command
around it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refembed.cli import run
from refembed.gguf import open_gguf
from tests.hf_folders import tiny as make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    make(made)
    return made


def cli(*arguments: object) -> int:
    return run([str(a) for a in arguments])


def test_a_folder_becomes_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("convert", folder) == 0
    assert open_gguf(tmp_path / "model-f16.gguf").metadata["general.file_type"] == 1
    assert cli("convert", folder, "--outtype", "q8_0", "-o", "other.gguf") == 0
    assert open_gguf(tmp_path / "other.gguf").metadata["general.file_type"] == 7


def test_a_file_that_is_there_is_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.gguf"
    target.write_bytes(b"precious")
    assert cli("convert", folder, "-o", target) == 1
    assert target.read_bytes() == b"precious"
    assert "is there already" in capsys.readouterr().err
    assert cli("convert", folder, "-o", target, "--force") == 0
    assert target.read_bytes()[:4] == b"GGUF"


def test_a_folder_that_is_no_model_is_a_model_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("convert", tmp_path, "-o", tmp_path / "x.gguf") == 2
    assert "config.json" in capsys.readouterr().err
    assert not (tmp_path / "x.gguf").exists()


def test_each_thing_that_is_left_out_is_said_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["added_tokens"][-1]["lstrip"] = True
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    assert cli("convert", folder, "-o", tmp_path / "x.gguf") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert sum("[MASK] takes along the spaces before it" in line for line in said) == 1
