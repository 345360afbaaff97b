"""What other systems lack, taken away: the paths that macOS and Windows take, on this machine.

docs/stability.md has the list. Where locks, Unix sockets, /proc and signals are not the same is decided in one line
each; these lines are turned here. What only the other system can show (that its locks lock) is not shown.
"""

from __future__ import annotations

import errno
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import cli
from refembed.batch import manifest as manifests
from refembed.batch.manifest import Manifest
from refembed.batch.parts import find_sources, parts_of
from refembed.corpus import journal as journals
from refembed.corpus.journal import Journal, Row, digest_of
from refembed.errors import EngineError, RequestError
from refembed.kernels.quant import row_blocks
from refembed.server import run as server
from refembed.server.connection import connection_limit

RUN = {"model": "m"}


def row(i: int) -> Row:
    text = f"text {i}".encode()
    return Row(digest_of(text, b""), 3, b"", text, np.full(2, i, np.float32))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals and manifests as on Windows: a lock keeps readers from the file it is on, and begins where the file's
    position is; an open file cannot be removed.
    """
    opened: list[Any] = []
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if any(str(path) == str(f.name) and not f.closed for f in opened):
            raise PermissionError(errno.EACCES, "it is open", str(path))
        unlink(path, missing_ok)

    def locked(file: Any) -> None:
        assert str(file.name).endswith(".lock"), "the journal itself would not be readable then"
        assert file.tell() == 0, "two locks on different bytes keep out no one"
        try_lock(file)

    def lock(writer: Any, *file: Any) -> None:
        opened.extend((writer.file, writer.lock_file))
        as_it_is[type(writer)](writer, *file)

    try_lock, as_it_is = journals.try_lock, {kind: kind.lock for kind in (Journal, Manifest)}
    for module, kind in ((journals, Journal), (manifests, Manifest)):
        monkeypatch.setattr(module, "WINDOWS", True)
        monkeypatch.setattr(module, "try_lock", locked)
        monkeypatch.setattr(kind, "lock", lock)
    monkeypatch.setattr(Path, "unlink", refuse)


@pytest.mark.usefixtures("windows")
def test_a_journal_is_locked_by_a_file_next_to_it_and_removed_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "v.npy.part"
    with Journal(path, RUN, 2, resume=False) as journal:
        journal.append(row(1))
        journal.flush()
        assert [r.vector[0] for r in journal.rows()] == [1]
        with pytest.raises(RequestError, match="another process is writing it"):
            Journal(path, RUN, 2, resume=True)
    assert path.exists()
    assert not path.with_name("v.npy.part.lock").exists()
    with Journal(path, RUN, 2, resume=True) as journal:
        assert journal.count == 1
        journal.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("windows")
def test_a_manifest_is_locked_by_a_file_next_to_it_and_removed_when_it_is_closed(tmp_path: Path) -> None:
    """Also where an earlier job has written into it, and where a kill has torn its end."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 2)
    sources = find_sources([str(tmp_path / "a.jsonl")])
    first, second = parts_of(sources[0], 1)
    out = tmp_path / "out"
    with Manifest(out, RUN, sources, resume=False) as manifest:
        (out / first.name).touch()
        manifest.add(first, 1, 0)
        for resume in (False, True):
            with pytest.raises(RequestError, match="another job is writing into this folder"):
                Manifest(out, RUN, sources, resume=resume)
        (out / second.name).touch()
        manifest.add(second, 1, 0)
    assert sorted(path.name for path in out.iterdir()) == [manifests.NAME, first.name, second.name]
    whole = (out / manifests.NAME).read_bytes()
    (out / manifests.NAME).write_bytes(whole[:-1])
    with Manifest(out, RUN, sources, resume=True) as manifest:
        assert list(manifest.done) == [first.name]
        manifest.add(second, 1, 0)
    assert (out / manifests.NAME).read_bytes() == whole


def test_without_unix_sockets_a_path_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(EngineError, match="no Unix sockets on this system"), server.listening("/tmp/x.sock", 0):
        pass


def test_a_port_is_taken_for_oneself_where_addresses_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """SO_REUSEADDR on Windows lets a second server have the port: the other option is set in its place."""
    asked: list[int] = []
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR + 1000, raising=False)
    monkeypatch.setattr(socket.socket, "setsockopt", lambda self, level, option, value: asked.append(option))
    with server.listening("127.0.0.1", 0):
        pass
    assert asked == [socket.SO_REUSEADDR + 1000]


def test_the_signals_that_end_a_server_are_those_of_the_system() -> None:
    assert {signal.SIGINT, signal.SIGTERM} <= set(server.SIGNALS)
    assert len(server.SIGNALS) == 2 + hasattr(signal, "SIGBREAK")


def test_a_reader_that_goes_away_has_another_number_on_windows(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(cli, "CLOSED_PIPE", (errno.EPIPE, errno.EINVAL))
    monkeypatch.setattr(cli, "discard", lambda *streams: None)
    assert cli.report(OSError(errno.EINVAL, "Invalid argument")) == cli.EXIT_PIPE
    assert cli.report(OSError(errno.EINVAL, "Invalid argument", "a.txt")) == cli.EXIT_USAGE  # a file's own error
    assert capsys.readouterr().err.startswith("error: a.txt")


def test_without_proc_and_sysconf_there_are_still_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(row_blocks.os, "sysconf")
    monkeypatch.setattr(row_blocks, "CGROUP", tmp_path / "none")
    assert row_blocks.comfortable.__wrapped__() == 256 << 20
    monkeypatch.setattr(Path, "iterdir", lambda self: (_ for _ in ()).throw(FileNotFoundError(str(self))))
    assert connection_limit() >= 16
