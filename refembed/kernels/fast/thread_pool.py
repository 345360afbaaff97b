"""A thread pool whose workers spin between the operations of a text instead of sleeping.

To wake a sleeping thread takes 50 to 100 µs: more than most matrix products of a short text. So a worker, once woken,
polls for work until it has found none SPIN_LIMIT times. A task (a kernel, its arguments, the number of parts that are
left) is written into an array of words, the task slot. Each free thread takes a part, the calling thread included,
which then waits for the last one. Which thread computes a part changes no bits.

Workers call compiled kernels and never Python, so they do not wait for the GIL. Each kernel that may be dispatched is
listed in KERNELS with the types of its arguments. Loading all of them takes 50 ms, and compiling them the first time
takes seconds, so that is put off until a process has shown that it has work to do, and happens in the background.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from numba import types

from refembed.arrays import F32, I64
from refembed.kernels import threads
from refembed.kernels.fast import also_rounding, attention_bfloat16, decoder, elementwise, recurrent
from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.llvm import bfloat16, gemm, integer
from refembed.kernels.llvm.atomics import add, getter, pause, publish, put, replace, seen
from refembed.kernels.llvm.jit import njit, out_of_line

MIN_PART = 1 << 12  # elements in a part, as `threads.parallel_for` counts them: some 5 µs
WORTH_SPINNING = 1 << 25  # elements that a process works on, some 40 ms, before it starts the thread pool
SPIN_LIMIT = 100_000  # looks without work: a fifth to a third of a millisecond
SPINS_PER_PAUSE = 64  # looks from one pause to the next: many pauses in a row make a virtual machine stop the core

LEFT, DONE, WORKERS, KERNEL, ROWS, ALL, GRAIN, ARGUMENTS = 0, 8, 16, 24, 25, 26, 27, 32  # words; 8 are a cache line
OWNER = 28  # the thread whose task is in the slot; 0: none
FREE, TAKEN, LEFT_OVER = 0, 1, 2  # what `claim` may find
WORDS = 256
EMPTY = np.empty((0, WORDS), np.int64)

i = types.int64
f1, f2, f3 = (types.Array(types.float32, n, "C") for n in (1, 2, 3))
codes, halves = types.Array(types.int8, 3, "C"), types.Array(types.int16, 3, "C")
words = types.Array(types.int32, 3, "C")
places = types.Array(types.int64, 1, "C")


class Kernel(NamedTuple):
    """What `run_kernel` must know of a kernel."""

    arguments: Any  # their types, without `begin, end`; activations are the arrays of two dimensions
    results: int = 1  # how many of its last matrices it fills


PRODUCT = types.Tuple((f2, f3, f1, f2, i))
CODES = types.Tuple((f2, words, i, i, f1, f2, i, i))
ATTENTION = types.Tuple((f2, f2, f2, i, i, places, types.float32, types.boolean, i, i, types.float32, f1, f3, f1, f2))
NORM_AND_CODES = types.Tuple((f2, f2, f1, f1, types.float64, f2, f2))
ONE, TWO = types.Tuple((f2, f2)), types.Tuple((f2, f2, f2))
KERNELS: dict[Any, Kernel] = {  # every kernel that may be dispatched: an entry is all that a new one needs
    gemm.by_rows: Kernel(PRODUCT),
    gemm.by_panels: Kernel(PRODUCT),
    gemm.by_f16: Kernel(types.Tuple((f2, halves, f1, f2))),
    gemm.by_q8: Kernel(types.Tuple((f2, codes, f3, f1, f2))),
    gemm.three_by_panels: Kernel(types.Tuple((f2, *[f3] * 3, *[f1] * 3, *[f2] * 3)), results=3),
    gemm.three_by_f16: Kernel(types.Tuple((f2, *[halves] * 3, *[f1] * 3, *[f2] * 3)), results=3),
    gemm.three_by_q8: Kernel(types.Tuple((f2, *[codes] * 3, *[f3] * 3, *[f1] * 3, *[f2] * 3)), results=3),
    integer.quantize8: Kernel(ONE),
    integer.quantize16: Kernel(ONE),
    integer.product8: Kernel(CODES),
    integer.product16: Kernel(CODES),
    bfloat16.round_pairs: Kernel(ONE),
    bfloat16.product_bf16: Kernel(types.Tuple((f2, words, f1, f2, i, i))),
    fast_attention.attention: Kernel(ATTENTION),
    attention_bfloat16.attention: Kernel(ATTENTION),
    elementwise.layer_norm: Kernel(types.Tuple((f2, f2, f1, f1, types.float64, f2))),
    elementwise.rms_norm: Kernel(types.Tuple((f2, f1, types.float64, f2))),
    elementwise.gelu: Kernel(ONE),
    also_rounding.layer_norm8: Kernel(NORM_AND_CODES, results=2),
    also_rounding.layer_norm16: Kernel(NORM_AND_CODES, results=2),
    also_rounding.layer_norm_pairs: Kernel(NORM_AND_CODES, results=2),
    also_rounding.gelu8: Kernel(TWO, results=2),
    also_rounding.gelu16: Kernel(TWO, results=2),
    also_rounding.gelu_pairs: Kernel(TWO, results=2),
    decoder.gelu_erf: Kernel(ONE),
    decoder.silu: Kernel(ONE),
    decoder.relu: Kernel(ONE),
    decoder.geglu: Kernel(TWO),
    decoder.swiglu: Kernel(TWO),
    decoder.swiglu_oai: Kernel(TWO),
    decoder.add: Kernel(TWO),
    decoder.multiply: Kernel(TWO),
    decoder.scale: Kernel(types.Tuple((f2, types.float32, f2))),
    decoder.columns: Kernel(types.Tuple((f2, i, f2))),
    decoder.rope: Kernel(types.Tuple((f2, places, f3, i, i, i, f2))),
    recurrent.sigmoid: Kernel(ONE),
    recurrent.add_bias: Kernel(types.Tuple((f2, f1, f2))),
    recurrent.add_scaled: Kernel(types.Tuple((f2, f2, f1, f2))),
    recurrent.log_decay: Kernel(types.Tuple((f2, f1, f1, f2))),
    recurrent.short_conv: Kernel(types.Tuple((f2, f3, f1, i, places, f2))),
    recurrent.gated_delta_rule: Kernel(types.Tuple((*[f2] * 5, i, places, f2))),
    recurrent.scan_of_heads: Kernel(types.Tuple((f2, f2, f1, f2, f2, i, places, f2, f2)), results=2),
    recurrent.scan_of_states: Kernel(types.Tuple((f2, f2, f3, f2, f2, i, places, f2, f2)), results=2),
    recurrent.wkv7: Kernel(types.Tuple((*[f2] * 6, i, places, f2, f2)), results=2),
}
KERNEL_NUMBERS = {kernel: number for number, kernel in enumerate(KERNELS)}
RESULTS = [kernel.results for kernel in KERNELS.values()]  # by number


def one_of(kernels: Sequence[Any]) -> Any:
    """run(slot, begin, end): rows begin:end of the task in the slot, by the kernel whose number is in it.

    Its source is written here, a line for each kernel, since Numba compiles no call of a function that is picked at
    run time with arguments of its own types. Not cached on disk by itself but as a part of `work`.
    """
    lines = ["def run(slot, begin, end):", "    number = slot[KERNEL]"]
    names: dict[str, Any] = {"KERNEL": KERNEL, "ARGUMENTS": ARGUMENTS}
    readers = {kind: getter(kind) for kind in {KERNELS[kernel].arguments for kernel in kernels}}
    for n, kernel in enumerate(kernels):
        names |= {f"kernel_{n}": out_of_line(kernel), f"read_{n}": readers[KERNELS[kernel].arguments]}
        lines.append(f"    {'if' if n == 0 else 'elif'} number == {n}:")
        lines.append(f"        kernel_{n}(read_{n}(slot, ARGUMENTS), begin, end)")
    exec("\n".join(lines), names)
    return numba.njit(nogil=True, error_model="numpy")(names["run"])


run_kernel = one_of(list(KERNELS))


@njit()
def run_part(slot):
    """Compute one part of the task, if one is left; False if none was."""
    left = seen(slot, LEFT)
    if left <= 0:
        return False
    if replace(slot, LEFT, left, left - 1):  # from here on, and until DONE says so, the task stays what it is
        rows, parts, grain = slot[ROWS], slot[ALL], slot[GRAIN]
        begin, end = rows * (left - 1) // parts // grain * grain, rows * left // parts // grain * grain
        run_kernel(slot, begin, rows if left == parts else end)
        add(slot, DONE, 1)
    return True


@njit()
def dispatch(slot, parts):
    """Publish the task in the slot in `parts` parts, and compute parts until all are taken; returns how many."""
    did = 0
    publish(slot, DONE, 0)
    publish(slot, LEFT, parts)
    while run_part(slot):
        did += 1
    return did


@njit()
def replay_from(slot, graph, at, parts, spin_limit):
    """Run the tasks of a captured graph from `at` on, in order, each in at most `parts` parts.

    Returns the index of the next task: all before it are done, except that the last may still be running where another
    thread has lost its core.
    """
    for n in range(at, len(graph)):
        most = min(graph[n, ALL], parts)
        if most < 2:
            run_kernel(graph[n], 0, graph[n, ROWS])
            continue
        for word in range(KERNEL, WORDS):
            slot[word] = graph[n, word]
        slot[ALL] = most
        dispatch(slot, most)
        if not done(slot, most, spin_limit):
            return n + 1
    return len(graph)


@njit()
def work(slot, parts, spin_limit, graph, at):
    """All that a thread may do, in one function: it compiles all kernels, which takes a while.

    graph not empty: `replay_from`. Else, parts > 0: `dispatch`. Else: be a worker; returns how many parts were
    computed.
    """
    if len(graph) > 0:
        return replay_from(slot, graph, at, parts, spin_limit)
    if parts > 0:
        return dispatch(slot, parts)
    did = idle = 0
    while idle < spin_limit:
        if run_part(slot):
            did, idle = did + 1, 0
        else:
            idle += 1
            if idle % SPINS_PER_PAUSE == 0:
                pause()
    add(slot, WORKERS, -1)
    return did


@njit()
def done(slot, parts, spin_limit):
    """Whether all parts are done, or become so within `spin_limit` polls."""
    looks = 0
    while seen(slot, DONE) < parts:
        looks += 1
        if looks > spin_limit:
            return False
    return True


@njit()
def write(slot, kernel, rows, parts, grain, arguments):
    """Write a task into the slot."""
    put(slot, ARGUMENTS, arguments)
    slot[KERNEL], slot[ROWS], slot[ALL], slot[GRAIN] = kernel, rows, parts, grain
    publish(slot, DONE, parts)  # nothing to wait for yet


@njit()
def seen_workers(slot):
    """How many workers are awake."""
    return seen(slot, WORKERS)


@njit()
def register(slot, most):
    """Count one more worker as awake; False if there are enough."""
    there = seen(slot, WORKERS)
    return there < most and replace(slot, WORKERS, there, there + 1)


@njit()
def claim(slot, thread):
    """Make the slot this thread's. FREE: it was free, and is now. TAKEN: another thread has it.

    LEFT_OVER: this thread has it already, as an interruption left it.
    """
    if replace(slot, OWNER, 0, thread):
        return FREE
    return LEFT_OVER if seen(slot, OWNER) == thread else TAKEN


@njit()
def release(slot):
    """Leave the slot to other threads."""
    publish(slot, OWNER, 0)


class Own(threading.local):
    """What a thread has of its own."""

    graph: Capture | None = None  # the graph that its tasks are recorded in (graph.py)


class Capture(Protocol):
    """Something that records tasks, and provides the arrays they write."""

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it."""
        ...

    def capture(self, kernel: int, rows: int, most: int, grain: int, arguments: tuple[Any, ...]) -> None:
        """Record a task that is about to run; `most` is how many parts it is worth."""
        ...

    def invalidate(self) -> None:
        """The tasks cannot be replayed."""
        ...


