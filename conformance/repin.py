"""Moving the pin to another build of llama.cpp: `python -m conformance repin VERSION`; CONTRIBUTING.md says how.

The wheel goes into a folder of its own, which every step has in front of PYTHONPATH; the installed one stays. Steps of
`--check` write nothing; the others change the pin, measure and record anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conformance.builds import select
from conformance.builds_probe import add_row
from refembed.errors import RequestError
from refembed.verify.engines.llamacpp_lib import PINNED, wheel_file

ROOT = Path(__file__).parents[1]
PACKAGE = "xllamacpp"
PINS = ("pyproject.toml", "refembed/verify/engines/llamacpp_lib.py", "README.md")  # where the version is the pin itself
MEASURED = ("refembed", "conformance", "tests", "docs", "benchmarks")  # where it says what a number was measured with
ENDINGS = (".py", ".toml", ".md", ".json")
LISTS = ("conformance/builds.toml", "conformance/history.json", "docs/history.md")  # of every version there is
WHEEL = re.compile(r"\b20\d\d\.\d{1,2}\.\d{4,6}\b")  # a version of the wheel: 2026.10.11549
PATTERNS = {  # kinds of names in the library's bytes -> what they look like
    "architectures": re.compile(rb"\0([a-z][a-z0-9]*(?:[-_.][a-z0-9]+)*)(?=\0)"),
    "metadata keys": re.compile(rb"\0((?:%s|general|tokenizer|adapter|clip|quantize|prism)\.[a-z0-9_.%]+)(?=\0)"),
    "tensors": re.compile(rb"\0((?:blk|enc\.blk|dec\.blk|v\.blk|a\.blk)\.%d\.[a-z0-9_.]+)(?=\0)"),
}
LISTED = 60  # names that are printed of a kind
ORACLE = "oracle and not slow and not peers and not attack"  # `make test-slow` and others have the rest
# not among the tests of a step: the wheel that is installed becomes the pinned one when all are done
PIN_TEST = "tests/verify/engines/test_llamacpp.py::test_the_installed_wheel_is_the_pinned_one"


@dataclass(frozen=True)
class Step:
    """One step of the procedure."""

    id: str
    does: str  # in words, for `--list`
    command: tuple[str, ...] = ()  # behind `python`; () is a function of this file
    writes: bool = False  # left out by --check
    look: str = ""  # what a maintainer must look at when it is done


STEPS = (
    Step("names", "lists architectures, metadata keys and tensors that only one of the two libraries names",
         look="each is read, or refused by name (refembed/model/unsupported.py, refembed/tokenizer/pretokenize.py)"),
    Step("verdict", "asks `refembed verify` about the new library, tensors included",
         ("-m", "refembed", "verify", "minilm", "--against", "llamacpp"),
         look="identical: the profile stands. Within rounding: the next step says which operation moved"),
    Step("bits", "compares the `ggml` numerics with the new library, bit for bit",
         ("-m", "conformance", "run", "ggml/*"),
         look="the first tensor that differs is a new row or field of refembed/kernels/ggml/profile.py, unless another "
              "row has its bits: the step `profiles` says which"),
    Step("suite", "holds every case to its bound", ("-m", "conformance", "run"),
         look="a number above its bound is a change of llama.cpp's or a fault of ours: name it before bounds move"),
    Step("tokenizers", "holds the tokenizers against the new library",
         ("-m", "pytest", "-q", "-m", ORACLE, "tests/tokenizer"),
         look="ids that changed are llama.cpp's doing: docs/tokenizers.md"),
    Step("tests", "runs all other tests that ask llama.cpp",
         ("-m", "pytest", "-q", "-m", ORACLE, "--ignore=tests/tokenizer", f"--deselect={PIN_TEST}"),
         look="recorded answers that are no longer the library's"),
    Step("pin", "writes the new version where it is the pin", writes=True,
         look="CHANGELOG.md gets a line. The steps below have the new wheel in front; install it when all are done"),
    Step("row", "adds the wheel to conformance/builds.toml", writes=True,
         look="layouts that the library confirms; one that does not open needs a new layout (llamacpp_layouts.py)"),
    Step("answers", "asks it for its vectors", ("-m", "conformance", "builds", "run", PACKAGE + " {version}"), True,
         look="architectures that it refuses"),
    Step("changes", "traces it and the wheels before and behind it, where their bits differ",
         ("-m", "conformance", "builds", "changes"), True,
         look="the first tensor that differs"),
    Step("profiles", "computes every profile of `ggml`, and writes into each row which one has its bits",
         ("-m", "conformance", "builds", "profiles"), True,
         look="a row that lost its profile; the new one's is `avx2`, or its own"),
    Step("history", "writes docs/history.md, where the pinned build is A",
         ("-m", "conformance", "builds", "page"), True,
         look="which builds are A still"),
    Step("measure", "measures the bounds anew", ("-m", "conformance", "measure"), True,
         look="looser bounds are refused: --raise by hand, with the reason in the commit"),
    Step("record", "records the answers anew", ("-m", "conformance", "record"), True,
         look="the difference of the recorded files: bits that moved are in the step `bits` too"),
    Step("architectures", "measures every architecture anew", ("-m", "conformance", "architectures", "--write"), True,
         look="docs/architectures.md: rows that changed"),
    Step("alarms", "asks `verify` about healthy engines", ("-m", "conformance", "no-false-alarm", "--write"), True,
         look="0 false alarms"),
    Step("faults", "asks `verify` about broken engines", ("-m", "conformance", "verify-mutants", "--write"), True,
         look="every fault still named"),
    Step("comments", "lists where another version stands as what a number was measured with", writes=True,
         look="measure those numbers again, or leave the version that they were measured with"),
)  # fmt: skip


@contextmanager
def wheel(version: str, where: Path | None) -> Iterator[Path]:
    """A folder with the wheel of that version, fetched by pip unless it is given. RequestError where pip fails."""
    if where is not None:
        yield where.resolve()  # steps run in the repository's folder
        return
    with tempfile.TemporaryDirectory(prefix="repin-") as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        done = subprocess.run([*command, f"{PACKAGE}=={version}"], capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
            raise RequestError(f"{PACKAGE} {version} cannot be had: {last[0]}", hint=f"pip index versions {PACKAGE}")
        yield Path(folder)


def library_in(folder: Path) -> Path:
    """The extension file in such a folder. RequestError where there is none."""
    found = sorted((folder / PACKAGE).glob(f"{PACKAGE}*.so")) + sorted((folder / PACKAGE).glob(f"{PACKAGE}*.dylib"))
    if not found:
        raise RequestError(f"{folder}: no {PACKAGE} in it", hint=f"pip install --target FOLDER {PACKAGE}==VERSION")
    return found[0]


def names_in(data: bytes) -> dict[str, set[str]]:
    """What a library's bytes name, by kind: C strings that look like it.

    A linker keeps a string that ends another one (`bert` of `modern-bert`) only there: such names are not seen.

    >>> sorted(names_in(b"\\0%s.rope.scale\\0tokenizer.ggml.pre\\0blk.%d.attn_q\\0")["metadata keys"])
    ['%s.rope.scale', 'tokenizer.ggml.pre']
    """
    found = {kind: {m.decode() for m in pattern.findall(data)} for kind, pattern in PATTERNS.items()}
    found["architectures"] &= architectures_in(data)
    return found


def architectures_in(data: bytes) -> set[str]:
    """The C strings of the table that llama.cpp keeps of them (LLM_ARCH_NAMES): from `llama` to `(unknown)`."""
    last = data.find(b"\0(unknown)\0")
    first = data.rfind(b"\0llama\0", max(0, last - 20_000), max(0, last))
    if first < 0:
        return set()
    return {s.decode("ascii", "replace") for s in data[first:last].split(b"\0") if s}


def new_names(old: Path, new: Path) -> dict[str, tuple[list[str], list[str]]]:
    """By kind, the names that only the new library has, and those that only the old one has."""
    a, b = (names_in(path.read_bytes()) for path in (old, new))
    return {kind: (sorted(b[kind] - a[kind]), sorted(a[kind] - b[kind])) for kind in a}


def show_names(folder: Path, say: Callable[[str], object]) -> int:
    """The step `names`: always 0, for a name is no failure."""
    for kind, (more, gone) in new_names(wheel_file(), library_in(folder)).items():
        for what, listed in (("new", more), ("gone", gone)):
            shown = ", ".join(listed[:LISTED]) + (f" and {len(listed) - LISTED} more" if len(listed) > LISTED else "")
            say(f"  {kind}, {what}: {shown or 'none'}")
    return 0


def places(fits: Callable[[str], bool], folders: Sequence[str]) -> list[tuple[Path, int]]:
    """Files below these that have such lines, and how many."""
    files = [f for name in folders for f in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))]
    found = []
    for file in sorted(files):
        if file.suffix in ENDINGS and file.is_file():
            n = sum(map(fits, file.read_text("utf-8", "replace").splitlines()))
            found += [(file.relative_to(ROOT), n)] if n else []
    return found


def write_pin(version: str, say: Callable[[str], object]) -> int:
    """The step `pin`."""
    for file, n in places(lambda line: PINNED in line, PINS):
        text = (ROOT / file).read_text(encoding="utf-8")
        (ROOT / file).write_text(text.replace(PINNED, version), encoding="utf-8")
        say(f"  {file}: {n} line{'s' * (n != 1)}")
    return 0


def show_comments(version: str, say: Callable[[str], object]) -> int:
    """The step `comments`. What lists every version there is, is left out."""
    for file, n in places(lambda line: bool(set(WHEEL.findall(line)) - {version}), MEASURED):
        if file.as_posix() not in LISTS:
            say(f"  {file}: {n} line{'s' * (n != 1)}")
    return 0


def run_step(step: Step, version: str, folder: Path, say: Callable[[str], object]) -> int:
    """One step; its exit code."""
    if step.id == "names":
        return show_names(folder, say)
    if step.id == "pin":
        return write_pin(version, say)
    if step.id == "row":
        return add_row(PACKAGE, version, say)
    if step.id == "comments":
        return show_comments(version, say)
    paths = os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, *(part.format(version=version) for part in step.command)]
    if step.id == "changes":
        command += around(f"{PACKAGE} {version}")
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def around(name: str) -> list[str]:
    """A wheel's row and those of its neighbors, by id, oldest llama.cpp first. RequestError where it has none."""
    ids = [build.id for build in select([PACKAGE])]
    if name not in ids:
        raise RequestError(f"{name} has no row", hint="--from row writes it")
    at = ids.index(name)
    return ids[max(0, at - 1) : at + 2]


