"""Pixels as libmtmd makes them: equal to the last bit at every size, from raw pixels up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from refembed.arrays import U8
from refembed.model.vision.preprocess import filter_weights, fit, normalized, resize
from tests.model.vision.towers import Towers, picture

SIDE = 42  # of what the tower reads
CORNERS = [
    (1, 1), (1, 2), (2, 1), (SIDE, SIDE), (SIDE, 1), (1, SIDE), (SIDE - 1, SIDE), (SIDE + 1, SIDE), (SIDE, SIDE + 1),
    (SIDE * 2, SIDE * 2), (SIDE * 2, SIDE), (1, 4000), (4000, 1), (3, 1000), (997, 7), (1024, 768), (4000, 3000),
]  # fmt: skip


def drawn_sizes(n: int) -> list[tuple[int, int]]:
    """n sizes up to 800 x 800, small ones and odd ratios among them, the same each time."""
    rng = np.random.default_rng(20)
    return [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, np.log(800), (n, 2))).astype(int)]


TOWERS: dict[str, dict[str, Any]] = {
    "gemma3": {"image_size": SIDE},
    "gemma4v": {"projector": "gemma4v", "P": 4, "n_merge": 3, "S": 3400},  # no image has more columns or rows
    "qwen3vl_merger": {"projector": "qwen3vl_merger", "P": 6, "C": 8, "S": 25, "n_layer": 1},  # aborts without a layer
}


@pytest.fixture(scope="module", params=TOWERS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Towers]:
    sizes: dict[str, Any] = {"n_layer": 0, "C": 6, "H": 1, "F": 4} | TOWERS[request.param]
    with Towers(tmp_path_factory.mktemp("towers"), **sizes) as towers:
        yield towers


def differing(both: Towers, images: list[U8]) -> list[tuple[int, ...]]:
    """Shapes of the images whose pixels are not libmtmd's, bit for bit. With a layer, large ones are left out."""
    if both.tower.hparams.n_layer:
        images = [image for image in images if both.tower.n_tokens(image) <= 250]
        assert images
    traces = [both.engine.trace_image(image)["inp_raw"] for image in images]
    ours = [both.tower.pixels(image) for image in images]
    return [i.shape for i, x, y in zip(images, ours, traces, strict=True) if x.tobytes() != y.tobytes()]


@pytest.mark.oracle
def test_random_pixels_of_200_sizes_are_libmtmds(both: Towers) -> None:
    sizes = CORNERS + drawn_sizes(200 - len(CORNERS))
    assert differing(both, [picture(*size) for size in sizes]) == []


@pytest.mark.oracle
def test_smooth_and_plain_images_are_libmtmds(both: Towers) -> None:
    """Where rounding decides, and at both ends of the range."""
    ramp = np.linspace(0, 255, 333 * 77).reshape(77, 333)
    smooth = np.stack([ramp, ramp[::-1], ramp.T.reshape(77, 333)], axis=-1).astype(np.uint8)
    plain = [np.full((91, 60, 3), value, np.uint8) for value in (0, 1, 127, 128, 254, 255)]
    edges = np.where(np.indices((64, 200)).sum(axis=0) // 7 % 2, 255, 0).astype(np.uint8)
    assert differing(both, [smooth, *plain, np.repeat(edges[..., None], 3, axis=2)]) == []


def test_weights_of_a_pixel_add_up_to_one() -> None:
    """But for rounding to multiples of 2^-22."""
    for n_in, n_out in ((1, 5), (7, 3), (3000, 896), (5, 896)):
        for how in ("bilinear", "bicubic"):
            first, weights = filter_weights(n_in, n_out, how)  # type: ignore[arg-type]
            assert np.abs(weights.sum(axis=1) / 2**22 - 1).max() <= weights.shape[1] / 2**22
            assert (first >= 0).all()
            assert ((weights != 0).sum(axis=1) + first <= n_in).all()


def test_halving_is_the_mean_of_what_a_triangle_covers() -> None:
    """Four pixels to two: of the first, pixels 0, 1, 2 weigh 3, 3, 1 of 7, since the filter is 4 wide and cut off."""
    x = np.array([[10, 24, 200, 94]], np.uint8)[..., None].repeat(3, axis=2)
    want = [round((3 * 10 + 3 * 24 + 200) / 7), round((24 + 3 * 200 + 3 * 94) / 7)]
    assert resize(x, 2, 1, "bilinear")[0, :, 0].tolist() == want


def test_what_does_not_fill_the_frame_is_black_around_it() -> None:
    x = fit(np.full((10, 20, 3), 200, np.uint8), 40, 40, "bilinear")
    assert (x[10:30] == 200).all()
    assert not x[:10].any()
    assert not x[30:].any()


def test_normalizing_rounds_in_float32_step_by_step() -> None:
    x = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, axis=2)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    f = np.float32
    for c, plane in enumerate(normalized(x, mean, std)):
        want = [(f(v) / f(255) - f(mean[c])) / f(std[c]) for v in range(256)]
        assert plane.reshape(-1).tolist() == [float(v) for v in want]
