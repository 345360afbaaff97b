"""docs/start.md as a reader follows it: each block by a shell, in an empty folder; it prints what the page has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_docs import ROOT, blocks

PORT = "18081"  # for the page's 8080, which may be taken
PAGE = "docs/start.md"
INSTALL = "python3 -m venv"  # how the block begins that installs


def steps() -> Iterator[tuple[str, str]]:
    """The commands of each block, and what they are to print: the block behind them, where it is of text."""
    found = [block for block in blocks(PAGE) if block.language in ("sh", "python", "text")]
    for block, then in zip(found, [*found[1:], None], strict=True):
        if block.language == "python":
            yield f"cat > search.py <<'END'\n{block.text}END\n", ""
        elif block.language == "sh":
            yield block.text, then.text if then is not None and then.language == "text" else ""


def same(found: list[str], shown: list[str]) -> bool:
    """Word for word, but a number may be off by what is not shown of it, or by 1e-4: CPUs round otherwise."""

    def agree(a: str, b: str) -> bool:
        decimals = len(b.partition(".")[2])
        number = re.fullmatch(r"-?\d+\.\d+", a) and re.fullmatch(r"-?\d+\.\d+", b)
        return a == b or bool(number and abs(float(a) - float(b)) <= max(1e-4, 1.01 * 10.0**-decimals))

    return len(found) == len(shown) and all(map(agree, found, shown))


def walk(folder: Path, path: str, *, install: bool) -> int:
    """Run the page in a folder; how many blocks that were."""
    count = 0
    for commands, expected in steps():
        if commands.startswith(INSTALL) and not install:
            continue
        script = commands.replace("8080", PORT).replace("PATH/TO/refembed", str(ROOT).lstrip("/"))
        if "activate" not in script and install:
            script = f". .venv/bin/activate\n{script}"
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode in (0, -15), f"{commands}\n{done.stderr}"
        if expected:
            assert same(done.stdout.split(), expected.split()), f"{commands}\n{done.stdout}"
        count += 1
    return count


@pytest.mark.system
def test_the_page_does_what_it_says(minilm: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert walk(tmp_path, path, install=False) > 5
    assert (tmp_path / "vectors.sqlite").exists()


def test_the_page_shows_results() -> None:
    assert sum(bool(expected) for _, expected in steps()) == 2
    assert not re.search(r"^\?$", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the page's commands are a POSIX shell's")
def test_the_page_from_the_installation_on(minilm: Path, tmp_path: Path) -> None:
    """In an environment of its own, made by the page; packages come from the index."""
    assert walk(tmp_path, os.environ["PATH"], install=True) > 6
    python = tmp_path / ".venv" / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import refembed; print(refembed.__file__)"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert found.startswith(str(tmp_path)), "the environment of the page is the one that computed"
