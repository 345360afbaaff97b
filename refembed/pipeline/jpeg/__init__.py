"""JPEG files to pixels, as stb_image has them, which llama.cpp reads images with: equal to the last bit.

    bytes ─ file ─► frame, tables, scans ─ entropy ─► coefficients ─ planes ─► samples ─► upsampled ─► RGB (h, w, 3)

ISO/IEC 10918-1 says what the coefficients of a file are; how they become pixels it leaves open within bounds, and
decoders differ by a few of 255. Here they are stb_image's: its integer inverse DCT, its interpolation of colors that
are stored at half the size, its conversion to RGB (stb_image.h, v2.30). Baseline, extended and progressive files of
8 bits are read, of one, three or four components; files of arithmetic coding, 12 bits or without loss are refused, by
stb_image too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refembed.arrays import U8
from refembed.pipeline.jpeg.file import Frame, JpegError, read_jpeg
from refembed.pipeline.jpeg.planes import cmyk_to_rgb, samples, upsampled, ycbcr_to_rgb

__all__ = ["JpegError", "decode_jpeg"]

SLAB = 256  # rows of pixels that are put together at a time: what is in between stays small


def decode_jpeg(data: bytes, check: Callable[[int, int], None] = lambda width, height: None) -> U8:
    """Pixels (height, width, 3) of a JPEG file.

    check  is given width and height before anything is decoded, and raises where they are too large
    Raises JpegError for a file that is damaged, cut off, or of a kind that is not read.
    """
    frame = read_jpeg(data, check)
    planes = [samples(frame.coefficients_of(c), c.table)[: c.height, : c.width] for c in frame.components]
    frame.coefficients = frame.coefficients[:0]  # freed before pixels are made
    ratios = [frame.ratio(c) for c in frame.components]
    out = np.empty((frame.height, frame.width, 3), np.uint8)
    for top in range(0, frame.height, SLAB):
        rows = slice(top, min(top + SLAB, frame.height))
        large = [upsampled(plane, ratio, rows) for plane, ratio in zip(planes, ratios, strict=True)]
        out[rows] = rgb(frame, [plane[:, : frame.width] for plane in large])
    return out


def rgb(frame: Frame, planes: list[U8]) -> U8:
    """Planes of one size as pixels. Adobe's marker says what four components are, and three without a YCbCr."""
    if len(planes) == 1:
        return np.repeat(planes[0][..., None], 3, axis=2)
    if len(planes) == 3:
        return np.stack(planes, axis=-1) if frame.is_rgb else ycbcr_to_rgb(*planes)
    if frame.adobe == 0:
        return cmyk_to_rgb(np.stack(planes[:3], axis=-1), planes[3])
    out = ycbcr_to_rgb(*planes[:3])
    return cmyk_to_rgb(255 - out, planes[3]) if frame.adobe == 2 else out
