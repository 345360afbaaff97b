"""refembed/kernels/llvm/compiling.py: a line while Numba compiles, where it was asked for and where it does compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

# AFTER is 0: a single small kernel is worth the line here
CODE = """
import sys
from refembed.kernels.llvm import compiling
compiling.AFTER = 0
if "asked" in sys.argv:
    compiling.ask(lambda line: print(line, file=sys.stderr))
from refembed.kernels.llvm.jit import softmax
import numpy as np
softmax(np.ones(3, np.float32), np.float32(1))
softmax(np.ones(3, np.float64), np.float32(1)) if "twice" in sys.argv else None
"""


def said(cache: Path, *args: str) -> tuple[str, str]:
    """stdout and stderr of a process that calls one kernel."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", CODE, *args], env=env, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_it_is_said_once_and_only_where_kernels_are_compiled(tmp_path: Path) -> None:
    assert said(tmp_path) == ("", ""), "a library says nothing"
    assert said(tmp_path, "asked") == ("", ""), "the kernel is in the cache by now"
    out, err = said(tmp_path / "cold", "asked", "twice")
    assert (out, len(err.splitlines())) == ("", 1), "it is said once, on stderr"
    assert err.startswith("compiling kernels")
