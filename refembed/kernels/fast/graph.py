"""The operations of a text noted down, to be done again for another without Python between them.

An operation of a short text takes microseconds, and the interpreter takes as long to get from one to the next: weights
have driven it out of the caches meanwhile. But texts of one length differ in their embeddings alone; the same kernels
run on the same weights, and may as well run in the same arrays. So a first text is computed as ever, in arrays of the
tape's own, while the thread pool notes its jobs. For the next one the first array is filled, the jobs are done, and the
last array is read.

That is right only if nothing but noted jobs makes an activation. Activations are the arrays with two dimensions; each
that a job reads must be one that a job before it wrote. If one is not, NumPy has been at work, and there is no tape.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.kernels import threads
from refembed.kernels.fast.buffer_pool import FREE, counts
from refembed.kernels.fast.thread_pool import EMPTY, RESULTS, WORDS, spinning_pool, write

LONGEST = 256  # tokens: what Python takes is little beside a longer text
LAYERS = 64  # times that an activation is worked on, more or less
KEPT = 64  # tapes: of MiniLM, 120 KB each


class Pool:
    """Arrays for the activations of tapes. Only one tape is noted or played at a time, so all may have the same."""

    def __init__(self) -> None:
        self.blocks: list[F32] = []

    def take(self, shape: tuple[int, ...]) -> tuple[int, F32]:
        """A block that nobody has, with room for as many rows as there may be; and an array at its beginning."""
        size = math.prod(shape)
        room = max(LONGEST, shape[0]) * math.prod(shape[1:])
        for n, (block, count) in enumerate(zip(self.blocks, counts(self.blocks), strict=True)):
            if len(block) == room and count == FREE:
                return n, block[:size].reshape(shape)
        self.blocks.append(np.empty(room, np.float32))
        return len(self.blocks) - 1, self.blocks[-1][:size].reshape(shape)


class Tape:
    """Jobs that make one activation of another; while it is noted, the first of them is `x`."""

    def __init__(self, pool: Pool, x: Float) -> None:
        self.pool, self.shape = pool, x.shape
        self.first, self.x = pool.take(x.shape)
        self.x[:] = x
        self.own = {address(self.x): self.first}  # activations that this tape has had, and their blocks
        self.made = {address(self.x)}  # those that jobs will have made when they are done again
        self.jobs: list[I64] = []
        self.constants: list[Any] = []  # other arrays that jobs read, kept for them
        self.right = True

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it."""
        n, array = self.pool.take(shape)
        self.own[address(array)] = n
        self.made.discard(address(array))
        return array

    def capture(self, kernel: int, rows: int, most: int, grain: int, arguments: tuple[Any, ...]) -> None:
        """A job, about to be done: `spinning_pool.parallel_for`'s words for it."""
        arrays = [a for a in arguments if isinstance(a, np.ndarray)]
        activations = [address(a) for a in arrays if a.ndim == 2 and a.size]
        read, written = activations[: -RESULTS[kernel]], activations[-RESULTS[kernel] :]
        self.right = self.right and self.made.issuperset(read) and self.own.keys() >= set(written)
        self.made.update(written)
        self.constants += [a for a in arrays if a.ndim != 2]
        job = np.zeros(WORDS, np.int64)
        write(job, kernel, rows, most, grain, arguments)
        self.jobs.append(job)

    def invalidate(self) -> None:
        """Something that a job reads will not stay as it is."""
        self.right = False

    def end(self, y: Float) -> None:
        """The last activation is y. From here on the pool's arrays may be had by other tapes."""
        self.right = self.right and address(y) in self.made and y.shape == self.shape
        self.last = self.own.get(address(y), 0)
        self.tape = np.stack(self.jobs) if self.jobs else EMPTY  # (jobs, WORDS)
        del self.x, self.own, self.made, self.jobs

    def play(self, x: Float) -> Float:
        """What the jobs make of x, which is of the same shape."""
        first, last = (self.pool.blocks[n][: x.size].reshape(x.shape) for n in (self.first, self.last))
        first[:] = x
        spinning_pool.play(self.tape)
        return last.copy()


def address(x: Any) -> int:
    """Where an array begins."""
    return int(x.ctypes.data)


class Tapes:
    """The tapes of one `Fast`; those that were not used for longest are forgotten."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.known: OrderedDict[Any, tuple[Tape | None, Any]] = OrderedDict()
        self.lock = threading.Lock()  # one text at a time

    def run(self, given: tuple[Any, ...], operations: Callable[[Float], Float], x: Float) -> Float:
        """`operations(x)`, which depends on x, its shape, and what is given: objects that stay as they are.

        It may do nothing to an activation but by operations. Texts that run at the same time go without a tape.
        """
        if len(x) > LONGEST or threads.own.busy or not spinning_pool.is_ready(LAYERS * x.size):
            return operations(x)
        if not self.lock.acquire(blocking=False):
            return operations(x)
        try:
            key = (*map(id, given), x.shape)
            if key not in self.known:
                return self.record(key, given, operations, x)
            self.known.move_to_end(key)
            tape = self.known[key][0]
            return operations(x) if tape is None else tape.play(x)
        finally:
            self.lock.release()

    def record(self, key: Any, given: Any, operations: Callable[[Float], Float], x: Float) -> Float:
        """`operations(x)`, noted."""
        spinning_pool.own.tape = tape = Tape(self.pool, x)
        try:
            y = operations(tape.x)
        finally:
            spinning_pool.own.tape = None
        result = y.copy()
        tape.end(y)
        self.known[key] = (tape if tape.right else None, given)  # what is given is kept, so that its ids stay its own
        if len(self.known) > KEPT:
            self.known.popitem(last=False)
        return result
