"""What every handler needs: how the server was started, the model, and the thread that computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from refembed.arrays import F32
from refembed.server.admission import Admission
from refembed.server.errors import ApiError, ClientDisconnected
from refembed.server.metrics import Metrics
from refembed.server.worker import Job, Worker

if TYPE_CHECKING:
    from refembed.embedder import Embedder

T = TypeVar("T")

LARGE_BODY = 64 * 1024  # bytes: WordPiece tokenizes so much in 2 to 5 ms
AUTO_SLOTS = 4  # llama-server's --parallel -1: so many slots, which share one context


@dataclass(frozen=True)
class Settings:
    """How the server was started: llama-server's flags by their long names, in its meaning."""

    model: str = "minilm"  # as it was given
    alias: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pooling: str = "native"
    embd_normalize: int = 2
    ctx_size: int = 0  # 0: what the model was trained with
    batch_size: int = 2048
    ubatch_size: int = 512
    parallel: int = -1
    kv_unified: bool | None = None
    api_keys: tuple[str, ...] = ()
    api_prefix: str = ""
    cors_origins: str = "*"
    cors_methods: str = "GET, POST, DELETE, OPTIONS"
    cors_headers: str = "*"
    cors_credentials: bool = True
    metrics: bool = False
    slots: bool = True
    props: bool = False
    max_queue: int = 512  # requests under way at a time
    max_inputs: int = 16_384  # texts of one request
    max_body_bytes: int = 256 << 20  # of all requests under way together

    @property
    def name(self) -> str:
        """What the server calls its model: the first alias by alphabet, else the model as it was given."""
        return min(self.alias) if self.alias else self.model


@dataclass
class Limits:
    """How long a text may be."""

    n_ctx: int  # of one slot, tokens
    n_ubatch: int  # what one pass takes
    splits: bool  # whether a text may be longer than that: only where the last token's state is wanted
    slots: int

    @property
    def longest(self) -> int:
        """Most tokens of a text that is taken."""
        return self.n_ctx - 1 if self.splits else min(self.n_ctx, self.n_ubatch)

    def check(self, n: int) -> None:
        """ApiError for a text of n tokens that is too long, as llama-server answers it."""
        more: dict[str, Any] = {"n_prompt_tokens": n, "n_ctx": self.n_ctx}
        if self.splits:
            if n >= self.n_ctx:
                what = f"request ({n} tokens) exceeds the available context size ({self.n_ctx} tokens)"
                raise ApiError(f"{what}, try increasing it", "exceed_context_size_error", **more)
            return
        if n > self.n_ubatch:
            what = f"input ({n} tokens) is too large to process. increase the physical batch size"
            raise ApiError(f"{what} (current batch size: {self.n_ubatch})", "server_error")
        if n > self.n_ctx:
            what = f"input ({n} tokens) is larger than the max context size ({self.n_ctx} tokens)"
            raise ApiError(f"{what}. skipping", "exceed_context_size_error", **more)


def limits_of(s: Settings, n_ctx_train: int, capped: bool, splits: bool) -> Limits:
    """What the flags come to for a model, as llama-server and llama_context work it out.

    capped  a pass is not longer than the context: where the file does not say that attention is not causal
    splits  a text may take several passes
    """
    slots = AUTO_SLOTS if s.parallel < 0 else max(s.parallel, 1)
    unified = s.parallel < 0 if s.kv_unified is None else s.kv_unified
    n_ctx = s.ctx_size or n_ctx_train
    slot = padded(n_ctx) if unified else padded(padded(n_ctx) // slots)
    n_batch = min(s.batch_size, s.ubatch_size or s.batch_size)
    return Limits(min(slot, n_ctx_train), min(n_batch, n_ctx) if capped else n_batch, splits, slots)


def padded(n: int) -> int:
    """The next multiple of 256."""
    return -(-n // 256) * 256


@dataclass
class State:
    """The running server."""

    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    started: float = field(default_factory=time.time)
    small: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "refembed-text"))
    large: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "refembed-large-text"))
    admission: Admission = field(init=False)
    # set by `ready`, and not before
    loaded: bool = False

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings.max_queue, self.settings.max_body_bytes)

    def check_inputs(self, n: int) -> None:
        """ApiError for a request of n texts, if they are more than one request may have."""
        if n > self.settings.max_inputs:
            raise ApiError(f"{n} inputs in one request, at most {self.settings.max_inputs} (--max-inputs)")

    def ready(self, embedder: Embedder) -> None:
        """Take the model into service. Raises RequestError for a pooling that the model cannot do."""
        from refembed.pooling.poolers import resolve_pooling
        from refembed.server.facts import Facts

        hp = embedder.model.hparams
        self.embedder = embedder
        self.how = resolve_pooling(self.settings.pooling, hp.pooling)
        embedder.resolve_options(self.how, self.settings.embd_normalize)
        self.facts = Facts.of(embedder)
        splits = hp.causal and self.how in ("last", "rank")
        self.limits = limits_of(self.settings, embedder.info.n_ctx, self.facts.causal, splits)
        self.worker = Worker(embedder, max(self.settings.batch_size, 1), self.metrics)
        self.loaded = True

    @cached_property
    def sha256(self) -> str:
        """Of the model's file; read when first asked for."""
        return self.embedder.info.sha256

    def close(self) -> None:
        """Finish what is queued and stop the threads."""
        if self.loaded:
            self.worker.close()
        for pool in (self.small, self.large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def off_loop(self, request: Request, work: Callable[..., T], *args: Any) -> T:
        """Run text work (parsing, tokenizing, writing JSON) where it does not hold up other requests.

        Requests with large bodies have threads of their own, so that small ones never wait behind them.
        ClientDisconnected if the client of such a request leaves first; work that has not begun is then dropped.
        """
        if request.state.held.bytes > LARGE_BODY:
            return await unless_gone(request, self.large.submit(work, *args))
        return await asyncio.get_running_loop().run_in_executor(self.small, work, *args)

    async def vectors(self, request: Request, job: Job) -> list[F32]:
        """The vectors of a job. ClientDisconnected, and the job is dropped, if the client leaves before they are
        there.
        """
        return await unless_gone(request, self.worker.submit(job))


async def unless_gone(request: Request, future: Future[T]) -> T:
    """The result of a thread's work. ClientDisconnected if the client leaves first; work not begun is cancelled."""
    wanted = asyncio.ensure_future(asyncio.wrap_future(future))
    leaving = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait((wanted, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise ClientDisconnected
        return wanted.result()
    finally:
        wanted.cancel()
        leaving.cancel()


async def left(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
