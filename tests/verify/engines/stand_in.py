"""A server that replays bodies: what Ollama, TEI and others answer, and whatever a broken one may."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What to send; a body that is not bytes goes as JSON."""

    body: Any
    status: int = 200
    kind: str = "application/json"
    headers: Mapping[str, str] = {}
    delay: float = 0.0


Routes = Mapping[str, "Any | Callable[[Any], Any]"]  # "POST /embed" -> a body, an Answer, or a function of the request


class StandIn(NamedTuple):
    url: str
    seen: list[tuple[str, Any, dict[str, str]]]  # "POST /embed", the body, the headers


@contextmanager
def stand_in(routes: Routes) -> Iterator[StandIn]:
    """The server while the block runs. Unknown routes are a 404 with a page of HTML, as many frameworks answer."""
    seen: list[tuple[str, Any, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            body = json.loads(raw) if raw else None
            asked = f"{self.command} {self.path}"
            seen.append((asked, body, dict(self.headers)))
            missing = Answer(b"<!DOCTYPE html><title>Not Found</title>", 404, "text/html")
            found = routes.get(asked, missing)
            found = found(body) if callable(found) else found
            found = found if isinstance(found, Answer) else Answer(found)
            time.sleep(found.delay)
            data = found.body if isinstance(found.body, bytes) else json.dumps(found.body).encode()
            self.send_response(found.status)
            for key, value in {"Content-Type": found.kind, "Content-Length": str(len(data)), **found.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer  # noqa: N815 - the standard library's names

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield StandIn(f"http://127.0.0.1:{server.server_address[1]}", seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