def chosen(check: bool, only: Sequence[str], after: str | None) -> list[Step]:
    """The steps to take, in order. RequestError for a name that is no step's."""
    known = [s.id for s in STEPS]
    for name in (*only, *([after] if after else [])):
        if name not in known:
            raise RequestError(f"{name!r} is no step", hint=f"steps are {', '.join(known)}")
    steps = [s for s in STEPS if not (check and s.writes)]
    if after:
        steps = [s for s in steps if known.index(s.id) >= known.index(after)]
    return [s for s in steps if not only or s.id in only]


def repin(
    version: str, check: bool, only: Sequence[str], after: str | None, where: Path | None, say: Callable[[str], object]
) -> bool:
    """Take the steps until one fails, with --check all of them; whether all went well."""
    steps, failed = chosen(check, only, after), []
    with wheel(version, where) as folder:
        say(f"{PACKAGE} {version} in {folder}, pinned is {PINNED}")
        library_in(folder)
        for step in steps:
            say(f"\n{step.id}: {step.does}")
            begin = time.monotonic()
            code = run_step(step, version, folder, say)
            say(f"  {'done' if not code else f'exit code {code}'}, {time.monotonic() - begin:.0f} s")
            say(f"  look: {step.look}")
            if code:
                failed.append(step.id)
                if not check:
                    say(f"\nstopped; after a remedy: python -m conformance repin {version} --from {step.id}")
                    if behind := [s.id for s in steps[steps.index(step) + 1 :]]:
                        say(f"where the difference is llama.cpp's own, and named: --from {behind[0]}")
                    break
    say(f"\n{len(failed)} of {len(steps)} steps differ: {', '.join(failed)}" if failed else "\nevery step agrees")
    return not failed


def lines() -> Iterator[str]:
    """What `--list` prints."""
    for step in STEPS:
        command = f"python {' '.join(step.command)}" if step.command else ""
        yield f"{step.id:14} {step.does}{' (writes)' * step.writes}"
        if command:
            yield f"{'':14} {command}"
        yield f"{'':14} look: {step.look}"
