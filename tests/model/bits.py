"""One model file in the `ggml` numerics and in live llama.cpp, which then must have the same bits, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import Float
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.model import Model, load_model
from refembed.model.batch import pack
from refembed.model.trace import Trace
from refembed.pooling.poolers import pool
from refembed.verify.compare.replay import replay
from refembed.verify.engines.llamacpp import LlamaCpp

LENGTHS = (1, 2, 7, 33, 70, 131)  # of texts alone; from 64 rows on flash attention works in tiles
TOGETHER = (5, 40, 1, 90)  # of texts in one batch


def some_ids(n: int, V: int = 101) -> list[int]:
    """n token ids, the same each time."""
    return [int(i) for i in np.random.default_rng(n).integers(0, V, n)]


@dataclass
class Bits:
    """A model as one configuration of llama.cpp computes it: flash_attn and repack are its two switches."""

    path: Path
    pooling: str = "mean"
    flash_attn: bool = False
    repack: bool = False

    def __post_init__(self) -> None:
        self.model: Model = load_model(open_gguf(self.path))
        self.ops: Ops = load_ops("ggml", flash_attn=self.flash_attn, repack=self.repack)

    def engine(self, **options: Any) -> LlamaCpp:
        """The live side."""
        switches: dict[str, Any] = {"flash_attn": self.flash_attn, "extra_buffer_types": self.repack}
        return LlamaCpp(self.path, pooling=self.pooling, n_ctx=512, **switches, **options)

    def vectors(self, texts: Sequence[Sequence[int]], tap: Tap = NO_TAP) -> list[Float]:
        """Pooled vectors of texts that run together."""
        batch = pack(texts)
        vectors = pool(self.model.forward(batch, self.ops, tap), batch.offsets, self.pooling, self.ops.mean)
        return [tap("result_embd_pooled", x) for x in vectors] if tap.active else list(vectors)

    def differing(self, engine: LlamaCpp) -> dict[str, int]:
        """How many numbers of a vector have other bits than llama.cpp's, by text; those texts that have any."""
        alone, together = ([some_ids(n) for n in lengths] for lengths in (LENGTHS, TOGETHER))
        theirs = [*engine.embed(alone), *engine.embed(together, batched=True)]
        ours = [*(self.vectors([text])[0] for text in alone), *self.vectors(together)]
        names = [f"{n} tokens" for n in LENGTHS] + [f"{n} tokens of {TOGETHER}" for n in TOGETHER]
        found = {name: unequal(x, y) for name, x, y in zip(names, ours, theirs, strict=True)}
        return {name: n for name, n in found.items() if n}

    def wrong(self, theirs: Trace) -> list[str]:
        """Tensors whose own operation gives other bits on llama.cpp's inputs, in order: "Qcur-0[1] ROPE"."""
        found = replay(lambda tap: self.vectors([theirs.meta["tokens"]], tap), theirs)
        return [f"{d.name}[{d.k}] {d.op}" for d in found if not d.difference.identical]


class Apart(Bits):
    """Bits, with texts of one call run apart where llama.cpp does: each behind the last one's cells of the cache."""

    def vectors(self, texts: Sequence[Sequence[int]], tap: Tap = NO_TAP) -> list[Float]:
        """Pooled vectors of texts that come in one call."""
        if not self.model.runs_alone:
            return super().vectors(texts, tap)
        found, ops = [], self.ops
        for text in texts:
            found += super().vectors([text], tap)
            ops.first += len(text)  # type: ignore[attr-defined]  # of `Ggml`
        ops.first = 0  # type: ignore[attr-defined]
        return found


def unequal(x: Float, y: Float) -> int:
    """Numbers of two float32 arrays that differ in any bit."""
    assert x.dtype == y.dtype == np.float32
    assert x.size == y.size
    return int((x.reshape(-1).view(np.uint32) != y.reshape(-1).view(np.uint32)).sum())
