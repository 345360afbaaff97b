"""Capture and replay: the operations of a text, run again for another without Python between them.

An operation of a short text takes microseconds, and the interpreter takes as long to get from one to the next: weights
have driven it out of the caches meanwhile. But texts of one length differ in their embeddings alone: the same kernels
run on the same weights, and can run in the same arrays. So the first text of a length is computed as usual, in arrays
of a captured graph, while the thread pool records its tasks. For the next text of that length the first array is
filled, the tasks are run, and the last array is read. PyTorch does the same with CUDA graphs.

Texts that share a forward pass are replayed too where as many of the same lengths come again, and so are those of a
core that computes by itself; both are captured the second time, since most lengths of a mixture come once.

That is right only if nothing but recorded tasks writes an activation. Activations are the arrays with two dimensions;
each that a task reads must have been written by an earlier task. If one was not, NumPy wrote it, and the graph is
invalid: texts of that length are computed without one.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.kernels import threads
from refembed.kernels.fast.buffer_pool import FREE, block_of, counts
from refembed.kernels.fast.task_slot import EMPTY, WORDS, write
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.recurring import Recurring

MAX_TOKENS = 512  # tokens: what Python takes is little compared with a longer text
LAYERS = 64  # times that an activation is worked on, more or less
LAYERS_OF_BATCH = 8  # as it is counted where cores have texts of their own: graphs are less of a gain there


class ArrayPool:
    """Arrays for the activations of captured graphs.

    Only one graph is captured or replayed at a time, so all graphs share them.
    """

    def __init__(self) -> None:
        self.blocks: list[F32] = []

    def take(self, shape: tuple[int, ...]) -> tuple[int, F32]:
        """A block that is not in use, with room for the largest number of rows; and an array at its beginning."""
        size = math.prod(shape)
        room = max(MAX_TOKENS, shape[0]) * math.prod(shape[1:])
        for n, (block, count) in enumerate(zip(self.blocks, counts(self.blocks), strict=True)):
            if len(block) == room and count == FREE:
                return n, block[:size].reshape(shape)
        self.blocks.append(block_of(room))
        return len(self.blocks) - 1, self.blocks[-1][:size].reshape(shape)


class CapturedGraph:
    """Tasks that compute one activation from another; while they are captured, the first one is `x`."""

    def __init__(self, pool: ArrayPool, x: Float) -> None:
        self.pool = pool
        self.first, self.x = pool.take(x.shape)
        self.x[:] = x
        self.own = {address(self.x): self.first}  # activations that this graph has had, and their blocks
        self.made = {address(self.x)}  # those that tasks will have made when they are done again
        self.tasks: list[I64] = []
        self.constants: list[Any] = []  # other arrays that tasks read, kept for them
        self.valid = True

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An uninitialized array of float32."""
        n, array = self.pool.take(shape)
        self.own[address(array)] = n
        self.made.discard(address(array))
        return array

    def capture(self, kernel: int, results: int, rows: int, most: int, grain: int, arguments: tuple[Any, ...]) -> None:
        """Record a task that is about to run, with the arguments of `SpinningPool.parallel_for`."""
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        activations = [address(a) for a in arrays if a.ndim == 2 and a.size]
        read, written = activations[:-results], activations[-results:]
        self.valid = self.valid and self.made.issuperset(read) and self.own.keys() >= set(written)
        self.made.update(written)
        self.constants += [a for a in arrays if a.ndim != 2]
        job = np.zeros(WORDS, np.int64)
        write(job, kernel, rows, most, grain, arguments)
        self.tasks.append(job)

    def invalidate(self) -> None:
        """A task reads something that will change before it is replayed."""
        self.valid = False

    def finish(self, y: Float) -> None:
        """The last activation is y. From here on other graphs may use the pool's arrays."""
        self.valid = self.valid and address(y) in self.made and y.flags.c_contiguous
        self.last, self.last_shape = self.own.get(address(y), 0), y.shape
        self.recorded = np.stack(self.tasks) if self.tasks else EMPTY  # (tasks, WORDS)
        del self.x, self.own, self.made, self.tasks

    def replay(self, x: Float) -> Float:
        """The last activation for x, which has the shape of the captured one."""
        given, found = ((self.first, x.shape), (self.last, self.last_shape))
        first, last = (self.pool.blocks[n][: math.prod(shape)].reshape(shape) for n, shape in (given, found))
        first[:] = x
        spinning_pool.replay(self.recorded, self)
        return last.copy()


def address(x: Any) -> int:
    """The address of an array's first element."""
    return int(x.ctypes.data)


class OwnGraphs(threading.local):
    """The captured graphs of each thread that computes by itself."""

    cache: GraphCache | None = None


class GraphCache(Recurring[tuple[CapturedGraph | None, Any]]):
    """The captured graphs of one `Fast`, or None where there can be none, and what was given (so its ids stay its own).

    The least recently used are dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = ArrayPool()
        self.own = OwnGraphs()
        self.renew_locks()
        threads.renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, whose parent may have been replaying (`threads.renew_after_fork`)."""
        self.lock = threading.RLock()  # one text at a time

    def run(
        self, given: tuple[Any, ...], operations: Callable[[Float], Float], x: Float, offsets: I64 | None = None
    ) -> Float:
        """`operations(x)`, which depends on x, its shape, and what is given: objects that do not change.

        It may change an activation by operations only. Texts that run at the same time are computed without a graph,
        but by threads that compute by themselves: those have graphs of their own.
        offsets  (S+1) where each text begins; None: there is one
        """
        times = LAYERS_OF_BATCH if threads.own.busy else LAYERS
        if len(x) > MAX_TOKENS or not spinning_pool.is_ready(times * x.size):
            return operations(x)
        key = (*map(id, given), x.shape, None if offsets is None or len(offsets) == 2 else offsets.tobytes())
        if threads.own.busy:
            if self.own.cache is None:
                self.own.cache = GraphCache()
            spinning_pool.own.graph = None  # an interruption may have left one
            return self.own.cache.look_up(key, given, operations, x, often=False)
        self.recover()
        if not self.lock.acquire(blocking=False):
            return operations(x)
        try:
            return self.look_up(key, given, operations, x, often=key[-1] is None)
        finally:
            self.lock.release()

    def look_up(self, key: Any, given: Any, operations: Callable[[Float], Float], x: Float, *, often: bool) -> Float:
        """`operations(x)`, replayed where it was captured; else captured, unless it comes for the first time.

        often  capture it also the first time, and in the place of another that may be needed again
        """
        if (found := self.find(key)) is not None:
            graph = found[0]
            return operations(x) if graph is None else graph.replay(x)
        if often:
            self.seen.pop(key, None)
        if often or self.worth_keeping(key):
            return self.capture(key, given, operations, x)
        return operations(x)

    def recover(self) -> None:
        """Clear away what an interruption left of this thread's: a lock, a graph half captured, a task under way."""
        with contextlib.suppress(RuntimeError):  # this thread does not have it, as usual
            while True:
                self.lock.release()
        spinning_pool.own.graph = None
        spinning_pool.settle()

    def capture(self, key: Any, given: Any, operations: Callable[[Float], Float], x: Float) -> Float:
        """`operations(x)`, captured."""
        spinning_pool.own.graph = graph = CapturedGraph(self.pool, x)
        try:
            y = operations(graph.x)
        finally:
            spinning_pool.own.graph = None
        result = y.copy()
        graph.finish(y)
        self.keep(key, (graph if graph.valid else None, given))
        return result
