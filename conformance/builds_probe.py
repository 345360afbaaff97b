"""What a package file is, as a row of builds.toml: its llama.cpp, layouts, processor, or why it does not open."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from conformance.builds import Build, Refused, load_builds, package_path, write_builds
from refembed.errors import DownloadError, EngineError
from refembed.gguf.digest import sha256_of
from refembed.hub.cache import move
from refembed.verify.engines.llamacpp import LlamaCpp
from refembed.verify.engines.llamacpp_packages import unpack

COMPARED = ("haswell", "zen4", "icelake", "skylakex")  # of a package with code for many processors: AVX2, AVX-512
NUMBER = re.compile(
    r"^0\.(\d{4,5})|^\d{4}\.\d+\.(\d+)|^b(\d+)|^(\d{4,5})\.0\.0"
)  # of a version: 0.11739, 2026.10.11549


def probe(file: Path) -> Iterator[Build | Refused]:
    """One row, or one for each CPU code that is compared."""
    package, version, registry = named(file)
    try:
        folder = unpack(file)
        for cpu in cpus(folder):
            with LlamaCpp(None, lib=folder, cpu=cpu or None) as engine:
                facts = engine.facts
                yield Build(
                    package=package,
                    version=version,
                    registry=registry,
                    file=file.name,
                    sha256=sha256_of([file]),
                    number=number_of(file, version) or trusted(facts["build_number"]),
                    libraries="separate" if any("libllama" in f for f in facts["files"]) else "one file",
                    model_layout=facts["layouts"]["model"],
                    context_layout=facts["layouts"]["context"],
                    needs=instructions(facts["system_info"]),
                    cpu=cpu,
                )
    except EngineError as e:
        yield Refused(package, version, str(e).splitlines()[0].replace(str(file.parent), "").strip("/")[:300])


def add_row(package: str, version: str, say: Callable[[str], object]) -> int:
    """Fetch a wheel of PyPI for this interpreter and write its row into builds.toml; 1 where it does not open.

    DownloadError where pip has none. A version that has a row already is left as it is.
    """
    if any((b.package, b.version) == (package, version) for b in load_builds().values()):
        say(f"  {package} {version} has a row")
        return 0
    with tempfile.TemporaryDirectory(prefix="row-") as folder:
        command = [sys.executable, "-m", "pip", "download", f"{package}=={version}", "--dest", folder, "--no-deps"]
        command += ["--only-binary", ":all:", "--no-input", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(folder).glob("*.whl"))
        if done.returncode or len(files) != 1:
            last = done.stderr.strip().splitlines()[-1:] or ["no wheel came"]
            raise DownloadError(f"{package} {version} cannot be had: {last[0]}", hint=f"pip index versions {package}")
        rows = list(probe(files[0]))
        if refused := [row for row in rows if isinstance(row, Refused)]:
            say(f"  {package} {version} does not open: {refused[0].reason}")
            return 1
        built = [row for row in rows if isinstance(row, Build)]
        move(files[0], package_path(built[0]))
    write_builds([*load_builds().values(), *built])
    for row in built:
        say(f"  {row.id}: b{row.number}, layouts {row.model_layout} and {row.context_layout}, {row.needs}")
    return 0


def named(file: Path) -> tuple[str, str, str]:
    """Package, version and registry."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
            lines = archive.read(name).decode().splitlines()
        about = dict(line.split(": ", 1) for line in lines if line.startswith(("Name: ", "Version: ")))
        return about["Name"].lower().replace("_", "-"), about["Version"], "PyPI"
    about = json.loads(member(file, "package.json"))
    return about["name"], about["version"], "npm"


def member(file: Path, name: str) -> bytes:
    """A file of an npm tarball, by its last name; empty where there is none."""
    with tarfile.open(file) as tar:
        for found in tar:
            data = tar.extractfile(found) if PurePosixPath(found.name).name == name else None
            if data is not None:
                return data.read()
    return b""


def cpus(folder: Path) -> list[str]:
    """Which CPU code to compare: one for AVX2 and, if there is one, one for AVX-512; [""] where there is no choice."""
    kinds = [f.stem.split("libggml-cpu-")[1] for f in folder.glob("libggml-cpu-*.so")]
    if not kinds:
        return [""]
    return ["haswell", *[k for k in COMPARED[1:] if k in kinds][:1]]


def number_of(file: Path, version: str) -> int:
    """llama.cpp's build number by what the package says; 0 where it does not say."""
    about: dict[str, Any] = json.loads(member(file, "_nlcBuildMetadata.json") or b"{}") if file.suffix == ".tgz" else {}
    release = about.get("buildOptions", {}).get("llamaCpp", {}).get("release", version)
    found = NUMBER.match(release)
    return int(next(filter(None, found.groups()))) if found else 0


def trusted(number: int) -> int:
    """A library's own number; 0 for the 1 or 2 of one that was compiled from a copy without llama.cpp's history."""
    return number if number >= 1000 else 0


def instructions(system_info: str) -> str:
    """The widest instructions that the library says it was built with."""
    return "AVX512F" if re.search(r"AVX512 = 1", system_info) else "AVX2"
