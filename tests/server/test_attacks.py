"""Hostile and clumsy clients against a real server: what each sends, and what must hold meanwhile.

While an attack lasts, another process asks /health on new connections (`watched`).
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from refembed.cli import run
from tests.server.health import watched
from tests.server.servers import Client, refembed

pytestmark = pytest.mark.system

USUAL_ANSWER = 0.1  # seconds, the median
SLOW_ANSWER = 1.0  # the slowest: some milliseconds on a quiet machine, and two cores may be busy with other tests


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Client]:
    with refembed("-m", tiny, "--api-key", "secret", "--max-queue", "8", "--max-inputs", "100") as client:
        yield client


def connect(client: Client) -> socket.socket:
    at = urlsplit(client.address)
    return socket.create_connection((at.hostname, at.port), timeout=30)


def resident(client: Client) -> int:
    """MiB of memory."""
    status = Path(f"/proc/{client.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


@contextlib.contextmanager
def healthy(client: Client) -> Iterator[None]:
    """/health is answered quickly all the while."""
    with watched(client.address) as health:
        yield
    assert health.failed == 0
    assert health.median < USUAL_ANSWER
    assert health.slowest < SLOW_ANSWER


def answer(s: socket.socket) -> tuple[int, bytes]:
    """Status and body of what comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := s.recv(65536):
            received += piece
    return int(received[9:12] or 0), received.partition(b"\r\n\r\n")[2]


def test_idle_connections_keep_no_client_out(tiny: Path) -> None:
    """More than the process has descriptors for; the log has a line, not one for each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # the server's; it inherits the limit
    try:
        with refembed("-m", tiny) as client:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
            with healthy(client), contextlib.ExitStack() as stack:
                for _ in range(800):
                    stack.enter_context(connect(client))
                time.sleep(1.0)
            assert sum("too many connections" in line for line in client.log) == 1
            assert len(client.log) < 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("many", [True, False], ids=["many small headers", "one large header"])
def test_a_head_has_a_limit_before_the_key_is_looked_at(server: Client, many: bool) -> None:
    before = resident(server)
    with healthy(server), connect(server) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + (b"" if many else b"X-Large: "))
        sent = 0
        with contextlib.suppress(OSError):  # closed by the server
            while sent < 64 << 20:
                sent += s.send(b"X-Small: 12345678\r\n" * 4096 if many else b"a" * 65536)
        status, body = answer(s)
    assert sent < 8 << 20
    assert status in (431, 0)  # 0: the reset overtook the answer
    assert resident(server) < before + 16
    with connect(server) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 40_000 + b"\r\n\r\n")
        status, body = answer(s)
    assert (status, json.loads(body)["error"]["code"]) == (431, 431)
    assert "32768 bytes" in json.loads(body)["error"]["message"]


def test_a_head_of_usual_size_is_read(server: Client) -> None:
    with connect(server) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\nX-Large: " + b"a" * 30_000 + b"\r\n\r\n")
        assert answer(s)[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"), [(b"", 0), (b"GET /health HT", 408), (b"GET /health HTTP/1.1\r\nHost: x\r\n", 408)]
)
@pytest.mark.slow
def test_a_head_that_never_ends_is_not_waited_for(server: Client, sent: bytes, status: int) -> None:
    begin = time.monotonic()
    with connect(server) as s:
        s.sendall(sent)
        assert answer(s)[0] == status
    assert 9 < time.monotonic() - begin < 13


@pytest.mark.slow
def test_a_body_that_never_ends_is_not_waited_for(server: Client) -> None:
    """Neither one that stops, nor one that trickles."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 1000\r\n\r\n"
    with connect(server) as stopped, connect(server) as slow:
        begin = time.monotonic()
        stopped.sendall(head + b"{")
        slow.sendall(head + b"{")
        assert answer(stopped)[0] == 408
        assert 19 < time.monotonic() - begin < 23
        with contextlib.suppress(OSError):
            while time.monotonic() - begin < 28:
                time.sleep(1.0)
                slow.sendall(b" ")
        assert answer(slow)[0] == 408
        assert time.monotonic() - begin < 34


def test_bodies_under_way_share_a_limit(tiny: Path) -> None:
    """Many large uploads that never end: the server holds 256 MiB of them, and answers the others 503."""
    with refembed("-m", tiny) as client, healthy(client), contextlib.ExitStack() as stack:
        before = resident(client)
        uploads = [stack.enter_context(connect(client)) for _ in range(6)]
        for s in uploads:
            s.sendall(b"POST /embedding HTTP/1.1\r\nHost: x\r\nContent-Length: 83886080\r\n\r\n{")
            for _ in range(79):
                s.sendall(b" " * (1 << 20))
        time.sleep(0.5)
        answered, _, _ = select.select(uploads, [], [], 0)
        assert len(answered) == 3
        assert all(s.recv(12) == b"HTTP/1.1 503" for s in answered)
        assert resident(client) < before + 256 + 160  # bodies, and what is read but not counted yet


