"""Pages stand alone: they load nothing, say in words what they show, and real Chromium draws them without complaint."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import RequestError
from refembed.explain import explain
from refembed.explain.page import walkthrough_page
from refembed.html.attention import attention_map
from refembed.html.charts import Line, plot, strip
from refembed.html.page import Section, esc, page, table, write_page
from refembed.html.picture import heat, png, ramp, shrunk
from refembed.verify.report.data import (
    Attention,
    BothTokens,
    ReportData,
    TensorError,
    TextResult,
    WorstTensor,
)
from refembed.verify.report.html import report_page, write_report

pytestmark = pytest.mark.system

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to draw the page with")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
    "--window-size=1000,3000",
)  # fmt: skip
HOSTILE = "</script><img src=x onerror=alert(1)> \x00\x07\u202eabc \ud800 & \"quotes\" 'single' 漢字 🦊"


class Drawn(NamedTuple):
    dom: str  # after its scripts have run
    console: list[str]
    ink: float  # share of bytes of the screenshot that its filters did not make 0: next to none on an even page


def draw(text: str, folder: Path) -> Drawn:
    """The page in a browser of its own, with an empty profile."""
    file, shot = folder / "page.html", folder / "page.png"
    write_page(file, text)
    say = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    say += [f"--screenshot={shot}", "--dump-dom", file.as_uri()]
    r = subprocess.run(say, capture_output=True, timeout=90, text=True, encoding="utf-8")
    console = [line for line in r.stderr.splitlines() if "CONSOLE" in line or "Refused to" in line]
    columns, rows, lines = unpng(shot.read_bytes())
    assert (columns, rows) == (1000, 3000)
    return Drawn(r.stdout, console, float((lines[1:, 4:] != 0).mean()))


def unpng(data: bytes) -> tuple[int, int, np.ndarray[Any, Any]]:
    """Width, height and lines of a PNG of 8 bits a channel, by the W3C's text: each line is its filter, then bytes."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, body, head = 8, b"", b""
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at : at + 8])
        chunk = data[at + 8 : at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n : at + 12 + n])[0] == zlib.crc32(kind + chunk)
        head, body = (chunk, body) if kind == b"IHDR" else (head, body + chunk if kind == b"IDAT" else body)
        at += 12 + n
    columns, rows, depth, color = struct.unpack(">IIBB", head[:10])
    assert depth == 8
    return (
        columns,
        rows,
        np.frombuffer(zlib.decompress(body), np.uint8).reshape(rows, 1 + columns * {2: 3, 6: 4}[color]),
    )


class Parts(HTMLParser):
    """Elements with their attributes; and that what opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "wbr", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.found if t == tag]


def check(text: str) -> Parts:
    """What holds of every page."""
    parts = Parts(text)
    assert not parts.open
    for _, attrs in parts.found:
        for name in ("src", "href", "srcset", "data", "action"):
            assert not attrs.get(name) or str(attrs[name]).startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attrs)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in str(parts.of("meta"))
    for picture in parts.of("img"):
        assert len(str(picture["alt"])) > 5
    for drawing in [*parts.of("canvas"), *parts.of("svg")]:
        assert drawing["role"] == "img"
        assert len(str(drawing["aria-label"])) > 5
    ids = [a["id"] for _, a in parts.found if "id" in a]
    assert len(ids) == len(set(ids))
    links = {str(a["href"])[1:] for a in parts.of("a")}
    assert links <= set(ids)
    return parts


def looks_drawn(drawn: Drawn) -> None:
    """Ink on a white page, and nothing to complain about."""
    assert drawn.console == []
    assert 0.01 < drawn.ink < 0.5  # measured: 0.00 an empty page, 0.03 to 0.2 these


@pytest.fixture(scope="module")
def tiny_embedder(tiny: Path) -> Embedder:
    return Embedder.load(tiny, numerics="exact")


def report(n: int = 12) -> ReportData:
    """A report with everything in it, some of it broken; numbers are arbitrary."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 40))
    y = x + rng.normal(size=x.shape) * 1e-3
    y[2, 3], y[4, 5] = np.nan, np.inf
    a = rng.random((3, n, n))
    a /= a.sum(axis=-1, keepdims=True)
    pieces = [f"<p{i}>" for i in range(n)]
    ids = [(i, p) for i, p in enumerate(pieces)]
    tensors = [
        TensorError("inp_embd", 0, None, 0.0, 0.0, 1e-12),
        *(TensorError(f"ffn_out-{i}", k, i, 10.0 ** (i - 6), 1e-14, 1e-12, "ADD") for i in range(4) for k in (0, 1)),
        TensorError("result_embd", 0, None, float("nan"), 1e-3, 1e-12, note="<b>"),
    ]  # fmt: skip
    return ReportData(
        model=f"model {HOSTILE}",
        engine=f"http://localhost {HOSTILE}",
        verdict="differs",
        cause=HOSTILE,
        advice="add it",
        evidence=["one", HOSTILE],
        first_wrong_tensor="result_embd",
        texts=[TextResult(HOSTILE, 3, 1e-3, 1e-7, False), *(TextResult("a", 2, 0.0, 1e-7, True) for _ in range(n)),
               TextResult("nan", 2, float("nan"), 1e-7, False, "not finite")],
        tensors=tensors,
        worst=WorstTensor("ffn_out-3", x, y, pieces),
        tokens=[BothTokens(HOSTILE, ids, ids[:-1]), BothTokens("", ids)],
        traced=pieces,
        attention=[Attention(0, a, a), Attention(1, a)],
        contributions=[1 / n] * n,
        their_contributions=[2 / n, *([-1 / n] * (n - 1))],
        hypotheses=[("EOS is missing", 1e-9, True), (HOSTILE, 0.1, False)],
        environment={"build": HOSTILE, "threads": 2},
    )  # fmt: skip


