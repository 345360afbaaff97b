"""No kernel and no decoder reads or writes beyond its arrays: they stand next to pages that end the process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.attack
@pytest.mark.skipif(sys.platform != "linux", reason="mprotect through ctypes")
def test_kernels_stay_within_their_arrays() -> None:
    """The last thing that the process does is to step beyond one on purpose."""
    command = [sys.executable, "-W", "error", "-m", "tests.attack.guarded"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    runs, guarded = done.stdout.split()
    assert int(runs) > 150
    assert guarded == "guarded"
