"""The wheel builds, holds the package and nothing else, and works in an empty environment."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import refembed

pytestmark = pytest.mark.slow  # it downloads what refembed depends on

ROOT = Path(__file__).parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_where_there_is_nothing_else(tiny: Path, tmp_path: Path) -> None:
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("refembed-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(n.startswith(("refembed/", "refembed-")) for n in names)
    assert "refembed/py.typed" in names
    kernels = {f"refembed/kernels/cuda/{path.name}" for path in (ROOT / "refembed/kernels/cuda").glob("*.cu*")}
    assert len(kernels) > 10
    assert kernels <= set(names)
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, *PIP, "install", wheel, cwd=tmp_path)
    assert refembed.__version__ in run(python, "-m", "refembed", "--version", cwd=tmp_path)
    numbers = run(python, "-m", "refembed", "embed", "-m", tiny, "--format", "raw", "the cat", cwd=tmp_path).split()
    assert len(numbers) == 32
    assert sum(float(n) ** 2 for n in numbers) == pytest.approx(1, abs=1e-5)
