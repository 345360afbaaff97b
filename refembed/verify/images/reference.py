"""How an engine should come to rows of an image and to a vector of a text with images, with places for changes.

    pixels ─ decoded ─► tower.pixels ─► tower.forward, ops ─► rows ─ rows ─► among tokens ─ ids, batch ─► text model ─►
    vector

Each `─ name ─►` is a place where a hypothesis may put a function of its own; a change of the tower itself, its size
rule, preprocessing, marks, numbers or weights, is another `Tower`. The text model stays as it is: `verify` without
images is about that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refembed.arrays import F64, U8, Float
from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.gguf import Tensor
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.wrapper import PatchedOps
from refembed.model.batch import Batch
from refembed.model.vision import Tower
from refembed.pipeline.images import ImageInput
from refembed.pipeline.multimodal import ids_within, token_ids, with_rows
from refembed.pipeline.vectors import forward_and_pool
from refembed.pooling.poolers import resolve_pooling
from refembed.verify.images.pictures import ImageItem
from refembed.verify.reference import OpsByNumerics

MOST_KEPT = 64  # rows of images
HALF = "fast, patches and GELU in float16"  # float32, but where llama.cpp rounds most: for towers too large for `ggml`

Rows = tuple[Any, Any]  # a cache's value: what must stay alive, and the rows


@dataclass(frozen=True, eq=False)
class ImageReference:
    """How rows and vectors come about. Functions in tuples run in order, the latest change last."""

    embedder: Embedder
    tower: Tower
    by_numerics: OpsByNumerics
    pooling: str
    decoded: tuple[Callable[[U8], U8], ...] = ()
    ops: tuple[Callable[[Ops], Ops], ...] = ()  # of the tower
    rows: tuple[Callable[[Float], Float], ...] = ()  # (n, E): what the text model gets of an image
    text: tuple[Callable[[str], str], ...] = ()
    batch: tuple[Callable[[Batch], Batch], ...] = ()
    pooler: Callable[[F64, Batch], F64] | None = None  # hidden (T, C) -> (D), in place of `pooling`
    kept: dict[Any, Rows] = field(default_factory=dict)

    def add(self, **functions: Any) -> ImageReference:
        """Another reference, with these functions at the end of their tuples: add(rows=np.flip)."""
        tuples: dict[str, Any] = {name: (*getattr(self, name), f) for name, f in functions.items()}
        return replace(self, **tuples)

    def ops_of(self, numerics: str) -> Ops:
        """The tower's operations in these numerics, changed."""
        ops = half(self.by_numerics["fast"]) if numerics == HALF else self.by_numerics[numerics]
        for change in self.ops:
            ops = change(ops)
        return ops

    def seen(self, image: U8) -> U8:
        """The pixels that an engine goes on with."""
        for change in self.decoded:
            image = change(image)
        return image

    def show(self, image: U8, numerics: str, tap: Tap) -> Float:
        """Run the tower on an image with a tap: rows (n, E)."""
        return self.tower.rows(self.seen(image), self.ops_of(numerics), tap)

    def image_rows(self, image: U8, numerics: str) -> Float:
        """Rows (n, E) of an image; those computed before are kept."""
        key = (id(self.tower), self.ops, self.decoded, numerics, id(image))
        if key not in self.kept:
            if len(self.kept) >= MOST_KEPT:  # changed towers have tables of positions of their own
                self.kept.clear()
            self.kept[key] = (self.tower, image), self.show(image, numerics, NO_TAP)
        rows: Float = self.kept[key][1]
        for change in self.rows:
            rows = change(rows)
        return rows

    def batch_of(self, given: ImageInput, numerics: str) -> Batch:
        """A text with images as the text model runs it."""
        text = given.text
        for change in self.text:
            text = change(text)
        images = [self.seen(image) for image in given.images]
        e = self.embedder
        ids, begins = ids_within(ImageInput(text, images), self.tower, e.tokenizer, e.info.n_ctx, "image")
        rows = [self.image_rows(image, numerics) for image in given.images]
        batch = with_rows(ids, begins, rows, images, self.tower)
        for alter in self.batch:
            batch = alter(batch)
        return batch

    def vector(self, given: ImageInput, numerics: str) -> F64:
        """The vector (D) of a text with images, not normalized; (T, D) where nothing is pooled."""
        batch = self.batch_of(given, numerics)
        how = "none" if self.pooler else self.pooling
        ops = self.by_numerics["fast" if numerics == HALF else numerics]
        found = np.asarray(forward_and_pool(self.embedder.model, ops, batch, how)[0], np.float64)
        return found if self.pooler is None else self.pooler(found, batch)

    def n_tokens(self, item: ImageItem) -> int:
        """Tokens of an input, those of its images included."""
        e = self.embedder
        counts = [self.tower.n_tokens(image) for image in item.given.images]
        return len(token_ids(item.given.text, counts, self.tower, e.tokenizer)[0])


def image_reference(embedder: Embedder, pooling: str = "native") -> ImageReference:
    """The model and the tower of an embedder, unchanged. RequestError where it has no tower."""
    if embedder.tower is None:
        raise RequestError("an image, but no vision tower", hint="Embedder.load(model, mmproj=FILE); --mmproj FILE")
    how = resolve_pooling(pooling, embedder.model.hparams.pooling)
    return ImageReference(embedder, embedder.tower, OpsByNumerics(embedder.adapters), how)


def half(base: Ops) -> Ops:
    """Operations that round where llama.cpp's towers round most: patches, their kernel and GELU in float16."""

    def f16(x: Float) -> Float:
        return x.astype(np.float16).astype(x.dtype)

    def rounded(name: str) -> Callable[..., Float]:
        return lambda true, *xs: f16(getattr(true, name)(*map(f16, xs)))

    def conv_2d(true: Ops, x: Float, w: Tensor) -> Float:
        return true.conv_2d(f16(x), Tensor.of(w.dequantize().astype(np.float16).astype(np.float32), f"{w.name} in F16"))

    names = ("gelu", "gelu_quick", "geglu")
    return PatchedOps(base, {"conv_2d": conv_2d, **{name: rounded(name) for name in names}})
