"""What threads that embed at the same time share in `fast`: weights, and the angles of rotary positions."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from refembed.kernels import threads
from refembed.kernels.fast.ops import Fast
from refembed.kernels.llvm import gemm
from refembed.kernels.ops import AttentionSpec, Rope
from tests.kernels.longhand import random, stored


def at_once(*jobs: Any) -> list[Any]:
    """What jobs return that threads begin together."""
    results: list[Any] = [None] * len(jobs)
    together = threading.Barrier(len(jobs))

    def work(i: int) -> None:
        together.wait(30)
        results[i] = jobs[i]()

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return results


@pytest.mark.parametrize("budget", [0, 1 << 24])
def test_a_matrix_that_several_threads_need_first_is_packed_once(budget: int) -> None:
    """And paid for once."""
    w, xs = stored(random(1, 300, 64)), [random(i, 3 + i, 64) for i in range(6)]
    for _ in range(5):
        ops = Fast(memory_budget=budget)
        for x, y in zip(xs, at_once(*(lambda x=x, ops=ops: ops.linear(x, w).copy() for x in xs)), strict=True):
            assert y.tobytes() == gemm.matmul(x, random(1, 300, 64)).tobytes()
        spent = budget - ops.store.budget.room
        assert spent == sum(x.nbytes for x in ops.panels.kept.values())


class Interleaved(dict[Any, Any]):
    """A dict whose first write waits until another thread has written too."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[int] = []
        self.second = threading.Event()

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.written.append(len(value[0]))
        if len(self.written) == 1:
            self.second.wait(2)
        else:
            self.second.set()


def test_a_longer_texts_turns_are_not_taken_away_by_a_shorter_one() -> None:
    """Both find no table and make one; the long text goes on with one that is long enough."""
    ops, rope = Fast(), Rope(4, "neox", 10000.0)
    ops.turned = Interleaved()
    reached: list[Any] = []

    def long() -> None:
        reached.append(ops.turns(64, rope)[0].shape)

    first = threading.Thread(target=long)
    first.start()
    while not ops.turned.written:
        time.sleep(0.001)
    ops.turned.pop(rope, None)  # as the short text found it
    ops.turns(4, rope)
    first.join(30)
    assert reached == [(64, 2)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_number_of_cores_changes_no_bits(n: int) -> None:
    """Sizes that are shared, by rows and by panels."""
    w, b = stored(random(1, 1536, 384), "w"), stored(random(2, 1536), "b")
    x, before = random(3, 1100, 384), list(threads.chosen)
    want = gemm.matmul(x, random(1, 1536, 384)) + random(2, 1536)
    try:
        threads.use(n)
        ops = Fast()
        for T in (1, 9, 100, gemm.HIGH, 1100):
            y = ops.linear(x[:T], w, b)
            assert y.tobytes() == want[:T].tobytes()
            assert ops.gelu(y).tobytes() == Fast().gelu(y[::-1])[::-1].tobytes()
        heads = [np.ascontiguousarray(x[:600, i : i + 96]) for i in (0, 96, 192)]
        got = ops.attention(*heads, AttentionSpec(4, 4, 0.2), np.array([0, 500, 600]))
        alone = ops.attention(*(h[500:] for h in heads), AttentionSpec(4, 4, 0.2), np.array([0, 100]))
        assert got[500:].tobytes() == alone.tobytes()
    finally:
        threads.chosen[:] = before
        threads.workers.cache_clear()


def test_shapes_that_kernels_would_write_beyond_are_refused() -> None:
    """Hypotheses of `verify` ask for such things."""
    ops = Fast()
    x = random(0, 3, 2, 8)
    assert ops.rope(x, np.arange(3), Rope(8, "neox", 1e4)).shape == x.shape
    with pytest.raises(ValueError, match="10 channels do not turn in heads of 8"):
        ops.rope(x, np.arange(3), Rope(10, "neox", 1e4))
    q, k, v = random(1, 3, 16), random(2, 3, 8), random(3, 3, 4)
    spec, ends = AttentionSpec(n_head=2, n_head_kv=1, scale=1.0), np.array([0, 3])
    assert ops.attention(q, k, v, spec, ends).shape == (3, 8)
    for bad in ((k, q, v), (q, k[:2], v), (q, k, v[:2]), (q[:2], k[:2], v[:2])):
        with pytest.raises(ValueError, match="do not go with"):
            ops.attention(*bad, spec, ends)
