"""Hypotheses about what stands around an image in the text model: marks, places, mask, scale, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refembed.arrays import F64
from refembed.model.batch import Batch
from refembed.pipeline.images import MARKER
from refembed.verify.images.hypothesis import Change, ImageHypothesis, traits
from refembed.verify.images.reference import ImageReference

POOLINGS = ("mean", "cls", "last", "max", "none")
MARKS = "put the tower's own marks around an image: those that llama.cpp's libmtmd adds"
PLACE = "let the image stand where the text has its marker"
ROWS = "hand the tower's rows to the text model as they are: only embeddings of tokens are scaled"
MASK = "let rows of an image see {what}, as llama.cpp has it (mtmd_decode_use_non_causal)"
MROPE = "give rows of an image places by row and column (M-RoPE), as mtmd_image_tokens_get_decoder_pos has them"
POOL = "pool all rows, those of images too, as the file says ({pooling})"


def text_hypotheses(r: ImageReference) -> Iterator[ImageHypothesis]:
    """What engines do with an image among tokens, the likeliest first."""
    own = r.tower.module.TRAITS
    begin, end = own.marks
    for id, says, marks in (
        ("marks-left-out", f"leaves out what stands around an image, {begin} and {end}", ("", "")),
        ("begin-left-out", f"leaves out what stands before an image, {begin}", ("", end)),
        ("end-left-out", f"leaves out what stands behind an image, {end}", (begin, "")),
        ("marks-swapped", "swaps what stands before and behind an image", (end, begin)),
        ("marks-twice", "puts what stands around an image there twice", (begin * 2, end * 2)),
        ("marks-in-lines", "puts blank lines around an image", ("\n\n" + begin, end + "\n\n")),
    ):
        yield ImageHypothesis(id, "text", says, traits(marks=marks), MARKS)
    yield ImageHypothesis("image-first", "text", "puts images in front of the text", lambda r: r.add(text=first), PLACE)
    yield ImageHypothesis("image-last", "text", "puts images behind the text", lambda r: r.add(text=last), PLACE)
    C, causal = r.embedder.model.hparams.n_embd, r.embedder.model.hparams.causal
    for id, says, factor in (
        ("rows-scaled", "scales rows of an image by sqrt(C), as embeddings of tokens", math.sqrt(C)),
        ("rows-over-scale", "divides rows of an image by sqrt(C)", 1 / math.sqrt(C)),
    ):
        yield ImageHypothesis(id, "text", says, scaling(factor), ROWS)
    if causal and not own.causal:
        advice = MASK.format(what="each other")
        yield ImageHypothesis(
            "image-causal", "text", "lets rows of an image look back only", traits(causal=True), advice
        )
    if causal and own.causal:
        advice = MASK.format(what="what is before them alone")
        yield ImageHypothesis(
            "image-sees-all", "text", "lets rows of an image see each other", traits(causal=False), advice
        )
    if own.mrope:
        rows = (
            ("mrope-left-out", "gives rows of an image places one behind the other, as tokens", one_by_one),
            ("mrope-swapped", "swaps rows and columns in the places of an image", swapped),
            ("mrope-at-once", "gives all rows of an image one place", at_once),
            ("mrope-counts-all", "lets the text behind an image stand as many places on as it has rows", counting_all),
        )
        for id, says, change in rows:
            yield ImageHypothesis(id, "text", says, altering(change), MROPE)
    yield from pooled(r)


def pooled(r: ImageReference) -> Iterator[ImageHypothesis]:
    """What becomes of the hidden states."""
    advice = POOL.format(pooling=r.pooling)
    for how in POOLINGS:
        if how != r.pooling and "none" not in (how, r.pooling):
            yield ImageHypothesis(f"pooling-{how}", "text", f"pools by {how}, not by {r.pooling}", pooling(how), advice)
    parts: tuple[tuple[str, str, Callable[[F64, Batch], F64]], ...] = (
        ("pools-text-alone", "leaves rows of images out of the mean", lambda h, b: h[~inside(b)].mean(axis=0)),
        ("pools-image-alone", "takes the mean of rows of images alone", lambda h, b: h[inside(b)].mean(axis=0)),
        ("pools-last-call", "pools what comes behind the last image alone: llama.cpp's last call of several",
         lambda h, b: h[b.images[-1].end :].mean(axis=0)),
    )  # fmt: skip
    for id, says, pooler in parts:
        change = own_pooler(pooler)
        last_call = f"{advice}; a causal model comes to its last token in several calls: start it with --pooling last"
        yield ImageHypothesis(id, "text", says, change, last_call if id == "pools-last-call" else advice)
    yield ImageHypothesis("image-unread", "text", "embeds the text without its image", altering(unread), PLACE)


def own_pooler(pooler: Callable[[F64, Batch], F64]) -> Change:
    return lambda r: replace(r, pooler=pooler)


def pooling(how: str) -> Change:
    return lambda r: replace(r, pooling=how)


def scaling(factor: float) -> Change:
    return lambda r: r.add(rows=lambda x: x * x.dtype.type(factor))


def altering(change: Callable[[Batch], Batch]) -> Change:
    return lambda r: r.add(batch=change)


def first(text: str) -> str:
    """All markers at the beginning."""
    return MARKER * text.count(MARKER) + text.replace(MARKER, "")


def last(text: str) -> str:
    """All markers at the end."""
    return text.replace(MARKER, "") + MARKER * text.count(MARKER)


def inside(batch: Batch) -> Any:
    """Which rows are an image's (T)."""
    found = np.zeros(len(batch.ids), bool)
    for image in batch.images:
        found[image.begin : image.end] = True
    return found


def one_by_one(batch: Batch) -> Batch:
    places = np.arange(len(batch.ids))
    return replace(batch, pos=places, streams=np.stack([places] * 3))


def swapped(batch: Batch) -> Batch:
    assert batch.streams is not None
    return replace(batch, streams=batch.streams[[0, 2, 1]])


def at_once(batch: Batch) -> Batch:
    assert batch.streams is not None
    return replace(batch, streams=batch.streams[[0, 0, 0]])


def counting_all(batch: Batch) -> Batch:
    """What follows an image counts on from its number of rows."""
    assert batch.streams is not None
    streams = np.array(batch.streams)
    for image in batch.images:
        if image.end < len(batch.ids):
            given = streams[0, image.end] - streams[0, image.begin]
            streams[:, image.end :] += image.end - image.begin - given
    return replace(batch, pos=streams[0], streams=streams)


def unread(batch: Batch) -> Batch:
    """The tokens of the text, without any row of an image."""
    kept = ~inside(batch)
    ids = batch.ids[kept]
    streams = None if batch.streams is None else np.stack([np.arange(len(ids))] * 3)
    return Batch(ids, np.arange(len(ids)), np.array([0, len(ids)]), (), streams)
