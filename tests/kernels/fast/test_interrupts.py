"""Ctrl-C at any moment, thousands of times: what is computed afterwards has the same bits, and nothing hangs."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import tiny_bert

pytestmark = pytest.mark.system

PAUSES = (0.0002, 0.0005, 0.001, 0.003)  # seconds between two signals: a text takes some of them


def interrupt(model: Path, count: int, seed: int = 0) -> str:
    """Send signals until the process has had `count` of them; what it prints in the end."""
    rng, command = random.Random(seed), [sys.executable, "-m", "tests.kernels.fast.interrupted", str(model), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            until = time.monotonic() + 300
            while not select.select([child.stdout], [], [], rng.choice(PAUSES))[0]:
                assert time.monotonic() < until
                child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0
    return out.removeprefix("enough\n")


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.attack)])
def test_interruptions_change_no_bit_and_leave_nothing_locked(count: int, tmp_path: Path) -> None:
    """No vector differs, the slot has no owner and keeps no array, and no more threads are alive than were needed."""
    model = tiny_bert(tmp_path / "model.gguf", C=96, F=384, n_layer=6)
    signals, wrong, owner, kept, few_threads = interrupt(model, count).split()
    assert int(signals) >= count
    assert (wrong, owner, kept, few_threads) == ("0", "0", "None", "True")
