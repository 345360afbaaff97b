"""An array as a picture: a PNG in the page itself, one pixel a number. Portable Network Graphics, W3C 2003."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.html.page import esc

Array = npt.NDArray[Any]
RGB = npt.NDArray[np.uint8]  # (rows, columns, 3)

# Colors at equal steps from the least value to the largest; each ramp also darkens, so that it prints in gray.
WHITE_TO_BLUE = ((255, 255, 255), (200, 220, 240), (120, 170, 220), (40, 105, 180), (8, 48, 107))
RED_TO_BLUE = ((140, 20, 30), (220, 120, 100), (255, 255, 255), (110, 160, 210), (15, 60, 120))
NOT_FINITE = (255, 0, 255)  # of NaN and infinity
LARGEST = 1024  # pixels a side; a larger array is shrunk, the largest magnitude of each cell kept


def ramp(x: Array, colors: tuple[tuple[int, int, int], ...]) -> RGB:
    """Numbers from 0 to 1 (any shape) as colors (..., 3); what is not finite is magenta."""
    bad = ~np.isfinite(x)
    at = np.linspace(0, 1, len(colors))
    clean = np.where(bad, 0, np.clip(np.where(bad, 0, x), 0, 1))
    rgb = np.stack([np.interp(clean, at, [c[i] for c in colors]) for i in range(3)], axis=-1)
    rgb[bad] = NOT_FINITE
    return np.rint(rgb).astype(np.uint8)


def png(rgb: RGB) -> bytes:
    """A PNG file of pixels (rows, columns, 3)."""
    rows, columns, _ = rgb.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), rgb.reshape(rows, -1)], axis=1)  # filter 0 on each line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    body = zlib.compress(lines.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def image(rgb: RGB, alt: str, width: int, height: int) -> str:
    """Pixels as an `img` of that size on the page."""
    data = base64.b64encode(png(rgb)).decode()
    return f'<img class="map" src="data:image/png;base64,{data}" alt="{esc(alt)}" width="{width}" height="{height}">'


def heat(x: Array, alt: str, *, signed: bool = False, most: float | None = None, height: int = 0) -> str:
    """A matrix (rows, columns) as a heat map with its scale: white is 0, the darkest is the largest magnitude.

    signed  red below zero, blue above; otherwise magnitudes
    most    the number that the darkest color stands for; None takes the largest magnitude
    height  on the page, in pixels; 0 chooses
    """
    small = shrunk(np.atleast_2d(np.asarray(x, np.float64)))
    finite = np.abs(small[np.isfinite(small)])
    top = float(finite.max(initial=0)) if most is None else most
    scaled = small / top if top else np.where(np.isfinite(small), 0, small)
    rgb = ramp((scaled + 1) / 2, RED_TO_BLUE) if signed else ramp(np.abs(scaled), WHITE_TO_BLUE)
    rows, columns = small.shape
    tall = height or min(max(rows * 14, 40), 520)
    wide = min(max(columns * 3, 240), 960) if columns > 1.2 * rows else min(max(round(tall * columns / rows), 24), 960)
    return image(rgb, alt, wide, tall) + scale_bar(top, signed)


def scale_bar(top: float, signed: bool) -> str:
    """What the colors stand for."""
    colors = RED_TO_BLUE if signed else WHITE_TO_BLUE
    stops = ", ".join(f"rgb{c}" for c in colors)
    low = f"{-top:.3g}" if signed and top else "0"
    return (
        f'<div class="scale"><span>{low}</span><span class="bar" style="background:linear-gradient(90deg,{stops})">'
        f"</span><span>{top:.3g}</span></div>"
    )


def shrunk(x: Array) -> Array:
    """At most LARGEST rows and columns: of each cell the number of the largest magnitude; NaN wins."""
    rows, columns = (-(-n // LARGEST) for n in x.shape)
    if rows == columns == 1:
        return x
    padded = np.zeros((-(-x.shape[0] // rows) * rows, -(-x.shape[1] // columns) * columns))
    padded[: x.shape[0], : x.shape[1]] = x
    cells = padded.reshape(padded.shape[0] // rows, rows, -1, columns).swapaxes(1, 2)
    flat = cells.reshape(*cells.shape[:2], -1)
    largest = np.abs(flat).argmax(axis=-1)  # NaN counts as the largest
    picked: Array = np.take_along_axis(flat, largest[..., None], axis=-1)[..., 0]
    return picked
