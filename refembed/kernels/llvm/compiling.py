"""One line while Numba compiles: the first call of a kernel takes seconds, and nothing else would say why.

The command line asks for it (`ask`); in a library's use nothing is said. What is taken from Numba's cache on the disk
is not compiled, so a second run says nothing. Numba is not imported here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

cached = True  # False where jit.py found no folder to keep compiled code in
AFTER = 0.5  # seconds of compiling before the line: a single small kernel is not worth one

_say: Callable[[str], object] | None = None
_listener: Any = None


def ask(say: Callable[[str], object] | None) -> None:
    """Call `say` with a line, once, when compiling has taken AFTER seconds. None: say nothing (again)."""
    global _say
    _say = say
    watch()


def watch() -> None:
    """Listen to Numba's compiler. jit.py calls this too: whichever of the two comes second does it."""
    global _listener
    if _say is None or _listener is not None or "numba" not in sys.modules:
        return
    from numba.core import event

    class Listener(event.Listener):
        """Adds up the time of all compilations, those within others counted once."""

        def __init__(self) -> None:
            self.depth, self.began, self.spent = 0, 0.0, 0.0

        def on_start(self, event: Any) -> None:
            self.began = time.monotonic() if self.depth == 0 else self.began
            self.depth += 1
            self.look()

        def on_end(self, event: Any) -> None:
            self.look()
            self.depth -= 1
            self.spent += time.monotonic() - self.began if self.depth == 0 else 0

        def look(self) -> None:
            """Say it, if it is time."""
            if _say is not None and self.spent + time.monotonic() - self.began >= AFTER:
                say_once()

    _listener = Listener()
    event.register("numba:compile", _listener)  # type: ignore[no-untyped-call]  # Numba has no types


def say_once() -> None:
    global _say
    say, _say = _say, None
    if say is not None:
        later = (
            "later runs load them"
            if cached
            else ("as in every run: no folder can be written that would keep them (NUMBA_CACHE_DIR names one)")
        )
        say(f"compiling kernels that were not used before: up to 20 s; {later}")
