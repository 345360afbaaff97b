"""Jobs on two workers that are killed: a worker with SIGKILL in the middle, later the driver; then started again.

In the end every row is there once, with the bits of a single process. Where a job hangs, a time limit ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refembed.embedder import Embedder
from tests.child import ROOT
from tests.tiny import WORDS, tiny_bert

ROWS, FILES = 20_000, 20
SECONDS = 600  # of a job, all its starts together: 10 to 20 s each by itself on two cores, minutes on a busy machine


class Corpus(NamedTuple):
    """Texts in files, and what must become of them."""

    folder: Path
    model: Path  # large enough that a job takes some seconds
    vectors: Any  # (ROWS, D) by a single process


def make_corpus(folder: Path) -> Corpus:
    """20,000 texts of 1 to 50 words in 20 files; row `id` of the vectors is that text's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(21)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 50))) for _ in range(ROWS)]
    (folder / "texts").mkdir()
    for n in range(FILES):
        ids = np.arange(n * ROWS // FILES, (n + 1) * ROWS // FILES)
        table = pa.table({"id": ids, "text": [texts[i] for i in ids]})
        pq.write_table(table, folder / "texts" / f"{n:03}.parquet")
    model = tiny_bert(folder / "m.gguf", C=64, F=256, n_layer=3)
    return Corpus(folder / "texts", model, np.asarray(Embedder.load(model).embed(texts)))


class Job:
    """A program of `examples/`, and the processes that it starts."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "SPARK_LOCAL_IP": "127.0.0.1",
            "RAY_worker_niceness": "0",  # its 15 starves the workers where others compute, and Ray starts more and more
        }  # fmt: skip
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=ROOT, env=environment, start_new_session=True
            )

    def workers(self, name: str) -> list[int]:
        """Descendants whose command line has this in it."""
        parents, found = {}, []
        for path in Path("/proc").iterdir():
            if path.name.isdecimal():
                with contextlib.suppress(OSError):
                    parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    if name in (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                        found.append(int(path.name))
        return [pid for pid in found if self.process.pid in ancestors(pid, parents)]

    def end(self) -> None:
        """Kill the driver, and what it has left behind: as a machine that is rebooted."""
        pids = self.workers("")
        for pid in (self.process.pid, *pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    """The parents of a process, the nearest first."""
    while (pid := parents.get(pid, 0)) > 1:
        yield pid


def ticks(pid: int) -> int:
    """What a process has computed, in clock ticks."""
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[11])


def until(what: Callable[[], Any], job: Job, deadline: float) -> Any:
    """What a function returns as soon as that is true. Fails where the job ends before, or hangs."""
    while not (found := what()):
        assert job.process.poll() is None, job.log.read_text()[-4000:]
        assert time.monotonic() < deadline, "the job hangs:\n" + job.log.read_text()[-4000:]
        time.sleep(0.02)
    return found


def killed_twice(command: list[str], worker: str, done: Callable[[], int], log: Path) -> None:
    """Run a job to its end: a worker is killed when some parts are done, the driver when some more are."""
    deadline = time.monotonic() + SECONDS
    job = Job(command, log)
    try:
        until(lambda: done() >= 2, job, deadline)
        os.kill(until(lambda: job.workers(worker), job, deadline)[0], signal.SIGKILL)
        first = done()
        until(lambda: done() >= first + 3, job, deadline)
    finally:
        job.end()
    before = done()
    assert 0 < before < FILES, "the driver was killed in the middle"
    to_its_end(command, log, deadline)


def to_its_end(command: list[str], log: Path, deadline: float | None = None) -> None:
    """Run a job that nothing kills."""
    deadline = deadline or time.monotonic() + SECONDS
    job = Job(command, log)
    try:
        assert job.process.wait(max(deadline - time.monotonic(), 1)) == 0, log.read_text()[-4000:]
    finally:
        job.end()


def check_rows(table: Any, corpus: Corpus) -> None:
    """Every row once, each with the bits of a single process."""
    ids = table["id"].to_numpy()
    assert len(ids) == ROWS
    assert np.array_equal(np.sort(ids), np.arange(ROWS))
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    assert flat.dtype == np.float32
    assert np.array_equal(flat.reshape(ROWS, -1)[np.argsort(ids)], corpus.vectors)
