"""JPEG files against stb_image, bit for bit: every ratio of components, baseline and progressive; damaged ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.pipeline.images import read_image
from refembed.pipeline.jpeg import JpegError, decode_jpeg
from refembed.pipeline.jpeg import file as file_module
from refembed.pipeline.jpeg import planes as planes_module
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.jpegs import jpeg, segment
from tests.model.vision.towers import text_model

THREE = ((1, 1), (1, 1), (1, 1))
FILES: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:4:4": {"ratios": THREE},
    "4:2:2": {"ratios": ((2, 1), (1, 1), (1, 1))},
    "4:4:0": {"ratios": ((1, 2), (1, 1), (1, 1))},
    "4:1:1": {"ratios": ((4, 1), (1, 1), (1, 1))},
    "colors of unequal ratios": {"ratios": ((2, 2), (2, 1), (1, 2))},
    "a third": {"ratios": ((3, 3), (1, 1), (3, 1))},
    "brightness is smaller": {"ratios": ((1, 1), (2, 2), (1, 2))},
    "gray": {"ratios": ((1, 1),)},
    "gray, ratio 2": {"ratios": ((2, 2),)},
    "restart markers": {"restart": 3},
    "a scan for each component": {"apart": True},
    "restart markers in scans of one component": {"apart": True, "restart": 2},
    "16-bit quantization": {"wide": True},
    "RGB by Adobe's marker": {"adobe": 0, "jfif": False, "ratios": THREE},
    "YCbCr by Adobe's marker": {"adobe": 1, "jfif": False},
    "Adobe's marker and JFIF": {"adobe": 0},
    "RGB by names": {"ids": b"RGB", "ratios": THREE},
    "CMYK": {"ratios": ((1, 1),) * 4, "adobe": 0},
    "YCCK": {"ratios": ((2, 2), (1, 1), (1, 1), (2, 2)), "adobe": 2},
    "four without a word": {"ratios": ((1, 1),) * 4},
    "progressive": {"progressive": True},
    "progressive, 4:2:2, restart markers": {"progressive": True, "ratios": ((2, 1), (1, 1), (1, 1)), "restart": 4},
    "progressive, gray": {"progressive": True, "ratios": ((1, 1),)},
    "progressive, a scan for each mean": {"progressive": True, "apart": True},
}
SIZES = [(1, 1), (2, 3), (9, 16), (17, 8), (47, 61), (130, 33)]  # width, height


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    folder = tmp_path_factory.mktemp("jpeg")
    with LlamaCpp(text_model(folder), mmproj=synthetic_mmproj(folder / "mmproj.gguf")) as e:
        yield e


@pytest.mark.oracle
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_stb_images(engine: LlamaCpp, name: str) -> None:
    for seed, size in enumerate(SIZES):
        data = jpeg(*size, seed=seed, **FILES[name])
        want = engine.decode_image(data)
        assert want.std() > 0 or max(size) < 9  # one block may be flat
        assert np.array_equal(decode_jpeg(data), want), size


@pytest.mark.oracle
def test_a_wrong_constant_is_noticed(engine: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part in 4096 of one constant of the inverse DCT."""
    data = jpeg(130, 70)
    right = planes_module.fixed
    monkeypatch.setattr(planes_module, "fixed", lambda x: right(x) + (x == 0.298631336))
    assert not np.array_equal(decode_jpeg(data), engine.decode_image(data))


def test_what_is_not_read_is_refused_with_one_sentence() -> None:
    whole = jpeg(40, 30)
    for marker, message in ((0xC9, "arithmetic coding, 12 bits or without loss"), (0xC3, "is not read")):
        with pytest.raises(RequestError, match=message):
            read_image(whole.replace(b"\xff\xc0", bytes([0xFF, marker]), 1))
    for data, message in [
        (whole[: len(whole) // 2], "image: cut off: the file ends within its picture"),
        (whole[:60], "image: damaged: the file ends within a segment"),
        (whole[:4], "image: damaged"),
        (b"\xff\xd8\xff\xd9", "image: damaged: no picture in it"),
        (whole.replace(b"\xff\xc4", b"\xff\xfe"), "image: damaged: bits that are no code"),
        (whole.replace(b"\xff\xdb", b"\xff\xfe", 1), "image: damaged: a scan of components or tables"),
    ]:
        with pytest.raises(RequestError, match=message) as error:
            read_image(data)
        assert "save it as an ordinary JPEG" in error.value.hint


def test_a_file_without_its_end_marker_is_whole() -> None:
    whole = jpeg(40, 30)
    assert np.array_equal(decode_jpeg(whole[:-2]), decode_jpeg(whole))


def test_sizes_are_checked_before_anything_is_decoded() -> None:
    head = jpeg(8, 8)
    large = head.replace(b"\x08\x00\x08\x00\x08\x03", b"\x08\xff\xff\xff\xff\x03", 1)
    with pytest.raises(RequestError, match="65535 x 65535 pixels; at most 67,108,864 are taken"):
        read_image(large)


def test_thousands_of_scans_are_refused() -> None:
    begin, _, rest = jpeg(8, 8, progressive=True).partition(b"\xff\xda")
    scan = segment(0xDA, b"\x01\x01\x00\x00\x00\x01") + b"\x00"
    with pytest.raises(JpegError, match="more than 1000 scans"):
        decode_jpeg(begin + scan * 1001 + b"\xff\xda" + rest)


def test_what_scans_pass_over_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six scans of 8 x 8 blocks, each of one restart interval: hundreds of them would take few bytes and minutes."""
    data = jpeg(64, 64, ratios=((1, 1),), progressive=True)
    passed = 6 * (64 + file_module.RESTART)
    monkeypatch.setattr(file_module, "MAX_PASSED", passed)
    assert decode_jpeg(data).shape == (64, 64, 3)
    monkeypatch.setattr(file_module, "MAX_PASSED", passed - 1)
    with pytest.raises(JpegError, match=f"its scans pass over more than {passed - 1} blocks of 8 x 8 in all"):
        decode_jpeg(data)


@pytest.mark.parametrize("progressive", [False, True])
def test_any_damage_ends_in_pixels_or_in_one_error(progressive: bool) -> None:
    rng, whole = np.random.default_rng(7), jpeg(33, 20, progressive=progressive, restart=2)
    ended = {"pixels": 0, "error": 0}
    for _ in range(400):
        data = bytearray(whole)
        for at in rng.integers(2, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        try:
            ended["pixels"] += decode_jpeg(bytes(data), small).dtype == np.uint8
        except JpegError:
            ended["error"] += 1
    assert min(ended.values()) > 20


def small(width: int, height: int) -> None:
    if width * height > 1 << 16:
        raise JpegError("too large")
