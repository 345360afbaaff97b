"""The task slot: an array of words that holds one task, and what threads read and write in it without a lock.

A task is a kernel's number, its arguments, its rows, and in how many parts they are done. LEFT counts the parts that no
thread has taken yet, DONE those that are finished.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.atomics import publish, put, replace, seen
from refembed.kernels.llvm.jit import njit

LEFT, DONE, WORKERS, KERNEL, ROWS, ALL, GRAIN, ARGUMENTS = 0, 8, 16, 24, 25, 26, 27, 32  # words; 8 are a cache line
OWNER = 28  # the thread whose task is in the slot; 0: none
FREE, TAKEN, LEFT_OVER = 0, 1, 2  # what `claim` may find
WORDS = 256
EMPTY = np.empty((0, WORDS), np.int64)


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
