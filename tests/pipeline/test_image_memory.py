"""Memory while many images are embedded (`python -m benchmarks image_memory`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.image_memory import growth

ROOT = Path(__file__).parents[2]


def test_growth_is_what_comes_behind_the_first_fifth() -> None:
    assert growth([90, 100, 101, 99, 100, 102, 100, 100, 103, 100]) == 3
    assert growth([90, 100, 110, 120, 130, 140, 150, 160, 170, 180]) == 80


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_stays_flat_over_hundreds_of_images() -> None:
    command = [sys.executable, "-m", "benchmarks", "image_memory", "--images", "400"]
    r = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
