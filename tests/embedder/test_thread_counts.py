"""`Embedder.load(threads=)` and REFEMBED_THREADS, by the threads that a process really has; and forks after use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.kernels import blas, threads
from tests.child import ROOT

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")

# prints how many threads computed: those with 50 ms of a core and more, which the system counts
COUNT = """
import sys
from pathlib import Path
from refembed import Embedder

def ticks():
    found = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[task.name] = int(fields[11]) + int(fields[12])
    return found

model, numerics, n = sys.argv[1:]
e = Embedder.load(model, numerics=numerics, threads=int(n) or None)
texts = ["the cat sat on the mat " * 60] * 2
e.embed(texts)
before = ticks()
for _ in range(1 if numerics == "exact" else 6):
    e.embed(texts)
print(sum(spent - before.get(task, 0) >= 5 for task, spent in ticks().items()))
"""


def run(code: str, *arguments: object, **environment: str) -> str:
    """What a process of its own prints; BLAS may use all cores unless refembed says otherwise."""
    env = {k: v for k, v in os.environ.items() if k not in (*blas.VARIABLES, threads.VARIABLE)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=env | environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@LINUX
@pytest.mark.system
@pytest.mark.parametrize(("numerics", "argument", "variable"), [("fast", 0, "1"), ("exact", 1, "")])
def test_one_thread_is_one_thread(minilm: Path, numerics: str, argument: int, variable: str) -> None:
    """Neither kernels, nor the loading of kernels, nor BLAS take a second one."""
    assert run(COUNT, minilm, numerics, argument, REFEMBED_THREADS=variable) == "1"


@LINUX
@pytest.mark.system
@pytest.mark.skipif(threads.available() < 2, reason="there is one core")
@pytest.mark.parametrize("numerics", ["fast", "exact"])
def test_without_a_limit_all_cores_compute(minilm: Path, numerics: str) -> None:
    """What the test above counts is there to be counted."""
    assert int(run(COUNT, minilm, numerics, 0)) >= 2


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none_is_an_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFEMBED_THREADS", value)
    threads.requested.cache_clear()
    try:
        with pytest.raises(RequestError, match=f"REFEMBED_THREADS={value}: not a number"):
            threads.requested()
    finally:
        monkeypatch.undo()
        threads.requested.cache_clear()


CORES = "from refembed.kernels import threads; print(threads.cores()); threads.configure(3); print(threads.cores())"


def test_an_argument_goes_before_the_environment() -> None:
    assert run(CORES, REFEMBED_THREADS="5").split() == ["5", "3"]


def test_no_threads_are_refused(tiny: Path) -> None:
    with pytest.raises(RequestError, match="0 threads"):
        Embedder.load(tiny, threads=0)


# A fork while another thread holds each lock that there is; the child embeds, and compiles something new.
FORKED = """
import os, signal, sys, threading, time, warnings
import numba, numpy as np
from numba.core.compiler_lock import global_compiler_lock
from refembed import Embedder
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.batch.embed_batch import models
warnings.simplefilter("ignore")  # Python's own, about forks
e = Embedder.load(sys.argv[1], numerics=sys.argv[2], threads=2)
spinning_pool.start()
wanted = e.embed(["the cat sat", "hello world"])
held = threading.Event()
ops = e.ops
locks = [ops.making, ops.compact.packing, ops.store.budget.lock, ops.panels.packing, ops.graphs.lock, models.lock]
locks += [ops.rounded.panels.packing] if ops.rounded else []

def hold():
    for lock in locks:
        lock.acquire()
    with global_compiler_lock:
        held.set()
        time.sleep(0.5)
    time.sleep(60)

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    fresh = Embedder.load(sys.argv[1], numerics=sys.argv[2])
    again = all(np.array_equal(x.embed(["the cat sat", "hello world"]), wanted) for x in (e, fresh))
    with models.lock:
        again = again and numba.njit(lambda x: x + 1)(1) == 2
    os._exit(not again)
for _ in range(600):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        os._exit(status != 0)
    time.sleep(0.1)
os.kill(child, signal.SIGKILL)
os._exit(1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("numerics", ["fast", "int8"])
def test_a_fork_after_use_embeds(tmp_path: Path, numerics: str) -> None:
    from refembed.testing.synthetic import synthetic

    model = synthetic(tmp_path / "m.gguf", "bert", C=96, F=96, pooling=1, type_name="Q8_0")
    run(FORKED, model, numerics)
