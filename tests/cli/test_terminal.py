"""What a person sees: the program on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from refembed import Embedder
from refembed.pipeline.progress import Bar
from tests.cli.conftest import ENVIRONMENT

pytestmark = pytest.mark.system

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")

COLOR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


def seen(*args: str | Path, **environment: str) -> tuple[int, str]:
    """Exit code, and all that stdout and stderr put on a terminal of 100 columns that speaks UTF-8."""
    master, terminal = pty.openpty()
    env = ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONUTF8": "1", **environment}
    p = subprocess.Popen(
        [sys.executable, "-m", "refembed", *map(str, args)], stdin=terminal, stdout=terminal, stderr=terminal, env=env
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while block := os.read(master, 4096):
            shown += block
    os.close(master)
    return p.wait(timeout=60), shown.decode()


def test_tables_have_style(tiny: Path) -> None:
    code, shown = seen("tokenize", "-m", tiny, "hello")
    assert code == 0
    assert "\x1b[1m" in shown
    assert "▁hello" in shown


def test_no_color_is_honored(broken: Path) -> None:
    assert COLOR.search(seen("trace", "-q", "-m", broken, "--numerics", "exact", "hello")[1])
    assert not COLOR.search(seen("trace", "-q", "-m", broken, "--numerics", "exact", "hello", NO_COLOR="1")[1])


def test_control_characters_are_spelled_out(tiny: Path) -> None:
    assert "\x1b]0;" not in seen("tokenize", "-m", tiny, "a", "\x1b]0;title\x07")[1]


def test_nothing_given_says_what_to_give() -> None:
    code, shown = seen("embed")
    assert code == 1
    assert "Give a text" in shown


def test_npy_is_refused(tiny: Path) -> None:
    code, shown = seen("embed", "-m", tiny, "--format", "npy", "hello")
    assert code == 1
    assert "npy is not for a terminal" in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Terminal:
    """Makes stderr a terminal. Called in the test: pytest puts its own stderr in place before."""
    terminal = Terminal()
    monkeypatch.setattr("refembed.pipeline.progress.SECONDS_BEFORE_BAR", seconds)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return terminal


def test_the_bar_shows_texts_and_leaves_stdout_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, stdout = screen(monkeypatch, 0), sys.stdout
    with Bar(10, wanted=True) as bar:
        bar.advance(4)
        assert sys.stdout is stdout
        bar.advance(10)
        assert bar.bar is not None
        assert bar.bar.tasks[0].percentage == 100
    shown = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", terminal.getvalue())
    assert "2 texts" in shown
    assert re.search(r"\d:\d\d:\d\d elapsed [-\d:]+ left", shown), "each time says which it is"


@pytest.mark.parametrize(("wanted", "seconds"), [(False, 0), (True, 60)])
def test_short_work_and_unwanted_bars_show_nothing(monkeypatch: pytest.MonkeyPatch, wanted: bool, seconds: int) -> None:
    terminal = screen(monkeypatch, seconds)
    with Bar(None, wanted=wanted) as bar:
        bar.advance(1)
    assert terminal.getvalue() == ""


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refembed.pipeline.progress.SECONDS_BEFORE_BAR", 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Bar(1, wanted=True) as bar:
        bar.advance(1)
    assert bar.bar is None


def test_a_verdict_fits_80_columns(tiny: Path, tmp_path: Path) -> None:
    """No text is folded into a column of a few letters, no line is cut by the terminal."""
    texts = ["hello world, and the cat sat on the mat all day", "the cat sat", "Hello, mat!"]
    vectors = -Embedder.load(tiny, numerics="exact").embed(texts)
    rows = [{"text": t, "embedding": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, shown = seen("verify", "-q", tiny, "--against", tmp_path / "run.jsonl", COLUMNS="80")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert code == 3
    assert "DIFFERS: recorded on" in lines[0]
    assert max(map(len, lines)) <= 80
    table = lines[lines.index("texts") :]
    assert sum(line.startswith("'") for line in table[: table.index("")]) == 3  # a text a line
    assert lines[-1].startswith(("what to do: ", "  "))
