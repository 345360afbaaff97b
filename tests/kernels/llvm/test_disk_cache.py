"""Numba's cache on the disk, shared by processes that start at the same time."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from refembed.kernels.llvm import disk_cache
from refembed.kernels.llvm.disk_cache import locked
from tests.child import ROOT

EMBED = """
import sys
import numpy as np
from refembed import Embedder
from refembed.kernels.llvm import disk_cache
e = Embedder.load(sys.argv[1], threads=1)
if len(sys.argv) > 2:
    e.warm()
vectors = e.embed(["the cat sat on the mat", "hello world " * 20, "a"])
sys.stdout.buffer.write(np.asarray(vectors).tobytes())
print(len(disk_cache.compiled), len(disk_cache.loaded), file=sys.stderr)
"""


# Compiles versions of a few kernels for types of its own order: forwards, or backwards.
VERSIONS = """
import sys
import numpy as np
from refembed.kernels.llvm import disk_cache, jit
row = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
kinds = [row, row[:, ::2], np.asfortranarray(row), row.astype(np.float64)]
order = range(4) if sys.argv[1] == "forwards" else reversed(range(4))
found = {}
for k in order:
    found[k] = [jit.sum_of(kinds[k][1]), jit.sum_of(kinds[k][:, 1])]
    if k < 3:
        x, out = kinds[k], np.zeros(kinds[k].shape, np.float32)
        jit.gelu(x, out, 0, 4)
        found[k] += [out.tobytes().hex(), float(jit.largest(x[2]))]
print([found[k] for k in range(4)])
print(len(disk_cache.compiled), file=sys.stderr)
"""


def start(code: str, cache: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """A process with its compiled kernels in this folder."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env)


def cold_start(code: str, cache: Path, first: object, second: object) -> bytes:
    """What two processes print that begin with an empty folder; a third then finds every version there."""
    printed = set()
    for arguments in (first, second), (first,):
        for process in [start(code, cache, argument) for argument in arguments]:
            out, err = process.communicate(timeout=900)
            assert process.returncode == 0, err.decode()[-2000:]
            printed.add(out)
    assert err.split()[0] == b"0", "the third compiled nothing"
    assert len(printed) == 1, "all have the same bits"
    return printed.pop()


@pytest.mark.slow
def test_twenty_cold_starts_of_two_processes_succeed(tmp_path: Path) -> None:
    """Both compile versions of the same functions, in opposite orders: the worst that Numba's index can meet."""
    assert len({cold_start(VERSIONS, tmp_path / str(n), "forwards", "backwards") for n in range(20)}) == 1


@pytest.mark.slow
def test_two_processes_embed_from_a_cold_start(tiny: Path, tmp_path: Path) -> None:
    assert len(cold_start(EMBED, tmp_path, tiny, tiny)) == 3 * 32 * 4


@pytest.mark.slow
def test_after_warming_no_process_compiles(tiny: Path, tmp_path: Path) -> None:
    """Numba's cache is asked for every kernel, and has it. The texts are other ones than those of `warm`."""
    first = start(EMBED, tmp_path, tiny, "warm")
    out, err = first.communicate(timeout=600)
    assert int(err.split()[0]) > 20, err.decode()[-2000:]
    second = start(EMBED, tmp_path, tiny)
    again, err = second.communicate(timeout=600)
    assert again == out
    assert err.split()[0] == b"0", err.decode()[-2000:]
    assert int(err.split()[1]) >= 5  # kernels that Python calls; the others are kept within them


class Slow(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's own file of a cache, that waits between its steps, as a busy machine makes it wait."""

    def _save_index(self, overloads: Any) -> None:
        time.sleep(0.05)
        super()._save_index(overloads)

    def _save_data(self, name: str, data: Any) -> None:
        time.sleep(0.05)
        super()._save_data(name, data)


def versions_after(folder: Path, with_lock: bool) -> dict[str, str | None]:
    """What a function's cache holds under each type once three writers have kept a version each at the same time."""
    folder.mkdir()

    def keep(key: str) -> None:
        if with_lock:
            with locked(folder, alone=True):
                Slow(str(folder), "f", "stamp").save(key, f"code for {key}")
        else:
            Slow(str(folder), "f", "stamp").save(key, f"code for {key}")

    writers = [threading.Thread(target=keep, args=[key]) for key in ("int", "float", "double")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return {key: IndexDataCacheFile(str(folder), "f", "stamp").load(key) for key in ("int", "float", "double")}


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Without the lock Numba's files end with a version that is lost, or that is another type's: the race is real."""
    right = {key: f"code for {key}" for key in ("int", "float", "double")}
    assert versions_after(tmp_path / "locked", with_lock=True) == right
    assert versions_after(tmp_path / "free", with_lock=False) != right


def test_readers_share_the_lock_and_a_writer_waits(tmp_path: Path) -> None:
    order: list[str] = []

    def write() -> None:
        with locked(tmp_path, alone=True):
            order.append("written")

    with locked(tmp_path, alone=True):
        pass  # makes the file
    with locked(tmp_path, alone=False), locked(tmp_path, alone=False):
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.2)
        order.append("read")
    writer.join(30)
    assert order == ["read", "written"]


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for alone in (False, True):
        with locked(tmp_path / "file" / "below", alone=alone):
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_kernels_are_kept_with_a_lock() -> None:
    from refembed.kernels.llvm import jit

    assert isinstance(jit.gelu._cache, disk_cache.LockedCache)
    x, out = np.ones((1, 4), np.float32), np.empty((1, 4), np.float32)
    jit.gelu(x, out, 0, 1)
    assert pickle.dumps(jit.gelu.stats.cache_path)
