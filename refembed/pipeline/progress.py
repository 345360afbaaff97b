"""A bar on stderr while many texts are embedded. It shows only on a terminal, and only when the work takes a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BEFORE_BAR = 1.0  # seconds before the bar appears


def is_terminal(stream: TextIO | None) -> bool:
    """True where a person looks at the stream. A closed stream (`None`) is not one."""
    return stream is not None and not stream.closed and stream.isatty()


class Bar:
    """Counts texts; knows the end where the input's length is known.

        with Bar(total, wanted=True) as bar:
            bar.advance(done)

    total   the end of `done`: bytes of a file, texts of the arguments; None where it is not known
    wanted  False where the results go to the same terminal, which a bar would tear apart
    """

    def __init__(self, total: int | None, *, wanted: bool) -> None:
        self.total, self.wanted = total, wanted and is_terminal(sys.stderr)
        self.texts, self.started = 0, time.monotonic()
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, done: int, texts: int = 1) -> None:
        """One more text is embedded, or several; reading had come as far as `done` with them."""
        self.texts += texts
        if not self.wanted or (self.bar is None and time.monotonic() - self.started < SECONDS_BEFORE_BAR):
            return
        if self.bar is None:
            self.show()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, texts=f"{self.texts:,} texts")

    def show(self) -> None:
        """Put the bar on the terminal. Streams stay as they are: rich would send stdout through stderr."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = [TextColumn("embedding"), BarColumn(), TextColumn("{task.fields[texts]}")]
        columns += [TimeElapsedColumn(), TextColumn("elapsed")]
        if self.total is not None:
            columns += [TimeRemainingColumn(), TextColumn("left")]
        self.bar = Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self.task = self.bar.add_task("embedding", total=self.total, texts="")
        self.bar.start()
