"""Numba's cache on the disk, made safe for several processes.

Numba keeps an index of a function's compiled versions, and each version in a file of its own. It reads the index, adds
a line, writes the index, and then the version, without a lock. Two processes that compile at once may so give one
file's name to two versions, or read a file of an older source under a new index: the machine code of other types, which
ends in a crash (numba #4807, #10128). Here who writes has a folder's lock alone, and who reads shares it.

Numba looks for its folder when a function is decorated, and writes a file to see whether that can be done. Most kernels
are only called by other kernels, which are kept with all that they call, so here it waits for the first access.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from numba.core.caching import FunctionCache, NullCache

from refembed.kernels.llvm import compiling

LOCK = "refembed.lock"  # in each folder of the cache

compiled: list[str] = []  # functions that this process has compiled and kept
loaded: list[str] = []  # those that it has taken from the disk


class LockedCache(NullCache):
    """What `numba.njit(cache=True)` keeps compiled code in, with a lock around each access."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    @cached_property
    def unlocked(self) -> Any:
        """Numba's own cache; one that keeps nothing where neither __pycache__ nor NUMBA_CACHE_DIR can be written."""
        try:
            return FunctionCache(self.function)  # type: ignore[no-untyped-call]  # Numba has no types
        except RuntimeError:  # "no locator available"
            compiling.cached = False
            return NullCache()

    @property
    def cache_path(self) -> str | None:
        """The folder; None where nothing is kept."""
        path: str | None = self.unlocked.cache_path
        return path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled version for these types, or None."""
        if self.cache_path is None:
            return None
        with locked(Path(self.cache_path), alone=False):
            found = self.unlocked.load_overload(sig, target_context)
        if found is not None:
            loaded.append(self.function.__name__)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled version."""
        if self.cache_path is None:
            return
        with locked(Path(self.cache_path), alone=True):
            self.unlocked.save_overload(sig, data)
        compiled.append(self.function.__name__)


@contextlib.contextmanager
def locked(folder: Path, alone: bool) -> Iterator[None]:
    """Hold the folder's lock: alone, or with others that read. Without one where there is no folder, or no locks."""
    try:
        if alone:
            folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("ab")
    except OSError:  # nothing there yet; or read-only, and then no process writes
        yield
        return
    with lock, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks
            acquire(lock, alone)
            stack.callback(release, lock)
        yield


if sys.platform == "win32":
    import msvcrt

    def acquire(lock: BinaryIO, alone: bool) -> None:
        """Windows has no shared lock here: one process at a time."""
        lock.seek(0)
        msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK, 1)

    def release(lock: BinaryIO) -> None:
        """Let others in."""
        lock.seek(0)
        msvcrt.locking(lock.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def acquire(lock: BinaryIO, alone: bool) -> None:
        """Wait for the lock."""
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)

    def release(lock: BinaryIO) -> None:
        """Unlock: to close is not enough where a fork has the same open file."""
        fcntl.flock(lock, fcntl.LOCK_UN)
