"""refembed warm, and refembed embed --processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ENVIRONMENT, Cli

TEXTS = "".join(f"the cat {i % 7} sat {'on a mat ' * (i % 19)}\n" for i in range(300))


@pytest.mark.slow
def test_warm_says_what_it_compiled(tiny: Path, tmp_path: Path) -> None:
    """In a folder that is empty, all; then none. On stdout there is nothing."""
    env = ENVIRONMENT | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for n, wanted in enumerate(
        (r"([1-9]\d+) kernels compiled, 0 were there already", r"0 kernels compiled, (\d+) were")
    ):
        run = subprocess.run(
            [sys.executable, "-m", "refembed", "warm", tiny], capture_output=True, text=True, env=env, timeout=600
        )
        assert (run.returncode, run.stdout) == (0, ""), run.stderr
        assert re.search(wanted, run.stderr), run.stderr
        assert ("compiling kernels that were not used before" in run.stderr) == (n == 0)


def test_warm_takes_a_model_and_numerics(cli: Cli, tiny: Path) -> None:
    for numerics in ("exact", "ggml", "int8"):
        r = cli("warm", "-m", tiny, "--numerics", numerics)
        assert (r.code, r.raw) == (0, b""), r.err
        assert re.search(r"\d+ kernels compiled, \d+ were there already, in [\d.]+ s\n$", r.err)
    assert cli("warm", "-q", tiny).err == ""


@pytest.mark.system
@pytest.mark.parametrize("name", ["vectors.npy", "vectors.jsonl", "vectors.csv", "corpus.npy"])
def test_processes_change_no_byte_of_the_output(cli: Cli, tiny: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "texts.txt").write_text(TEXTS)
    files = [tmp_path / f"{n}-{name}" for n in (1, 2)]
    for n, file in enumerate(files, 1):
        more = ["--resume"] if name.startswith("corpus") else []
        given = ("--file", tmp_path / "texts.txt", "--output", file, "--processes", str(n), *more)
        r = cli("embed", "-q", "-m", tiny, *given)
        assert (r.code, r.err) == (0, "")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(files[0].read_bytes()) > 300 * 32


def test_processes_go_with_refembeds_own_command_line_only(cli: Cli, tiny: Path) -> None:
    r = cli("embed", "-m", tiny, "--processes", "2", "-p", "a text")
    assert (r.code, r.raw) == (1, b"")
    assert "--processes: none of llama-embedding's flags goes with it" in r.err
