"""What an engine is asked about: images with texts. Drawn ones, where the user names none.

The drawn pictures are smooth, with edges and grain, in colors that differ between red, green and blue, and differ at
each end: a picture that is mirrored, turned, cropped or stretched is another picture. One is a square, one is wide, one
is high; one is smaller than a tower's frame, one larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import U8
from refembed.pipeline.images import MARKER, ImageInput, image_input
from refembed.pipeline.inputs import has_image

SIZES = ((160, 96), (64, 104), (128, 128), (330, 210))  # width, height of drawn pictures
TEXTS = (MARKER, f"a photo {MARKER} of the cat", f"{MARKER}what is there to see?")  # in turn


class ImageItem(NamedTuple):
    """One input, and what a report calls it."""

    name: str
    given: ImageInput

    @property
    def image(self) -> U8:
        """Its first image."""
        return self.given.images[0]


def drawn_items() -> list[ImageItem]:
    """Pictures that are drawn, each with a text."""
    found = []
    for i, (width, height) in enumerate(SIZES):
        text = TEXTS[i % len(TEXTS)]
        found.append(ImageItem(f"drawn, {width} x {height}", ImageInput(text, [drawn(width, height)])))
    return found


def drawn(width: int, height: int) -> U8:
    """A picture (height, width, 3), the same each time.

    >>> drawn(5, 4).shape
    (4, 5, 3)
    """
    y, x = np.mgrid[0:height, 0:width]
    u, v = (x + 0.5) / width, (y + 0.5) / height
    planes = [
        200 * u + 40 * np.sin(9 * v + 3 * u * u),
        220 * v * v + 30 * np.cos(14 * u),
        255 * (1 - u) * (1 - v) + 50 * ((u - 0.7) ** 2 + (v - 0.3) ** 2 < 0.04),
    ]
    grain = np.random.default_rng([width, height]).normal(0, 9, (height, width, 3))
    return np.clip(np.stack(planes, axis=-1) + grain, 0, 255).astype(np.uint8)


def items_of(inputs: Sequence[Any] | None) -> list[ImageItem]:
    """Inputs {"text": ..., "image": ...} as items. None: drawn ones.

    Raises RequestError for an input without an image.
    """
    if inputs is None:
        return drawn_items()
    found = []
    for i, given in enumerate(inputs):
        one: Mapping[str, Any] = given if has_image(given) else {"image": given}
        source = one["image"]
        spelled = str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else f"image {i}"
        found.append(ImageItem(spelled, image_input(one, i)))
    return found
