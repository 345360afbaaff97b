"""The finished site as a reader opens it: from a disk, in Chromium. `make docs` makes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.browser import Tab, browser, needs_chromium

SITE = Path(__file__).parents[1] / "docs" / "build" / "html"
KINDS = (  # one page of each kind
    "index", "start", "engine/onnx-export", "verify", "performance", "architectures", "made/architectures/bert",
    "made/api/refembed", "made/cli/embed", "made/server/index", "project/changelog",
    "source/refembed/model/bert.py", "search",
)  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="`make docs` has not been run"),
]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("page", KINDS)
def test_a_page_fits_the_window_and_asks_nothing_of_the_network(tab: Tab, page: str, width: int) -> None:
    tab.trouble.clear(), tab.loaded.clear()
    tab.look(width, 900)
    tab.open(f"file://{SITE}/{page}.html")
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.trouble == []
    assert tab.loaded
    assert [url for url in tab.loaded if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(("asked", "page"), [("pooling", "numerics.html"), ("memory_budget", "refembed.html")])
def test_the_search_finds_pages_without_a_server(tab: Tab, asked: str, page: str) -> None:
    tab.trouble.clear()
    tab.open(f"file://{SITE}/search.html?q={asked}")
    tab.until("document.querySelectorAll('#search-results li a').length > 2")
    found = tab.run("[...document.querySelectorAll('#search-results li a')].map(a => a.href).join(' ')")
    assert page in found
    assert tab.trouble == []


def test_colors_follow_what_the_reader_prefers(tab: Tab) -> None:
    shown = []
    for dark in (False, True):
        tab.look(1280, 900, dark=dark)
        tab.open(f"file://{SITE}/index.html")
        color = tab.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
        shown.append(sum(color[:3]))
    assert shown[0] > 700
    assert shown[1] < 200
