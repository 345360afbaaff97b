"""Arrays that are used again: never while anybody has them, never another thread's, never more than so many."""

from __future__ import annotations

import itertools
import math
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.fast.buffer_pool import MOST, SMALLEST, Scratch, block_of

N = SMALLEST


def address(x: Any) -> int:
    return int(x.__array_interface__["data"][0])


@pytest.mark.parametrize("shape", [(N,), (1, N), (N // 8, 8), (4, N // 16, 5), (3,), (0, 7), (MOST + 1,)])
def test_it_is_an_array_like_any_other(shape: tuple[int, ...]) -> None:
    arrays = Scratch()
    for _ in range(2):
        x = arrays.empty(shape)
        assert x.shape == shape
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        assert x.flags.writeable
        del x


def test_a_released_block_is_used_again() -> None:
    arrays = Scratch()
    x = arrays.empty((N, 2))
    first = address(x)
    x = None
    assert address(arrays.empty((2, N))) == first
    assert address(arrays.empty((N,))) == first  # half of the block
    assert len(arrays.blocks) == 1


def test_a_block_more_than_twice_as_large_is_left_for_others() -> None:
    arrays = Scratch()
    arrays.empty((4 * N,))
    arrays.empty((2 * N - 1,))
    assert sorted(map(len, arrays.blocks)) == [2 * N - 1, 4 * N]


VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda x: x,
    "a row": lambda x: x[3],
    "a number's place": lambda x: x[3:4, 1:2],
    "a transpose": lambda x: x.T,
    "a reshape of a slice of a view": lambda x: x.T[1:].reshape(-1, order="F")[5:].reshape(-1, 1),
    "other bits": lambda x: x.view(np.int32)[::7],
    "a memoryview": memoryview,
    "an array of its buffer": lambda x: np.frombuffer(memoryview(x), np.uint8),
    "an iterator": lambda x: iter(x),
    "a tuple": lambda x: (x, 1),
    "a function": lambda x: lambda: x,
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("second", [False, True], ids=["fresh", "used again"])
def test_a_view_keeps_its_block(kind: str, second: bool) -> None:
    """Be it the first array in it, or a later one."""
    arrays = Scratch()
    if second:
        arrays.empty((N, 2))
    x = arrays.empty((N, 2))
    taken = address(x)
    view = VIEWS[kind](x)
    del x
    others = [arrays.empty((N, 2)) for _ in range(3)]
    assert taken not in map(address, others)
    del view
    assert taken in [address(y) for y in (arrays.empty((N, 2)), arrays.empty((N, 2)))] + [address(arrays.empty((N, 2)))]


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_no_array_changes_while_it_is_referenced(seed: int) -> None:
    """Arrays come and go in any order; each is full of its own number to the end."""
    rng, arrays, held = random.Random(seed), Scratch(), dict[int, Any]()
    for i in range(60):
        x = arrays.empty((rng.choice([N, N + 1, 2 * N, 3 * N, 5 * N]),))
        x[:] = i
        held[i] = x[rng.randrange(3) :] if rng.random() < 0.5 else x
        del x
        while len(held) > rng.randrange(1, 12):
            del held[rng.choice(list(held))]
        for j, y in held.items():
            assert (y[:: max(len(y) // 50, 1)] == j).all()
            assert y[-1] == j


def test_no_two_arrays_overlap() -> None:
    arrays = Scratch()
    for _ in range(20):
        arrays.empty((3 * N,)), arrays.empty((2 * N,))
    held = sorted((arrays.empty((size,)) for size in [N, 2 * N, 3 * N, N, 2 * N, 3 * N] * 3), key=address)
    for x, y in itertools.pairwise(held):
        assert address(x) + x.nbytes <= address(y)


def test_blocks_begin_with_a_cache_line() -> None:
    arrays = Scratch()
    held = [arrays.empty((size,)) for size in (N, N + 1, 3 * N, 2 * N + 7)]
    assert all(address(x) % 64 == 0 for x in held)
    assert all(address(block_of(size)) % 64 == 0 for size in (0, 1, 48, N))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_a_fork_does_not_write_into_its_parents_blocks() -> None:
    x = Scratch().empty((N,))
    x[:] = 1
    if (child := os.fork()) == 0:
        x[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (x == 1).all()


def test_what_is_kept_has_an_end() -> None:
    """Free blocks go when there is no room for another; without room, an array belongs to its owner alone."""
    arrays, rng = Scratch(), random.Random(1)
    for _ in range(200):
        arrays.empty((rng.randrange(SMALLEST, MOST),))
        assert sum(map(len, arrays.blocks)) <= MOST
    held = [arrays.empty((MOST // 5,)) for _ in range(9)]
    assert sum(map(len, arrays.blocks)) <= MOST
    assert len({address(x) for x in held}) == 9
    del held
    arrays.empty((MOST,))
    assert [len(b) for b in arrays.blocks] == [MOST]


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1, MOST + 1])
def test_small_and_huge_arrays_are_not_kept(size: int) -> None:
    arrays = Scratch()
    x = arrays.empty((size,))
    assert arrays.blocks == []
    assert x.base is None or math.prod(x.base.shape) == size


def test_threads_have_blocks_of_their_own() -> None:
    """All fill arrays at once, each with its own number."""
    arrays, wrong, seen = Scratch(), list[int](), list[set[int]]()
    together = threading.Barrier(4)

    def work(own: int) -> None:
        mine = set()
        together.wait(30)
        for i in range(150):
            held = [arrays.empty((N + 100 * j,)) for j in range(3)]
            for x in held:
                x[:] = own * 1000 + i
            mine |= {address(x) for x in held}
            wrong.extend(own for x in held if not (x == own * 1000 + i).all())
        seen.append(mine)
        together.wait(30)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong
    assert len(seen) == 4
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert arrays.blocks == []  # this thread took none


def test_an_array_given_to_another_thread_is_not_free() -> None:
    arrays, given_away, done = Scratch(), list[Any](), threading.Event()
    x = arrays.empty((N,))
    taken = address(x)
    other = threading.Thread(target=lambda held: done.wait(30), args=(x,))
    other.start()
    del x
    given_away += [arrays.empty((N,)) for _ in range(3)]
    assert taken not in map(address, given_away)
    done.set()
    other.join(30)
    del other
    assert taken in [address(arrays.empty((N,)))]


def test_a_free_block_is_found_by_pythons_reference_count() -> None:
    """Pythons differ in what they count (3.14 lends a local variable to a call without counting it)."""
    arrays = Scratch()
    x = arrays.empty((N,))
    blocks = [arrays.empty((N,)) for _ in range(2)]
    assert len({address(b) for b in [x, *blocks]}) == 3
    del x
    assert arrays.empty((N,)) is not None
    assert len(arrays.blocks) == 3
