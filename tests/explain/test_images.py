"""refembed.explain of images: numbers are the tower's own, every tensor has its line, pages draw over the picture."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import RequestError
from refembed.explain.image_page import image_page
from refembed.explain.image_taps import meaning
from refembed.explain.images import explain_image
from refembed.model.vision import TOWERS
from refembed.testing.synthetic_mmproj import USUAL
from refembed.verify.images.pictures import drawn
from tests.cli.conftest import Cli, cli
from tests.verify.images.engine import MODULES, files

__all__ = ["cli"]  # a fixture
PICTURE = drawn(60, 40)


@pytest.fixture(scope="module", params=MODULES)
def e(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    model, mmproj = files(tmp_path_factory.mktemp("explained"), request.param)
    return Embedder.load(model, mmproj=mmproj, numerics="exact")


def test_every_tensor_of_a_tower_has_its_line(e: Embedder) -> None:
    """In the order of the run: no tensor is left out, none is shown twice."""
    w = explain_image(e, PICTURE, layer=0)
    trace = e.trace_image(PICTURE)
    shown = [s.name for s in (*w.before, *w.inside, *w.behind)]
    names = [t.name for t in trace.tensors]
    assert shown == [name for name in names if not name.endswith("-1")]  # which are of the other layer
    assert all(s.title for s in (*w.before, *w.inside, *w.behind))


def test_numbers_are_those_of_the_run(e: Embedder) -> None:
    w, trace = explain_image(e, PICTURE, layer=0, patch=(1, 2)), e.trace_image(PICTURE)
    (kq,) = (s for s in w.inside if s.name == "kq_soft_max-0")
    N = w.patches.width * w.patches.height
    assert kq.shape == trace["kq_soft_max-0"].shape == (e.tower.hparams.n_head, N, N)  # type: ignore[union-attr]
    assert w.looks is not None
    assert w.looks.sum() == pytest.approx(1)
    assert sum(x.sum() for x in w.looked_at.values()) == pytest.approx(len(w.looked_at))
    rows = e.tower.rows(PICTURE, e.ops)[:, : e.tower.width]  # type: ignore[union-attr]
    assert np.allclose(w.lengths.reshape(-1), np.linalg.norm(rows, axis=1), rtol=1e-12)
    assert w.vector == pytest.approx(e.embed({"image": PICTURE}))


def test_rows_of_tensors_are_put_where_their_patches_lie(tmp_path: Path) -> None:
    """Of Qwen3-VL patches stand in squares. A picture that is bright in one patch alone: that patch's product is
    the one that differs from that of a dark picture."""
    model, mmproj = files(tmp_path, "qwen3vl")
    e = Embedder.load(model, mmproj=mmproj, numerics="exact")
    dark = np.zeros((48, 72, 3), np.uint8)  # 8 x 12 patches of 6 pixels
    bright = dark.copy()
    bright[3 * 6 : 4 * 6, 7 * 6 : 8 * 6] = 255
    a, b = (explain_image(e, x, patch=(3, 7)) for x in (dark, bright))
    c, d = (explain_image(e, x, patch=(3, 6)) for x in (dark, bright))
    (p, q, r, s) = (next(s for s in w.before if s.name == "patch_bias").numbers for w in (a, b, c, d))
    assert p != q
    assert r == s
    assert (b.seen == bright).all()


def test_shares_of_tokens_add_up(tmp_path: Path) -> None:
    model, mmproj = files(tmp_path, "gemma4v")
    e = Embedder.load(model, mmproj=mmproj, numerics="exact")
    w = explain_image(e, PICTURE, "a <__media__> cat")
    assert w.shares is not None
    assert w.image_share == pytest.approx(w.shares.sum())
    assert w.n_tokens > w.shares.size
    with pytest.raises(RequestError, match="layer 7: the tower has layers 0 to 0"):
        explain_image(e, PICTURE, layer=7)
    with pytest.raises(RequestError, match="patch 900,0"):
        explain_image(e, PICTURE, patch=(900, 0))


def test_a_page_has_pictures_of_patches_attention_and_shares(e: Embedder) -> None:
    html = image_page(explain_image(e, PICTURE, "a <__media__>"))
    pictures = re.findall(r'<img class="map" src="data:image/png;base64,([^"]+)" alt="([^"]+)"', html)
    assert len(pictures) >= 4
    assert all(base64.b64decode(data).startswith(b"\x89PNG") and alt for data, alt in pictures)


def test_the_command_prints_sizes_and_writes_a_page(tmp_path: Path, cli: Cli) -> None:
    model, mmproj = files(tmp_path, "gemma3")
    np.save(tmp_path / "photo.npy", PICTURE)
    args = ["explain", "-m", str(model), "--mmproj", str(mmproj), "--image", str(tmp_path / "photo.npy")]
    out = " ".join(cli(*args).out.split())
    assert "60 x 40 pixels become 42 x 42 that the tower reads; these are 6 x 6 = 36 patches of 7 x 7 pixels" in out
    assert "squares of 2 x 2 become 3 x 3 = 9 tokens" in out
    found = json.loads(cli(*args, "--json", "a <__media__>").out)
    assert (found["patches"], found["tokens"]) == ({"width": 6, "height": 6}, {"width": 3, "height": 3})
    assert cli(*args, "--html", str(tmp_path / "page.html"), "--quiet").code == 0
    assert "How an image becomes a vector" in (tmp_path / "page.html").read_text()
    (tmp_path / "texts.txt").write_text("a cat\n")
    for more in (["--head", "0"], ["--token", "1"], ["--truncate"], ["--file", str(tmp_path / "texts.txt")]):
        r = cli(*args, *more)
        assert (r.code, f"{more[0]} does not go with --image" in r.err) == (1, True)
    r = cli("explain", "-m", str(model), "--image", str(tmp_path / "photo.npy"))
    assert (r.code, "--image needs --mmproj FILE" in r.err) == (1, True)


def test_names_of_optional_tensors_have_their_line_too() -> None:
    for name in (
        "std_shifted",
        "std_scaled",
        "layer_out_scaled-0",
        "deepstack_stacked-2",
        "ffn_out_clamped-1",
        "ffn_silu-0",
    ):
        assert meaning(name).title
    assert set(USUAL) == set(TOWERS)
