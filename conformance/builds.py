"""The builds of llama.cpp that registries carry, as rows of builds.toml: what each is, and how to get and open it.

    build = load_builds()["xllamacpp 2026.10.11549"]
    with open_build(build, "model.gguf") as engine:     # a `LlamaCpp`; each build in a process of its own
        engine.embed(["Hello"])

`python -m conformance builds fetch` downloads the packages, each pinned by its sha256, with pip and npm; nothing is
installed. A package with one library for each kind of processor is two rows: the one for AVX2, which every build can
be compared with, and the one for AVX-512.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from conformance import FOLDER
from conformance.environment import vector_sets
from conformance.toml import read_toml, write_whole
from refembed.errors import DownloadError, RequestError
from refembed.gguf.digest import sha256_of
from refembed.hub.cache import at_work, cache_folder, move
from refembed.verify.engines.llamacpp import LlamaCpp

PATH = FOLDER / "builds.toml"
TIMEOUT = 1800.0  # seconds for a download
INSTRUCTIONS = {"AVX2": "avx2", "AVX512F": "avx512f"}  # and how `vector_sets` calls them


@dataclass(frozen=True)
class Build:
    """A row of builds.toml."""

    package: str  # its name in the registry
    version: str
    registry: str  # "PyPI" or "npm"
    file: str  # of the package
    sha256: str  # of that file
    number: int  # of llama.cpp's build; where the package does not say it, about where its words place it
    libraries: str  # "one file" or "separate"
    model_layout: str  # of llamacpp_layouts, which the library itself confirms when it is opened
    context_layout: str
    needs: str  # instructions: "AVX2", "AVX512F"
    cpu: str = ""  # which of the package's libraries for processors; "" where it has one
    about: bool = False  # whether the number is not the package's own
    profile: str = ""  # of `--profile` in the `ggml` numerics: the one that has this build's bits; "" where none has

    @property
    def id(self) -> str:
        """`xllamacpp 2026.10.11549`, `@node-llama-cpp/linux-x64 3.22.1 zen4`."""
        return " ".join(filter(None, (self.package, self.version, self.cpu)))


@dataclass(frozen=True)
class Refused:
    """A package of builds.toml that cannot be opened, and why."""

    package: str
    version: str
    reason: str


@dataclass(frozen=True)
class Cause:
    """What changed in llama.cpp between two builds, as far as its source says it."""

    after: int  # the newest build without it
    until: int  # the oldest build with it
    what: str
    models: tuple[str, ...] = ("*",)  # of models.toml, with * and ?
    settings: tuple[str, ...] = ("unasked", "plain")
    needs: str = ""  # "AVX2", "AVX512F"; "": either

    def fits(self, before: Build, after: Build, model: str, setting: str) -> bool:
        """Whether a step from one build to the next goes over it."""
        return (
            before.number <= self.after
            and after.number >= self.until
            and setting in self.settings
            and self.needs in ("", after.needs)
            and any(fnmatchcase(model, pattern) for pattern in self.models)
        )


@cache
def load_builds(path: Path = PATH) -> dict[str, Build]:
    """The rows by id, oldest llama.cpp first. RequestError for a row that is not what it must be."""
    known, builds = {f.name for f in fields(Build)}, []
    for row in read_toml(path).get("build", []):
        try:
            builds.append(Build(**row))
        except TypeError as e:
            raise RequestError(f"{path}: {row}: {e}", hint=f"a row has {', '.join(sorted(known))}") from None
    for build in builds:
        check(build, path)
    builds.sort(key=lambda b: (b.number, b.package, b.cpu))
    found = {build.id: build for build in builds}
    if len(found) != len(builds):
        raise RequestError(f"{path}: two rows have one package, version and cpu")
    return found


def check(build: Build, path: Path) -> None:
    """Refuse what cannot be: a digest that is none, a layout that is not known."""
    from refembed.kernels.ggml.profile import PROFILES
    from refembed.verify.engines.llamacpp_layouts import CONTEXT_LAYOUTS, MODEL_LAYOUTS

    faults = []
    if not re.fullmatch(r"[0-9a-f]{64}", build.sha256):
        faults.append(f"sha256 {build.sha256!r}")
    for what, known in (
        ("registry", ("PyPI", "npm")),
        ("libraries", ("one file", "separate")),
        ("model_layout", MODEL_LAYOUTS),
        ("context_layout", CONTEXT_LAYOUTS),
        ("needs", INSTRUCTIONS),
        ("profile", ("", *PROFILES)),
    ):
        if getattr(build, what) not in known:
            faults.append(f"{what} {getattr(build, what)!r}")
    if build.number <= 0:
        faults.append(f"number {build.number}")
    if faults:
        raise RequestError(f"{path}: {build.id}: not known: {'; '.join(faults)}")


@cache
def load_refused(path: Path = PATH) -> tuple[Refused, ...]:
    """Packages that do not open, in the file's order."""
    return tuple(Refused(**row) for row in read_toml(path).get("refused", []))


