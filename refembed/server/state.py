"""What every handler needs: how the server was started, the model, and the threads and processes that work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from refembed.arrays import F32
from refembed.server.admission import Admission
from refembed.server.errors import ClientDisconnected
from refembed.server.inputs import Rules
from refembed.server.metrics import Metrics
from refembed.server.model_files import ModelFiles
from refembed.server.reading import Body
from refembed.server.settings import Settings, limits_of
from refembed.server.text_process import BodyReader, Setup, Stopped, TextProcesses
from refembed.server.worker import Job, Worker

if TYPE_CHECKING:
    from refembed.embedder import Embedder

T = TypeVar("T")

LARGE_BODY = 64 * 1024  # bytes: WordPiece tokenizes so much in 2 to 5 ms
READERS = 2  # of large bodies at a time


def pool(n: int, name: str) -> Callable[[], ThreadPoolExecutor]:
    """Makes n threads of that name."""
    return lambda: ThreadPoolExecutor(n, f"refembed-{name}")


@dataclass
class State:
    """The running server."""

    settings: Settings
    mapped: bool = True  # the weights are in the model's file, not in a copy
    metrics: Metrics = field(default_factory=Metrics)
    started: float = field(default_factory=time.time)
    small: ThreadPoolExecutor = field(default_factory=pool(2, "text"))
    large: ThreadPoolExecutor = field(default_factory=pool(READERS, "large-text"))  # each waits for a process
    writing: ThreadPoolExecutor = field(default_factory=pool(1, "large-answers"))
    admission: Admission = field(init=False)
    # set by `ready`, and not before
    loaded: bool = False

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings.max_queue, self.settings.max_body_bytes)

    def ready(self, embedder: Embedder) -> None:
        """Take the model into service. Raises RequestError for a pooling that the model cannot do."""
        from refembed.pooling.poolers import resolve_pooling
        from refembed.server.facts import Facts

        hp, info = embedder.model.hparams, embedder.info
        self.embedder = embedder
        self.how = resolve_pooling(self.settings.pooling, hp.pooling)
        embedder.resolve_options(self.how, self.settings.embd_normalize)
        self.facts = Facts.of(embedder)
        splits = hp.causal and self.how in ("last", "rank")
        self.limits = limits_of(self.settings, info.n_ctx, self.facts.causal, splits)
        given = (self.settings, self.limits, self.how, info.n_vocab, embedder.width(self.how))
        no_keys = replace(self.settings, api_keys=())  # of no use where bodies are read
        self.rules = Rules(embedder.tokenizer, *given, embedder.tower)
        mmproj = None if embedder.tower is None else Path(embedder.tower.path)
        self.files = ModelFiles(info.paths or (info.path,), self.mapped)
        fd = self.files.descriptors[0]
        same_file = Path(f"/proc/self/fd/{fd}")  # whatever its path names by then
        inherited = (fd,) if same_file.exists() else ()
        where = same_file if inherited else info.path
        level = logging.getLogger().getEffectiveLevel()
        setup = Setup(where, self.files.stamps[0], no_keys, *given[1:], level, mmproj)
        self.processes = TextProcesses(setup, inherited)
        self.worker = Worker(embedder, max(self.settings.batch_size, 1), self.metrics, self.files.check)
        self.loaded = True

    @cached_property
    def sha256(self) -> str:
        """Of the model's file; read when first asked for."""
        return self.embedder.info.sha256

    def close(self) -> None:
        """Finish what is queued and stop threads and processes."""
        if self.loaded:
            self.processes.close()
            self.worker.close()
            self.files.close()
        for threads in (self.small, self.large, self.writing):
            threads.shutdown(wait=False, cancel_futures=True)

    def end_processes(self) -> None:
        """End what reads bodies."""
        if self.loaded:
            self.processes.close()

    async def read(self, request: Request, work: Callable[[Rules, Body], T], body: Body) -> T:
        """`work(rules, body)`, a function of `reading`: small bodies in a thread, large ones in a process.

        ClientDisconnected if the client leaves before: what has not begun is dropped, a process is ended.
        """
        if len(body) <= LARGE_BODY:
            return await self.off_loop(request, work, self.rules, body)
        reader = BodyReader(self.processes, work, body)
        try:
            result: T = await unless_gone(request, self.large.submit(reader.run), reader.stop)
        except Stopped:
            raise ClientDisconnected from None
        return result

    async def off_loop(self, request: Request, work: Callable[..., T], *args: Any) -> T:
        """Run small text work in a thread. ClientDisconnected where the client has left before its turn."""

        def unless_left() -> T:
            if has_left(request):
                raise ClientDisconnected
            return work(*args)

        return await asyncio.get_running_loop().run_in_executor(self.small, unless_left)

    async def vectors(self, request: Request, job: Job) -> list[F32]:
        """The vectors of a job. ClientDisconnected, and the job is dropped, if the client leaves before they are
        there.
        """
        return await unless_gone(request, self.worker.submit(job))


def has_left(request: Request) -> bool:
    """Whether the client has closed the connection, as far as uvicorn's record of the request says it."""
    return getattr(getattr(request.receive, "__self__", None), "disconnected", False)


async def unless_gone(request: Request, future: Future[T], stop: Callable[[], object] = lambda: None) -> T:
    """The result of a thread's work. ClientDisconnected if the client leaves first; work not begun is cancelled.

    stop  is called then, for work that has begun
    """
    wanted = asyncio.ensure_future(asyncio.wrap_future(future))
    leaving = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait((wanted, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise ClientDisconnected
        return wanted.result()
    finally:
        if not wanted.done():
            stop()
        wanted.cancel()
        leaving.cancel()


async def left(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
