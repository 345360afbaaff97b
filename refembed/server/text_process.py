"""Large bodies are read in processes of their own, which can be ended at any moment.

Reading JSON and tokenizing hold Python's lock for seconds where a body has 100 MiB, and one word of megabytes takes
minutes to tokenize. In a process of its own neither holds up the event loop, and a client that leaves ends the
process: no tokenizer has to look whether it should stop.

    server -> process   Setup, once; then a function of `reading` and a body
    process -> server   what the function returned or raised

Messages are those of `refembed.pipeline.messages`. The processes run with lower priority (nice 5): on a busy machine
small requests and the model come first.

`main` is that process: messages come on stdin and go to stdout. The end of stdin ends it.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from refembed.gguf.reader import GGUFFile
from refembed.model.vision import load_tower
from refembed.pipeline.messages import receive, send
from refembed.server.errors import ApiError, as_api_error
from refembed.server.inputs import Rules
from refembed.server.model_files import CHANGED, Stamp, stamp_of
from refembed.server.reading import Body
from refembed.server.settings import Limits, Settings
from refembed.tokenizer import load_tokenizer

T = TypeVar("T")

log = logging.getLogger("refembed.server")

READ_SECONDS = 60.0  # for one body; WordPiece tokenizes some 5 MB a second, one word of 10 MB takes 20 s
READ_MEMORY = 1 << 30  # bytes of a process that reads a body
LOOK_SECONDS = 0.1  # between two looks at those
RESERVED = 4  # times READ_MEMORY that it may reserve: orjson reserves twelve times a body, and uses what it needs
WORN_OUT = 16 << 20  # bytes of a body after which its process, and the memory that it has gathered, is given up
NICE = 5

PAGE = getattr(mmap, "PAGESIZE", 4096)
# with the server's own places for modules: the current folder is none, unless it is one of the server's
START = "import sys; sys.path[:] = sys.argv[1:]; from refembed.server.text_process import main; main()"


@dataclass(frozen=True)
class Setup:
    """What a process needs to know before its first body."""

    path: Path  # of the file with the tokenizer
    stamp: Stamp  # what it was when the model was loaded
    settings: Settings
    limits: Limits
    how: str
    n_vocab: int
    width: int
    log_level: int
    mmproj: Path | None = None  # of the vision tower

    def rules(self) -> Rules:
        """With the tokenizer, loaded anew. ApiError 503 where the file is another one by now."""
        tokenizer = load_tokenizer(GGUFFile(self.path))
        if stamp_of(self.path) != self.stamp:
            raise ApiError(CHANGED, "unavailable_error")
        tower = None if self.mmproj is None else load_tower(GGUFFile(self.mmproj))
        return Rules(tokenizer, self.settings, self.limits, self.how, self.n_vocab, self.width, tower)


class Stopped(Exception):  # noqa: N818  # not an error: nothing waits for the result any more
    """The reading was stopped before its end."""


# -- the server's side -----------------------------------------------------------------------------------------------


class TextProcess:
    """One process, from outside."""

    def __init__(self, setup: Setup, inherited: tuple[int, ...] = ()) -> None:
        """Start it. inherited: file descriptors that `setup.path` may be a name of. OSError."""
        places = [str(Path(p).absolute()) if p else str(Path.cwd()) for p in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited,
        )  # fmt: skip
        self.send(setup)

    def send(self, value: Any) -> None:
        """One message. OSError where the process has ended."""
        assert self.process.stdin is not None
        send(self.process.stdin, value)

    def call(self, work: Callable[..., T], body: Body) -> T:
        """What `work(rules, body)` returns or raises. EOFError or OSError where the process ends before that."""
        assert self.process.stdout is not None
        self.send((work, pickle.PickleBuffer(body)))
        value, error = receive(self.process.stdout)
        if error is not None:
            message, kind, status, headers, more = error
            raise ApiError(message, kind, status, headers, **more)
        result: T = value
        return result

    def memory(self) -> int:
        """Bytes that it has in memory; 0 where the system does not say."""
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            return 0

    def end(self) -> None:
        """End it now. Safe to call twice, and from any thread."""
        self.process.kill()

    def close(self) -> None:
        """End it and free what it holds. By the thread that uses it."""
        self.end()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was not sent yet
                    stream.close()
        self.process.wait()


class TextProcesses:
    """The processes there are, none until one is needed; `n` at a time."""

    def __init__(self, setup: Setup, inherited: tuple[int, ...] = (), read_seconds: float = READ_SECONDS) -> None:
        self.setup, self.inherited, self.read_seconds = setup, inherited, read_seconds
        self.lock = threading.Lock()
        self.idle: list[TextProcess] = []
        self.busy: set[TextProcess] = set()
        self.closed = False

    def take(self) -> TextProcess:
        """One that is idle, or a new one. ApiError 503 where the system gives none."""
        with self.lock:
            if self.closed:
                raise Stopped
            process = self.idle.pop() if self.idle else None
        try:
            process = process or TextProcess(self.setup, self.inherited)
        except OSError as e:
            message = f"no process could be started that reads a large body: {e.strerror}; try again later"
            raise ApiError(message, "unavailable_error") from None
        with self.lock:
            self.busy.add(process)
            if self.closed:
                process.end()
        return process

    def give_back(self, process: TextProcess, healthy: bool) -> None:
        """It is idle; or where it is not healthy, it is ended."""
        with self.lock:
            self.busy.discard(process)
            healthy = healthy and not self.closed
            if healthy:
                self.idle.append(process)
        if not healthy:
            process.close()

    def close(self) -> None:
        """End all of them. Safe to call twice."""
        with self.lock:
            self.closed, idle = True, self.idle
            self.idle = []
            for process in self.busy:
                process.end()
        for process in idle:
            process.close()


class BodyReader:
    """Reads one body in a process: `run` in a thread of its own, `stop` from anywhere."""

    def __init__(self, processes: TextProcesses, work: Callable[..., Any], body: Body) -> None:
        self.processes, self.work, self.body = processes, work, body
        self.lock = threading.Lock()
        self.process: TextProcess | None = None
        self.why: Exception | None = None  # it was stopped

    def run(self) -> Any:
        """The result. ApiError where the body is refused, or took too long or too much memory; Stopped."""
        process = self.processes.take()
        with self.lock:
            self.process = process
            if self.why:  # it was stopped before it began
                process.end()
        over = threading.Event()
        threading.Thread(target=self.watch, args=[process, over], name="refembed-watch", daemon=True).start()
        healthy = False
        try:
            result = process.call(self.work, self.body)
            healthy = len(self.body) < WORN_OUT
            return result
        except ApiError:
            healthy = len(self.body) < WORN_OUT
            raise
        except (EOFError, OSError):  # it has ended
            code = process.process.wait()
            raise self.why or (Stopped() if self.processes.closed else ended(code)) from None
        finally:
            over.set()
            with self.lock:
                self.process = None
            self.processes.give_back(process, healthy and not self.why)

    def watch(self, process: TextProcess, over: threading.Event) -> None:
        """Stop it where it takes too long or too much memory."""
        end = time.monotonic() + self.processes.read_seconds
        while not over.wait(LOOK_SECONDS):
            if process.memory() > READ_MEMORY:
                self.stop(too_much())
            elif time.monotonic() > end:
                self.stop(self.too_slow())
            else:
                continue
            return

    def stop(self, why: Exception | None = None) -> None:
        """End the process; `run` raises `why`, Stopped by default."""
        with self.lock:
            self.why = self.why or why or Stopped()
            if self.process is not None:
                self.process.end()

    def too_slow(self) -> ApiError:
        """The answer to a body that takes too long."""
        seconds = self.processes.read_seconds
        message = f"reading the body and tokenizing its texts took more than {seconds:g} seconds; send less at a time"
        return ApiError(message, status=413)


def too_much() -> ApiError:
    """The answer to a body that takes too much memory."""
    message = f"reading the body took more than {READ_MEMORY >> 20} MiB of memory; send less at a time"
    return ApiError(message, status=413)


def ended(code: int) -> ApiError:
    """The answer where a process ended by itself: the system has killed it for want of memory, or it is at fault."""
    if code == -getattr(signal, "SIGKILL", 9):
        return too_much()
    return ApiError(f"the process that read the body ended with {code}; the server's log says why", "server_error")


# -- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer until the end of stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    if hasattr(os, "nice"):
        os.nice(NICE)
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    source, target = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write among the messages
    with contextlib.suppress(EOFError, BrokenPipeError):
        setup: Setup = receive(source)
        logging.basicConfig(level=setup.log_level, format="%(message)s")
        rules: Rules | None = None
        while True:
            work, body = receive(source)
            result, error = None, None
            try:
                if rules is None:
                    rules = setup.rules()
                    limit_memory()
                result = work(rules, body)
                result = pickle.PickleBuffer(result) if isinstance(result, bytes) else result
            except MemoryError:
                e = too_much()
                error = (e.message, e.kind, e.status, e.headers, e.more)
            except Exception as caught:
                e = as_api_error(caught)
                if not isinstance(caught, ApiError) and e.status == 500:
                    log.error("%s: %s", getattr(work, "__name__", ""), e, exc_info=caught)
                error = (e.message, e.kind, e.status, e.headers, e.more)
            send(target, (result, error))
            del body, result


def end_with(parent: int) -> None:
    """End this process soon after the server, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def limit_memory() -> None:
    """MemoryError before the process reserves far more than it may use. Where the system has no such limit: none."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (RESERVED * READ_MEMORY, hard))
