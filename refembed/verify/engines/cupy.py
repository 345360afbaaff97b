"""refembed's own GPU kernels as an engine under test: the `cupy` numerics behind the protocol of `base`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refembed.arrays import F32
from refembed.embedder import Embedder
from refembed.model.trace import Trace
from refembed.verify.engines.base import Item, Plain, checked


class CupyEngine(Plain):
    """A GGUF file on an NVIDIA GPU, in float32.

    device   which GPU, as CUDA counts them
    pooling  as `Embedder.embed` takes it
    lora     adapters and their scales

    RequestError without CuPy, a driver or such a GPU: nothing moves to the CPU.
    """

    name = "cupy"
    can_trace = can_tokenize = can_take_ids = True

    def __init__(
        self, path: str | Path, *, device: int = 0, pooling: str = "native",
        lora: Sequence[tuple[str | Path, float]] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        files = [f"{file}:{scale!r}" for file, scale in lora]
        self.embedder = Embedder.load(path, numerics="cupy", device=int(device), lora=files)
        self.pooling = pooling
        self.info = {"model": str(path), "n_embd": self.embedder.info.n_embd, "device": int(device), "pooling": pooling}

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D), or (T, D) with pooling none, for each item, not normalized: all of them in one batch."""
        found = self.embedder.embed(list(items), pooling=self.pooling, normalize=-1, truncate=True)
        return checked(list(found), items, self.name)

    def tokenize(self, text: str) -> list[int]:
        """refembed's own ids."""
        return list(self.embedder.tokenize(text))

    def trace(self, item: Item) -> Trace:
        """Every tensor that a forward pass shows."""
        return self.embedder.trace(item)
