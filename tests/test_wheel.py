"""The wheel and the sdist build, hold the package and nothing else, and work in an empty environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import refembed

pytestmark = pytest.mark.slow  # it downloads what refembed depends on

ROOT = Path(__file__).parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpreter(version: str) -> str | None:
    """That Python, where this machine has it: this one, one of pyenv's, or one on the path that is no shim of pyenv."""
    if version == ".".join(map(str, sys.version_info[:2])):
        return sys.executable
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    found = shutil.which(f"python{version}")
    return str(pyenv[-1]) if pyenv else None if found and "shims" in found else found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    venv.create(folder / "builder", with_pip=True)
    python = python_of(folder / "builder")
    run(python, *PIP, "install", "build", "hatchling", cwd=folder)
    run(python, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, ROOT, cwd=folder)
    (wheel,), (sdist,) = folder.glob("refembed-*.whl"), folder.glob("refembed-*.tar.gz")
    return wheel, sdist


def python_of(environment: Path) -> Path:
    return environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def test_what_the_wheel_holds(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[0]).namelist()
    assert all(n.startswith(("refembed/", "refembed-")) for n in names)
    assert "refembed/py.typed" in names
    kernels = {f"refembed/kernels/cuda/{path.name}" for path in (ROOT / "refembed/kernels/cuda").glob("*.cu*")}
    assert len(kernels) > 10
    assert kernels <= set(names)
    pages = {path.name for path in (ROOT / "refembed").rglob("*.html")}
    assert pages <= {Path(n).name for n in names}
    share = {path.relative_to(ROOT).as_posix() for path in (ROOT / "share").rglob("*") if path.is_file()}
    assert len(share) > 20
    assert {f"refembed-{refembed.__version__}.data/data/{name}" for name in share} <= set(names)


def test_what_the_sdist_holds(built: tuple[Path, Path]) -> None:
    """Whatever git has, so that tests run from it; nothing that git ignores."""
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", cwd=ROOT).splitlines())
    hidden = {name for name in tracked if name.startswith(".")}
    assert tracked - hidden - names == set()
    assert names - tracked <= {"PKG-INFO", ".gitignore"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_where_there_is_nothing_else(
    built: tuple[Path, Path], kind: str, version: str, tiny: Path, tmp_path: Path
) -> None:
    found = interpreter(version)
    if found is None:
        pytest.skip(f"no Python {version} here")
    run(found, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    python = python_of(tmp_path / "empty")
    run(python, *PIP, "install", built[kind == "sdist"], cwd=tmp_path)
    assert refembed.__version__ in run(python, "-m", "refembed", "--version", cwd=tmp_path)
    numbers = run(python, "-m", "refembed", "embed", "-m", tiny, "--format", "raw", "the cat", cwd=tmp_path).split()
    assert len(numbers) == 32
    assert sum(float(n) ** 2 for n in numbers) == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "empty/share/man/man1/refembed-embed.1").exists()
    assert (tmp_path / "empty/share/bash-completion/completions/refembed").exists()
