"""refembed history: builds of llama.cpp side by side, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from refembed.verify import history
from refembed.verify.history import Answer
from tests.cli.conftest import Cli


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Packages: one with other bits and tokens than the last, a broken one, two that are the same, a longer vector."""
    answers = {
        "one.whl": Answer("one.whl", 7000, [[1, 2]], [np.array([4, 3], np.float32)]),
        "two.whl": Answer("two.whl", None, failed="does not load"),
        "three.whl": Answer("three.whl", 9000, [[1]], [np.array([3, 4], np.float32)]),
        "four.whl": Answer("four.whl", 9001, [[1]], [np.array([3, 4], np.float32)]),
        "five.whl": Answer("five.whl", 8000, [[1]], [np.array([3, 4, 5], np.float32)]),
    }

    def ask(model: Path, build: Path, texts: list[str], pooling: str, cpu: str) -> Answer:
        answer = answers[build.name]
        return Answer(answer.name, answer.number, answer.tokens, answer.vectors, answer.failed)

    monkeypatch.setattr(history, "ask", ask)
    files = [tmp_path / name for name in answers]
    for file in files:
        file.touch()
    (tmp_path / "texts.txt").write_text("cat\n")
    return files


def test_a_table_and_since_when_the_bits_are_the_same(cli: Cli, tiny: Path, tmp_path: Path, builds: list[Path]) -> None:
    r = cli("history", tiny, *builds[:4], "--file", tmp_path / "texts.txt")
    assert r.code == 3
    assert [line.split() for line in r.out.splitlines()] == [
        ["build", "llama.cpp", "bits", "moved", "1-cos"],
        ["one.whl", "b7000", "B", "0.2", "0.04"],
        ["two.whl", "does", "not", "load"],
        ["three.whl", "b9000", "A", "0", "0"],
        ["four.whl", "b9001", "A", "0", "0"],
        ["the", "same", "bits", "for", "all", "1", "texts", "since", "three.whl"],
        ["one.whl:", "other", "tokens", "for", "1", "of", "1", "texts:", "embed", "those", "again"],
    ]
    assert r.err == "4 builds, 1 texts\n"


def test_vectors_of_another_length_are_said_not_to_have_moved_by_0(cli: Cli, tiny: Path, builds: list[Path]) -> None:
    (builds[0].parent / "texts.txt").write_text("cat\n")
    r = cli("history", "-q", tiny, builds[4], builds[3], "--file", builds[0].parent / "texts.txt")
    assert r.out.splitlines()[1].split() == ["five.whl", "b8000", "B", "vectors", "of", "another", "length"]


def test_a_file_is_read_as_other_commands_read_it(cli: Cli, tiny: Path, tmp_path: Path, builds: list[Path]) -> None:
    (tmp_path / "texts.txt").write_bytes(b"\xffcat\n")  # no UTF-8
    assert cli("history", "-q", tiny, *builds[2:4], "--file", tmp_path / "texts.txt").code == 0
    r = cli("history", "-q", tiny, *builds[2:4], "--file", tmp_path / "missing.txt")
    assert (r.code, "Traceback" in r.err) == (1, False)


def test_equal_builds_end_with_0(cli: Cli, tiny: Path, tmp_path: Path, builds: list[Path]) -> None:
    r = cli("history", "-q", tiny, *builds[2:4], "--file", tmp_path / "texts.txt")
    assert (r.code, r.err) == (0, "")


def test_json(cli: Cli, tiny: Path, tmp_path: Path, builds: list[Path]) -> None:
    r = cli("history", tiny, *builds[:4], "--file", tmp_path / "texts.txt", "--json")
    found = json.loads(r.out)
    assert (r.code, found["texts"]) == (3, 1)
    assert [row["group"] for row in found["builds"]] == ["B", "", "A", "A"]
    assert found["builds"][1]["failed"] == "does not load"


def test_a_build_that_is_not_there_is_named(cli: Cli, tiny: Path) -> None:
    r = cli("history", tiny, "missing.whl")
    assert r.code == 1
    assert "missing.whl: no such package or folder" in r.err


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"caf\xe9\n", 0, "is not UTF-8"),
        ("cat\n".encode("utf-16"), 1, "this is UTF-16, not UTF-8"),
        (b"", 1, "no texts"),
    ],
)
def test_texts_are_read_as_in_every_command(
    cli: Cli, tiny: Path, tmp_path: Path, builds: list[Path], content: bytes, code: int, said: str
) -> None:
    (tmp_path / "texts.txt").write_bytes(content)
    r = cli("history", tiny, *builds[2:4], "--file", tmp_path / "texts.txt")
    assert r.code == code
    assert said in r.err
    assert "refembed failed" not in r.err
