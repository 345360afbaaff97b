"""Real servers for tests, each in a process of its own: refembed's as users start it, and llama-server (the wheel)."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.llama_server import llama_server


@dataclass
class Answer:
    """Of a server."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Talks to one server."""

    address: str
    process: Any = None  # Popen, where it is refembed's
    log: list[str] = field(default_factory=list)

    def connect(self) -> http.client.HTTPConnection:
        at = urlsplit(self.address)
        return http.client.HTTPConnection(at.hostname, at.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, /, **headers: str) -> Answer:
        """Bytes are sent as they are, anything else as JSON; `x_api_key` is the header X-Api-Key."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        try:
            connection.request(method, path, raw, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, /, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def get(self, path: str, /, **headers: str) -> Answer:
        return self.ask("GET", path, None, **headers)

    def embed(self, text: Any, **options: Any) -> list[list[float]]:
        """Through /v1/embeddings."""
        return [d["embedding"] for d in self.post("/v1/embeddings", {"input": text, **options}).json["data"]]


@contextmanager
def refembed(*args: str | Path, wait: bool = True) -> Iterator[Client]:
    """`refembed serve` on a free port, ended with SIGTERM, which must leave exit code 0."""
    with started("serve", *args, until="the model is loaded" if wait else "listening on ") as client:
        yield client


@contextmanager
def started(verb: str, *args: str | Path, until: str = "listening on ") -> Iterator[Client]:
    """A command that serves, on a free port, once it has said a line that begins with `until`."""
    command = [sys.executable, "-m", "refembed", verb, "--port", "0", *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield watch(process, until)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def watch(process: subprocess.Popen[bytes], until: str) -> Client:
    """A client, once the server has said that it is ready; what it says is kept."""
    log: list[str] = []
    there = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line.decode().rstrip())
            if log[-1].startswith(until):
                there.set()
        there.set()

    threading.Thread(target=read, daemon=True).start()
    assert there.wait(120), log
    addresses = [line.removeprefix("listening on ") for line in log if line.startswith("listening on ")]
    assert addresses, log
    assert process.poll() is None, log
    return Client(addresses[0], process, log)


@contextmanager
def llama(path: Path, pooling: str = "unspecified", **params: Any) -> Iterator[Client]:
    """llama-server, as `tests.llama_server` starts it."""
    with llama_server(path, pooling, **params) as address:
        yield Client(address)
