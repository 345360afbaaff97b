"""Several processes for one Embedder: the bits and the order of one, whatever happens to them."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refembed.embedder import Embedder
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.pipeline import processes
from tests.tiny import WORDS, tiny_bert

pytestmark = pytest.mark.system

TEXTS = [" ".join(WORDS[i : i + 1 + i % 17]) for i in range(40)] * 12


@pytest.fixture(scope="module")
def alone(tiny: Path) -> list[bytes]:
    """The bits of one process."""
    return [vector.tobytes() for vector in Embedder.load(tiny).embed(TEXTS)]


@pytest.fixture(scope="module")
def e(tiny: Path) -> Iterator[Embedder]:
    """With two workers."""
    e = Embedder.load(tiny)
    e.start_pool(2)
    yield e
    e.stop_pool()


def bits(vectors: object) -> list[bytes]:
    return [vector.tobytes() for vector in vectors]  # type: ignore[attr-defined]


def pids(e: Embedder) -> list[int]:
    pool = e.running_pool()
    assert pool is not None
    return pool.pids


def test_rows_have_the_order_and_the_bits_of_one_process(e: Embedder, alone: list[bytes]) -> None:
    assert len(set(pids(e))) == 2
    assert bits(e.embed(TEXTS)) == alone
    assert bits(e.embed_iter(iter(TEXTS), batch_tokens=64)) == alone


def test_both_workers_compute(e: Embedder) -> None:
    """Each has spent time of a core on the texts; the pool is in use, not only there."""
    before = [time_of(pid) for pid in pids(e)]
    for _ in range(200):
        e.embed(TEXTS)
        if all(time_of(pid) > spent + 2 for pid, spent in zip(pids(e), before, strict=True)):
            return
    pytest.fail(f"{before}, then {[time_of(pid) for pid in pids(e)]}")


def time_of(pid: int) -> int:
    """Clock ticks that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_vector_a_token_comes_back_whole(e: Embedder, tiny: Path) -> None:
    wanted = Embedder.load(tiny).embed(TEXTS[:9], pooling="none")
    assert bits(e.embed(TEXTS[:9], pooling="none")) == bits(wanted)


