"""An image's way through a vision tower as plain data: sizes, patches, each step, and where patches look.

    image ─► size of what is read ─► patches ─► layers ─► tokens ─► among the tokens of a text ─► vector

A tower's attention weights can be gigabytes, so each tensor is looked at while it passes and nothing is kept of it but
its shape, a few numbers, and of attention what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, U8, Float
from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.explain.image_taps import meaning
from refembed.explain.walkthrough import HIDDEN_END, Layer, number_of
from refembed.model.batch import Batch
from refembed.model.vision.preprocess import Size
from refembed.pipeline.images import MARKER, image_input
from refembed.pipeline.multimodal import ids_within, with_rows
from refembed.pipeline.vectors import cut_and_normalize, forward_and_pool
from refembed.pooling.poolers import POOLERS, resolve_pooling
from refembed.verify.compare.contributions import contributions

FIRST = 4  # numbers shown of each tensor
PLAIN = ("mean", "mean_sqrt_len", "weightedmean", "max")  # poolings in which each token has a share of its own


@dataclass(frozen=True)
class ImageStep:
    """One tensor of the tower."""

    name: str
    shape: tuple[int, ...]
    numbers: tuple[float, ...]  # the first few of the patch that is looked at, where the tensor has a row for it
    title: str
    formula: str


@dataclass
class ImageWalkthrough:
    """Everything that `refembed explain --image` shows."""

    info: dict[str, Any]  # of the model and the tower
    given: Size  # of the image
    read: Size  # of what the tower reads
    patches: Size  # columns and rows of patches
    tokens: Size  # columns and rows of tokens
    patch: tuple[int, int]  # row and column of the patch whose numbers are shown
    layer: int  # shown in full
    seen: U8  # (height, width, 3): what the tower reads, as a picture
    before: list[ImageStep]  # up to the first layer
    inside: list[ImageStep]  # of that layer
    behind: list[ImageStep]  # after the last layer
    layers: list[Layer]
    looked_at: dict[int, F64]  # layer -> (rows, columns): how much a patch is looked at, mean of all patches and heads
    looks: F64 | None  # (rows, columns): where the patch looks in that layer, mean of heads; None: not shown
    lengths: F64  # (rows, columns) |row| of each token
    text: str  # the tokens of the text model, images as numbers of tokens
    n_tokens: int  # of the text model
    how: str  # the pooling
    shares: F64 | None  # (rows, columns): the share of each token of the image in the vector
    image_share: float | None  # of all of them together
    vector: F64  # (D), or (T, D)
    notes: list[str] = field(default_factory=list)


def explain_image(
    embedder: Embedder,
    image: Any,
    text: str = "",
    *,
    pooling: str = "native",
    layer: int = -1,
    patch: tuple[int, int] | None = None,
) -> ImageWalkthrough:
    """Follow one image through the tower of an embedder, and on to the vector.

    image  as `Embedder.embed` takes it; text: with <__media__> where it stands; without, it stands in front
    layer  is shown in full, and its attention; -1 is the last
    patch  row and column of the patch whose numbers are shown; None takes the middle
    Raises RequestError for a layer or a patch that is not there, and as `Embedder.embed` does.
    """
    if embedder.tower is None:
        raise RequestError("an image, but no vision tower", hint="--mmproj FILE, the model's vision tower")
    given = image_input({"text": text, "image": image}, 0)
    if len(given.images) != 1:
        raise RequestError(f"explain takes one image, not {len(given.images)}")
    tower, (pixels,) = embedder.tower, given.images
    hp, side = tower.hparams, tower.hparams.patch_size
    if not -hp.n_layer <= layer < hp.n_layer:
        raise RequestError(f"layer {layer}: the tower has layers 0 to {hp.n_layer - 1}")
    planes, tokens = tower.pixels(pixels), tower.grid(pixels)
    patches = Size(planes.shape[2] // side, planes.shape[1] // side)
    row, column = (patches.height // 2, patches.width // 2) if patch is None else patch
    if not (0 <= row < patches.height and 0 <= column < patches.width):
        raise RequestError(f"patch {row},{column}: there are {patches.height} rows of {patches.width} patches")
    ids, begins = ids_within(given, tower, embedder.tokenizer, embedder.info.n_ctx, "the text with its image")
    watcher = TowerWatcher(tower.order(patches), row * patches.width + column, layer % hp.n_layer)
    rows = tower.rows(pixels, embedder.ops, watcher)
    before, inside, behind = watcher.parts(layer % hp.n_layer, hp.n_layer)
    walkthrough = ImageWalkthrough(
        info={
            "model": embedder.info.name, "architecture": embedder.info.architecture, "file": embedder.info.path.name,
            "tower": hp.projector, "tower's file": Path(tower.path).name, "layers of the tower": hp.n_layer,
            "heads": hp.n_head, "channels": hp.n_embd, "patch": f"{side} x {side} pixels",
            "squares of patches to a token": f"{hp.n_merge} x {hp.n_merge}", "numerics": embedder.ops.name,
        },
        given=Size(pixels.shape[1], pixels.shape[0]), read=Size(planes.shape[2], planes.shape[1]), patches=patches,
        tokens=tokens, patch=(row, column), layer=layer % hp.n_layer, seen=tower.picture(planes), before=before,
        inside=inside, behind=behind, layers=watcher.layers(), looked_at=watcher.grids(patches), looks=None,
        lengths=np.linalg.norm(rows[:, : tower.width].astype(np.float64), axis=1).reshape(tokens.height, tokens.width),
        text=given.text.replace(MARKER, f"[{len(rows)} tokens of the image]"), n_tokens=len(ids),
        how=resolve_pooling(pooling, embedder.model.hparams.pooling), shares=None, image_share=None,
        vector=np.zeros(0),
    )  # fmt: skip
    if watcher.looks is not None:
        walkthrough.looks = watcher.on_grid(watcher.looks, patches)
    else:
        walkthrough.notes.append(
            "The run shows no attention: with flash attention no scores are kept; --no-flash-attn shows them."
        )
    follow_on(walkthrough, embedder, with_rows(ids, begins, [rows], [pixels], tower), pooling)
    return walkthrough


def follow_on(w: ImageWalkthrough, embedder: Embedder, batch: Batch, pooling: str) -> None:
    """From the tower's rows among tokens to the vector: how much of it each token of the image is."""
    keeper, options = Keeper(), embedder.resolve_options(pooling)
    (row,) = forward_and_pool(embedder.model, embedder.ops, batch, options.pooling, keeper)
    w.vector = np.asarray(cut_and_normalize(row, options.normalize), np.float64)
    if keeper.hidden is None or w.how not in POOLERS:
        return
    if w.how in PLAIN:
        (image,) = batch.images
        shares = contributions(keeper.hidden, w.how)[image.begin : image.end]
        w.shares, w.image_share = shares.reshape(w.tokens.height, w.tokens.width), float(shares.sum())
    else:
        w.notes.append(f"Pooling {w.how} takes one token's vector: no other token has a share of its own in it.")


