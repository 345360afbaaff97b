"""Listening: the server stack of `refembed serve`, with one model that is loaded already."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import uvicorn

from refembed.embedder import Embedder
from refembed.playground.answers import Answers
from refembed.playground.app import App
from refembed.playground.switches import Workbench
from refembed.server.connection import ACCEPTED_AT_ONCE, ConnectionLimits, connection_limit, limited, on_loop_error
from refembed.server.run import Server, address, listening

GRACE_SECONDS = 2  # after Ctrl-C, until what is being computed is given up


def serve(
    embedder: Embedder, texts: Sequence[str], *, pooling: str = "native", host: str = "127.0.0.1", port: int = 8090,
    announce: Callable[[str], object],
) -> None:  # fmt: skip
    """Serve the page until SIGTERM or Ctrl-C.

    texts     the first stands in the page's field; several are compared
    port      0: any free one
    announce  is called with the page's address
    EngineError where the address cannot be had, RequestError for an unknown pooling.
    """
    app = App(Answers(Workbench(embedder, pooling), texts), (host,))
    config = uvicorn.Config(
        app, http=limited(ConnectionLimits(connection_limit())), ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_keep_alive=5, timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=ACCEPTED_AT_ONCE,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(app.worker.shutdown, wait=False, cancel_futures=True)
        s = stack.enter_context(listening(host, port))
        announce(address(s, tls=False))
        server = Server(config)
        server.grace = float(GRACE_SECONDS)

        async def run() -> None:
            asyncio.get_running_loop().set_exception_handler(on_loop_error)
            await server.serve(sockets=[s])

        asyncio.run(run())
