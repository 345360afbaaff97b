"""The process: sockets, the loop, loading the model meanwhile, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import math
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from refembed.errors import EngineError, RequestError
from refembed.server.app import App
from refembed.server.connection import (
    ACCEPTED_AT_ONCE,
    QUEUE,
    ConnectionLimits,
    connection_limit,
    limited,
    on_loop_error,
)
from refembed.server.settings import Settings
from refembed.server.state import State

if TYPE_CHECKING:
    from refembed.embedder import Embedder

log = logging.getLogger("refembed.server")


GRACE_SECONDS = 10.0  # between the first signal and the end of requests under way
FORCE_SECONDS = 2.0  # after those, until the process ends although a thread is still at work
# Ctrl-Break is what a service manager on Windows sends
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
SWITCH_SECONDS = 0.0005  # between Python's threads: tokenizing a large request must not hold up a small one


class Server(uvicorn.Server):
    """uvicorn's server; SIGTERM and SIGINT end it with exit code 0, after the requests that are under way.

    What is not done `grace` seconds after the first signal is dropped.
    """

    grace = GRACE_SECONDS
    sockets_to_remove: Sequence[str] = ()  # before the process is ended by force
    before_force: Callable[[], None] = staticmethod(lambda: None)  # likewise

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; the event loop has made the sockets' queues as short as what it accepts at once."""
        await super().startup(sockets)
        for s in sockets or ():
            s.listen(QUEUE)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Note the signals instead of letting them end the process. A second one does not wait any longer."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: object) -> None:
        """The first signal ends politely, the second at once."""
        self.force_exit = self.should_exit
        if not self.should_exit:
            timer = threading.Timer(self.grace + FORCE_SECONDS, self.end_by_force)
            timer.daemon = True
            timer.start()
        self.should_exit = True

    def end_by_force(self) -> None:
        """End the process although a thread is still at work: one text may take minutes to tokenize."""
        log.warning("ended %g s after the signal, with work unfinished", self.grace + FORCE_SECONDS)
        for host in self.sockets_to_remove:
            remove_socket(host)
        self.before_force()
        os._exit(0)


def serve(
    settings: Settings,
    load: Callable[[], Embedder],
    hosts: Sequence[str] = ("127.0.0.1",),
    port: int = 8080,
    *,
    warmup: bool = True,
    ssl_key: str | None = None,
    ssl_cert: str | None = None,
    grace: float = GRACE_SECONDS,
    mapped: bool = True,
    announce: Callable[[str], object] = log.info,
) -> None:
    """Listen, load the model, answer until SIGTERM or SIGINT.

    load      makes the Embedder; meanwhile requests are answered 503
    hosts     addresses, or paths of Unix sockets that end in .sock
    port      0: any free one
    grace     seconds that requests under way have after the first signal
    mapped    the model that `load` makes has its weights in its file, not in a copy
    announce  is called with each address, and when the model is ready

    EngineError where an address cannot be had, RequestError for a key or certificate; whatever `load` raises.
    """
    state = State(settings, mapped)
    config = uvicorn.Config(
        App(state), http=limited(ConnectionLimits(connection_limit())), ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_keep_alive=5, timeout_graceful_shutdown=math.ceil(grace),
        backlog=ACCEPTED_AT_ONCE, ssl_keyfile=ssl_key, ssl_certfile=ssl_cert,
    )  # fmt: skip
    try:
        config.load()  # reads key and certificate
    except OSError as e:  # ssl.SSLError is one
        state.close()
        where = f"--ssl-key-file {ssl_key}, --ssl-cert-file {ssl_cert}"
        raise RequestError(f"{where}: {e.strerror or e}", hint="files in PEM, the key without a password") from None
    with contextlib.ExitStack() as stack:
        stack.callback(state.close)
        sockets = [stack.enter_context(listening(host, port)) for host in hosts]
        for s in sockets:
            announce(f"listening on {address(s, bool(ssl_key))}")
        server = Server(config)
        server.grace = grace
        server.sockets_to_remove = hosts
        server.before_force = state.end_processes
        switching = sys.getswitchinterval()
        stack.callback(sys.setswitchinterval, switching)
        sys.setswitchinterval(SWITCH_SECONDS)
        asyncio.run(run(server, sockets, state, load, warmup, announce))


async def run(
    server: Server,
    sockets: list[socket.socket],
    state: State,
    load: Callable[[], Embedder],
    warmup: bool,
    announce: Callable[[str], object],
) -> None:
    """Serve, and load in a thread of its own; a model that cannot be loaded ends the server."""

    def prepare() -> None:
        embedder = load()
        if warmup:  # compiles what is compiled on first use
            embedder.vectors([[0, 0]], "none")
        gc.collect()
        gc.freeze()  # what is there by now stays: to look through all of it again would hold up every thread
        state.ready(embedder)

    async def loading() -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, prepare)
            announce("the model is loaded")
        finally:
            if not state.loaded:
                server.should_exit = True

    asyncio.get_running_loop().set_exception_handler(on_loop_error)
    task = asyncio.ensure_future(loading())
    await server.serve(sockets=sockets)
    if task.done():
        task.result()  # raises what loading raised
    else:
        task.cancel()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; a Unix socket's file goes with it. EngineError where the address cannot be had."""
    local = host.endswith(".sock")
    if local and not hasattr(socket, "AF_UNIX"):
        raise EngineError(f"{host}: Python has no Unix sockets on this system", hint="--host 127.0.0.1 takes a port")
    try:
        family, _, proto, _, where = (
            (socket.AF_UNIX, 0, 0, "", host) if local else socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        )
        # asyncio sends at once (TCP_NODELAY) only where proto says TCP; else an answer's second packet waits 40 ms
        s = socket.socket(family, socket.SOCK_STREAM, proto)
    except OSError as e:
        raise taken(host, port, e) from None
    with s:
        try:
            if local:
                remove_stale(Path(host))
            else:
                # on Windows SO_REUSEADDR would let two servers have one port
                s.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR), 1)
            s.bind(where)
            s.listen(QUEUE)
        except OSError as e:
            raise taken(host, port, e) from None
        try:
            yield s
        finally:
            remove_socket(host)


def remove_stale(path: Path) -> None:
    """Remove the socket that a killed server left behind. EngineError for another kind of file, or a live socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EngineError(f"{path}: there is a file of this name that is not a socket", hint="choose another --host")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:  # a full queue: it is listened on
            pass
    raise EngineError(f"{path}: another server is listening on this socket", hint="stop it, or choose another --host")


def remove_socket(host: str) -> None:
    """Remove a Unix socket's file, where the address is one."""
    if host.endswith(".sock"):
        Path(host).unlink(missing_ok=True)


def taken(host: str, port: int, e: OSError) -> EngineError:
    """The address cannot be had."""
    hint = "is another server running? --port 0 takes any free port"
    if isinstance(e, socket.gaierror) or e.errno == errno.EADDRNOTAVAIL:
        hint = "--host takes an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them"
    return EngineError(f"cannot listen on {host}, port {port}: {e.strerror or e}", hint=hint)


def address(s: socket.socket, tls: bool) -> str:
    """As a client would write it."""
    name = s.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"
