"""share/: the man pages are those of the commands' help, and the completion scripts do complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refembed.cli import COMMANDS
from tools.shell_files import SHARE, files

MADE = files()


@pytest.mark.parametrize("name", MADE)
def test_a_file_is_as_its_program_makes_it(name: str) -> None:
    """Else: python -m tools.shell_files --write."""
    assert (SHARE / name).read_text(encoding="utf-8") == MADE[name]


def test_there_is_a_page_for_each_command_and_none_more() -> None:
    pages = {path.stem for path in (SHARE / "man/man1").glob("*.1")}
    assert pages == {"refembed", *(f"refembed-{verb}" for verb in COMMANDS)}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_page_has_what_help_has(verb: str) -> None:
    """Every option of `--help`, by its first spelling."""
    from click.testing import CliRunner

    from refembed.cli import refembed

    shown = CliRunner().invoke(refembed, [verb, "--help"]).output
    page = MADE[f"man/man1/refembed-{verb}.1"].replace("\\-", "-")
    options = [line.split()[0].rstrip(",") for line in shown.splitlines() if line.startswith("  -")]
    assert "-h" in options
    assert [option for option in options if f"\\fB{option}" not in page] == []


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
@pytest.mark.parametrize("verb", ["", "-embed", "-serve"])
def test_man_reads_the_page_without_a_complaint(verb: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", SHARE / f"man/man1/refembed{verb}.1"], capture_output=True, text=True,
        env={**os.environ, "MANPAGER": "cat", "LC_ALL": "C.UTF-8", "MANWIDTH": "100"}, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert "EXIT STATUS" in done.stdout


COMPLETED = [  # what is typed, what must be among the offers
    ("refembed emb", "embed"),
    ("refembed embed --poo", "--pooling"),
    ("refembed embed --pooling c", "cls"),
]


def path_with_refembed() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.system
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(("typed", "offered"), COMPLETED)
def test_bash_completes(typed: str, offered: str) -> None:
    """The installed script, as bash calls it."""
    words = typed.split(" ")
    script = (
        f"source {SHARE}/bash-completion/completions/refembed; COMP_WORDS=({' '.join(words)}); "
        f"COMP_CWORD={len(words) - 1}; _refembed_completion; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path_with_refembed()}
    )
    assert offered in done.stdout.splitlines()


@pytest.mark.system
@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_reads_the_script() -> None:
    done = subprocess.run(["zsh", "-n", SHARE / "zsh/site-functions/_refembed"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.system
@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes() -> None:
    script = f"source {SHARE}/fish/vendor_completions.d/refembed.fish; complete -C 'refembed emb'"
    done = subprocess.run(
        ["fish", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path_with_refembed()}
    )
    assert "embed" in done.stdout
