"""Where results go: standard output, or a file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from refembed.atomic_write import FULL, replacing
from refembed.errors import RequestError


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[BinaryIO]:
    """A stream for bytes. None and `-` are standard output.

    A file is written in its folder under another name and moved at the end; after an error, or Ctrl-C, there is none,
    and an older one is untouched. What is not a plain file (a pipe, /dev/null) is written directly.
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
        with replacing(target) as out:
            yield out
    except OSError as e:  # as it is opened, while it is written, or at its end, when the rest of memory is written
        if e.errno == errno.EPIPE or e.filename not in (None, str(target)):
            raise
        hint = "make room there, or name another place" if e.errno in FULL else "--output takes a file"
        what = f"{path or 'a file without a name'}: cannot be written: {e.strerror or e}"
        raise RequestError(what, hint=hint) from None
