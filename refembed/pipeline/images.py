"""Images as inputs: which inputs have some, and from a file's bytes to pixels.

Pixels are those that llama.cpp reads (stb_image, three channels): gray becomes three equal colors, transparency is
dropped without blending, of 16 bits the upper 8 count, and EXIF's orientation is not read. JPEG files, of which
decoders differ by a few of 255, are decoded as stb_image does it (`refembed.pipeline.jpeg`); others by Pillow.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refembed.arrays import U8
from refembed.atomic_write import reading_arrays
from refembed.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

MARKER = "<__media__>"  # where an image stands in a text (mtmd_default_marker)
MAX_PIXELS = 1 << 26  # of an image: 8192 x 8192; 192 MiB when decoded
MAX_BYTES = 1 << 28  # of an image's file
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP")  # all but WEBP stb_image reads too
JPEG = b"\xff\xd8"  # what JPEG files begin with
INSTALL = 'pip install "refembed[images]"; or pass pixels, an array (height, width, 3) of uint8'
ANEW = "make the file anew, or open it in a viewer and save it as an ordinary JPEG or PNG"
ARRAY = "(height, width, 3), or (height, width) for gray, of uint8 from 0 to 255; a fourth channel is dropped"


class ImageInput(NamedTuple):
    """A text with images, each where a marker stands in it."""

    text: str
    images: list[U8]  # pixels (height, width, 3) each


def image_input(item: Mapping[str, Any], index: int) -> ImageInput:
    """Read an input {"text": ..., "image": ...}: the images are decoded, and stand where the text says.

    text   with a MARKER for each image; without any, the images stand before it. May be absent
    image  a path, a file's bytes, or pixels (height, width, 3) or (height, width) of uint8; or a list of such
    Raises RequestError for anything else, and where markers and images are not as many.

    >>> image_input({"text": "a cat", "image": np.zeros((2, 3, 3), np.uint8)}, 0).text
    '<__media__>a cat'
    """
    what = f"input {index}"
    if unknown := set(item) - {"text", "image"}:
        raise RequestError(f"{what}: unknown keys {sorted(map(str, unknown))}", hint='"text" and "image" are known')
    text, images = item.get("text", ""), item["image"]
    if not isinstance(text, str):
        raise RequestError(f"{what}: the text is of type {type(text).__name__}, not str")
    given = images if isinstance(images, (list, tuple)) else [images]
    found = [read_image(x, f"{what}, image {i}" if len(given) > 1 else f"{what}, image") for i, x in enumerate(given)]
    markers = text.count(MARKER)
    if not markers:
        text, markers = MARKER * len(found) + text, len(found)
    if markers != len(found):
        hint = f"{MARKER} stands in the text once for each image, or not at all"
        raise RequestError(f"{what}: {markers} markers {MARKER} for {len(found)} images", hint=hint)
    return ImageInput(text, found)


def read_image(source: Any, what: str = "image") -> U8:
    """Pixels (height, width, 3) of an image: of a path, of a file's bytes, or of an array of uint8.

    A path that ends in .npy names an array; any other, and bytes, are an image file.

    what  names it in errors
    Raises RequestError for a file that is absent, damaged, too large or no image, and for what is none of these.

    >>> read_image(np.array([[7, 9]], np.uint8)).tolist()  # gray
    [[[7, 7, 7], [9, 9, 9]]]
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        name, data = f"{what} {os.fspath(path)!r}", read_file(path, what)
        return of_array(load_pixels(data, name), name) if path.suffix.lower() == ".npy" else decode(data, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode(bytes(source), what)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return of_array(np.asarray(source), what)
    hint = "a path, a file's bytes, or an array (height, width, 3) of uint8"
    raise RequestError(f"{what}: {source!r:.60} of type {type(source).__name__} is no image", hint=hint)


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes. RequestError where it cannot be read, or is too large."""
    try:
        with path.open("rb") as f:
            data = f.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:
        found = "no such file" if isinstance(e, FileNotFoundError) else getattr(e, "strerror", None) or str(e)
        hint = 'an image is named by its path; a text stands under "text"'
        if re.match("[a-z]+:/", os.fspath(path), re.IGNORECASE):
            hint = "no URL is fetched: save the image, and give its path"
        raise RequestError(f"{what}: {os.fspath(path)[:200]!r}: {found}", hint=hint) from None
    if len(data) > MAX_BYTES:
        raise RequestError(
            f"{what}: {os.fspath(path)!r} has more than {MAX_BYTES >> 20} MiB", hint="make it smaller first"
        )
    return data


def load_pixels(data: bytes, what: str) -> Any:
    """The array of a .npy file. RequestError for a damaged one."""
    try:
        with reading_arrays():
            stream = io.BytesIO(data)
            read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_head[np.lib.format.read_magic(stream)](stream)
            if math.prod(shape) * dtype.itemsize > len(data):
                raise ValueError(f"an array of {shape} is not in {len(data):,} bytes")
            return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, KeyError) as e:
        raise RequestError(f"{what}: no array in it: {e}", hint=ARRAY) from None


def of_array(x: Any, what: str) -> U8:
    """Pixels as they were given, gray ones three times."""
    if x.dtype != np.uint8 or x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in (1, 3, 4)) or 0 in x.shape:
        raise RequestError(f"{what}: an array of shape {x.shape} and type {x.dtype}", hint=ARRAY)
    check_size(x.shape[1], x.shape[0], what)
    planes = x[..., None] if x.ndim == 2 else x[..., :3]
    return np.ascontiguousarray(np.broadcast_to(planes, (*x.shape[:2], 3)))


def check_size(width: int, height: int, what: str) -> None:
    """RequestError for more pixels than are taken."""
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"{what}: {width} x {height} pixels; at most {MAX_PIXELS:,} are taken", hint="make it smaller first"
        )


def decode(data: bytes, what: str) -> U8:
    """Pixels (height, width, 3) of a file's bytes. Its size is checked before anything is decoded."""
    if data.startswith(JPEG):
        from refembed.pipeline.jpeg import JpegError, decode_jpeg

        try:
            return decode_jpeg(data, lambda width, height: check_size(width, height, what))
        except JpegError as e:
            raise RequestError(f"{what}: {e}", hint=ANEW) from None
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise RequestError(f"{what}: reading image files needs Pillow", hint=INSTALL) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that is checked below, and of damaged metadata
            with Image.open(io.BytesIO(data), formats=FORMATS[1:]) as image:
                check_size(image.width, image.height, what)
                return rgb(image)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        message = f"{what}: far too many pixels; at most {MAX_PIXELS:,} are taken"
        raise RequestError(message, hint="make it smaller first") from None
    except UnidentifiedImageError:
        hint = f"one of {', '.join(FORMATS)} is wanted"
        raise RequestError(f"{what}: {len(data):,} bytes that are no image", hint=hint) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, MemoryError, OverflowError) as e:
        raise RequestError(f"{what}: damaged: {str(e) or type(e).__name__}", hint=ANEW) from None


def rgb(image: Image) -> U8:
    """Decode to three channels as stb_image does."""
    if image.mode.startswith("I"):  # gray of 16 bits
        x = np.asarray(image).astype(np.uint32) >> 8
        return of_array(x.astype(np.uint8), "image")
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        bands: Sequence[Any] = (image.convert("RGBA") if image.mode != "LA" else image).split()
        planes = [np.asarray(band) for band in bands[:-1]]
        return of_array(np.stack(planes, axis=-1), "image")
    return of_array(np.asarray(image.convert("RGB")), "image")
