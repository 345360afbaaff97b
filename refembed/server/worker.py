"""One thread that computes, for many requests at a time.

Requests wait in a queue. Whenever the thread is free it takes one text from each waiting request in turn, until a
batch is full, so that a short request need not wait for the end of a long one (continuous batching). A text's vector
has the same bits in any batch (docs/batch-invariance.md), so a client cannot tell which texts it was computed with.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

from refembed.arrays import F32
from refembed.pipeline.batches import pack_batches
from refembed.server.metrics import Metrics

if TYPE_CHECKING:
    from refembed.embedder import Embedder


SMALL_TOKENS = 512  # of a job that need not wait in turn with larger ones
LARGE_TOKENS = 512  # of a batch of larger ones: MiniLM took 58 ms for it on two cores of an EPYC


class Job:
    """The texts of one request on their way to vectors."""

    def __init__(
        self, ids: Sequence[Sequence[int]], how: str, normalize: int = 2, dimensions: int | None = None
    ) -> None:
        """ids: token ids of S texts, checked; the rest as `Embedder.vectors` takes it."""
        self.ids, self.options = ids, (how, normalize, dimensions)
        self.vectors: list[F32 | None] = [None] * len(ids)
        self.next = self.done = 0  # texts handed out, texts finished
        self.tokens = sum(map(len, ids))  # of the texts that are not handed out yet
        self.future: Future[list[F32]] = Future()  # S arrays (D), or (T_s, D) where nothing is pooled

    @property
    def over(self) -> bool:
        """Whether no client waits for it any more."""
        return self.future.done()

    def finish(self, index: int, vector: F32) -> None:
        """One text is done; with the last one the future has its result."""
        self.vectors[index] = vector
        self.done += 1
        if self.done == len(self.ids):
            with contextlib.suppress(InvalidStateError):  # cancelled: no client waits for it
                self.future.set_result([v for v in self.vectors if v is not None])

    def fail(self, e: Exception) -> None:
        """One text cannot be computed, so the request cannot be answered."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(e)


class Worker:
    """The queue and its thread."""

    def __init__(self, embedder: Embedder, batch_tokens: int, metrics: Metrics) -> None:
        """batch_tokens: texts run together up to so many tokens; a longer one runs alone."""
        self.embedder, self.batch_tokens, self.metrics = embedder, batch_tokens, metrics
        self.jobs: deque[Job] = deque()
        self.wake = threading.Condition()
        self.closing = False
        self.small_next = False  # whose turn it is, where small and large jobs wait
        self.thread = threading.Thread(target=self.run, name="refembed-inference", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> Future[list[F32]]:
        """Queue a job; its future has the vectors, in order. Cancelling the future drops what is not computed yet."""
        if not job.ids:
            job.future.set_result([])
            return job.future
        with self.wake:
            self.jobs.append(job)
            self.wake.notify()
        return job.future

    def close(self) -> None:
        """Compute what is queued, then end."""
        with self.wake:
            self.closing = True
            self.wake.notify()
        self.thread.join()

    def run(self) -> None:
        """The thread: batch after batch."""
        while batch := self.take():
            self.compute(batch)

    def take(self) -> list[tuple[Job, int]]:
        """Wait for work and take a batch of it: texts of jobs with equal options. Empty when closed and done."""
        with self.wake:
            while True:
                self.jobs = deque(job for job in self.jobs if not job.over)
                if self.jobs:
                    return self.pick()
                if self.closing:
                    return []
                self.wake.wait()

    def pick(self) -> list[tuple[Job, int]]:
        """Texts of jobs with equal options, one of each job in turn, the job that waits longest first.

        Small jobs and large ones take turns, and a batch of large jobs is short: a small request beside a giant one
        waits for one such batch.
        """
        options = self.jobs[0].options
        same = [job for job in self.jobs if job.options == options]
        small = [job for job in same if job.tokens <= SMALL_TOKENS]
        large = [job for job in same if job.tokens > SMALL_TOKENS]
        self.small_next = not self.small_next if small and large else False
        chosen = (small if self.small_next else large) if small and large else same
        batch = self.in_turn(chosen, min(self.batch_tokens, LARGE_TOKENS) if large else self.batch_tokens)
        served = {id(job) for job, _ in batch}
        waiting = [job for job in self.jobs if id(job) not in served]
        unfinished = [job for job in self.jobs if id(job) in served and job.next < len(job.ids)]
        self.jobs = deque(waiting + unfinished)
        self.metrics.busy(len(served), len(waiting))
        return batch

    def in_turn(self, jobs: Sequence[Job], limit: int) -> list[tuple[Job, int]]:
        """One text of each job in turn, up to `limit` tokens; a longer text runs alone."""
        rounds = itertools.zip_longest(*(zip(itertools.repeat(job), range(job.next, len(job.ids))) for job in jobs))
        texts, measured = itertools.tee(text for row in rounds for text in row if text)
        first = next(pack_batches((len(job.ids[i]) for job, i in measured), limit))
        batch = list(itertools.islice(texts, len(first)))
        for job, i in batch:
            job.next = i + 1
            job.tokens -= len(job.ids[i])
        return batch

    def compute(self, batch: list[tuple[Job, int]]) -> None:
        """Run a batch. A text that fails takes its own request along, no other."""
        ids = [job.ids[i] for job, i in batch]
        begin = time.perf_counter()
        try:
            vectors = self.embedder.vectors(ids, *batch[0][0].options)
        except Exception as e:
            if len(batch) == 1:
                batch[0][0].fail(e)
            else:
                for one in batch:
                    self.compute([one])
            return
        finally:
            self.metrics.busy(0, len(self.jobs))
        self.metrics.computed([len(i) for i in ids], len({id(job) for job, _ in batch}), time.perf_counter() - begin)
        for (job, i), vector in zip(batch, vectors, strict=True):
            job.finish(i, vector)
