"""How the server was started, and how long a text may be: what reading a request needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refembed.server.errors import ApiError

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

    def check(self, n: int, at_least: bool = False) -> None:
        """ApiError for a text of n tokens that is too long, as llama-server answers it. at_least: or of more."""
        more: dict[str, Any] = {"n_prompt_tokens": n, "n_ctx": self.n_ctx}
        tokens = f"at least {n} tokens" if at_least else f"{n} tokens"
        if self.splits:
            if n >= self.n_ctx:
                what = f"request ({tokens}) exceeds the available context size ({self.n_ctx} tokens)"
                raise ApiError(f"{what}, try increasing it", "exceed_context_size_error", **more)
            return
        if n > self.n_ubatch:
            what = f"input ({tokens}) is too large to process. increase the physical batch size"
            raise ApiError(f"{what} (current batch size: {self.n_ubatch})", "server_error")
        if n > self.n_ctx:
            what = f"input ({tokens}) is larger than the max context size ({self.n_ctx} tokens)"
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
