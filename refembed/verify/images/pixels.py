"""Hypotheses about what happens to pixels before the tower: order of colors, size, filter, frame, numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from refembed.arrays import F32, F64, U8
from refembed.model.vision.hparams import VisionHparams
from refembed.model.vision.preprocess import BLACK, Filter, Size, normalized, resample, resize, whole_squares
from refembed.model.vision.published import size_within_budget
from refembed.verify.images.hypothesis import Change, ImageHypothesis
from refembed.verify.images.reference import ImageReference

Resize: TypeAlias = Callable[[U8, int, int], U8]  # image, width, height
Place: TypeAlias = Callable[[U8, int, int, Resize], U8]

FILTERS: dict[str, Filter] = {"gemma3": "bilinear", "gemma4v": "bicubic", "qwen3vl_merger": "bicubic"}
LIKE = "prepare images as libmtmd does"
COLORS = "hand over pixels as red, green and blue, as they lie in the file"
NUMBERS = "take mean and standard deviation from the file: clip.vision.image_mean, clip.vision.image_std"
BUDGET = (
    "give an image as many tokens as llama.cpp does (--image-min-tokens, --image-max-tokens), or state the other budget"
)
FRAME = f"{LIKE}: the ratio is kept, the image stands in the middle, black around it"


@dataclass(frozen=True)
class Preparation:
    """From an image to what the tower reads, in parts that can be changed one by one."""

    size: Callable[[Size, VisionHparams], Size]
    resized: Resize
    placed: Place
    numbers: Callable[[U8, VisionHparams], F32]


def preparation_of(r: ImageReference) -> Preparation:
    """That of a reference; libmtmd's where nothing was changed."""
    module = r.tower.module
    own = partial(resize, how=FILTERS[r.tower.hparams.projector])
    given = Preparation(module.size, own, framed, lambda x, hp: normalized(x, hp.mean, hp.std))
    found: Preparation = getattr(module, "PREPARATION", given)
    return found


def preparing(**parts: Callable[..., object]) -> Change:
    """A change of some parts of it."""

    def change(r: ImageReference) -> ImageReference:
        made = replace(preparation_of(r), **parts)  # type: ignore[arg-type]

        def pixels(image: U8, hp: VisionHparams) -> F32:
            width, height = made.size(Size(image.shape[1], image.shape[0]), hp)
            return made.numbers(made.placed(image, width, height, made.resized), hp)

        return replace(r, tower=r.tower.changed(PREPARATION=made, size=made.size, pixels=pixels))

    return change


# -- the frame -------------------------------------------------------------------------------------------------------


def framed(image: U8, width: int, height: int, resized: Resize, color: tuple[int, ...] = BLACK, at: float = 0.5) -> U8:
    """As large as fits, the rest in one color. at: which share of the rest is above and at the left."""
    h, w, _ = image.shape
    if (w, h) == (width, height):
        return image
    scale = min(np.float32(width) / np.float32(w), np.float32(height) / np.float32(h))
    new_w, new_h = (min(math.ceil(np.float32(n) * scale), most) for n, most in ((w, width), (h, height)))
    out = np.empty((height, width, 3), np.uint8)
    out[:] = np.array(color, np.uint8)
    x, y = int((width - new_w) * at), int((height - new_h) * at)
    out[y : y + new_h, x : x + new_w] = resized(image, new_w, new_h)
    return out


def stretched(image: U8, width: int, height: int, resized: Resize) -> U8:
    """Over the whole frame."""
    return resized(image, width, height)


def cropped(image: U8, width: int, height: int, resized: Resize) -> U8:
    """The middle, cut out of an image that is larger than the frame on one side."""
    h, w, _ = image.shape
    scale = max(width / w, height / h)
    new_w, new_h = max(width, round(w * scale)), max(height, round(h * scale))
    x, y = (new_w - width) // 2, (new_h - height) // 2
    return resized(image, new_w, new_h)[y : y + height, x : x + width]


def around_mean(image: U8, width: int, height: int, resized: Resize, hp: VisionHparams) -> U8:
    """In a frame of the mean color, which normalizing makes 0."""
    return framed(image, width, height, resized, tuple(round(255 * m) for m in hp.mean))


# -- filters ---------------------------------------------------------------------------------------------------------


def by_kernel(kernel: Callable[[F64], F64], reach: float, smooth: bool) -> Resize:
    """A filter of that form, that reaches so many pixels; smooth: wider where an image gets smaller."""

    def resized(image: U8, width: int, height: int) -> U8:
        x = image.astype(np.float64)
        for axis, n in ((1, width), (0, height)):
            x = np.moveaxis(np.tensordot(matrix(x.shape[axis], n), x, (1, axis)), 0, axis)
        return np.clip(np.rint(x), 0, 255).astype(np.uint8)

    def matrix(n_in: int, n_out: int) -> F64:
        scale = n_in / n_out
        wide = max(scale, 1.0) if smooth else 1.0
        center = (np.arange(n_out) + 0.5) * scale - 0.5
        first = np.floor(center - reach * wide).astype(int)
        w = np.zeros((n_out, n_in))
        for i in range(math.ceil(2 * reach * wide) + 2):
            place = np.clip(first + i, 0, n_in - 1)  # at the edge the last pixel once more
            np.add.at(w, (np.arange(n_out), place), kernel((first + i - center) / wide))
        return w / w.sum(axis=1, keepdims=True)

    return resized


