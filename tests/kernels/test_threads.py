"""Work shared among cores: each part once, errors arrive, and nothing waits for ever."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refembed.errors import RequestError
from refembed.kernels import blas, threads
from refembed.kernels.threads import WORTH_SHARING, parallel_for, parallel_map


@pytest.fixture(autouse=True)
def cores_as_they_were() -> Iterator[None]:
    """Each test chooses a number of cores; what was before comes back."""
    before, blas_before = list(threads.chosen), list(blas.chosen)
    yield
    threads.chosen[:], blas.chosen[:] = before, blas_before
    threads.workers.cache_clear()


def parts_of(rows: int, size: int) -> list[tuple[int, int]]:
    """begin, end of each part that `share` makes."""
    parts: list[tuple[int, int]] = []
    parallel_for(lambda begin, end: parts.append((begin, end)), rows=rows, size=size)
    return sorted(parts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.integers(1, 9), st.integers(1, 1000), st.sampled_from([0, WORTH_SHARING - 1, WORTH_SHARING, 1 << 30]))
def test_each_row_belongs_to_one_part(n: int, rows: int, size: int) -> None:
    """As many as there are cores, unless rows are fewer or the work is small; no part is empty."""
    threads.use(n)
    parts = parts_of(rows, size)
    assert parts[0][0] == 0
    assert parts[-1][1] == rows
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(parts))
    assert all(begin < end for begin, end in parts)
    assert len(parts) == (min(n, rows) if size >= WORTH_SHARING else 1)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_rows_are_no_work(n: int) -> None:
    threads.use(n)
    assert all(begin == end for begin, end in parts_of(0, 0))


def test_a_kernel_gets_its_arguments_before_its_rows() -> None:
    calls: list[Any] = []
    parallel_for(lambda *arguments: calls.append(arguments), "x", None, rows=7, size=0)
    assert calls == [("x", None, 0, 7)]


@pytest.mark.parametrize("n", [1, 2, 3, 16])
@pytest.mark.parametrize("jobs", [0, 1, 2, 3, 100])
def test_each_job_is_done_once(n: int, jobs: int) -> None:
    threads.use(n)
    done: list[int] = []
    parallel_map([lambda i=i: done.append(i) for i in range(jobs)])  # type: ignore[misc]
    assert sorted(done) == list(range(jobs))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_as_many_jobs_run_at_once_as_there_are_cores(n: int) -> None:
    threads.use(n)
    together = threading.Barrier(n)
    parallel_map([lambda: together.wait(30)] * n)
    now, most = 0, 0
    lock = threading.Lock()

    def job() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    parallel_map([job] * 30)
    assert most <= n


def test_what_a_job_shares_it_does_alone() -> None:
    """Each of the cores has a job already; afterwards it shares again."""
    threads.use(2)
    inner: list[list[tuple[int, int]]] = []
    nested: list[set[str]] = []

    def job() -> None:
        inner.append(parts_of(10, 1 << 30))
        names: set[str] = set()
        parallel_map([lambda: names.add(threading.current_thread().name)] * 5)
        nested.append(names)
        time.sleep(0.01)

    for _ in range(3):
        parallel_map([job] * 6)
    assert inner == [[(0, 10)]] * 18
    assert all(len(names) == 1 for names in nested)
    assert len(parts_of(10, 1 << 30)) == 2


def test_a_job_that_is_the_only_one_shares_its_work() -> None:
    threads.use(2)
    inner: list[Any] = []
    parallel_map([lambda: inner.extend(parts_of(10, 1 << 30))])
    assert inner == [(0, 5), (5, 10)]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_arrives_and_what_has_not_begun_stays_undone(n: int, error: type[BaseException]) -> None:
    threads.use(n)
    done: list[int] = []

    def job(i: int) -> None:
        if i == 3:
            raise error("the third")
        time.sleep(0.005)
        done.append(i)

    with pytest.raises(error, match="the third"):
        parallel_map([lambda i=i: job(i) for i in range(100)])  # type: ignore[misc]
    assert len(done) <= 3 + 2 * n
    assert len(parts_of(10, 1 << 30)) == min(n, 10)  # and the next work is shared as ever


def test_nothing_runs_any_more_once_an_error_has_arrived() -> None:
    """Two fail at once; the third, which is longer at it, is waited for."""
    threads.use(3)
    for _ in range(5):
        together, finished = threading.Barrier(3), threading.Event()

        def fail(together: threading.Barrier = together) -> None:
            together.wait(30)
            raise ValueError("at once")

        def last(together: threading.Barrier = together, finished: threading.Event = finished) -> None:
            together.wait(30)
            time.sleep(0.05)
            finished.set()

        with pytest.raises(ValueError, match="at once"):
            parallel_map([fail, fail, last])
        assert finished.is_set()


def test_several_threads_may_share_work_at_once() -> None:
    """They use the same workers; each gets its own results, and its own error."""
    threads.use(2)
    results: dict[int, list[int]] = {}
    errors: list[str] = []

    def caller(own: int) -> None:
        for _ in range(20):
            done: list[int] = []
            parallel_map([lambda i=i, done=done: done.append(i) for i in range(own * 10, own * 10 + 7)])  # type: ignore[misc]
            results.setdefault(own, []).extend(sorted(done))
        try:
            parallel_map([lambda: None, lambda: [][own], lambda: None])
        except IndexError as e:
            errors.append(str(e))

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(6)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert results == {own: list(range(own * 10, own * 10 + 7)) * 20 for own in range(6)}
    assert len(errors) == 6


def test_the_number_of_cores_can_be_chosen() -> None:
    assert threads.available() >= 1
    threads.use(3)
    assert threads.cores() == 3
    assert threads.workers()._max_workers == 3
    threads.use(1)
    assert threads.cores() == 1
    assert len(parts_of(10, 1 << 30)) == 1


@pytest.mark.parametrize("n", [0, -1])
def test_no_cores_at_all_are_refused(n: int) -> None:
    with pytest.raises(RequestError, match=f"{n} threads: at least 1"):
        threads.use(n)


WAITING = """
import os, sys, threading, time
from refembed.kernels import threads
from refembed.kernels.fast.ops import Fast
from tests.kernels.longhand import random, stored
threads.use(2)
ops, w, x = Fast(memory_budget=1 << 30), stored(random(1, 2048, 1024)), random(2, 3, 1024)
start = threading.Barrier(5)

