"""Cores that stay awake from one operation of a text to the next.

To wake a sleeping thread takes 50 to 100 µs: more than most products of a short text. So a helper, once woken, keeps
looking for work until there has been none for PATIENCE looks. What there is to do is written into an array of words,
the mail: a kernel, its arguments, and how many parts of it are left. Whoever is free takes a part, the thread that
wrote it included, which then waits for the last one. Which thread does a part changes no bits.

Helpers call compiled kernels and never Python, so they need not wait for its lock. Each kernel that may be shared is
named here, with the types of its arguments. All of them together take 50 ms to load, and seconds to be compiled the
first time, so that is left until a process has shown that it has work to do, and happens aside.
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
from numba import types

from refembed.arrays import F32, I64
from refembed.kernels import threads
from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.fast import decoder, elementwise
from refembed.kernels.llvm import gemm
from refembed.kernels.llvm.atomics import add, getter, pause, publish, put, replace, seen
from refembed.kernels.llvm.jit import njit

LEAST = 1 << 12  # elements in a part, as `threads.parallel_for` counts them: some 5 µs
ENOUGH = 1 << 25  # elements that a process works on, some 40 ms, before it forms a crew
PATIENCE = 100_000  # looks without work: a fifth to a third of a millisecond
REST = 64  # looks from one pause to the next: many pauses in a row make a virtual machine stop the core

LEFT, DONE, THERE, KERNEL, ROWS, ALL, GRAIN, ARGUMENTS = 0, 8, 16, 24, 25, 26, 27, 32  # words; 8 are a cache line
WORDS = 256
EMPTY = np.empty((0, WORDS), np.int64)

f1, f2, f3 = (types.Array(types.float32, n, "C") for n in (1, 2, 3))
codes, halves = types.Array(types.int8, 3, "C"), types.Array(types.int16, 3, "C")
places, i = types.Array(types.int64, 1, "C"), types.int64
PRODUCT = types.Tuple((f2, f3, f1, f2, i))
HALVES, CODED = types.Tuple((f2, halves, f1, f2)), types.Tuple((f2, codes, f3, f1, f2))
THREE_PRODUCTS = types.Tuple((f2, f3, f3, f3, f1, f1, f1, f2, f2, f2))
THREE_HALVES = types.Tuple((f2, halves, halves, halves, f1, f1, f1, f2, f2, f2))
THREE_CODED = types.Tuple((f2, codes, codes, codes, f3, f3, f3, f1, f1, f1, f2, f2, f2))
LAYER, RMS = types.Tuple((f2, f2, f1, f1, types.float64, f2)), types.Tuple((f2, f1, types.float64, f2))
ONE, TWO = types.Tuple((f2, f2)), types.Tuple((f2, f2, f2))
ATTENTION = types.Tuple(
    (f2, f2, f2, i, i, places, types.float32, types.boolean, i, i, types.float32, f1, f3, f2)
)  # fmt: skip
KINDS: dict[Any, Any] = {
    gemm.by_rows: PRODUCT,
    gemm.by_panels: PRODUCT,
    gemm.by_halves: HALVES,
    gemm.by_codes: CODED,
    fast_attention.attention: ATTENTION,
    elementwise.layer_norm: LAYER,
    elementwise.rms_norm: RMS,
    elementwise.gelu: ONE,
    decoder.silu: ONE,
    decoder.geglu: TWO,
    decoder.swiglu: TWO,
    gemm.three_by_panels: THREE_PRODUCTS,
    gemm.three_by_halves: THREE_HALVES,
    gemm.three_by_codes: THREE_CODED,
}  # what can be shared, with the types of the arguments before `begin, end`
NUMBERS = {kernel: number for number, kernel in enumerate(KINDS)}
THREE = THREE_PRODUCTS, THREE_HALVES, THREE_CODED
RESULTS = [3 if kind in THREE else 1 for kind in KINDS.values()]  # how many of its last matrices a kernel fills

got_product, got_halves, got_coded = getter(PRODUCT), getter(HALVES), getter(CODED)
got_attention, got_layer, got_rms = getter(ATTENTION), getter(LAYER), getter(RMS)
got_one, got_two = getter(ONE), getter(TWO)
got_products, got_all_halves, got_all_coded = getter(THREE_PRODUCTS), getter(THREE_HALVES), getter(THREE_CODED)


@njit()
def perform(mail, begin, end):
    """Rows begin:end of what is to be done."""
    k, at = mail[KERNEL], ARGUMENTS
    if k == 0:
        gemm.by_rows(*got_product(mail, at), begin, end)
    elif k == 1:
        gemm.by_panels(*got_product(mail, at), begin, end)
    elif k == 2:
        gemm.by_halves(*got_halves(mail, at), begin, end)
    elif k == 3:
        gemm.by_codes(*got_coded(mail, at), begin, end)
    elif k == 4:
        fast_attention.attention(*got_attention(mail, at), begin, end)
    elif k == 5:
        elementwise.layer_norm(*got_layer(mail, at), begin, end)
    elif k == 6:
        elementwise.rms_norm(*got_rms(mail, at), begin, end)
    elif k == 7:
        elementwise.gelu(*got_one(mail, at), begin, end)
    elif k == 8:
        decoder.silu(*got_one(mail, at), begin, end)
    elif k == 9:
        decoder.geglu(*got_two(mail, at), begin, end)
    elif k == 10:
        decoder.swiglu(*got_two(mail, at), begin, end)
    elif k == 11:
        gemm.three_by_panels(*got_products(mail, at), begin, end)
    elif k == 12:
        gemm.three_by_halves(*got_all_halves(mail, at), begin, end)
    elif k == 13:
        gemm.three_by_codes(*got_all_coded(mail, at), begin, end)


@njit()
def take(mail):
    """Do a part, if one is left; False where none was."""
    left = seen(mail, LEFT)
    if left <= 0:
        return False
    if replace(mail, LEFT, left, left - 1):  # from here on, and until DONE says so, the job stays what it is
        rows, parts, grain = mail[ROWS], mail[ALL], mail[GRAIN]
        begin, end = rows * (left - 1) // parts // grain * grain, rows * left // parts // grain * grain
        perform(mail, begin, rows if left == parts else end)
        add(mail, DONE, 1)
    return True


@njit()
def post(mail, parts):
    """Post the job in the mail in so many parts, and help until all are taken: how many parts this thread did."""
    did = 0
    publish(mail, DONE, 0)
    publish(mail, LEFT, parts)
    while take(mail):
        did += 1
    return did


@njit()
def again(mail, tape, at, parts, patience):
    """The jobs of a tape from `at` on, each in so many parts at most, one after the other, as far as they get done.

    Which one is next; all before are done but for the last, where somebody else took too long.
    """
    for n in range(at, len(tape)):
        most = min(tape[n, ALL], parts)
        if most < 2:
            perform(tape[n], 0, tape[n, ROWS])
            continue
        for word in range(KERNEL, WORDS):
            mail[word] = tape[n, word]
        mail[ALL] = most
        post(mail, most)
        if not done(mail, most, patience):
            return n + 1
    return len(tape)


@njit()
def work(mail, parts, patience, tape, at):
    """Whatever a thread may do, in one function: it has all kernels in it, which takes a while to compile.

    A tape that is not empty: `again`. Else, with some parts: `post`. With none: be a helper; how many parts it did.
    """
    if len(tape) > 0:
        return again(mail, tape, at, parts, patience)
    if parts > 0:
        return post(mail, parts)
    did = idle = 0
    while idle < patience:
        if take(mail):
            did, idle = did + 1, 0
        else:
            idle += 1
            if idle % REST == 0:
                pause()
    add(mail, THERE, -1)
    return did


@njit()
def done(mail, parts, patience):
    """Whether all parts are done, or become so within so many looks."""
    looks = 0
    while seen(mail, DONE) < parts:
        looks += 1
        if looks > patience:
            return False
    return True


@njit()
def write(mail, kernel, rows, parts, grain, arguments):
    """Put a job into the mail."""
    put(mail, ARGUMENTS, arguments)
    mail[KERNEL], mail[ROWS], mail[ALL], mail[GRAIN] = kernel, rows, parts, grain
    publish(mail, DONE, parts)  # nothing to wait for yet


@njit()
def enlist(mail, most):
    """Count one more helper as there; False if there are enough."""
    there = seen(mail, THERE)
    return there < most and replace(mail, THERE, there, there + 1)


class Own(threading.local):
    """What a thread has of its own."""

    tape: Tape | None = None  # on which its jobs are noted (graph.py)


class Tape(Protocol):
    """Something that notes jobs, and has the arrays for them."""

    def empty(self, shape: tuple[int, ...]) -> F32:
        """An array of float32 with anything in it."""
        ...

    def note(self, kernel: int, rows: int, most: int, grain: int, arguments: tuple[Any, ...]) -> None:
        """A job, before it is done; `most` is how many parts it is worth."""
        ...

    def spoil(self) -> None:
        """The jobs could not be done again."""
        ...


class Crew:
    """The helpers of one process."""

    def __init__(self) -> None:
        self.mail = np.zeros(WORDS, np.int64)
        self.lock = threading.Lock()  # one job at a time
        self.seen = 0  # elements
        self.loading: Future[int] | None = None
        self.own = Own()

    def share(self, kernel: Callable[..., Any], *arguments: Any, rows: int, size: int, grain: int = 1) -> None:
        """`threads.parallel_for`, where a part has a multiple of `grain` rows."""
        most = min(rows // grain, size // LEAST)
        if self.own.tape is not None:
            self.own.tape.note(NUMBERS[kernel], rows, most, grain, arguments)
        parts = min(threads.cores(), most)
        if parts < 2 or threads.own.busy:
            kernel(*arguments, 0, rows)
        elif not self.formed(size):
            threads.parallel_for(kernel, *arguments, rows=rows, size=size)
        elif not self.lock.acquire(blocking=False):  # helpers have another text
            kernel(*arguments, 0, rows)
        else:
            try:
                self.call(parts - 1)
                write(self.mail, NUMBERS[kernel], rows, parts, grain, arguments)
                work(self.mail, parts, 0, EMPTY, 0)
            finally:  # also after Ctrl-C: helpers write into the caller's arrays
                self.wait()
                self.lock.release()

    def call(self, helpers: int) -> None:
        """Have so many helpers look at the mail."""
        with contextlib.suppress(RuntimeError):  # no new threads: Python is about to end
            while enlist(self.mail, helpers):
                threads.workers().submit(work, self.mail, 0, PATIENCE, EMPTY, 0)

    def play(self, tape: I64) -> None:
        """All jobs of a tape (n, WORDS), in order, without Python between them. For a crew that is formed."""
        parts, at = threads.cores(), 0
        if parts == 1 or threads.own.busy or not self.lock.acquire(blocking=False):
            work(self.mail, 1, 0, tape, 0)
            return
        try:
            self.call(parts - 1)
            while at < len(tape):
                at = work(self.mail, parts, PATIENCE // 10, tape, at)
                self.wait()
        finally:
            self.wait()
            self.lock.release()

    def wait(self) -> None:
        """Until the job in the mail is done."""
        while not done(self.mail, self.mail[ALL], PATIENCE // 10):
            time.sleep(0)  # a helper has lost its core to somebody else: it may have this one

    def formed(self, size: int) -> bool:
        """Whether `work` is there to be called; count `size` more elements, of which enough make it be loaded."""
        if self.loading is None:
            self.seen += size
            if self.seen < ENOUGH:
                return False
            with contextlib.suppress(RuntimeError):
                self.loading = threads.workers().submit(work, np.zeros(WORDS, np.int64), 0, 1, EMPTY, 0)
        return self.loading is not None and self.loading.done()

    def form(self) -> None:
        """Load it now."""
        self.formed(ENOUGH)
        if self.loading:
            self.loading.result()


crew = Crew()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=crew.__init__)  # type: ignore[misc]  # a fork has none of its parent's threads