@pytest.mark.limit(300)
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    e: Embedder, alone: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL in the middle, as the system does it that has no memory left; the log says so."""
    first = pids(e)
    with caplog.at_level(logging.WARNING, "refembed.pool"):
        found = []
        for n, vector in enumerate(e.embed_iter(iter(TEXTS * 4), batch_tokens=64)):
            found.append(vector.tobytes())
            if n == 200:
                os.kill(first[0], signal.SIGKILL)
    assert found == alone * 4
    assert re.search(
        rf"process {first[0]} of the pool ended \(SIGKILL\); its \d+ texts are computed again", caplog.text
    )
    assert bits(e.embed(TEXTS)) == alone
    assert first[0] not in pids(e)
    assert len(pids(e)) == 2


def test_an_error_in_a_text_comes_behind_the_vectors_before_it(e: Embedder, alone: list[bytes]) -> None:
    got: list[bytes] = []
    stream = e.embed_iter([*TEXTS[:100], "a " * 99, *TEXTS], batch_tokens=16)
    with pytest.raises(TooLongError, match="input 100: 101 tokens"):
        got.extend(vector.tobytes() for vector in stream)
    assert len(got) < 101
    assert got[:90] == alone[:90]


def test_threads_may_share_the_workers(e: Embedder, alone: list[bytes]) -> None:
    results: list[list[bytes]] = []
    callers = [threading.Thread(target=lambda: results.append(bits(e.embed(TEXTS)))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert results == [alone] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:This process")  # Python's own, about forks
def test_a_fork_computes_by_itself(e: Embedder, alone: list[bytes]) -> None:
    child = os.fork()
    if child == 0:
        os._exit(e.running_pool() is not None or bits(e.embed(TEXTS)) != alone)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the fork waits")


def test_the_pool_starts_once_and_stops(tiny: Path) -> None:
    e = Embedder.load(tiny)
    e.stop_pool()  # none is running
    e.start_pool(1, threads=1)
    started = pids(e)
    with pytest.raises(RequestError, match="running already"):
        e.start_pool(2)
    e.stop_pool()
    assert e.running_pool() is None
    wait_until_gone(started)
    e.start_pool(1)
    started = pids(e)
    del e  # without stop_pool
    wait_until_gone(started)


def wait_until_gone(started: list[int]) -> None:
    end = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_pool_needs_a_process_and_texts_that_stand_alone(tiny: Path) -> None:
    with pytest.raises(RequestError, match="0 processes"):
        Embedder.load(tiny).start_pool(0)
    with pytest.raises(RequestError, match="depend on their batch"):
        Embedder.load(tiny, numerics="ggml", n_ubatch=64).start_pool(1)


def test_another_file_ends_the_start_and_not_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    e = Embedder.load(tiny_bert(tmp_path / "m.gguf"))
    again, (path, options, _) = e.__reduce__()
    monkeypatch.setattr(e, "__reduce__", lambda: (again, (path, options, ["0" * 64])), raising=False)
    with pytest.raises(ModelError, match=r"m\.gguf: another file than the Embedder was made of"):
        e.start_pool(2)
    assert e.running_pool() is None


DYING = """
import os, signal, sys
sys.path[:] = sys.argv[1:]
from refembed.pipeline.messages import receive, send
receive(sys.stdin.buffer)
send(sys.stdout.buffer, (None, None))
receive(sys.stdin.buffer)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.limit(300)
def test_texts_that_kill_every_worker_are_an_error_in_the_end(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START", DYING)
    e = Embedder.load(tiny)
    e.start_pool(1)
    with pytest.raises(RequestError, match=r"ended 3 times over the same texts \(SIGKILL\)"):
        e.embed(TEXTS)
    e.stop_pool()


@pytest.mark.skipif(sys.platform != "linux", reason="shared pages are listed in /proc")
def test_the_pages_of_the_model_are_shared(minilm: Path) -> None:
    """Of the mapped file no worker has a page of its own: nearly all that are in memory are shared by both."""
    e = Embedder.load(minilm, memory_budget="mapped")
    e.start_pool(2)
    e.embed(["the cat sat on the mat " * 20] * 24)
    found = [mapping_of(pid, minilm) for pid in pids(e)]
    e.stop_pool()
    size = minilm.stat().st_size
    for kib in found:
        assert kib["Private_Dirty"] == kib["Shared_Dirty"] == 0
        assert kib["Shared_Clean"] * 1024 > 0.4 * size  # all but rows of token_embd that no text has had
        assert kib["Private_Clean"] < 0.05 * kib["Shared_Clean"]


def mapping_of(pid: int, path: Path) -> dict[str, int]:
    """KiB of a file's mapping in a process, by kind."""
    kib: dict[str, int] = {}
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path.resolve()))
        elif ours and line.endswith(" kB"):
            name, value, _ = line.split()
            kib[name.rstrip(":")] = kib.get(name.rstrip(":"), 0) + int(value)
    return kib


def test_memory_is_divided(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers may keep half of what one may."""
    seen: list[object] = []

    class Pool:
        owner = -1

        def __init__(self, embedder: tuple[object, ...], n: int, threads: int) -> None:
            seen.append((embedder[2]["memory_budget"], n, threads))  # type: ignore[index]

        def close(self) -> None:
            pass

    monkeypatch.setattr("refembed.pipeline.processes.ProcessPool", Pool)
    Embedder.load(tiny, memory_budget=1000).start_pool(2, threads=3)
    Embedder.load(tiny, memory_budget="mapped").start_pool(4, threads=1)
    assert seen == [(500, 2, 3), (0, 4, 1)]


def test_vectors_that_are_handed_out_are_arrays_of_their_own(e: Embedder) -> None:
    a = e.embed(TEXTS)
    before = np.array(a)
    e.embed(TEXTS[::-1])
    assert np.array_equal(a, before)
