"""A file appears whole, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from refembed import Trace
from refembed.atomic_write import replacing
from refembed.compress.file import compress
from refembed.compress.file import save as save_compressed
from refembed.compress.schemes import fit
from refembed.gguf import GGUFWriter
from refembed.html.page import write_page

NAMES = [None, "part"]


@pytest.mark.parametrize("temporary", NAMES)
def test_nothing_is_there_before_the_end(tmp_path: Path, temporary: str | None) -> None:
    target = tmp_path / "x"
    with replacing(target, temporary=temporary) as out:
        out.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("temporary", NAMES)
def test_an_error_leaves_what_was_there_and_no_other_file(
    tmp_path: Path, temporary: str | None, error: type[BaseException]
) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target, temporary=temporary) as out:
            out.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
@pytest.mark.parametrize("temporary", NAMES)
def test_permissions_are_those_of_the_old_file_or_of_any_new_one(tmp_path: Path, temporary: str | None) -> None:
    new, old, plain = tmp_path / "new", tmp_path / "old", tmp_path / "plain"
    plain.write_bytes(b"")
    old.write_bytes(b"")
    old.chmod(0o604)
    for target, mode in ((new, stat.S_IMODE(plain.stat().st_mode)), (old, 0o604)):
        with replacing(target, temporary=temporary) as out:
            out.write(b"new")
        assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
@pytest.mark.parametrize("temporary", NAMES)
def test_a_link_stays_one(tmp_path: Path, temporary: str | None) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "x", tmp_path / "link"
    link.symlink_to(target)
    with replacing(link, temporary=temporary) as out:
        out.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("temporary", NAMES)
def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path, temporary: str | None) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "x", temporary=temporary):
        pass


def write_with_replacing(path: Path) -> None:
    with replacing(path) as out:
        out.write(b"new")


X = np.random.default_rng(0).standard_normal((20, 8), np.float32)
WRITERS: dict[str, Callable[[Path], object]] = {
    "replacing": write_with_replacing,
    "a page": lambda path: write_page(path, "<p>new</p>"),
    "a trace": lambda path: Trace([], {}).save(path),
    "GGUF": lambda path: GGUFWriter(None).write(path),
    "compressed vectors": lambda path: save_compressed(path, compress(fit("int8", X), X)),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_no_plain_file_is_written_to_and_never_replaced(kind: str, tmp_path: Path) -> None:
    """A pipe stands for /dev/null, which a failing test must not replace."""
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    WRITERS[kind](path)
    assert stat.S_ISFIFO(path.stat().st_mode)
    reader.join(10)
    assert len(got[0]) > 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_that_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_with_replacing(tmp_path / "x")
    assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(OSError, match="No such file") as caught:
        write_with_replacing(tmp_path / "nosuch" / "x")
    assert caught.value.filename == str(tmp_path / "nosuch" / "x")