class TowerWatcher:
    """A tap that keeps of each tensor what is shown of it.

    order  of the rows of tensors (`Tower.order`)
    patch  the number of the patch that is looked at; layer: shown in full
    """

    active = True

    def __init__(self, order: npt.NDArray[np.int64], patch: int, layer: int) -> None:
        self.order, self.layer = order, layer
        self.row = int(np.flatnonzero(order == patch)[0])  # of that patch in tensors
        self.steps: list[ImageStep] = []
        self.received: dict[int, F64] = {}  # layer -> (N) mean over patches and heads of what looks at each
        self.entropy: dict[int, tuple[float, float, float]] = {}
        self.states: dict[int, tuple[float, float]] = {}
        self.looks: F64 | None = None  # (N)
        self.before: Float | None = None  # the layer's input

    def __call__(self, name: str, x: Float) -> Float:
        """Look at x, and pass it on."""
        line, own = meaning(name), x
        if name.startswith(("kq-", "kq_soft_max-")):
            own = x[0, self.row]  # of the first head
        elif x.ndim >= 2 and len(x) == len(self.order):
            own = x[self.row]
        numbers = tuple(float(v) for v in own.reshape(-1)[:FIRST])
        self.steps.append(ImageStep(name, x.shape, numbers, line.title, line.formula))
        il = number_of(name)
        if name.startswith("kq_soft_max-") and il is not None:
            self.attention(il, x)
        if x.ndim == 2 and len(x) == len(self.order):
            if name.startswith("layer_out-") and il is not None and self.before is not None:
                self.states[il] = changed(self.before, x)
            if name.startswith(("layer_out", "pos_emb", "inp_pos_emb", "patch_bias")):
                self.before = x
        return x

    def attention(self, il: int, a: Float) -> None:
        """Of weights (H, N, N): what is drawn, and a layer's numbers."""
        received, bits, to_self = np.zeros(a.shape[2]), 0.0, 0.0
        for head in a:  # one at a time: all together may be gigabytes
            received += head.mean(axis=0, dtype=np.float64)
            bits += float(-(head * np.log2(np.maximum(head, 1e-30))).sum(axis=1, dtype=np.float64).mean())
            to_self += float(np.diagonal(head).mean(dtype=np.float64))
        self.received[il] = received / len(a)
        self.entropy[il] = bits / len(a), to_self / len(a), float(received[0] / len(a))
        if il == self.layer:
            self.looks = a[:, self.row].mean(axis=0, dtype=np.float64)

    def layers(self) -> list[Layer]:
        """Each layer in numbers."""
        found = []
        for il, (norm, kept) in sorted(self.states.items()):
            numbers = self.entropy.get(il, (None, None, None))
            found.append(Layer(il, norm, kept, *numbers))
        return found

    def parts(self, layer: int, n_layer: int) -> tuple[list[ImageStep], list[ImageStep], list[ImageStep]]:
        """Steps before the first layer, within one, and after the last."""
        numbers = [number_of(s.name) for s in self.steps]
        inside = [i for i, n in enumerate(numbers) if n is not None and n < n_layer]
        begin, end = (inside[0], inside[-1] + 1) if inside else (len(numbers), len(numbers))
        last = max((i for i, s in enumerate(self.steps) if s.name.startswith("layer_out")), default=end - 1)
        own = [self.steps[i] for i in inside if numbers[i] == layer and i <= last]
        return self.steps[:begin], own, self.steps[last + 1 :]

    def grids(self, patches: Size) -> dict[int, F64]:
        """`received` as they lie on the image."""
        return {il: self.on_grid(x, patches) for il, x in sorted(self.received.items())}

    def on_grid(self, x: F64, patches: Size) -> F64:
        """Numbers of rows (N) as they lie on the image: (rows, columns)."""
        out = np.empty(len(x))
        out[self.order] = x
        return out.reshape(patches.height, patches.width)


def changed(x: Float, y: Float) -> tuple[float, float]:
    """Mean length of y's rows, and the mean cosine of each with x's."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-300)
    return float(lengths[1].mean()), float(cosines.mean())


class Keeper:
    """A tap that keeps the last hidden states."""

    active = True

    def __init__(self) -> None:
        self.hidden: F64 | None = None

    def __call__(self, name: str, x: Float) -> Float:
        """Keep x where it is what is pooled."""
        if name in HIDDEN_END:
            self.hidden = np.asarray(x, np.float64)
        return x
