"""refembed/hub/cache.py: what is in the cache is whole, whichever process was killed, and however many work at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refembed.errors import DownloadError
from refembed.gguf import open_gguf
from refembed.hub import cache as hub_cache
from refembed.hub import resolve, source_folder
from refembed.hub.cache import at_work, cache_folder
from tests.hub.shelf import PROGRAM, Shelf, held, promises
from tests.hub.test_sources import left

WEIGHTS = "model.safetensors"
MADE = ["gguf/tiny-f32.gguf", "gguf/tiny-f32.gguf.json"]
ROOT = Path(__file__).parent.parent.parent
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")


@contextlib.contextmanager
def started(files: dict[str, bytes], mode: str = "plain") -> Iterator[subprocess.Popen[str]]:
    """A process that resolves the tiny model; it does not outlive the block."""
    arguments = [json.dumps([(p.name, p.size, p.sha256) for p in promises(files)]), mode]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    """Come back when it is so; fail after ten seconds."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("nothing happened")


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def published_and_made(files: dict[str, bytes]) -> list[str]:
    return sorted(MADE + [f"models/tiny/{name}" for name in files])


def test_the_folder_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("REFEMBED_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "refembed"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "refembed"
    monkeypatch.setenv("REFEMBED_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_a_warm_cache_is_trusted_by_size_and_time(shelf: Shelf, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = resolve("tiny")
    monkeypatch.setattr(hub_cache, "problem", lambda file, folder: pytest.fail("the file was read"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (cache / "models" / "tiny" / WEIGHTS).unlink()
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert resolve("tiny") == path
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05
    assert left(cache / "work") == []


def test_a_file_of_another_size_is_made_again_whatever_its_time(shelf: Shelf) -> None:
    path = resolve("tiny")
    whole, state = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-1])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert resolve("tiny") == path
    assert path.read_bytes() == whole


def test_a_file_of_another_time_is_read_once_and_kept_if_it_is_the_same(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a cache that was copied."""
    path = resolve("tiny")
    whole, made = path.read_bytes(), path.stat().st_ino
    os.utime(path, (1, 1))
    assert resolve("tiny") == path
    assert path.stat().st_ino == made
    with monkeypatch.context() as m:
        m.setattr(hub_cache, "problem", lambda file, folder: pytest.fail("the file was read again"))
        resolve("tiny")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert resolve("tiny").read_bytes() == whole


@pytest.mark.parametrize("note", [None, b"", b"[]", b"{}", b'{"size": 1}', b"\xff"])
def test_a_file_without_a_sound_note_is_made_again(note: bytes | None, shelf: Shelf, cache: Path) -> None:
    path = resolve("tiny")
    whole = path.read_bytes()
    path.write_bytes(b"half a file")
    if note is None:
        (cache / MADE[1]).unlink()
    else:
        (cache / MADE[1]).write_bytes(note)
    assert resolve("tiny").read_bytes() == whole
    assert set(json.loads((cache / MADE[1]).read_bytes())) == {"size", "mtime_ns", "sha256", "made_of"}


def test_a_published_file_that_was_damaged_is_fetched_again(shelf: Shelf, cache: Path) -> None:
    folder = source_folder("tiny")
    (folder / WEIGHTS).write_bytes(shelf.files[WEIGHTS][::-1])
    assert (source_folder("tiny") / WEIGHTS).read_bytes() == shelf.files[WEIGHTS]
    (folder / "config.json").unlink()
    assert (source_folder("tiny") / "config.json").read_bytes() == shelf.files["config.json"]


def test_a_new_recipe_makes_the_file_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    from refembed import hub

    path = resolve("tiny")
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(hub, "RECIPE", hub.RECIPE + 1)
    assert resolve("tiny") == path
    assert path.stat().st_mtime_ns > before


@pytest.mark.limit(300)
@POSIX
def test_a_process_killed_while_it_fetches_leaves_nothing_that_is_used(
    shelf: Shelf, files: dict[str, bytes], cache: Path
) -> None:
    release = threading.Event()
    shelf.answers[WEIGHTS] = held(release)
    with started(files) as process:
        half = cache / "work" / "tiny" / "files" / WEIGHTS
        wait_for(lambda: size(half) == len(files[WEIGHTS]) // 2)
        process.kill()
    release.set()
    assert not (cache / "models").exists()
    assert left(cache / "work") != []
    del shelf.answers[WEIGHTS]
    open_gguf(resolve("tiny"))
    assert left(cache) == published_and_made(files)


@pytest.mark.limit(300)
@POSIX
def test_a_process_killed_while_it_converts_leaves_nothing_that_is_used(
    shelf: Shelf, files: dict[str, bytes], cache: Path
) -> None:
    with started(files, "stop") as process:
        assert process.stdout
        assert process.stdout.readline() == "stopped\n"
        process.kill()
    assert not (cache / "gguf").exists()
    assert left(cache / "work") != []
    open_gguf(resolve("tiny"))
    assert left(cache) == published_and_made(files)


@POSIX
@pytest.mark.parametrize("mode", ["plain", "stop"])
def test_an_interrupted_process_cleans_up(mode: str, shelf: Shelf, files: dict[str, bytes], cache: Path) -> None:
    release = threading.Event()
    if mode == "plain":
        shelf.answers[WEIGHTS] = held(release)
    with started(files, mode) as process:
        if mode == "plain":
            wait_for(lambda: size(cache / "work" / "tiny" / "files" / WEIGHTS) > 0)
        else:
            assert process.stdout
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    release.set()
    assert "KeyboardInterrupt" in said
    assert process.returncode == -signal.SIGINT
    assert list((cache / "work").iterdir()) == []
    assert not (cache / "gguf").exists()


def test_processes_that_want_the_same_model_do_the_work_once(
    shelf: Shelf, files: dict[str, bytes], cache: Path
) -> None:
    release = threading.Event()
    shelf.answers[WEIGHTS] = held(release)
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(files)) for _ in range(3)]
        wait_for(lambda: shelf.asked[WEIGHTS] == 1)
        time.sleep(0.3)
        release.set()
        for process in processes:
            out, said = process.communicate(timeout=20)
            assert (process.returncode, out.strip()) == (0, str(cache / MADE[0])), said
    assert set(shelf.asked.values()) == {1}
    assert left(cache) == published_and_made(files)


def test_processes_on_a_file_system_without_locks_do_not_hurt_each_other(
    shelf: Shelf, files: dict[str, bytes], cache: Path
) -> None:
    with contextlib.ExitStack() as stack:
        for process in [stack.enter_context(started(files, "unlocked")) for _ in range(3)]:
            out, said = process.communicate(timeout=20)
            assert (process.returncode, out.strip()) == (0, str(cache / MADE[0])), said
    open_gguf(cache / MADE[0])
    assert left(cache) == published_and_made(files)


def test_a_process_that_waits_for_a_lock_reports_it_and_comes_next(cache: Path) -> None:
    heard: list[str] = []
    seen: list[list[Path]] = []

    def second() -> None:
        with at_work("key", lambda what, done, total: heard.append(what)) as work:
            seen.append(list(work.iterdir()))

    with at_work("key", lambda what, done, total: heard.append(what)) as work:
        (work / "draft").write_text("half")
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: bool(heard))
        assert not seen
    thread.join()
    assert heard == ["waiting for another process"]
    assert seen == [[]]


def test_a_cache_that_cannot_be_written_is_one_clear_error(
    shelf: Shelf, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder belongs")
    with pytest.raises(DownloadError, match=r"cache cannot be written: (Not a directory|File exists)") as caught:
        resolve("tiny")
    assert "REFEMBED_CACHE" in caught.value.hint


def test_a_place_that_is_taken_is_one_clear_error(shelf: Shelf, cache: Path) -> None:
    (cache / MADE[0] / "folder").mkdir(parents=True)
    with pytest.raises(DownloadError, match=r"tiny-f32.gguf cannot be written"):
        resolve("tiny")
    assert left(cache / "work") == []
