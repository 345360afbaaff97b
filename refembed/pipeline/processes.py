"""Several processes that compute for one Embedder: `Embedder.start_pool`.

this process      tokenizes, cuts texts into batches, puts vectors into order
each worker       loads the model again, mapped, and runs forward, pooling and normalize of a batch (pipeline/worker.py)

`Workers` are processes of any such kind; those that tokenize are in pipeline/tokenizer_pool.py. A worker is a Python
of its own, started without a fork and without importing the caller's `__main__`, so that a pool can be started from a
notebook, a script without `if __name__ == "__main__"`, and a process that has threads. A thread of this process
belongs to each worker. Where a worker is killed, that is logged, another one takes its place, and its batch is
computed again: ATTEMPTS times, then the batch is an error. Which worker computes a batch changes no bits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refembed.arrays import F32
from refembed.errors import RequestError
from refembed.kernels.blas import VARIABLES
from refembed.kernels.threads import VARIABLE
from refembed.pipeline.batches import pack_batches
from refembed.pipeline.messages import receive, send
from refembed.pipeline.worker import load_vectors

log = logging.getLogger("refembed.pool")

ATTEMPTS = 3  # workers that may die over one batch
AHEAD = 2  # batches a worker that are in flight at a time
LEAST, MOST = 256, 8192  # tokens of a batch
PARTS = 4  # batches a worker that texts which come together are cut into: the last ones even the loads out
PATIENCE = 1.0  # seconds for a worker whose output has ended to end itself, so that its exit code is its own
STOP_SECONDS = 5.0  # for the threads of a pool that stops

# with this process's own places for modules; the current folder is none, unless it is one of them
START = "import sys; sys.path[:] = sys.argv[1:]; from refembed.pipeline.worker import main; main()"


class WorkerProcess:
    """One worker, from outside."""

    def __init__(self, load: tuple[Any, ...], threads: int) -> None:
        """Start it, and wait until it has loaded. OSError, EOFError, and what loading raises."""
        places = [str(Path(p).absolute()) if p else str(Path.cwd()) for p in sys.path]
        limits = dict.fromkeys((VARIABLE, *VARIABLES), str(threads))
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | limits,
        )  # fmt: skip
        try:
            self.call(load)
        except BaseException:
            self.close()
            raise

    def call(self, request: Any) -> Any:
        """Its answer. Raises what the worker raised; EOFError or OSError where it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        send(self.process.stdin, request)
        result, error = receive(self.process.stdout)
        if error is not None:
            raise error
        return result

    def close(self, patience: float = 0.0) -> int:
        """End it and free what it holds; returns its exit code. patience: seconds for it to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.process.kill()
        code = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet
                if stream is not None:
                    stream.close()
        return code


@dataclass
class Batch:
    """Some texts that wait for a worker, and where its answer goes."""

    arguments: tuple[Any, ...]  # the first has an entry a text
    answer: Future[Any] = field(default_factory=Future)


class Workers:
    """Processes that all do the same, and the batches that wait for them.

    load       a function, and its arguments; it returns, in each process, what is called with a batch's arguments
    processes  how many; threads: of each, BLAS included
    name       of their threads here, and of the pool in messages
    Raises what loading raises in a worker.
    """

    hint = "is there memory for so many processes?"

    def __init__(self, load: tuple[Any, ...], processes: int, threads: int, name: str = "pool") -> None:
        self.load, self.n, self.threads, self.name = load, processes, threads, name
        self.batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.workers: list[WorkerProcess | None] = [None] * processes
        self.owner = os.getpid()  # a fork has no workers of its own
        self.closed = False
        loaded: list[Future[None]] = [Future() for _ in range(processes)]
        self.servants = [
            threading.Thread(target=self.serve, args=[i, loaded[i]], name=f"refembed-{name}", daemon=True)
            for i in range(processes)
        ]
        for servant in self.servants:
            servant.start()
        try:
            for one in loaded:
                one.result()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there."""
        return [worker.process.pid for worker in self.workers if worker is not None]

    def serve(self, i: int, loaded: Future[None]) -> None:
        """Hand batches to worker `i`, one after the other. A thread's whole life."""
        try:
            self.workers[i] = WorkerProcess(self.load, self.threads)
            loaded.set_result(None)
        except (EOFError, OSError) as error:
            message = f"a process of the {self.name} ended before it had loaded the model: {error or 'see stderr'}"
            loaded.set_exception(RequestError(message, hint=self.hint))
            return
        except BaseException as error:
            loaded.set_exception(error)
            return
        while (batch := self.batches.get()) is not None:
            if batch.answer.set_running_or_notify_cancel():
                try:
                    batch.answer.set_result(self.compute(i, batch))
                except BaseException as error:
                    batch.answer.set_exception(error)
        if (worker := self.workers[i]) is not None:
            worker.close()

    def compute(self, i: int, batch: Batch) -> Any:
        """The answer to a batch by worker `i`, or by those that follow it."""
        why = ""
        for _ in range(ATTEMPTS):
            if self.closed:
                break
            worker = self.workers[i]
            try:
                if worker is None:
                    worker = self.workers[i] = WorkerProcess(self.load, self.threads)
                return worker.call(batch.arguments)
            except (EOFError, OSError):
                self.workers[i] = None
                why = spell_exit(worker.close(PATIENCE)) if worker is not None else "as it started"
                if not self.closed:
                    pid, n = worker.process.pid if worker is not None else "?", len(batch.arguments[0])
                    message = "process %s of the %s ended (%s); its %d texts are computed again"
                    log.warning(message, pid, self.name, why, n)
        raise self.died(why)

    def died(self, why: str) -> RequestError:
        """The error where no worker could do it."""
        if self.closed:
            return RequestError(f"the {self.name} was stopped before all texts were computed")
        message = f"processes of the {self.name} ended {ATTEMPTS} times over the same texts ({why})"
        return RequestError(message, hint=self.hint)

    def submit(self, *arguments: Any) -> Future[Any]:
        """The answer to one batch, in the future."""
        batch = Batch(arguments)
        self.batches.put(batch)
        return batch.answer

    def answers(self, batches: Iterable[tuple[Any, ...]], ahead: int | None = None) -> Iterator[Any]:
        """The answers to batches, given by their arguments, in order; `ahead` of them are being computed meanwhile.

        What `batches` raises is raised when all before it have been given out.
        """
        waiting: deque[Future[Any]] = deque()
        most, failure, source = ahead or AHEAD * self.n, None, iter(batches)
        try:
            while failure is None:
                try:
                    arguments = next(source, None)
                except Exception as error:
                    failure = error
                    break
                if arguments is None:
                    break
                waiting.append(self.submit(*arguments))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End all workers. Safe to call twice; batches that wait are given up."""
        if self.owner != os.getpid():
            return
        self.closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                if (batch := self.batches.get_nowait()) is not None:
                    batch.answer.cancel()
        for _ in self.servants:
            self.batches.put(None)
        for worker in self.workers:
            if worker is not None:
                worker.process.kill()
        for servant in self.servants:
            servant.join(STOP_SECONDS)


class ProcessPool(Workers):
    """Workers that compute vectors.

    embedder   a function that loads the model in each, and its arguments
    processes  how many; threads: of each, BLAS included
    Raises what loading the model raises in a worker.
    """

    hint = "is there memory for all of them? fewer processes, or memory_budget=0, need less"

    def __init__(self, embedder: tuple[Any, ...], processes: int, threads: int) -> None:
        super().__init__((load_vectors, *embedder), processes, threads)

    def vectors(self, ids: Sequence[Sequence[int]], *options: Any) -> list[F32]:
        """Vectors of S texts, cut into batches for all workers, in order; arguments as of `Embedder.vectors`."""
        lengths = [len(text) for text in ids]
        tokens = min(max(sum(lengths) // (PARTS * self.n), LEAST), MOST)
        batches = ([ids[i] for i in batch] for batch in pack_batches(lengths, tokens))
        return [vector for found in self.stream(batches, *options, ahead=PARTS * self.n + 1) for vector in found]

    def stream(
        self, batches: Iterable[Sequence[Sequence[int]]], *options: Any, ahead: int | None = None
    ) -> Iterator[list[F32]]:
        """The vectors of each batch, in order, `ahead` batches being computed meanwhile."""
        arguments = (([list(text) for text in ids], *options) for ids in batches)
        return (list(found) for found in self.answers(arguments, ahead))


def spell_exit(code: int) -> str:
    """How a process ended: `SIGKILL`, or `exit code 1`."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
