"""What a person sees while a model is fetched and converted: a bar on a terminal, one line elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from refembed.hub.sources import Progress


@contextlib.contextmanager
def shown(progress: Progress | None, what: str) -> Iterator[Progress]:
    """The function to report to: the caller's own; else a bar on stderr, or one line there where it is no terminal."""
    if progress is not None:
        yield progress
    elif sys.stderr is None:
        yield lambda what, done, total: None
    elif not sys.stderr.isatty():
        sys.stderr.write(f"refembed: {what}, once\n")
        yield lambda what, done, total: None
    else:
        with bar(what) as advance:
            yield advance


@contextlib.contextmanager
def bar(what: str) -> Iterator[Progress]:
    """A bar that goes away when all is done. Streams stay as they are: rich would send stdout through stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as shown:
        task = shown.add_task(what, total=None)

        def advance(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total or None)

        yield advance
