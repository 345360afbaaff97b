"""What a person sees while a model is fetched and converted: a bar on a terminal, one line elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from refembed.hub.sources import Progress

WAITING = "waiting for another process"
MAKING = ("converting", "quantizing", "quantizing")  # what is reported where nothing has to be fetched


@contextlib.contextmanager
def printed_progress(progress: Progress | None, name: str, *, once: bool = True) -> Iterator[Progress]:
    """The function to report to: the caller's own; else a bar on stderr, or one line there where it is no terminal.

    Either shows with the first report: where nothing has to be fetched or converted, nothing is said.
    once  whether the line says that this is done once: what was fetched is kept
    """
    if progress is not None:
        yield progress
    elif sys.stderr is None:
        yield lambda what, done, total: None
    elif not sys.stderr.isatty():
        yield Line(name, once)
    else:
        with bar(name) as advance:
            yield advance


class Line:
    """Writes one line on stderr when the work begins, and one while another process is waited for."""

    def __init__(self, name: str, once: bool = True) -> None:
        self.name, self.ending, self.begun, self.waited = name, ", once" * once, False, False

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == WAITING and not self.waited:
            self.waited = True
            sys.stderr.write(f"refembed: waiting for another process that works on {self.name}\n")
        elif what != WAITING and not self.begun:
            self.begun = True
            verb = what if what in MAKING else "getting"
            sys.stderr.write(f"refembed: {verb} {self.name}{self.ending}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def bar(name: str) -> Iterator[Progress]:
    """A bar that goes away when all is done. Streams stay as they are: rich would send stdout through stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), TextColumn("left")
    )  # fmt: skip
    console = Console(stderr=True)
    shown = Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    task = shown.add_task(name, total=None)

    def advance(what: str, done: int, total: int) -> None:
        shown.start()  # for the first report; then it does nothing
        shown.update(task, description=what, completed=done, total=total or None)

    try:
        yield advance
    finally:
        if shown.live.is_started:
            shown.stop()
