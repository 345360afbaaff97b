"""refembed/cli/output.py: a file appears whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from refembed.cli.output import open_output
from refembed.errors import RequestError

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, links and pipes are POSIX's")


def test_a_file_is_there_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with open_output(str(path)) as out:
        out.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_untouched(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def write_half(path: Path, error: type[BaseException]) -> None:
    with open_output(str(path)) as out:
        out.write(b"new")
        raise error


@posix
def test_permissions_are_those_of_the_old_file_or_the_usual_ones(tmp_path: Path) -> None:
    path, usual = tmp_path / "out.txt", tmp_path / "usual.txt"
    usual.write_bytes(b"")
    for wanted in (stat.S_IMODE(usual.stat().st_mode), 0o640):
        with open_output(str(path)) as out:
            out.write(b"abc")
        assert stat.S_IMODE(path.stat().st_mode) == wanted
        path.chmod(0o640)


@posix
def test_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with open_output(str(link)) as out:
        out.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@posix
def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    """Nor is a device; a test that fails must not replace /dev/null, so a pipe of its own stands for them all."""
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    with open_output(str(path)) as out:
        assert stat.S_ISFIFO(path.stat().st_mode)
        out.write(b"abc")
    assert stat.S_ISFIFO(path.stat().st_mode)
    reader.join(10)
    assert got == [b"abc"]


@pytest.mark.parametrize("name", ["nosuch/out.txt", "."])
def test_what_cannot_be_written_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be written"), open_output(str(tmp_path / name)):
        pass


def test_a_full_disk_is_blamed_on_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "x.npy"
    with (
        pytest.raises(RequestError, match=r"x.npy: cannot be written: No space left .*\n  hint: make room"),
        open_output(str(path)) as out,
    ):
        out.write(b"a")


@pytest.mark.parametrize("path", [None, "-"])
def test_without_a_name_it_is_standard_output(path: str | None, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_output(path) as out:
        out.write(b"a\x00b")
    assert capsysbinary.readouterr().out == b"a\x00b"
