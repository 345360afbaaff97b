"""Live llama.cpp as an engine under test: `llamacpp.LlamaCpp` behind the protocol of `base`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refembed.arrays import F32
from refembed.model.trace import Trace
from refembed.pipeline.batches import pack_batches
from refembed.verify.engines.base import Item, Plain, checked
from refembed.verify.engines.llamacpp import LlamaCpp


class LiveLlamaCpp(Plain):
    """A GGUF file in llama.cpp, from the pinned wheel or from a folder of libllama and libggml (`lib`).

    batched   as many texts of one `embed` as fit in one llama_decode; otherwise one call a text
    others    as `LlamaCpp` has them; flash attention is off unless asked for

    EngineError when the wheel is absent, or llama.cpp refuses or aborts.
    """

    name = "llama.cpp"
    can_trace = can_tokenize = can_take_ids = True

    def __init__(
        self,
        path: str | Path,
        *,
        pooling: str = "native",
        n_ctx: int | None = None,
        threads: int = 1,
        flash_attn: bool | str = False,
        extra_buffer_types: bool = False,
        type_kv: str | None = None,
        causal: bool | None = None,
        lora: Sequence[tuple[str | Path, float]] = (),
        mmproj: str | Path | None = None,
        lib: str | Path | None = None,
        cpu: str | None = None,
        batched: bool = False,
        timeout: float = 600.0,
    ) -> None:
        super().__init__()
        self.batched = batched
        self.engine = LlamaCpp(
            path,
            pooling=pooling,
            n_ctx=n_ctx,
            threads=threads,
            flash_attn=flash_attn,
            extra_buffer_types=extra_buffer_types,
            type_kv=type_kv,
            causal=causal,
            lora=lora,
            mmproj=mmproj,
            lib=lib,
            cpu=cpu,
            timeout=timeout,
        )

    @property
    def info(self) -> dict[str, Any]:  # hashing the library waits until it is asked for
        """The build, the options in force, and what the model says of itself."""
        e = self.engine
        facts = {"model": str(e.options["path"]), "n_embd": e.n_embd_out, "pooling": e.pooling}
        order = {"lora_order": e.lora_order} if len(e.options["lora"]) > 1 else {}
        return {**facts, **order, "options": e.options, "build": e.build, "batched": self.batched}

    @info.setter
    def info(self, value: dict[str, Any]) -> None:
        """Written by `Plain`; what llama.cpp says holds."""

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D), or (T, D) with pooling none, for each item, not normalized."""
        if not (items and self.batched):
            return checked(self.engine.embed(list(items)), items, self.name) if items else []
        ids = [self.tokenize(i) if isinstance(i, str) else list(i) for i in items]
        limit, most = self.engine.options["n_ctx"], self.engine.options["n_seq_max"]
        limit = limit or min(self.engine.n_ctx_train, 2048)
        found: list[F32] = []
        for batch in pack_batches(map(len, ids), limit):  # as many texts a call as fit
            for i in range(0, len(batch), most):
                found += self.engine.embed([items[j] for j in batch[i : i + most]], batched=True)
        return checked(found, items, self.name)

    def tokenize(self, text: str) -> list[int]:
        """Ids with special tokens added, and those spelled in the text parsed, as llama-server embeds it."""
        return self.engine.tokenize(text, add_special=True, parse_special=True)

    def trace(self, item: Item) -> Trace:
        """Every node of the graph."""
        return self.engine.trace(item)

    def close(self) -> None:
        """End the process that runs llama.cpp."""
        self.engine.close()