# -- pictures and words ----------------------------------------------------------------------------------------------


def test_a_png_holds_the_pixels() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    columns, rows, lines = unpng(png(rgb))
    assert (columns, rows) == (5, 7)
    assert (lines[:, 0] == 0).all()  # no filter: bytes as they are
    assert (lines[:, 1:].reshape(7, 5, 3) == rgb).all()


def test_colors_run_from_white_to_dark_and_what_is_not_finite_is_magenta() -> None:
    from refembed.html.picture import WHITE_TO_BLUE

    shades = ramp(np.array([0.0, 0.5, 1.0, np.nan, np.inf]), WHITE_TO_BLUE)
    assert shades[0].tolist() == [255, 255, 255]
    assert shades[:3].sum(axis=1).tolist() == sorted(shades[:3].sum(axis=1).tolist(), reverse=True)
    assert shades[3].tolist() == shades[4].tolist() == [255, 0, 255]


def test_a_large_array_keeps_its_largest_numbers_and_every_nan() -> None:
    x = np.zeros((3000, 2050))
    x[2999, 2049], x[1234, 7], x[5, 5] = -9, np.nan, 3
    small = shrunk(x)
    assert small.shape == (1000, 684)
    assert small[999, 683] == -9
    assert np.isnan(small[411, 2])
    assert small[1, 1] == 3
    assert np.count_nonzero(small) == 3


def test_text_is_shown_never_run() -> None:
    shown = esc(HOSTILE)
    assert "<" not in shown
    assert "\x00" not in shown
    assert "\u202e" not in shown
    assert "\\u{202e}" in shown
    assert "␀" in shown
    shown.encode()


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0],
        [0.0, 0.0],
        [1e-9, None, float("nan")],
        [1e-30, 1e30],
        [-1.0, 5.0],
        [float("nan"), 2.0],
        [float("inf"), 1.0],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_any_numbers_make_a_plot_without_nan_in_its_coordinates(values: list[float | None], log: bool) -> None:
    if log and any(v is not None and v < 0 for v in values):
        values = [abs(v) for v in values if v is not None]
    drawn = plot([Line("y", values)], "a plot of y", x_labels=[str(i) for i in range(len(values))], y_name="y", log=log)
    coordinates = re.findall(r'(?:x|y|x1|x2|y1|y2|cx|cy|d)="([^"]*)"', drawn)
    assert not any("nan" in c or "inf" in c for c in coordinates)


def test_strips_and_maps_take_what_is_not_finite() -> None:
    check(
        page(
            "t",
            "l",
            [Section("a", "A", strip(["x", "y"], [float("nan"), 0.0]) + heat(np.full((2, 2), np.nan), "a heat map"))],
        )
    )


def test_attention_keeps_all_heads_of_the_chosen_layer_however_long_the_text() -> None:
    a = np.full((4, 400, 400), 1 / 400, np.float32)
    text = attention_map("m", dict.fromkeys(range(8), a), ["t"] * 400, layer=3)
    data = re.search(r'<script type="application/json">(.*?)</script>', text, re.S)
    assert data is not None
    import json

    maps = json.loads(data[1])["maps"]
    assert sorted(maps["3"]) == ["0", "1", "2", "3", "mean"]
    assert sorted(maps["4"]) == ["mean"]


def test_a_token_cannot_end_the_script_that_holds_it() -> None:
    text = attention_map("m", {0: np.full((1, 2, 2), 0.5)}, ["</script><img>", "<!--"], layer=0)
    assert text.count("</script") == 2
    assert "<img" not in text
    assert "<!--" not in text


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("old")
    write_page(target, page("new", "lead", []))
    assert "new" in target.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(RequestError, match="cannot be written: No such file"):
        write_page(tmp_path / "nosuch" / "page.html", "x")
    with pytest.raises(RequestError, match="cannot be written"):
        write_page(tmp_path, "x")


