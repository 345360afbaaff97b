"""refembed embed --engine: what it refuses before Ray starts. Whole jobs: tests/peers/test_embed_files.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With files of texts, as the current one."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.jsonl").write_text('{"text": "a cat"}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.txt").write_text("a cat\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--engine ray -o out", "--engine ray: give a folder, a pattern, or files: .parquet, .jsonl"),
        ("texts --engine ray", "--engine ray needs --output FOLDER"),
        ("texts --engine ray -o -", "--engine ray needs --output FOLDER"),
        ("texts --engine spark -o out", "'spark' is not 'ray'"),
        ("nosuch --engine ray -o out", "nosuch: no such file or folder"),
        ("empty --engine ray -o out", "empty: no .parquet or .jsonl file in it"),
        ("t.txt --engine ray -o out", "t.txt: neither .parquet nor .jsonl"),
        ("*.arrow --engine ray -o out", "no .parquet or .jsonl file matches it"),
        ("texts --engine ray -o out --rows 0", "not in the range"),
        ("texts --engine ray -o out --file t.txt", "--engine ray: --file does not go with it"),
        ("texts --engine ray -o out --compare", "--engine ray: --compare does not go with it"),
        ("texts --engine ray -o out --format npy", "--engine ray: --format does not go with it"),
        ("texts --engine ray -o out --cache", "--engine ray: --cache does not go with it"),
        ("texts --engine ray -o out --keys t.txt", "--engine ray: --keys does not go with it"),
        ("texts --engine ray -o out -p x", "--engine ray: --prompt does not go with it"),
        ("texts --engine ray -o out --numerics cupy", "--numerics cupy does not go with it"),
        ("a --column body", "--column goes with --engine ray"),
        ("a --on-error column", "--on-error goes with --engine ray"),
        ("a --ray-address auto", "--ray-address goes with --engine ray"),
        ("a --allow-mixed", "--allow-mixed goes with --engine ray"),
    ],
)
def test_a_command_line_that_cannot_be_is_one_sentence(cli: Cli, tiny: Path, words: str, wanted: str) -> None:
    r = cli("embed", "-m", tiny, *words.split())
    assert (r.code, r.raw) == (1, b"")
    assert wanted in r.err
    assert "Traceback" not in r.err
    assert not Path("out").exists()


def test_an_address_of_the_environment_is_for_jobs_alone(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cli("embed", "-m", tiny, "a cat").code == 0


def test_without_ray_it_says_what_to_install(cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    r = cli("embed", "-m", tiny, "texts", "--engine", "ray", "-o", "out")
    assert r.code == 1
    assert r.err == "error: the engine ray needs Ray\n  hint: pip install 'ray[data]' (refembed's extra `ray`)\n"
    assert not Path("out").exists()
