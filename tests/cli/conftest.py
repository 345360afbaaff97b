"""Calling the command line: in this process, and as a program of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from refembed import Embedder
from refembed.cli import run
from refembed.gguf import open_gguf
from tests.copies import copied


class Result(NamedTuple):
    code: int
    raw: bytes  # stdout
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsysbinary: Any, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli("embed", "hi", stdin=b"")` in this process; no terminal anywhere, nothing on standard input."""
    monkeypatch.setenv("COLUMNS", "80")  # as on no terminal, whatever the one is that tests run in

    def call(*args: str | Path, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = run([str(a) for a in args])
        out, err = capsysbinary.readouterr()
        return Result(code, out, err.decode())

    return call


@pytest.fixture
def embed(cli: Cli, tiny: Path) -> Cli:
    """`embed("hello", ...)` with the tiny model, quietly."""

    def call(*args: str | Path, stdin: bytes = b"") -> Result:
        return cli("embed", "-q", "-m", tiny, "--numerics", "exact", *args, stdin=stdin)

    return call


@pytest.fixture(scope="session")
def e(tiny: Path) -> Embedder:
    """The library's own way to the same vectors."""
    return Embedder.load(tiny, numerics="exact")


@pytest.fixture(scope="session")
def broken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one NaN and one infinity in the row of "hello"."""
    x = open_gguf(tiny).tensors["token_embd.weight"].dequantize().copy()
    x[12, :2] = np.nan, np.inf
    return copied(tiny, tmp_path_factory.mktemp("broken") / "broken.gguf", tensors={"token_embd.weight": x})


# Of programs: stdout buffered, as users have it
UNWANTED = ("REFEMBED_DEBUG", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in UNWANTED}


def program(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`python -m refembed ...` as a program of its own."""
    options["env"] = ENVIRONMENT | options.pop("env", {})
    command = [sys.executable, "-m", "refembed", *map(str, args)]
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=60, check=False, **options)
