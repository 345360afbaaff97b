"""Image files as Pillow writes them: pixels of `read_image` against llama.cpp's own decoder, stb_image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.arrays import U8
from refembed.errors import EngineError, RequestError
from refembed.pipeline.images import read_image
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.vision.towers import picture, text_model
from tests.pngs import png

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the extra `images`")
pytestmark = [pytest.mark.peers, pytest.mark.oracle]

RGB = picture(37, 23)
GRAY = RGB[..., 0]
ALPHA = RGB[..., 1]


def file(image: Any, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def palette() -> Any:
    return Image.fromarray(RGB).quantize(17)


def turned() -> bytes:
    """With an orientation that a viewer would turn it by."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(Image.fromarray(RGB), exif=exif)


def deep(channels: int, kind: int) -> bytes:
    """16 bits a channel."""
    x = np.random.default_rng(channels).integers(0, 1 << 16, (9, 11 * channels)).astype(">u2")
    return png(11, 9, 16, kind, b"".join(b"\0" + row.tobytes() for row in x))


FILES = {
    "RGB": lambda: file(Image.fromarray(RGB)),
    "gray": lambda: file(Image.fromarray(GRAY)),
    "gray and alpha": lambda: file(Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA)])),
    "RGB and alpha": lambda: file(Image.fromarray(np.dstack([RGB, ALPHA]))),
    "palette": lambda: file(palette()),
    "palette with a transparent color": lambda: file(palette(), transparency=3),
    "palette with transparent colors": lambda: file(palette(), transparency=bytes(range(17))),
    "RGB with a transparent color": lambda: file(Image.fromarray(RGB), transparency=(1, 2, 3)),
    "black and white": lambda: file(Image.fromarray(GRAY).convert("1")),
    "gray of 2 bits": lambda: png(8, 2, 2, 0, b"\0\x1b\xe4\0\xff\x00"),
    "turned by EXIF": turned,
    "gray of 16 bits": lambda: deep(1, 0),
    "RGB of 16 bits": lambda: deep(3, 2),
    "gray and alpha of 16 bits": lambda: deep(2, 4),
    "RGB and alpha of 16 bits": lambda: deep(4, 6),
    "BMP": lambda: file(Image.fromarray(RGB), "BMP"),
    "GIF": lambda: file(palette(), "GIF"),
    "PPM": lambda: file(Image.fromarray(RGB), "PPM"),
    "PGM": lambda: file(Image.fromarray(GRAY), "PPM"),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    folder = tmp_path_factory.mktemp("files")
    with LlamaCpp(text_model(folder), mmproj=synthetic_mmproj(folder / "mmproj.gguf")) as e:
        yield e


@pytest.mark.parametrize("name", FILES)
def test_files_without_loss_have_stb_images_pixels(engine: LlamaCpp, name: str) -> None:
    data = FILES[name]()
    assert np.array_equal(read_image(data), engine.decode_image(data))


def smooth() -> U8:
    """A picture as photographs are: no noise."""
    y, x = np.mgrid[0:61, 0:93]
    return np.stack([x * 2.6, y * 4.1, 128 + 100 * np.sin(x / 9) * np.cos(y / 7)], axis=-1).astype(np.uint8)


JPEGS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {"quality": 90}),
    "4:2:2": ("RGB", {"quality": 60, "subsampling": 1}),
    "4:4:4": ("RGB", {"quality": 75, "subsampling": 0}),
    "coarse": ("RGB", {"quality": 5}),
    "codes of its own": ("RGB", {"optimize": True}),
    "progressive": ("RGB", {"quality": 85, "progressive": True}),
    "progressive, 4:4:4, fine": ("RGB", {"quality": 98, "progressive": True, "subsampling": 0}),
    "restart markers": ("RGB", {"restart_marker_blocks": 2}),
    "RGB kept": ("RGB", {"keep_rgb": True}),
    "gray": ("L", {"quality": 80}),
    "gray, progressive": ("L", {"progressive": True}),
    "CMYK": ("CMYK", {"quality": 80}),
    "CMYK, progressive": ("CMYK", {"quality": 80, "progressive": True}),
}


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_files_have_stb_images_pixels(engine: LlamaCpp, name: str) -> None:
    """As libjpeg-turbo writes them: smooth pictures and noise, of several sizes."""
    mode, options = JPEGS[name]
    for x in (smooth(), RGB, picture(8, 8), picture(1, 1), picture(200, 3)):
        data = file(Image.fromarray(x).convert(mode), "JPEG", **options)
        assert np.array_equal(read_image(data), engine.decode_image(data)), x.shape


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 75, "subsampling": 0}])
def test_libjpeg_turbos_pixels_differ_by_a_few_steps(options: dict[str, Any]) -> None:
    """What published image processors read of the same file (docs/images.md); measured 2 with Pillow 13.0."""
    data = file(Image.fromarray(smooth()), "JPEG", **options)
    off = np.abs(read_image(data).astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert 0 < off.max() <= 3


@pytest.mark.parametrize("damage", ["cut", "head", "text", "empty"])
def test_damaged_files_are_refused(engine: LlamaCpp, damage: str) -> None:
    data = FILES["RGB"]()
    broken = {"cut": data[: len(data) // 2], "head": data[:20], "text": b"a text", "empty": b""}[damage]
    with pytest.raises(RequestError, match="image: "):
        read_image(broken)
    with pytest.raises(EngineError, match="stb_image cannot read this"):
        engine.decode_image(broken)


def test_a_bomb_is_refused_by_its_head(tmp_path: Path) -> None:
    """50,000 x 50,000 pixels in 2.4 MB: none of them is decoded."""
    row = b"\0" + bytes(50_000 // 8)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(50_000, 50_000, 1, 0, row * 100))
    with pytest.raises(RequestError, match="pixels; at most 67,108,864 are taken"):
        read_image(path)
