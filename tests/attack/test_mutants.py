"""Files changed at random, thousands of them: each is read, or ends in one error, in bounded time and memory.

A mutant fails where a command ends with a traceback or exit code 70, computes for more than 2 seconds, takes more than
512 MB beyond what a process needs, warns in Python's words, or dies. `worker.py` runs them.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.attack import draw
from tests.attack.worker import survey

FEW = {"gguf": 60, "folders": 40, "files": 40}  # for `make test`: that the machinery works
MANY = {"gguf": 10_000, "folders": 5_000, "files": 2_000}


@pytest.mark.attack
@pytest.mark.parametrize("kind", MANY)
def test_mutants_end_in_one_error_or_none(kind: str, seed: int, tmp_path: Path) -> None:
    faults = survey(kind, seed, MANY[kind], tmp_path)
    assert not faults, "\n".join(map(str, faults[:20]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FEW)
def test_a_few_mutants_end_in_one_error_or_none(kind: str, tmp_path: Path) -> None:
    faults = survey(kind, 1, FEW[kind], tmp_path)
    assert not faults, "\n".join(map(str, faults[:20]))


def test_a_mutant_follows_from_its_number() -> None:
    """So that one may be run again."""
    a, b = ([draw.value(random.Random(n)) for n in range(50)] for _ in range(2))
    assert repr(a) == repr(b)
    assert len({repr(x) for x in a}) > 20


@pytest.mark.attack
def test_a_fault_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a command fails as none may, its mutants are reported, each with the command that runs it again."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import refembed.cli.info as info\ndef scalar(*_): raise TypeError('planted')\ninfo.scalar = scalar\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    faults = survey("gguf", 1, 30, tmp_path / "mutants")
    assert faults
    assert all("planted" in fault.what for fault in faults)
    assert "python -m tests.attack.worker gguf --seed 1" in str(faults[0])
