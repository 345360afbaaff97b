"""Engines that take images, made of refembed's parts with one piece of a tower's file written wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from refembed import Embedder
from refembed.arrays import F32, U8
from refembed.model.trace import Trace
from refembed.model.vision import gemma4v, qwen3vl, siglip
from refembed.pipeline.images import ImageInput
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.engines.images import ShowsNothing
from refembed.verify.images.pictures import drawn
from tests.model.faults import broken
from tests.model.vision.towers import qwen_text_model, text_model

MODULES: dict[str, ModuleType] = {"gemma3": siglip, "gemma4v": gemma4v, "qwen3vl": qwen3vl}
SIZES = ((100, 60), (50, 71), (64, 64))  # width, height
TEXTS = ("<__media__>", "the <__media__> cat sat on a mat", "<__media__>a dog")


def inputs(sizes: Sequence[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    """Texts with drawn pictures."""
    return [{"text": TEXTS[i % 3], "image": drawn(*size)} for i, size in enumerate(sizes)]


def files(folder: Path, tower: str) -> tuple[Path, Path]:
    """A small text model, and its tower."""
    if tower == "qwen3vl":
        model = qwen_text_model(folder, D=24, pooling=3)
        return model, synthetic_mmproj(folder / "mmproj.gguf", "qwen3vl_merger", P=6, C=24, S=400)
    if tower == "gemma4v":
        model = text_model(folder, "gemma-embedding2", pooling=1)
        return model, synthetic_mmproj(folder / "mmproj.gguf", "gemma4v", P=4, n_merge=3, n_layer=1)
    return text_model(folder, "gemma3", window=12, pooling=3), synthetic_mmproj(folder / "mmproj.gguf")


class Faulty(ShowsNothing):
    """refembed in float32, its tower computed by another module. shows: "all", or "vectors" alone."""

    name = "faulty"

    def __init__(self, embedder: Embedder, module: ModuleType, shows: str = "all") -> None:
        super().__init__({})
        self.shows = shows
        assert embedder.tower is not None
        e = embedder
        tower = replace(embedder.tower, module=module)
        self.embedder = Embedder(e.info, e.tokenizer, e.model, e.ops, e.batch_tokens, e.adapters, e.file, tower)
        self.tower = tower

    def image_rows(self, image: U8) -> F32 | None:
        return np.asarray(self.tower.rows(image, self.embedder.ops), np.float32) if self.shows == "all" else None

    def embed_images(self, items: Sequence[ImageInput]) -> list[F32] | None:
        return [self.embedder.embed({"text": text, "image": images}, normalize=-1) for text, images in items]  # type: ignore[misc]

    def trace_image(self, image: U8) -> Trace | None:
        return self.embedder.trace_image(image) if self.shows == "all" else None


def faulty(embedder: Embedder, tower: str, right: str, wrong: str, shows: str = "all") -> Faulty:
    """An engine with a piece of the tower's file replaced."""
    return Faulty(embedder, broken(MODULES[tower], right, wrong), shows)
