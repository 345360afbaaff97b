"""Two threads that compute, each for many requests at a time: one small requests, the other large ones.

Requests wait in a queue of their size. Whenever a thread is free it takes one text from each request that waits for it
in turn, until a batch is full (continuous batching). While both have work the operating system shares the cores among
them, so a small request waits for no batch of a large one. A text's vector has the same bits in any batch and next to
any other (docs/batch-invariance.md), so a client cannot know which texts it was computed with.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from refembed.arrays import F32
from refembed.pipeline.batches import pack_batches
from refembed.pipeline.images import ImageInput
from refembed.pipeline.vectors import VectorOptions
from refembed.server.metrics import Metrics
from refembed.server.reading import TokenIds

if TYPE_CHECKING:
    from refembed.embedder import Embedder


SMALL_TOKENS = 512  # of a request that is a small one
SPARSE = "sparse"  # in place of a pooling: SparseVectors (`refembed.pipeline.sparse`)
LARGE_TOKENS = 512  # of a batch of large ones: MiniLM took 58 ms for it on two cores of an EPYC


class Job:
    """The texts of one request on their way to vectors."""

    def __init__(
        self, ids: Sequence[Sequence[int]], how: str, normalize: int = 2, dimensions: int | None = None,
        images: Mapping[int, ImageInput] | None = None,
    ) -> None:  # fmt: skip
        """ids: token ids of S texts, checked; images: of those that have some; the rest as for `Embedder.vectors`."""
        self.ids, self.options, self.images = ids, (how, normalize, dimensions), images or {}
        self.lengths = ids.lengths if isinstance(ids, TokenIds) else [len(text) for text in ids]
        self.vectors: list[F32 | None] = [None] * len(ids)
        self.next = self.done = 0  # texts handed out, texts finished
        self.n_tokens = sum(self.lengths)
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


class Batcher:
    """The requests of one size: those that wait, and the thread that computes them."""

    def __init__(self, worker: Worker, name: str, batch_tokens: int) -> None:
        """batch_tokens: texts run together up to so many tokens; a longer one runs alone."""
        self.worker, self.batch_tokens = worker, batch_tokens
        self.jobs: deque[Job] = deque()
        self.wake = threading.Condition()
        self.closing = False
        self.processing = self.waiting = 0  # requests
        self.thread = threading.Thread(target=self.run, name=f"refembed-inference-{name}", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        with self.wake:
            self.jobs.append(job)
            self.wake.notify()

    def close(self) -> None:
        """Compute what is queued, then end."""
        with self.wake:
            self.closing = True
            self.wake.notify()

    def run(self) -> None:
        """The thread: batch after batch."""
        while batch := self.take():
            self.worker.compute(batch, lambda: self.count(0, len(self.jobs)))

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
        """Texts of jobs with equal options, one of each job in turn, the job that waits longest first."""
        options = self.jobs[0].options
        batch = self.in_turn([job for job in self.jobs if job.options == options])
        served = {id(job) for job, _ in batch}
        waiting = [job for job in self.jobs if id(job) not in served]
        unfinished = [job for job in self.jobs if id(job) in served and job.next < len(job.ids)]
        self.jobs = deque(waiting + unfinished)
        self.count(len(served), len(waiting))
        return batch

    def in_turn(self, jobs: Sequence[Job]) -> list[tuple[Job, int]]:
        """One text of each job in turn, up to `batch_tokens`; a longer text runs alone."""
        rounds = itertools.zip_longest(*(zip(itertools.repeat(job), range(job.next, len(job.ids))) for job in jobs))
        texts, measured = itertools.tee(text for row in rounds for text in row if text)
        first = next(pack_batches((job.lengths[i] for job, i in measured), self.batch_tokens))
        batch = list(itertools.islice(texts, len(first)))
        for job, i in batch:
            job.next = i + 1
        return batch

    def count(self, processing: int, waiting: int) -> None:
        """So many requests are being computed here, so many wait."""
        self.processing, self.waiting = processing, waiting
        self.worker.count()


class Worker:
    """The two queues, and computing."""

    def __init__(
        self, embedder: Embedder, batch_tokens: int, metrics: Metrics, check: Callable[[], None] = lambda: None
    ) -> None:
        """batch_tokens: of a batch of small requests at most, unless one text has more.

        check  is called before each batch; what it raises is the batch's answer
        """
        self.embedder, self.metrics, self.check = embedder, metrics, check
        self.batchers: list[Batcher] = []
        self.small = Batcher(self, "small", batch_tokens)
        self.large = Batcher(self, "large", min(batch_tokens, LARGE_TOKENS))
        self.batchers += [self.small, self.large]

    def submit(self, job: Job) -> Future[list[F32]]:
        """Queue a job; its future has the vectors, in order. Cancelling the future drops what is not computed yet."""
        if not job.ids:
            job.future.set_result([])
        else:
            (self.small if job.n_tokens <= SMALL_TOKENS else self.large).submit(job)
        return job.future

    def close(self) -> None:
        """Compute what is queued, then end."""
        for batcher in self.batchers:
            batcher.close()
        for batcher in self.batchers:
            batcher.thread.join()

    def count(self) -> None:
        """Keep the figures of both batchers."""
        self.metrics.busy(
            sum(batcher.processing for batcher in self.batchers), sum(batcher.waiting for batcher in self.batchers)
        )

    def vectors(self, batch: list[tuple[Job, int]], ids: list[Sequence[int]]) -> list[F32]:
        """Vectors of a batch of texts; those with images are computed one by one."""
        options = batch[0][0].options
        if options[0] == SPARSE:
            found: list[Any] = [self.embedder.sparse_of(text) for text in ids]
            return found
        given = [job.images.get(i) for job, i in batch]
        plain = iter(
            self.embedder.vectors([text for text, own in zip(ids, given, strict=True) if own is None], *options)
        )
        return [
            next(plain) if own is None
            else self.embedder.vector_of({"text": own.text, "image": own.images}, 0, VectorOptions(*options))
            for own in given
        ]  # fmt: skip

    def compute(self, batch: list[tuple[Job, int]], before_answers: Callable[[], None]) -> None:
        """Run a batch. A text that fails takes its own request along, no other.

        before_answers  is called once vectors or errors are there: a client that has its answer finds it counted
        """
        ids = [job.ids[i] for job, i in batch]
        begin = time.perf_counter()
        try:
            self.check()
            vectors = self.vectors(batch, ids)
        except Exception as e:
            if len(batch) == 1:
                before_answers()
                batch[0][0].fail(e)
            else:
                for one in batch:
                    self.compute([one], before_answers)
            return
        self.metrics.computed([len(i) for i in ids], len({id(job) for job, _ in batch}), time.perf_counter() - begin)
        before_answers()
        for (job, i), vector in zip(batch, vectors, strict=True):
            job.finish(i, vector)
