"""A stand-in for Hugging Face on this machine, and a tiny model that it publishes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from refembed.hub.models import Model
from refembed.hub.sources import File, Repository, Source
from tests.hf_folders import pooling, small

NAME, REVISION = "org/tiny", "0123abc"


def published(folder: Path) -> dict[str, bytes]:
    """The files of a tiny model."""
    small(folder)
    pooling(folder, pooling_mode_mean_tokens=True)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def promises(files: dict[str, bytes]) -> tuple[File, ...]:
    """What a Model says of these files."""
    return tuple(File(name, len(raw), hashlib.sha256(raw).hexdigest()) for name, raw in files.items())


def tiny_model(files: dict[str, bytes], *sources: Source) -> Model:
    """A known model of these files, which the stand-in publishes."""
    return Model("tiny", ("tiny", NAME), "MIT", promises(files), sources or (Repository(NAME, REVISION),))


class Shelf:
    """What the server does: `answers` by file name, else it sends the file. `asked` counts requests by file name."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = {}
        self.asked: Counter[str] = Counter()
        self.url = ""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Shelf]:
    """A server on the loopback device, for as long as the block runs."""
    shelf = Shelf(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix(f"/{NAME}/resolve/{REVISION}/").removeprefix("/elsewhere/")
            shelf.asked[name] += 1
            if self.path.startswith("/elsewhere/"):
                return send(self, shelf.files[name])
            if name not in shelf.files:
                return self.send_error(404)
            shelf.answers.get(name, send)(self, shelf.files[name])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        shelf.url = f"http://127.0.0.1:{server.server_port}"
        yield shelf
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, raw: bytes, *, size: int | None = None) -> None:
    """The file, or what claims to be `size` bytes of it."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(raw) if size is None else size))
    handler.end_headers()
    handler.wfile.write(raw)


def truncated(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    send(handler, raw[: len(raw) // 2], size=len(raw))


def altered(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    send(handler, raw[:-1] + bytes([raw[-1] ^ 1]))


def longer(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    send(handler, raw + b"!")


def shorter(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    send(handler, raw[:-1])


def failing(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    return lambda handler, raw: handler.send_error(code)


def redirecting(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    name = handler.path.split(f"/{REVISION}/")[1]
    handler.send_response(302)
    handler.send_header("Location", f"/elsewhere/{name}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def circular(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def stalling(seconds: float) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """Half of the file, and then nothing for a while."""

    def answer(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
        truncated(handler, raw)
        handler.wfile.flush()
        time.sleep(seconds)

    return answer


def once(
    first: Callable[[BaseHTTPRequestHandler, bytes], None],
) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """A failure that passes: `first` answers the first request, the file the later ones."""
    answers = iter([first])
    return lambda handler, raw: next(answers, send)(handler, raw)


def hang_up(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
    """No answer at all."""
    handler.close_connection = True


def held(release: threading.Event) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """Half of the file, and the rest when it is released."""

    def answer(handler: BaseHTTPRequestHandler, raw: bytes) -> None:
        truncated(handler, raw)
        handler.wfile.flush()
        if release.wait(20):
            handler.wfile.write(raw[len(raw) // 2 :])

    return answer


# What a process of its own runs: the tiny model's promises are its first argument, "stop" is the byte of conversion
# at which it waits to be killed, "unlocked" makes it believe that the file system has no locks.
PROGRAM = """
import json, signal, sys, time
from refembed import hub
from refembed.hub import cache
from refembed.hub.models import Model
from refembed.hub.sources import File, Repository

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs behind them without it
promises, mode = json.loads(sys.argv[1]), sys.argv[2]
hub.MODELS = (Model("tiny", ("tiny",), "MIT", tuple(File(*p) for p in promises), (Repository("org/tiny", "0123abc"),)),)

def progress(what, done, total):
    if mode == "stop" and what == "converting" and done > 0:
        print("stopped", flush=True)
        time.sleep(60)

def no_lock(lock):
    raise OSError(38, "Function not implemented")

if mode == "unlocked":
    cache.try_lock = no_lock
print(hub.resolve("tiny", progress=progress), flush=True)
"""
