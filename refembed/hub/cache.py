"""The folder where models are kept: who works in it, how files get in, and which of them are whole.

    models/NAME/               the files of a known model as published, checked whenever they are used
    gguf/NAME-TYPE.gguf        what they became, and NAME-TYPE.gguf.json: its size, sha256 and what it was made of
    locks/KEY.lock, work/KEY/  who makes a file holds the lock and works here; what the killed leave, the next sweeps

A file is made in work/ and moved to its place, so that one in its place is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from refembed.gguf.digest import sha256_of
from refembed.hub.progress import WAITING
from refembed.hub.sources import File, Progress, cannot_write, problem
from refembed.parse_json import parse_object


def cache_folder() -> Path:
    """$REFEMBED_CACHE, else $XDG_CACHE_HOME/refembed, else ~/.cache/refembed; it need not exist."""
    chosen = os.environ.get("REFEMBED_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "refembed"


@contextlib.contextmanager
def at_work(key: str, advance: Progress) -> Iterator[Path]:
    """An empty folder to work in, alone: a second process that asks for the same key waits, and `advance` hears of it.

    The system takes the lock from a process that dies, and the next one finds its leavings and removes them.
    """
    cache = cache_folder()
    try:
        for name in ("locks", "work"):
            (cache / name).mkdir(parents=True, exist_ok=True)
        lock = (cache / "locks" / f"{key}.lock").open("ab")
    except OSError as e:
        raise cannot_write(cache, e) from None
    with lock:
        try:
            acquire(lock, advance)
            work = fresh(cache / "work" / key)
        except NotImplementedError:  # a file system without locks: processes do not wait, and do not share a folder
            import tempfile

            work = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=cache / "work"))
        try:
            yield work
        finally:
            remove(work)


def acquire(lock: BinaryIO, advance: Progress) -> None:
    """Lock an open file until it is closed. NotImplementedError where the file system has no locks."""
    reported = False
    while True:
        try:
            return try_lock(lock)
        except (BlockingIOError, PermissionError):
            if not reported:
                advance(WAITING, 0, 0)
                reported = True
            time.sleep(0.05)
        except OSError as e:
            raise NotImplementedError from e


if sys.platform == "win32":
    import msvcrt

    def try_lock(lock: BinaryIO) -> None:
        """Lock an open file, or raise PermissionError where another has it."""
        msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def try_lock(lock: BinaryIO) -> None:
        """Lock an open file, or raise BlockingIOError where another has it."""
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def keep(made: Path, place: Path, made_of: list[Any]) -> None:
    """Move a finished file into the cache, then write down what it is: without the note it does not count."""
    sha256 = sha256_of([made])
    move(made, place)
    state = place.stat()
    note = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": sha256, "made_of": made_of}
    draft = made.with_name("note.json")
    draft.write_text(json.dumps(note), encoding="utf-8")
    move(draft, note_path(place))


def note_path(path: Path) -> Path:
    """Where the note about a cached file is."""
    return path.with_name(path.name + ".json")


def is_cached(path: Path, made_of: list[Any]) -> bool:
    """Whether the file is there, whole and made of this. One with another time of change than noted is read, once."""
    try:
        state = path.stat()
        note = parse_object(note_path(path).read_bytes())
        if note["size"] != state.st_size or note["made_of"] != made_of:
            return False
        if note["mtime_ns"] == state.st_mtime_ns:
            return True
        if problem(File(path.name, state.st_size, note["sha256"]), path.parent):
            return False
        with contextlib.suppress(OSError):  # a cache that is read-only is read every time
            os.utime(path, ns=(state.st_atime_ns, note["mtime_ns"]))
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove(folder: Path) -> None:
    """Remove a folder and what is in it, as far as possible."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def fresh(folder: Path) -> Path:
    """An empty folder of that name."""
    remove(folder)
    try:
        folder.mkdir(parents=True)
    except OSError as e:
        raise cannot_write(folder, e) from None
    return folder


def move(made: Path, place: Path) -> None:
    """Put a finished file in its place, in one step: no process sees half of it."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made.replace(place)
    except OSError as e:
        raise cannot_write(place, e) from None
