"""No command writes over a file that it reads: `embed --file a.txt --output a.txt` would leave vectors for texts."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from refembed.errors import RequestError

WRITTEN = ("output", "save", "html")  # parameters that name a file to write


class CheckedContext(click.Context):
    """The context of every command: before the command runs, what it writes is compared with what it reads."""

    def invoke(self, callback: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Check, then call."""
        refuse_overwriting(self.params)
        return super().invoke(callback, *args, **kwargs)


def refuse_overwriting(params: Mapping[str, Any]) -> None:
    """RequestError if a file to write is also one to read: the same file, links included, or standard input's."""
    targets = [found for name in WRITTEN for found in files(params.get(name))]
    if not targets:
        return
    reads = [found for name in params if name not in WRITTEN for found in files(params[name])]
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a file
        reads.append(("standard input", os.fstat(sys.stdin.fileno())))
    for target, status in targets:
        for source, other in reads:
            if os.path.samestat(status, other):
                message = f"{target}: this command reads it ({source}), and would write over it"
                raise RequestError(message, hint="choose another name for the file to write")


def files(value: Any) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files that a parameter's value names, as it names them."""
    if isinstance(value, (tuple, list)):
        for v in value:
            yield from files(v)
    elif isinstance(value, (str, os.PathLike)) and value != "":
        try:
            if (path := Path(value)).is_file():
                yield os.fspath(value), path.stat()
        except (OSError, ValueError):  # a text with a NUL, or longer than a name can be
            return