class SpinningPool:
    """The spinning workers of one process."""

    def __init__(self) -> None:
        self.slot = np.zeros(WORDS, np.int64)
        self.kept: Any = None  # arrays of the task in the slot, which workers may write to after an interruption
        self.seen = 0  # elements
        self.loading: Future[int] | None = None
        self.own = Own()

    def parallel_for(self, kernel: Callable[..., Any], *arguments: Any, rows: int, size: int, grain: int = 1) -> None:
        """`threads.parallel_for`, where a part has a multiple of `grain` rows."""
        most = min(rows // grain, size // MIN_PART)
        if self.own.graph is not None:
            self.own.graph.capture(KERNEL_NUMBERS[kernel], rows, most, grain, arguments)
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
                write(slot, KERNEL_NUMBERS[kernel], rows, parts, grain, arguments)
                work(slot, parts, 0, EMPTY, 0)
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
                threads.workers().submit(work, slot, 0, SPIN_LIMIT, EMPTY, 0)

    def replay(self, graph: I64, keep: Any = None) -> None:
        """All tasks of a captured graph (n, WORDS), in order, without Python between them.

        For a pool that is ready. keep: whatever owns the arrays of these tasks.
        """
        parts, at = threads.cores(), 0
        if parts == 1 or threads.own.busy or (slot := self.take()) is None:
            work(self.slot, 1, 0, graph, 0)
            return
        try:
            self.kept = graph, keep
            self.wake(slot, parts - 1)
            while at < len(graph):
                at = work(slot, parts, SPIN_LIMIT // 10, graph, at)
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
            if threads.cores() == 1:  # no second thread, not even to load
                work(np.zeros(WORDS, np.int64), 0, 1, EMPTY, 0)
                self.loading = Future()
                self.loading.set_result(0)
                return True
            with threads.uninterrupted(), contextlib.suppress(RuntimeError):
                self.loading = threads.workers().submit(work, np.zeros(WORDS, np.int64), 0, 1, EMPTY, 0)
        return self.loading is not None and self.loading.done()

    def start(self) -> None:
        """Load and compile what workers run, now."""
        self.is_ready(WORTH_SPINNING)
        if self.loading:
            self.loading.result()


spinning_pool = SpinningPool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=spinning_pool.__init__)  # type: ignore[misc]  # a fork has none of its parent's threads