def test_waiting_requests_have_a_limit(server: Client) -> None:
    """The ninth is answered 503 with Retry-After at once; those that were taken are answered."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: 20\r\n\r\n"
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(server)) for _ in range(8)]
        for s in waiting:
            s.sendall(head)
        time.sleep(0.5)
        one_more = server.post("/tokenize", {"content": "a"}, Authorization="Bearer secret")
        assert (one_more.status, one_more.headers["retry-after"]) == (503, "1")
        assert "--max-queue" in one_more.json["error"]["message"]
        assert server.get("/health").status == 200
        for s in waiting:
            s.sendall(b'{"content": "hello"}')
            assert s.recv(12) == b"HTTP/1.1 200"
    assert server.post("/tokenize", {"content": "a"}, Authorization="Bearer secret").status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embedding", {"content": ["a"] * 101}),
        ("/v1/embeddings", {"input": [""] * 101}),
        ("/api/embed", {"input": ["a"] * 101}),
    ],
)
def test_inputs_of_one_request_have_a_limit(server: Client, path: str, body: Any) -> None:
    refused = server.post(path, body, Authorization="Bearer secret")
    assert (refused.status, "101 inputs" in refused.body.decode()) == (400, True)


@pytest.mark.parametrize("path", ["/embedding", "/api/embed", "/embed", "/similarity", "/tokenize"])
def test_a_large_broken_body_does_not_hold_up_other_requests(server: Client, path: str) -> None:
    """A string of 20 MB without its closing quote: 400, and other requests are answered meanwhile."""
    body = b'{"input": "' + b"a" * (20 << 20)
    with healthy(server):
        assert server.post(path, body, Authorization="Bearer secret").status == 400


def test_a_pair_of_escapes_does_not_slow_a_body_down(server: Client) -> None:
    r"""json.dumps writes every emoji as \ud83d\ude00: such a body is read once, not byte by byte again."""
    body = json.dumps({"content": "\U0001f600" * 200_000, "filler": "x" * (4 << 20)}).encode()
    begin = time.monotonic()
    server.post("/detokenize", body, Authorization="Bearer secret")
    assert time.monotonic() - begin < SLOW_ANSWER


@pytest.mark.parametrize("what", ["half a body", "an answer that is not read"])
def test_sigterm_ends_the_server_whatever_clients_do(tiny: Path, what: str) -> None:
    with refembed("-m", tiny, "--grace-period", "1") as client, connect(client) as s:
        if what == "half a body":
            s.sendall(b'POST /embedding HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"content')
        else:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({"content": "a b c d e f g h " * 100_000}).encode()
            s.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(1.0)
        begin = time.monotonic()
        client.process.send_signal(signal.SIGTERM)
        assert client.process.wait(15) == 0
        assert time.monotonic() - begin < 8


def test_a_client_that_reads_nothing_is_dropped_in_the_end(tiny: Path) -> None:
    """The limit itself is tested on the protocol: `Connection.watch_reader` looks at what is left to write."""
    from refembed.server.connection import Connection, ConnectionLimits, limited

    class Transport:
        left, aborted = 10, False

        def get_write_buffer_size(self) -> int:
            return self.left

        def abort(self) -> None:
            self.aborted = True

    class Loop:
        def call_later(self, seconds: float, what: Any, *args: Any) -> Any:
            assert seconds == 20
            self.next = lambda: what(*args)
            return type("Handle", (), {"cancel": lambda self: None})()

    connection: Any = object.__new__(limited(ConnectionLimits(10)))
    assert isinstance(connection, Connection)
    connection.transport, connection.loop, connection.unread = Transport(), Loop(), None
    connection.watch_reader(True)
    connection.transport.left = 5  # it reads slowly
    connection.loop.next()
    assert not connection.transport.aborted
    connection.loop.next()
    assert connection.transport.aborted


def test_a_unix_socket_path_in_use_is_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither from a file nor from another server; what a killed server left is replaced."""
    file = tmp_path / "notes.sock"
    file.write_text("precious")
    assert run(["serve", "-m", str(tiny), "--host", str(file)]) == 1
    assert "not a socket" in capsys.readouterr().err
    assert file.read_text() == "precious"
    path = tmp_path / "s.sock"
    with refembed("-m", tiny, "--host", f"127.0.0.1,{path}") as client:
        assert run(["serve", "-m", str(tiny), "--host", str(path)]) == 1
        assert "another server is listening" in capsys.readouterr().err
        assert client.get("/health").status == 200
        assert path.exists()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with refembed("-m", tiny, "--host", f"127.0.0.1,{path}") as client:
        assert f"listening on unix:{path}" in client.log


@pytest.mark.parametrize("keys", ["", " ", "a,,b", "a,", ","])
def test_an_empty_key_is_refused(tiny: Path, keys: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--api-key "$KEY"` with KEY unset must not open the server to everyone."""
    assert run(["serve", "-m", str(tiny), "--api-key", keys]) == 1
    assert "empty" in capsys.readouterr().err


def test_a_key_is_compared_byte_for_byte(tiny: Path) -> None:
    """UTF-8, as it stands on the command line; other bytes of the same letters are another key."""
    with refembed("-m", tiny, "--api-key", "schlüssel-日本") as client:
        for sent, status in (
            ("schlüssel-日本".encode(), 200),
            (b"schl\xfcssel", 401),
            ("schlu\u0308ssel-日本".encode(), 401),
        ):
            with connect(client) as s:
                s.sendall(b"GET /props HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer " + sent + b"\r\n\r\n")
                assert answer(s)[0] == status
