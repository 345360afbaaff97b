"""The page of a verdict on images: pictures with patches, the engine's next to ours, and where its rows are off."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.verify.images.report import image_report_data
from refembed.verify.report.html import report_page
from refembed.verify.run import verify
from tests.cli.conftest import Cli, cli
from tests.html.test_pages import check, draw, looks_drawn, needs_chromium, unpng
from tests.verify.images.engine import MODULES, Faulty, faulty, files, inputs

__all__ = ["cli"]  # a fixture
pytestmark = pytest.mark.system

GIVEN = inputs([(50, 71), (100, 60)])


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    model, mmproj = files(tmp_path_factory.mktemp("page"), "gemma3")
    return Embedder.load(model, mmproj=mmproj, numerics="fast")


def test_pictures_are_what_both_towers_read(gemma3: Embedder) -> None:
    """Blue for red: the engine's picture is ours with its colors in the other order."""
    engine = faulty(gemma3, "gemma3", "normalized(fit(image,", "normalized(fit(image[..., ::-1],")
    verdict = verify(gemma3, engine, GIVEN)
    data = image_report_data(verdict, engine, gemma3, GIVEN)
    first, second = data.pictures
    assert first.theirs is not None
    assert np.array_equal(first.theirs.rgb[..., ::-1], first.ours.rgb)
    assert (first.ours.patches, first.ours.tokens) == ((6, 6), (3, 3))
    assert second.theirs is None  # tensors are of one image
    for picture in data.pictures:
        assert picture.rows is not None
        assert picture.rows.shape == (3, 3)
        assert picture.rows.min() > 0.01
    assert data.worst is not None
    assert data.worst.name == "inp_raw"
    page = report_page(data)
    parts = check(page)
    assert [a["id"] for a in parts.of("section")] == [
        "verdict", "pictures", "texts", "layers", "worst", "hypotheses", "environment",
    ]  # fmt: skip
    for words in (
        "✗ differs",
        "reads blue, green, red for red, green, blue",
        "hand over pixels as red, green and blue",
        "inp_raw",
    ):
        assert words in page
    drawn = [p for p in parts.of("img") if str(p["alt"]).startswith(("Reference: ", "Engine: "))]
    assert len(drawn) == 3
    width, height, _ = unpng(base64.b64decode(str(drawn[0]["src"]).split(",")[1]))
    assert (width, height) == (420, 420)


def test_rows_are_off_where_the_engine_is_wrong(gemma3: Embedder) -> None:
    """An engine whose rows of the last token of an image are others."""

    class Off(Faulty):
        def image_rows(self, image):  # type: ignore[no-untyped-def]
            rows = super().image_rows(image)
            rows[-1] *= -1
            return rows

    engine = Off(gemma3, MODULES["gemma3"])
    picture, _ = image_report_data(verify(gemma3, engine, GIVEN), engine, gemma3, GIVEN).pictures
    assert picture.rows is not None
    assert np.unravel_index(picture.rows.argmax(), picture.rows.shape) == (2, 2)
    assert picture.rows.max() == pytest.approx(2, rel=1e-5)
    assert np.sort(picture.rows.reshape(-1))[-2] < 1e-5


def test_rows_of_a_wrong_tensor_are_named_by_their_patches(tmp_path: Path) -> None:
    """Those of Qwen3-VL stand in squares: the second row is the patch next to the first, the third that below it."""
    model, mmproj = files(tmp_path, "qwen3vl")
    e = Embedder.load(model, mmproj=mmproj, numerics="fast")
    engine = faulty(e, "qwen3vl", "ops.conv_2d(x, w.patch_embd_1)", "0 * ops.conv_2d(x, w.patch_embd_1)")
    verdict = verify(e, engine, GIVEN[:1])
    data = image_report_data(verdict, engine, e, GIVEN[:1])
    assert (verdict.first_wrong_tensor, data.worst and data.worst.name) == ("patch_product_1", "patch_product_1")
    late = faulty(e, "qwen3vl", 'tap("ffn_inp", ops.add(a, x))', 'tap("ffn_inp", a)')
    data = image_report_data(verify(e, late, GIVEN[:1]), late, e, GIVEN[:1])
    assert data.worst is not None
    assert (data.worst.unit, list(data.worst.rows[:3])) == (
        "patch", ["row 0, column 0", "row 0, column 1", "row 1, column 0"],
    )  # fmt: skip


def test_the_command_writes_it_for_vectors_alone(tmp_path: Path, cli: Cli) -> None:
    model, mmproj = files(tmp_path, "gemma4v")
    e = Embedder.load(model, mmproj=mmproj)
    np.save(tmp_path / "photo.npy", GIVEN[0]["image"])
    np.save(tmp_path / "vectors.npy", e.embed([{"image": GIVEN[0]["image"]}]))
    target = tmp_path / "page.html"
    args = ["verify", str(model), "--mmproj", str(mmproj), "--image", str(tmp_path / "photo.npy"), "--against"]
    r = cli(*args, str(tmp_path / "vectors.npy"), "--html", str(target))
    assert (r.code, f"wrote {target}" in r.err) == (0, True)
    page = target.read_text(encoding="utf-8")
    sections = [a["id"] for a in check(page).of("section")]
    assert sections == ["verdict", "pictures", "texts", "environment"]
    assert "photo.npy" in page
    r = cli(*args, str(tmp_path / "vectors.npy"), "--html", str(tmp_path / "no" / "page.html"))
    assert (r.code, "there is no such folder" in r.err) == (1, True)


@needs_chromium
def test_chromium_draws_the_page_of_images(gemma3: Embedder, tmp_path: Path) -> None:
    engine = faulty(gemma3, "gemma3", "activate[hp.activation](h)", "ops.gelu_quick(h)")
    data = image_report_data(verify(gemma3, engine, GIVEN), engine, gemma3, GIVEN)
    looks_drawn(draw(report_page(data), tmp_path))
