"""Notices that a model's file is not what it was when it was loaded.

Weights are mapped: where a program writes into the file, vectors change, and where it shortens it, the system ends the
server (SIGBUS) when it next reads there. `ModelFiles.check` is called before each batch and takes some microseconds.

    written into, or shortened   every request that computes is answered 503 from then on, until a restart
    replaced by another file     the one that was loaded goes on being served, as it is still there; one line in the log

With `--no-mmap` the weights are a copy in memory, and both are one line in the log.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from refembed.server.errors import ApiError

log = logging.getLogger("refembed.server")

LOOK_SECONDS = 1.0  # between two looks at the path
CHANGED = "the model's file has changed since it was loaded; restart the server"


class Stamp(NamedTuple):
    """What distinguishes a file's content from another's, without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int


def stamp_of(file: Path | int) -> Stamp:
    """Of a path, or of an open file. OSError."""
    s = os.stat(file)  # noqa: PTH116  # takes descriptors as well
    return Stamp(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns)


class ModelFiles:
    """The files of a model, kept open, and what they were."""

    def __init__(self, paths: Sequence[Path], mapped: bool = True) -> None:
        """mapped: the weights are in the file itself, not in a copy."""
        self.mapped = mapped
        self.paths = list(paths)
        self.descriptors = [os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)) for path in paths]
        self.stamps = [stamp_of(fd) for fd in self.descriptors]
        self.replaced = self.changed = False
        self.next_look = 0.0

    def check(self) -> None:
        """ApiError 503 where the weights may be others by now."""
        now = time.monotonic()
        if not self.replaced and now >= self.next_look:
            self.next_look = now + LOOK_SECONDS
            self.look_at_paths()
        if not self.changed and any(
            stamp_of(fd) != stamp for fd, stamp in zip(self.descriptors, self.stamps, strict=True)
        ):
            self.changed = True
            self.warn("was written to while it is served", "its copy in memory is served" if not self.mapped else "")
        if self.changed and self.mapped:
            raise ApiError(CHANGED, "unavailable_error")

    def look_at_paths(self) -> None:
        """Whether the paths still name the files that are open."""
        for path, stamp in zip(self.paths, self.stamps, strict=True):
            try:
                found = stamp_of(path)
            except OSError:
                found = None
            if found is None or found[:2] != stamp[:2]:
                self.replaced = True
                self.warn("was removed" if found is None else "was replaced", "the one that was loaded is served")
                return

    def warn(self, what: str, then: str) -> None:
        """One line in the log."""
        log.warning("%s %s; %s", self.paths[0], what, f"{then} until the server is restarted" if then else CHANGED)

    def close(self) -> None:
        """Let go of them."""
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors = []
        self.stamps = []
