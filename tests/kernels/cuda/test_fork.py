"""A fork of a process that has used a GPU: one error, at once, whatever its parent's threads were about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refembed.kernels.cuda.gpu import FORKED, SPAWN

# A fork before the GPU is used may use it. One after that, while another thread holds each lock that there is, may not.
FORKS = """
import os, signal, sys, threading, time, warnings
from pathlib import Path
import numpy as np
from refembed import Embedder, RefembedError
from tests.kernels.cuda.fake_cupy import FakeCupy
from tests.kernels.cuda.on_cpu import OnCpu
warnings.simplefilter("ignore")  # Python's own, about forks
sys.modules["cupy"] = FakeCupy(OnCpu(Path(sys.argv[2])))


def load():
    return Embedder.load(sys.argv[1], numerics="cupy")


def fork(*works):
    child = os.fork()
    if child == 0:
        for work in works:
            try:
                work()
                print("done", flush=True)
            except RefembedError as error:
                print(error.message, "|", error.hint, flush=True)
        os._exit(0)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    print("the fork waits", flush=True)


fork(lambda: load().embed("the cat"))
e = load()
wanted = [e.embed("the cat sat") for _ in range(4)]
held = threading.Event()


def hold():
    for lock in (e.ops.weights.lock, e.ops.graphs.lock, e.ops.device.compiling):
        lock.acquire()
    held.set()
    time.sleep(0.5)
    for lock in (e.ops.weights.lock, e.ops.graphs.lock, e.ops.device.compiling):
        lock.release()


thread = threading.Thread(target=hold)
thread.start()
held.wait()
fork(
    lambda: e.embed("the cat sat"), lambda: e.embed("a dog"), load, lambda: e.ops.gelu(np.ones((1, 1))),
    lambda: e.ops.weight(e.model.weights.token_embd),
)
thread.join()
print(all(np.array_equal(e.embed("the cat sat"), one) for one in wanted))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_fork_after_use_is_one_error_and_never_waits(tiny: Path, built: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", FORKS, tiny, built], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["done", *[f"{FORKED} | {SPAWN}"] * 5, "True"]