@cache
def load_causes(path: Path = PATH) -> tuple[Cause, ...]:
    """Changes of llama.cpp that moved vectors, oldest first."""
    rows: list[dict[str, Any]] = read_toml(path).get("cause", [])
    causes = [Cause(**(row | {k: tuple(row[k]) for k in ("models", "settings") if k in row})) for row in rows]
    return tuple(sorted(causes, key=lambda c: c.until))


def select(patterns: Iterable[str] = ()) -> list[Build]:
    """Builds whose id, package or number (`b11549`) fits a pattern with * and ?; all of them where there is none."""
    wanted, builds = list(patterns), list(load_builds().values())
    for p in wanted:
        if not any(fits(b, p) for b in builds):
            raise RequestError(f"no build fits {p!r}", hint="`python -m conformance builds list` names them")
    return [b for b in builds if not wanted or any(fits(b, p) for p in wanted)]


def fits(build: Build, pattern: str) -> bool:
    """Whether the pattern means this build."""
    return any(fnmatchcase(name, pattern) for name in (build.id, build.package, f"b{build.number}"))


def runs_here(build: Build) -> str:
    """Why this processor cannot run a build; "" where it can."""
    return "" if INSTRUCTIONS[build.needs] in vector_sets() else f"this processor has no {build.needs}"


# -- getting and opening -----------------------------------------------------------------------------------------------


def package_path(build: Build) -> Path:
    """Where a build's package is, once fetched."""
    return cache_folder() / "llamacpp" / "packages" / build.file


def fetch(build: Build) -> Path:
    """The package file, downloaded if it is not there. DownloadError where it cannot be had or is another one."""
    place = package_path(build)
    if place.is_file() and sha256_of([place]) == build.sha256:
        return place
    with at_work(f"build-{build.package}-{build.version}".replace("/", "-"), lambda what, done, total: None) as work:
        command = pip_command(build) if build.registry == "PyPI" else npm_command(build)
        try:
            run = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise DownloadError(f"{' '.join(command[:4])}: {e}") from None
        files = [f for f in work.iterdir() if f.suffix in (".whl", ".tgz")]
        if run.returncode or len(files) != 1:
            said = run.stderr.decode(errors="replace").strip().splitlines()
            raise DownloadError(f"{build.id} cannot be had: {(said or ['no file came'])[-1]}")
        found = sha256_of(files)
        if found != build.sha256:
            raise DownloadError(f"{build.id}: {files[0].name} has sha256 {found}, builds.toml promises {build.sha256}")
        move(files[0], place)
    return place


def pip_command(build: Build) -> list[str]:
    """pip, asked for the very wheel of the row, whatever Python asks."""
    *_, python, abi, platforms = build.file.removesuffix(".whl").split("-")
    command = [sys.executable, "-m", "pip", "download", f"{build.package}=={build.version}", "--dest", ".", "--no-deps"]
    command += ["--only-binary", ":all:", "--no-input", "--quiet", "--disable-pip-version-check"]
    command += ["--python-version", "3.11", "--implementation", python[:2], "--abi", abi]
    for platform in platforms.split("."):
        command += ["--platform", platform]
    return command


def npm_command(build: Build) -> list[str]:
    """npm, which comes with Node.js."""
    return ["npm", "pack", "--silent", f"{build.package}@{build.version}"]


def open_build(build: Build, model: str | Path | None, **options: Any) -> LlamaCpp:
    """A build in a process of its own, with a model or without. `history.check_layouts` compares its layouts.

    options  of `LlamaCpp`
    Raises DownloadError where the package has not been fetched, EngineError where it does not open.
    """
    place = package_path(build)
    if not place.is_file():
        what = f"{build.id} is not there: {place}"
        raise DownloadError(what, hint=f"`python -m conformance builds fetch {build.id!r}` gets it")
    return LlamaCpp(model, lib=place, cpu=build.cpu or None, **options)


def as_toml(table: str, row: Build | Refused) -> str:
    """A row as builds.toml has it; fields at their default are left out."""
    lines = [f"[[{table}]]"]
    for f in fields(row):
        value = getattr(row, f.name)
        if value != f.default:
            lines.append(f"{f.name} = {quoted(value) if isinstance(value, str) else str(value).lower()}")
    return "\n".join(lines) + "\n"


def write_builds(builds: Iterable[Build], path: Path = PATH) -> None:
    """Put these rows, oldest llama.cpp first, in place of the builds of the file; its comment and other tables stay."""
    text = path.read_text(encoding="utf-8")
    first = re.search(r"^\[\[build\]\]$", text, re.MULTILINE)
    if first is None:
        raise RequestError(f"{path}: there is no row")
    others = re.compile(r"^\[\[(?!build\]\])", re.MULTILINE).search(text, first.start())
    rows = sorted(builds, key=lambda b: (b.number, b.package, b.cpu))
    written = text[: first.start()] + "\n".join(as_toml("build", b) for b in rows)
    write_whole(path, (written + ("\n" + text[others.start() :] if others else "")).encode())
    load_builds.cache_clear()


def quoted(text: str) -> str:
    """A string of TOML."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