def triangle(x: F64) -> F64:
    """Linear interpolation."""
    return np.maximum(1 - np.abs(x), 0)


def cubic(x: F64, a: float) -> F64:
    """Keys 1981."""
    t = np.abs(x)
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, (((t - 5) * t + 8) * t - 4) * a
    return np.where(t < 1, near, np.where(t < 2, far, 0))


def lanczos(x: F64) -> F64:
    """Sinc, windowed over three pixels."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def box(x: F64) -> F64:
    """The mean of what is covered."""
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def columns_first(image: U8, width: int, height: int, how: Filter) -> U8:
    """Both passes of `resize` in the other order."""
    for axis, size in ((0, height), (1, width)):
        if image.shape[axis] != size:
            image = resample(image, axis, size, how)
    return image


def nearest(image: U8, width: int, height: int) -> U8:
    """The pixel at each place."""
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in ((height, image.shape[0]), (width, image.shape[1]))
    )
    return np.ascontiguousarray(image[rows][:, columns])


# -- tables ----------------------------------------------------------------------------------------------------------


def pixel_hypotheses(r: ImageReference) -> Iterator[ImageHypothesis]:
    """What engines do to pixels, the likeliest first."""
    for id, says, decoded in DECODED:
        yield ImageHypothesis(id, "pixels", says, decoding(decoded), COLORS)
    hp = r.tower.hparams
    for id, says, change in (*frames(r), *filters(r)):
        yield ImageHypothesis(id, "pixels", says, change, FRAME if "filter" not in id else f"{LIKE}: its filter")
    for id, says, change in numbers(hp):
        yield ImageHypothesis(id, "pixels", says, change, NUMBERS)
    for id, says, change in sizes(hp):
        yield ImageHypothesis(id, "pixels", says, change, BUDGET)


def decoding(function: Callable[[U8], U8]) -> Change:
    """Other pixels out of the file."""
    return lambda r: r.add(decoded=function)


def grayed(x: U8) -> U8:
    """One brightness three times (ITU-R BT.601)."""
    y = x @ np.array([0.299, 0.587, 0.114])
    return np.rint(y).astype(np.uint8)[..., None].repeat(3, axis=2)


DECODED: tuple[tuple[str, str, Callable[[U8], U8]], ...] = (
    ("bgr", "reads blue, green, red for red, green, blue", lambda x: np.ascontiguousarray(x[..., ::-1])),
    ("mirrored", "mirrors the image, left for right", lambda x: np.ascontiguousarray(x[:, ::-1])),
    ("upside-down", "reads the image from its last row up", lambda x: np.ascontiguousarray(x[::-1])),
    ("half-turn", "turns the image by 180 degrees", lambda x: np.ascontiguousarray(x[::-1, ::-1])),
    ("quarter-turn-left", "turns the image by 90 degrees to the left", lambda x: np.ascontiguousarray(np.rot90(x))),
    ("quarter-turn-right", "turns the image by 90 degrees to the right",
     lambda x: np.ascontiguousarray(np.rot90(x, -1))),
    ("rows-for-columns", "takes width for height", lambda x: x.reshape(x.shape[1], x.shape[0], 3)),
    ("transposed", "has rows and columns of the image swapped", lambda x: np.ascontiguousarray(x.transpose(1, 0, 2))),
    ("gray", "makes the image gray", grayed),
    ("planes-for-pixels", "reads planes of colors where pixels lie side by side",
     lambda x: np.ascontiguousarray(x.reshape(3, *x.shape[:2]).transpose(1, 2, 0))),
)  # fmt: skip


def frames(r: ImageReference) -> Iterator[tuple[str, str, Change]]:
    """Where the image stands in what the tower reads."""
    yield "stretched", "stretches the image to the frame, its ratio lost", preparing(placed=stretched)
    yield "cropped", "cuts the middle out of the image", preparing(placed=cropped)
    yield "corner", "puts the image into the upper left corner of the frame", preparing(placed=partial(framed, at=0.0))
    yield "white-frame", "fills up the frame with white", preparing(placed=partial(framed, color=(255, 255, 255)))
    yield "gray-frame", "fills up the frame with gray, 127", preparing(placed=partial(framed, color=(127, 127, 127)))
    mean = partial(around_mean, hp=r.tower.hparams)
    yield "mean-frame", "fills up the frame with the mean color", preparing(placed=mean)


def filters(r: ImageReference) -> Iterator[tuple[str, str, Change]]:
    """How pixels of another size come about."""
    own = FILTERS[r.tower.hparams.projector]
    other: Filter = "bicubic" if own == "bilinear" else "bilinear"
    says = f"resizes by the {other} filter, not by {own}"
    yield f"filter-{other}", says, preparing(resized=partial(resize, how=other))
    for id, kernel, reach in (
        ("bilinear", triangle, 1.0), ("bicubic", partial(cubic, a=-0.5), 2.0),
        ("bicubic-75", partial(cubic, a=-0.75), 2.0),
    ):  # fmt: skip
        says = f"resizes by the {id.split('-')[0]} filter without widening it where an image gets smaller (no antialias"
        says += ", a = -0.75)" if id == "bicubic-75" else ")"
        yield f"filter-{id}-plain", says, preparing(resized=by_kernel(kernel, reach, False))
    smooth = by_kernel(partial(cubic, a=-0.75), 2.0, True)
    yield "filter-bicubic-75", "resizes by a bicubic filter with a = -0.75", preparing(resized=smooth)
    columns = preparing(resized=partial(columns_first, how=own))
    yield "filter-columns-first", "resizes columns before rows, as Pillow 13 does where that is less work", columns
    yield "filter-lanczos", "resizes by the Lanczos filter", preparing(resized=by_kernel(lanczos, 3.0, True))
    yield "filter-box", "resizes by the mean of what a pixel covers", preparing(resized=by_kernel(box, 0.5, True))
    yield "filter-nearest", "resizes by the nearest pixel", preparing(resized=nearest)


Colors: TypeAlias = "tuple[float, float, float]"
USUAL: dict[str, tuple[Colors, Colors]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0 and 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def numbers(hp: VisionHparams) -> Iterator[tuple[str, str, Change]]:
    """From 0 to 255 to what the tower reads."""

    def scaled(mean: Colors, std: Colors, by: float = 1.0) -> Change:
        def change(x: U8, _: VisionHparams) -> F32:
            return normalized(x, mean, std) * np.float32(by)

        return preparing(numbers=change)

    if all(hp.mean):
        yield "mean-std-swapped", "takes the mean for the standard deviation", scaled(hp.std, hp.mean)
    for name, (mean, std) in USUAL.items():
        if not np.allclose((hp.mean, hp.std), (mean, std), atol=1e-6):
            id = name.split("'")[0].lower().replace(" ", "-")
            yield f"colors-{id}", f"normalizes by {name} mean and standard deviation", scaled(mean, std)
    if hp.mean[0] != hp.mean[2] or hp.std[0] != hp.std[2]:
        (r, g, b), (s, t, u) = hp.mean, hp.std
        says = "normalizes red by the numbers of blue"
        yield "colors-reversed", says, scaled((b, g, r), (u, t, s))
    yield "mean-left-out", "does not subtract the mean", scaled((0.0, 0.0, 0.0), hp.std)
    yield "std-left-out", "does not divide by the standard deviation", scaled(hp.mean, (1.0, 1.0, 1.0))
    means = tuple(255 * m for m in hp.mean)

    def unscaled(x: U8, own: VisionHparams) -> F32:
        return np.ascontiguousarray(((x - np.array(means)) / np.array(own.std)).astype(np.float32).transpose(2, 0, 1))

    yield "not-over-255", "leaves pixels from 0 to 255", preparing(numbers=unscaled)


BUDGETS = (4, 16, 32, 64, 70, 128, 140, 256, 280, 560, 576, 768, 1024, 1120, 1280, 2048, 4096, 16384)  # tokens


def sizes(hp: VisionHparams) -> Iterator[tuple[str, str, Change]]:
    """How many squares of patches an image has."""
    if hp.projector == "gemma3":
        return
    side = hp.patch_size * hp.n_merge
    least, most = {"gemma4v": (70, 1120), "qwen3vl_merger": (8, 4096)}[hp.projector]

    def limited(low: int, high: int) -> Change:
        return preparing(size=lambda given, _: whole_squares(given, side, (low, high)))

    def whole(f: Callable[[float], float]) -> Change:
        def size(given: Size, _: VisionHparams) -> Size:
            rough = (max(1, int(f(n / side))) * side for n in given)
            return whole_squares(Size(*rough), side, (least, most))

        return preparing(size=size)

    for n in BUDGETS if hp.projector == "gemma4v" else ():

        def budget(given: Size, own: VisionHparams, n: int = n) -> Size:
            return size_within_budget(given, own, n)

        says = f"makes every image as large as {n} tokens allow, stretched to whole squares"
        if n in (70, 140, 280, 560, 1120):
            yield f"budget-{n}", says, preparing(size=budget, placed=stretched)
    for n in BUDGETS:
        if n < most:
            yield f"at-most-{n}-tokens", f"gives an image at most {n} tokens, not {most}", limited(min(least, n), n)
        if n != least and n < most:
            yield f"at-least-{n}-tokens", f"gives an image at least {n} tokens, not {least}", limited(n, most)
    yield "no-least-tokens", f"makes no image larger, to at least {least} tokens", limited(1, most)
    yield "size-rounded-down", "cuts an image's size down to whole squares of patches", whole(math.floor)
    yield "size-rounded-up", "rounds an image's size up to whole squares of patches", whole(math.ceil)
