"""The cores of this process, and how work is shared among them: rows of one operation, or whole texts."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

from refembed.errors import RequestError
from refembed.kernels import blas

VARIABLE = "REFEMBED_THREADS"  # in the environment: what `use` says, where nothing calls it
CGROUP = Path("/sys/fs/cgroup/cpu.max")  # microseconds of computing in so many microseconds
WORTH_SHARING = 1 << 18  # elements; below this a second core costs more to wake than it saves


chosen: list[int] = []  # by `use`


def cores() -> int:
    """Cores that kernels share: as many as `use` says, else REFEMBED_THREADS, else all that this process may use."""
    return chosen[0] if chosen else requested() or available()


@cache
def requested() -> int | None:
    """REFEMBED_THREADS, read once; None where it is not set. RequestError for anything but a number from 1."""
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise RequestError(f"{VARIABLE}={value}: not a number of threads", hint="a whole number from 1")
    return int(value)


def configure(n: int | None) -> None:
    """Share n cores, of None as many as REFEMBED_THREADS says, where it is set: what `Embedder.load` begins with."""
    if n is not None:
        use(n)
    elif not chosen and (asked := requested()) is not None:
        blas.limit(asked)


@cache
def available() -> int:
    """Cores this process may use; a container may be given the time of so many."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(ValueError, OSError):  # no such file, or "max" for no limit
        quota, period = map(int, CGROUP.read_text().split())
        n = min(n, max(quota // period, 1))
    return n


def use(n: int) -> None:
    """Share n cores from now on, BLAS included: changes speed, no bits. Not while something is being computed."""
    if n < 1:
        raise RequestError(f"{n} threads: at least 1")
    blas.limit(n)
    if chosen != [n]:
        chosen[:] = [n]
        workers.cache_clear()


@cache
def workers() -> ThreadPoolExecutor:
    """One thread a core, made when first needed. Kernels release the GIL."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="refembed")


class HoldsLocks(Protocol):
    """An object with locks that another thread may hold at the moment of a fork."""

    def renew_locks(self) -> None:
        """Replace its locks by free ones: the threads that held them are not in the fork."""
        ...


holders: WeakSet[HoldsLocks] = WeakSet()


def renew_after_fork(holder: HoldsLocks) -> None:
    """Call `holder.renew_locks()` in each fork of this process."""
    holders.add(holder)


def after_fork() -> None:
    """A fork has none of its parent's threads."""
    workers.cache_clear()
    for holder in list(holders):
        holder.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off to the end of a few steps that must all be done, or none.

    Python may raise KeyboardInterrupt between any two calls of the main thread, and the locks inside of its own thread
    pool are not made for that.
    """
    held: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


def parallel_for(kernel: Callable[..., Any], *arguments: Any, rows: int, size: int) -> None:
    """Run kernel(*arguments, begin, end) over rows 0:rows, in as many parts as there are cores where it is worth it.

    size  elements to work on, one by one; a multiply-add in a product of matrices is a small part of one
    """
    if size < WORTH_SHARING or own.busy:
        kernel(*arguments, 0, rows)
        return
    parts = min(cores(), rows)
    edges = [rows * i // parts for i in range(parts + 1)]
    parallel_map([partial(kernel, *arguments, a, b) for a, b in itertools.pairwise(edges)])


def parallel_map(jobs: Sequence[Callable[[], Any]]) -> None:
    """Run jobs on all cores, each on one: what a job shares, it does alone."""
    if len(jobs) == 1 or own.busy:
        for job in jobs:
            job()
        return
    waiting = deque(jobs)

    def work() -> None:
        own.busy = True
        try:
            while waiting:
                try:
                    job = waiting.popleft()
                except IndexError:  # another core was quicker
                    break
                job()
        except BaseException:
            waiting.clear()  # the others stop
            raise
        finally:
            own.busy = False

    helpers: list[Future[None]] = []
    try:
        with uninterrupted():
            helpers += [workers().submit(work) for _ in range(min(cores(), len(jobs)) - 1)]
        work()
    finally:
        waiting.clear()  # after an interruption helpers do no more than what they have begun
        with uninterrupted():  # a helper that has not begun is not waited for: its thread may be waiting for us
            begun = [helper for helper in helpers if not helper.cancel()]
            wait(begun)
        for helper in begun:
            helper.result()


class Own(threading.local):
    """What a thread knows of itself."""

    busy = False  # whether it does its part of something that is shared already


own = Own()
