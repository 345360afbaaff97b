"""Coverage-guided fuzzing, a minute a target, where atheris is installed (the extra `fuzz`)."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys

import pytest

from refembed.errors import RefembedError
from tests.attack.fuzz import TARGETS


@pytest.mark.attack
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris: the extra `fuzz`")
@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_reach_new_code_end_in_one_error_or_none(target: str, seed: int) -> None:
    options = ["-max_total_time=60", f"-seed={seed % 2**31}", "-timeout=5", "-rss_limit_mb=1024"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.fuzz", target, *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_bytes_of_any_kind(target: str) -> None:
    taken = 0
    for data in (b"", b"{}", b"GGUF", b"\xff" * 40):
        with contextlib.suppress(RefembedError):
            TARGETS[target](data)
        taken += 1  # anything but an error of refembed's own has ended the test
    assert taken == 4
