"""Calls of `Embedder.embed` from several Python threads: the bits of one, whichever comes first to a fresh model."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.embedder import Embedder
from refembed.kernels import threads
from tests.tiny import WORDS


@pytest.fixture(params=[1, 2, 5])
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """Cores that are shared; threads take turns ten thousand times a second."""
    before, interval = list(threads.chosen), sys.getswitchinterval()
    threads.use(request.param)
    sys.setswitchinterval(1e-4)
    yield request.param
    sys.setswitchinterval(interval)
    threads.chosen[:] = before
    threads.workers.cache_clear()


def texts_of(seed: int) -> list[str]:
    """Some of any length that the model reads."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 60))) for _ in range(rng.integers(1, 20))]


def at_once(jobs: list[Any]) -> list[Any]:
    """What jobs return that threads begin together."""
    results: list[Any] = [None] * len(jobs)
    together = threading.Barrier(len(jobs))

    def work(i: int) -> None:
        together.wait(30)
        results[i] = [jobs[i]() for _ in range(2)]

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(jobs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    return results


def threads_get_the_bits_of_one(tiny: Path, numerics: str, budget: int | None, models: int) -> None:
    """Six threads, each with its own texts and pooling, on a model that none has used."""
    inputs, poolings = [texts_of(i) for i in range(6)], ["mean", "cls", "last", "none", "max", "mean"]
    want = [Embedder.load(tiny, numerics=numerics).embed(t, pooling=p) for t, p in zip(inputs, poolings, strict=True)]
    for _ in range(models):
        e = Embedder.load(tiny, numerics=numerics, memory_budget=budget)
        jobs = [lambda t=t, p=p, e=e: e.embed(t, pooling=p) for t, p in zip(inputs, poolings, strict=True)]
        for results, expected in zip(at_once(jobs), want, strict=True):
            for got in results:
                assert len(got) == len(expected)
                assert all(a.tobytes() == b.tobytes() for a, b in zip(got, expected, strict=True))


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize("budget", [None, 0])
def test_threads_get_the_bits_of_one_in_fast(tiny: Path, budget: int | None) -> None:
    threads_get_the_bits_of_one(tiny, "fast", budget, 3)


def test_threads_get_the_bits_of_one_in_exact(tiny: Path) -> None:
    threads_get_the_bits_of_one(tiny, "exact", None, 1)


@pytest.mark.usefixtures("cores")
def test_texts_come_back_in_their_order_however_they_are_shared(tiny: Path) -> None:
    """Long ones are computed first, on all cores; each text's vector is that of the text alone."""
    e, texts = Embedder.load(tiny), texts_of(3) + texts_of(4) + texts_of(5)
    e.batch_tokens = 40
    for text, vector in zip(texts, e.embed(texts), strict=True):
        assert vector.tobytes() == e.embed(text).tobytes()
    assert [len(x) for x in e.embed(texts, pooling="none")] == [len(e.tokenize(text)) for text in texts]


def test_vectors_keep_their_numbers_when_more_are_made(tiny: Path) -> None:
    """No array that is handed out is used again inside."""
    e = Embedder.load(tiny)
    kept = [
        (pooling, norm, e.embed(texts_of(7), pooling=pooling, normalize=norm))
        for norm in (-1, 2)
        for pooling in ("none", "mean")
    ]
    hidden = e.forward([e.tokenize(t) for t in texts_of(7)])
    copies = [[x.copy() for x in got] for *_, got in kept]
    before = hidden.copy()
    for i in range(20):
        e.embed(texts_of(i), pooling="none")
    assert before.tobytes() == hidden.tobytes()
    for (*_, got), copy in zip(kept, copies, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, copy, strict=True))
