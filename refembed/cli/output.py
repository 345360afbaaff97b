"""Where results go: standard output, or a file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from refembed.errors import RequestError
from refembed.files import replacing

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a quota, is full


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[BinaryIO]:
    """A stream for bytes. None and `-` are standard output.

    A file is written beside its place and moved there at the end; after an error, or Ctrl-C, there is none, and an
    older one is untouched. What is not a plain file (a pipe, /dev/null) is written directly.
    Raises RequestError where nothing can be written.
    """
    if path in (None, "-"):
        if sys.stdout is None:
            raise RequestError("standard output is closed", hint="--output FILE writes a file")
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    target = Path(os.path.realpath(str(path)))  # a link stays one: its target is replaced
    try:
        with opened(target, path or "a file without a name") as out:
            yield out
    except OSError as e:  # while it is written, or at its end, when what is still in memory is written
        if e.filename is not None or e.errno == errno.EPIPE:
            raise
        hint = "make room there, or name another place" if e.errno in FULL else "--output takes a file"
        raise RequestError(f"{path}: cannot be written: {e.strerror or e}", hint=hint) from None


@contextlib.contextmanager
def opened(target: Path, name: str) -> Iterator[BinaryIO]:
    """The stream for a file, or for what is none. RequestError where there can be none."""
    with contextlib.ExitStack() as stack:
        try:
            if target.exists() and not target.is_file():
                out: BinaryIO = stack.enter_context(target.open("wb"))
            else:
                out = stack.enter_context(replacing(target))
        except OSError as e:
            raise RequestError(f"{name}: cannot be written: {e.strerror or e}", hint="--output takes a file") from None
        yield out