def later():
    start.wait()
    time.sleep(0.05)
    ops.linear(x, w)

def at_once():
    start.wait()
    ops.linear(x, w)

callers = [lambda: threads.parallel_map([later, later])] * 2 + [at_once]
waiting = [threading.Thread(target=caller, daemon=True) for caller in callers]
for thread in waiting:
    thread.start()
for thread in waiting:
    thread.join(30)
os._exit(any(thread.is_alive() for thread in waiting))
"""

FORKED = """
import os, signal, time, warnings
from refembed.kernels import threads
warnings.simplefilter("ignore")  # Python's own, about forks
threads.use(2)
threads.parallel_map([lambda: time.sleep(0.01)] * 4)
child = os.fork()
if child == 0:
    done = []
    threads.parallel_map([lambda: done.append(1)] * 4)
    os._exit(len(done) != 4)
for _ in range(200):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        os._exit(status != 0)
    time.sleep(0.05)
os.kill(child, signal.SIGKILL)
os._exit(1)
"""


def test_packing_a_matrix_does_not_wait_for_threads_that_wait_for_it() -> None:
    """All workers have jobs that wait for the matrix: it is packed by the thread that began."""
    assert subprocess.run([sys.executable, "-c", WAITING], timeout=120).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_fork_does_not_wait_for_threads_that_stayed_behind() -> None:
    """As servers do that load a model and then fork."""
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 64), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 64), ("", 64)]
)
def test_a_container_has_the_cores_whose_time_it_is_given(
    text: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "CGROUP", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert threads.available.__wrapped__() == cores
    monkeypatch.setattr(threads, "CGROUP", tmp_path / "none")
    assert threads.available.__wrapped__() == 64
