"""From a verdict on images to what its HTML page shows: pictures with patches, tensors, what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refembed.arrays import F64, U8
from refembed.embedder import Embedder
from refembed.errors import RefembedError
from refembed.html.patches import Cut
from refembed.model.trace import Recorder, Trace
from refembed.model.vision import Tower
from refembed.model.vision.preprocess import Size
from refembed.verify.engines.images import ImageEngine, of_engine
from refembed.verify.images.pictures import ImageItem, items_of
from refembed.verify.images.reference import ImageReference, image_reference
from refembed.verify.report.data import Picture, ReportData, WorstTensor
from refembed.verify.report.html_data import plain_report, worst_of
from refembed.verify.verdict import Verdict

SHOWN = 4  # pictures


def image_report_data(
    verdict: Verdict, engine: Any, embedder: Embedder, inputs: Sequence[Any] | None = None, pooling: str = "native"
) -> ReportData:
    """What the page of `verify_images` shows. The engine is asked once more for what is drawn.

    inputs  those of the verdict; None: the drawn ones
    """
    r, asked, items = image_reference(embedder, pooling), of_engine(engine), items_of(inputs)
    e, facts = verdict.evidence, verdict.evidence.facts
    traced = (
        next((item for item in items if item.name == e.traced), None)
        if e.tensors or verdict.first_wrong_tensor
        else None
    )
    theirs = None if traced is None else tried(asked.trace_image, traced.image)
    plain = plain_report(verdict, asked.name)
    return replace(
        plain,
        model=f"{plain.model} with {facts.get('mmproj', '')}",
        pictures=[
            picture_of(r, asked, item, theirs if item is traced else None) for item in chosen(items, traced, verdict)
        ],
        unit="input",
        worst=None if traced is None or theirs is None else worst(verdict, r, traced.image, theirs),
        environment={"tower": facts.get("mmproj", "")} | plain.environment,
    )


def tried(ask: Any, image: U8) -> Any:
    """What an engine shows; None where it does not."""
    try:
        return ask(image)
    except RefembedError:
        return None


def chosen(items: Sequence[ImageItem], traced: ImageItem | None, verdict: Verdict) -> list[ImageItem]:
    """The traced one, then those that differ, then others; each once."""
    off = {t.text for t in verdict.evidence.texts if not t.agrees}

    def place(item: ImageItem) -> tuple[bool, bool]:
        wrong = {f"rows of {item.name}", f"{item.name}: {item.given.text}"} & off
        return item is not traced, not wrong

    return sorted(items, key=place)[:SHOWN]


def picture_of(r: ImageReference, engine: ImageEngine, item: ImageItem, theirs: Trace | None) -> Picture:
    """One image; theirs: the engine's tensors of it, where it shows them."""
    tower, image = r.tower, item.image
    ours = cut_of(tower, tower.pixels(image))
    (width, height), (nx, ny), (columns, rows) = (image.shape[1], image.shape[0]), ours.patches, ours.tokens
    h, w, _ = ours.rgb.shape
    sizes = (
        f"{width} x {height} pixels become {w} x {h} that the tower reads: {nx} x {ny} patches, "
        f"{columns} x {rows} = {columns * rows} tokens."
    )
    shown = None
    if theirs is not None and "inp_raw" in theirs and theirs["inp_raw"].size and not theirs.meta.get("partial"):
        planes = np.asarray(theirs["inp_raw"], np.float32).squeeze()
        shown = cut_of(tower, planes) if planes.ndim == 3 and len(planes) == 3 else None
    found = tried(engine.image_rows, image) if len(item.given.images) == 1 else None
    return Picture(item.name, sizes, ours, shown, None if found is None else off(r, image, found, (rows, columns)))


def cut_of(tower: Tower, planes: Any) -> Cut:
    """Planes (3, h, w) as a picture with its patches."""
    side, merged = tower.hparams.patch_size, tower.hparams.patch_size * tower.hparams.n_merge
    _, h, w = planes.shape
    patches, tokens = ((max(w // n, 1), max(h // n, 1)) for n in (side, merged))
    return Cut(tower.picture(planes), patches, tokens)


def off(r: ImageReference, image: U8, theirs: Any, grid: tuple[int, int]) -> F64 | None:
    """How far each token's row is from ours, over its length, as tokens lie on the image; None for another number."""
    ours = np.asarray(r.image_rows(image, "fast"), np.float64)
    if ours.shape != theirs.shape:
        return None
    with np.errstate(all="ignore"):
        found = np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1)
    return np.asarray(found.reshape(grid), np.float64)


def worst(verdict: Verdict, r: ImageReference, image: U8, theirs: Trace) -> WorstTensor | None:
    """The first wrong tensor, or the one that has drifted furthest; its rows by their patches or tokens."""
    if theirs.meta.get("partial"):
        return None
    recorder = Recorder()
    r.show(image, "exact", recorder)
    found = worst_of(verdict, recorder.trace, theirs, [])
    if found is None:
        return None
    cut = cut_of(r.tower, r.tower.pixels(image))
    names = names_of_rows(r.tower, cut)
    if found.ours.ndim == 2 and len(found.ours) in names and not found.name.startswith("patch_product"):
        unit, rows = names[len(found.ours)]
        return replace(found, rows=rows, unit=unit)
    return found


def names_of_rows(tower: Tower, cut: Cut) -> dict[int, tuple[str, list[str]]]:
    """Of tensors with so many rows: what a row is, and where each lies on the image."""
    (nx, ny), (columns, rows) = cut.patches, cut.tokens
    order = tower.order(Size(nx, ny))
    patches = [f"row {i // nx}, column {i % nx}" for i in order]
    tokens = [f"row {i // columns}, column {i % columns}" for i in range(columns * rows)]
    return {columns * rows: ("token", tokens), nx * ny: ("patch", patches)}