def test_tables_mark_rows_and_set_numbers_right() -> None:
    parts = Parts(table(["a", ">b"], [("x", "1"), ("y", "2")], marked=[1]))
    assert [a.get("class") for a in parts.of("tr")] == [None, None, "marked"]
    assert [a.get("class") for a in parts.of("td")] == [None, "number", None, "number"]


# -- the report of verify --------------------------------------------------------------------------------------------


def test_a_full_report_is_sound_and_names_what_matters() -> None:
    text = report_page(report())
    check(text)
    for word in ("✗ differs", "Error by layer", "The worst tensor", "result_embd", "not finite", "explains it"):
        assert word in text


@pytest.mark.parametrize("verdict", ["identical", "within rounding", "unexplained"])
def test_an_empty_report_has_its_verdict_alone(verdict: str) -> None:
    text = report_page(ReportData("m", "e", verdict))
    assert [a["id"] for a in check(text).of("section")] == ["verdict"]
    assert verdict in text


def test_a_report_shows_which_tokens_differ() -> None:
    ids = [(1, "a"), (2, "b"), (3, "c")]
    data = ReportData("m", "e", "differs", tokens=[BothTokens("t", ids, [ids[0], (9, "x"), ids[2]])])
    boxes = [a for a in check(report_page(data)).of("span") if "token" in str(a.get("class"))]
    assert [a["title"] for a in boxes if "odd" in str(a["class"])] == ["place 1, id 2", "place 1, id 9"]


def test_equal_tensors_need_no_heat_map() -> None:
    x = np.array([[1.0, np.nan]])
    text = report_page(ReportData("m", "e", "identical", worst=WorstTensor("x", x, x.copy())))
    assert "Both sides have the same" in text
    assert not check(text).of("img")


def test_the_environment_is_laid_out_fact_by_fact() -> None:
    text = report_page(
        ReportData("m", "e", "identical", environment={"build": {"wheel": "1.2", "lib": None, "files": [{"sha": "7"}]}})
    )
    assert "<td>build, wheel</td><td>1.2</td>" in text
    assert "<td>build, files, sha</td><td>7</td>" in text
    assert "lib" not in text.partition('id="environment"')[2]


def test_worst_tensors_of_other_shapes_have_other_marks() -> None:
    data = ReportData("m", "e", "differs", worst=WorstTensor("x", np.zeros((2, 3)), np.zeros((2, 4))))
    assert "(2, 3) in the reference, (2, 4) in the engine" in report_page(data)


@needs_chromium
@pytest.mark.parametrize("n", [8, 300])
def test_chromium_draws_the_report(n: int, tmp_path: Path) -> None:
    drawn = draw(report_page(report(n)), tmp_path)
    looks_drawn(drawn)
    assert 'data-drawn="0/mean"' in drawn.dom


def test_write_report_writes_the_page(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", report())
    assert path.read_text(encoding="utf-8") == report_page(report())


# -- explain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [["hello"], ["hello world", "", HOSTILE.replace("\ud800", "")]])
def test_the_page_of_a_walkthrough_is_sound(tiny_embedder: Embedder, texts: list[str]) -> None:
    j = explain(tiny_embedder, texts, layer=-1)
    parts = check(walkthrough_page(j))
    headings = ["tokens", "embeddings", "layer", "attention", "layers", "pooling", "normalization"]
    assert [a["id"] for a in parts.of("section")] == [*headings, *(["similarity"] if len(texts) > 1 else []), "model"]


@needs_chromium
def test_chromium_shows_that_an_empty_page_has_no_ink(tmp_path: Path) -> None:
    assert draw("<!DOCTYPE html><html><body></body></html>", tmp_path).ink < 0.001


@needs_chromium
def test_chromium_tells_of_scripts_that_fail(tmp_path: Path) -> None:
    assert draw(page("t", "l", [Section("a", "A", "<script>nosuch();</script>")]), tmp_path).console


@needs_chromium
@pytest.mark.parametrize("n", [1, 60])
def test_chromium_draws_a_walkthrough(tiny_embedder: Embedder, n: int, tmp_path: Path) -> None:
    texts = ["hello world " * n if n > 1 else "hello", "world", "a " + HOSTILE.replace("\ud800", "")]
    j = explain(tiny_embedder, texts, truncate=True)
    drawn = draw(walkthrough_page(j, head=1), tmp_path)
    looks_drawn(drawn)
    assert 'data-drawn="0/1"' in drawn.dom
    assert "Largest: " in drawn.dom
