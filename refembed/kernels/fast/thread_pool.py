"""A thread pool whose workers spin between the operations of a text instead of sleeping.

To wake a sleeping thread takes 50 to 100 µs: more than most matrix products of a short text. So a worker, once woken,
polls for work until it has found none SPIN_LIMIT times. A task (a kernel, its arguments, the number of parts that are
left) is written into an array of words, the task slot. Each free thread takes a part, the calling thread included,
which then waits for the last one. Which thread computes a part changes no bits.

Workers call compiled kernels and never Python, so they do not wait for the GIL (tasks.py). Loading these kernels takes
time, so that is put off until a process has shown that it has work to do, and happens in the background.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from refembed.arrays import F32, I64
from refembed.kernels import threads
from refembed.kernels.fast.task_slot import (
    ALL,
    EMPTY,
    FREE,
    LEFT_OVER,
    OWNER,
    WORDS,
    claim,
    done,
    register,
    release,
    seen_workers,
    write,
)

MIN_PART = 1 << 12  # elements in a part, as `threads.parallel_for` counts them: some 5 µs
WORTH_SPINNING = 1 << 25  # elements that a process works on, some 40 ms, before it starts the thread pool
SPIN_LIMIT = 100_000  # looks without work: a fifth to a third of a millisecond


class Own(threading.local):
    """What a thread has of its own."""

    graph: Capture | None = None  # the graph that its tasks are recorded in (graph.py)


class Capture(Protocol):
    """Something that records tasks, and provides the arrays they write."""

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it."""
        ...

    def capture(self, kernel: int, results: int, rows: int, most: int, grain: int, arguments: tuple[Any, ...]) -> None:
        """Record a task that is about to run: a kernel's number, how many matrices it fills, the parts it is worth."""
        ...

    def invalidate(self) -> None:
        """The tasks cannot be replayed."""
        ...


class SpinningPool:
    """The spinning workers of one process."""

    def __init__(self) -> None:
        self.slot = np.zeros(WORDS, np.int64)
        self.tasks: Any = None  # the module tasks.py, once there is enough to do
        self.kept: Any = None  # arrays of the task in the slot, which workers may write to after an interruption
        self.seen = 0  # elements
        self.loading: Future[None] | None = None
        self.ready = False  # Future.done() takes a lock, which an interruption may leave locked for other threads
        self.own = Own()

    def parallel_for(self, kernel: Callable[..., Any], *arguments: Any, rows: int, size: int, grain: int = 1) -> None:
        """`threads.parallel_for`, where a part has a multiple of `grain` rows."""
        most = min(rows // grain, size // MIN_PART)
        if self.own.graph is not None:
            number, results = self.tasks.KERNEL_NUMBERS[kernel], self.tasks.KERNELS[kernel].results
            self.own.graph.capture(number, results, rows, most, grain, arguments)
        parts = min(threads.cores(), most)
        if parts < 2 or threads.own.busy:
            kernel(*arguments, 0, rows)
        elif not self.is_ready(size):
            threads.parallel_for(kernel, *arguments, rows=rows, size=size)
        elif (slot := self.take()) is None:  # workers have another text
            kernel(*arguments, 0, rows)
        else:
            try:
                self.kept = arguments
                self.wake(slot, parts - 1)
                write(slot, self.tasks.KERNEL_NUMBERS[kernel], rows, parts, grain, arguments)
                self.tasks.work(slot, parts, 0, EMPTY, 0)
                self.wait(slot)
                self.kept = None
                release(slot)
            except BaseException:  # Ctrl-C
                self.settle()
                raise

    def take(self) -> I64 | None:
        """The slot, for a task of this thread; None while another thread has one in it.

        Python may raise KeyboardInterrupt between any two calls, so a lock could stay locked for good. Here compiled
        code takes the slot and notes in it whose it is: what an interruption left there, the same thread clears away.
        """
        slot, thread = self.slot, threading.get_ident()
        found = claim(slot, thread)
        if found == LEFT_OVER:
            self.settle()
            slot = self.slot
            found = claim(slot, thread)
        return slot if found == FREE else None

    def settle(self) -> None:
        """After an interruption: wait for this thread's task, and go on with another slot.

        Workers write into the arrays of that task until it is done. The next interruption does not end the wait, and
        where one comes at the very moment that it can, `take` settles again. Workers that were counted as awake and
        never woken are forgotten with the old slot; others leave it when they find no work.
        """
        slot = self.slot
        while slot[OWNER] == threading.get_ident():
            with contextlib.suppress(BaseException):
                self.wait(slot)
                self.slot, self.kept = np.zeros(WORDS, np.int64), None
                release(slot)

    def wake(self, slot: I64, n_workers: int) -> None:
        """Wake workers until so many poll the slot."""
        if seen_workers(slot) >= n_workers:
            return
        with threads.uninterrupted(), contextlib.suppress(RuntimeError):  # no new threads: Python is about to end
            while register(slot, n_workers):
                threads.workers().submit(self.tasks.work, slot, 0, SPIN_LIMIT, EMPTY, 0)

    def replay(self, graph: I64, keep: Any = None) -> None:
        """All tasks of a captured graph (n, WORDS), in order, without Python between them.

        For a pool that is ready. keep: whatever owns the arrays of these tasks.
        """
        parts, at = threads.cores(), 0
        if parts == 1 or threads.own.busy or (slot := self.take()) is None:
            self.tasks.work(self.slot, 1, 0, graph, 0)
            return
        try:
            self.kept = graph, keep
            self.wake(slot, parts - 1)
            while at < len(graph):
                at = self.tasks.work(slot, parts, SPIN_LIMIT // 10, graph, at)
                self.wait(slot)
            self.kept = None
            release(slot)
        except BaseException:
            self.settle()
            raise

    def wait(self, slot: I64) -> None:
        """Wait until the task in the slot is done."""
        while not done(slot, slot[ALL], SPIN_LIMIT // 10):
            time.sleep(0)  # a worker has lost its core to another thread: it may have this one

    def is_ready(self, size: int) -> bool:
        """Whether `work` is compiled and loaded; counts `size` more elements, enough of which have it loaded."""
        if self.loading is None:
            self.seen += size
            if self.seen < WORTH_SPINNING:
                return False
            from refembed.kernels.fast import tasks  # not in `load`: a fork must not find it half imported

            self.tasks = tasks
            if threads.cores() == 1:  # no second thread, not even to load
                self.load()
                self.loading = Future()
                self.loading.set_result(None)
                return True
            with threads.uninterrupted(), contextlib.suppress(RuntimeError):
                self.loading = threads.workers().submit(self.load)
        return self.ready

    def load(self) -> None:
        """Compile and load what workers run."""
        self.tasks.work(np.zeros(WORDS, np.int64), 0, 1, EMPTY, 0)
        self.ready = True

    def start(self) -> None:
        """Load and compile what workers run, now."""
        self.is_ready(WORTH_SPINNING)
        if self.loading:
            self.loading.result()


spinning_pool = SpinningPool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=spinning_pool.__init__)  # type: ignore[misc]  # a fork has none of its parent's threads
