"""Programs that run in a process of their own: llama.cpp and ggml may end the one they are in, and never share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUIET = {"GGML_NO_BACKTRACE": "1"}  # a program that aborts does not start gdb
SECONDS = 300


def finished(arguments: Sequence[object], data: bytes) -> subprocess.CompletedProcess[bytes]:
    """`python ARGUMENTS`, run to its end in the repository's folder."""
    command, environment = [sys.executable, *map(str, arguments)], {**os.environ, **QUIET}
    return subprocess.run(command, input=data, capture_output=True, timeout=SECONDS, cwd=ROOT, env=environment)


def answer(arguments: Sequence[object], data: bytes = b"") -> bytes:
    """What `python ARGUMENTS` prints, given data on its standard input. AssertionError if it fails."""
    run = finished(arguments, data)
    assert run.returncode == 0, run.stderr.decode(errors="replace")[-3000:]
    return run.stdout


def answer_to_code(code: str, *arguments: object) -> str:
    """What a piece of Python prints."""
    return answer(["-c", code, *arguments]).decode()


def answers_about(arguments: Sequence[object], paths: Sequence[Path]) -> list[Any]:
    """Ask `python ARGUMENTS` about many files: it reads a path a line and prints a line of JSON for each.

    A file that ends the process is "crash", and the next process goes on behind it.
    """
    done: list[Any] = []
    while len(done) < len(paths):
        rest = "\n".join(map(str, paths[len(done) :]))
        run = finished(arguments, rest.encode())  # its messages quote damaged names, so they need not be text
        lines = run.stdout.splitlines()
        assert lines or run.returncode < 0, run.stderr
        done += [json.loads(line) for line in lines]
        if len(done) < len(paths):
            done.append("crash")
    return done
