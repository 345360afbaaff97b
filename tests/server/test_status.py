"""The page at /: what it holds, and what it does in real Chromium with a running server."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from refembed.server.metrics import Metrics
from refembed.testing.synthetic import synthetic
from tests.pooling.test_rerank import HEAD
from tests.server.browser import Tab, browser, needs_chromium
from tests.server.servers import Client, refembed

pytestmark = pytest.mark.system

KEY = "a secret"
HOSTILE = "</script><img src=x onerror=alert(1)> 'quotes' \" 漢字 🦊"


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Client]:
    with refembed("-m", tiny, "--numerics", "exact", "--metrics", "-t", "1") as client:
        yield client


@pytest.fixture(scope="module")
def guarded(tiny: Path) -> Iterator[Client]:
    with refembed("-m", tiny, "--numerics", "exact", "--api-key", KEY, "-a", "hidden-name", "--api-prefix", "/x") as c:
        yield c


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def fresh(tab: Tab) -> Tab:
    """A tab that nothing went wrong in yet."""
    tab.trouble.clear()
    tab.loaded.clear()
    tab.look(1200, 1000)
    return tab


def shown(page: str) -> str:
    """The words of a page, scripts and styles aside: what is there where scripts are blocked."""
    words: list[str] = []

    class Words(HTMLParser):
        inside = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.inside = tag

        def handle_data(self, data: str) -> None:
            if self.inside not in ("script", "style"):
                words.append(data.strip())

    Words().feed(page)
    return " | ".join(filter(None, words))


def cosine(x: list[float], y: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def test_the_page_tells_its_facts_without_scripts(server: Client, tiny: Path) -> None:
    for path in ("/", "/index.html"):
        answer = server.get(path)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        words = shown(answer.body.decode())
        for fact in (f"Model | {tiny}", "Architecture | bert", "Pooling | mean", "Numerics | exact",
                     "Normalized | Euclid", "Numbers a vector | 32", "Longest text, tokens | 64"):  # fmt: skip
            assert fact in words
    assert server.ask("HEAD", "/").body == b""


def test_the_page_loads_nothing_from_elsewhere(server: Client) -> None:
    answer = server.get("/")
    assert "default-src 'none'; connect-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?:|//[a-z]|url\(|@import", answer.body.decode())


def test_status_counts_what_was_computed(server: Client) -> None:
    before = server.get("/status").json
    tokens = server.post("/v1/embeddings", {"input": ["hello", "the cat"]}).json["usage"]["total_tokens"]
    after = server.get("/status").json
    assert after["texts"] - before["texts"] == 2
    assert after["tokens"] - before["tokens"] == tokens
    assert after["tokens_per_second"] >= tokens / 10
    assert (after["processing"], after["waiting"]) == (0, 0)
    scraped = server.get("/metrics").body.decode()
    assert f"prompt_tokens_total {after['tokens']}\n" in scraped


def test_recent_throughput_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("refembed.server.metrics.time.monotonic", lambda: now)
    m = Metrics()
    m.computed([30, 20], 1, 0.5)
    now = 105.0
    m.computed([50], 1, 0.5)
    assert m.recent() == 10.0
    now = 112.0
    assert m.recent() == 5.0
    now = 200.0
    assert m.recent() == 0.0
    assert m.tokens == 100


def test_the_status_page_shows_nothing_without_the_api_key(guarded: Client) -> None:
    page = guarded.get("/x/")
    assert page.status == 200
    text = page.body.decode()
    for secret in ("hidden-name", KEY, "bert", "exact"):
        assert secret not in text
    assert guarded.get("/x/status").status == 401
    assert guarded.get("/x/status", authorization=f"Bearer {KEY}").json["model"] == "hidden-name"
    assert guarded.get("/").status == 404


def test_while_the_model_is_loaded_the_page_says_so(tiny: Path) -> None:
    from starlette.requests import Request

    from refembed.server.app import App
    from refembed.server.state import Settings, State

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "server": ("h", 1)}
    import asyncio

    answer = asyncio.run(App(State(Settings())).respond(Request(scope)))
    assert answer.status_code == 503
    assert b"being loaded" in answer.body


@needs_chromium
def test_chromium_compares_two_texts(server: Client, fresh: Tab) -> None:
    fresh.open(server.address + "/")
    for a, b in (("hello world", "the cat sat"), ("hello", "hello"), (HOSTILE, "")):
        fresh.fill("a", a)
        fresh.fill("b", b)
        fresh.click("go")
        fresh.until("document.getElementById('answer').textContent !== ''")
        x, y = server.embed([a, b])
        assert fresh.text("answer") == f"{cosine(x, y):.6f}"
        for side, text in (("a", a), ("b", b)):
            tokens = server.post(
                "/tokenize", {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
            ).json["tokens"]
            assert fresh.text(f"count-{side}") == f"{len(tokens)} tokens"
            boxes = json.loads(fresh.run(f"JSON.stringify([...document.querySelectorAll('#tokens-{side} .token')]"
                                         ".map(e => e.textContent))"))  # fmt: skip
            assert boxes == [f"{t['piece']} {t['id']}" for t in tokens]
    assert fresh.run("document.images.length") == 0
    assert fresh.trouble == []
    assert all(url.startswith((server.address, "data:")) for url in fresh.loaded)


@needs_chromium
def test_chromium_keeps_the_figures_fresh(server: Client, fresh: Tab) -> None:
    fresh.open(server.address + "/index.html")
    before = int(fresh.text("texts"))
    server.embed(["a", "b", "c"])
    fresh.until(f"document.getElementById('texts').textContent === '{before + 3}'")
    assert fresh.trouble == []


@needs_chromium
def test_chromium_shows_what_the_server_refuses(server: Client, fresh: Tab) -> None:
    fresh.open(server.address + "/")
    fresh.fill("a", "hello " * 80)
    fresh.click("go")
    fresh.until("document.getElementById('trouble').textContent !== ''")
    assert "82 tokens" in fresh.text("trouble")
    assert fresh.text("answer") == ""


@needs_chromium
def test_chromium_asks_for_the_key_and_keeps_it_nowhere(guarded: Client, fresh: Tab) -> None:
    fresh.open(guarded.address + "/x/")
    assert fresh.text("model") == ""
    assert fresh.run("document.getElementById('inside').checkVisibility()") is False
    fresh.fill("key", KEY)
    fresh.click("enter")
    fresh.until("document.getElementById('model').textContent === 'hidden-name'")
    fresh.click("go")
    fresh.until("document.getElementById('answer').textContent !== ''")
    assert fresh.trouble == []
    kept = "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, location.href])"
    assert json.loads(fresh.run(kept)) == [0, 0, "", guarded.address + "/x/"]
    assert KEY not in fresh.run("document.documentElement.outerHTML + document.getElementById('key').value")
    assert not any("secret" in url for url in fresh.loaded)
    fresh.open(guarded.address + "/x/index.html")
    assert fresh.text("model") == ""


@needs_chromium
def test_chromium_shows_the_score_of_a_pair(fresh: Tab, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "bert", pooling=4, optional=HEAD)
    with refembed("-m", path, "--numerics", "exact") as server:
        fresh.open(server.address + "/")
        fresh.fill("a", "the cat")
        fresh.fill("b", "a dog")
        fresh.click("go")
        fresh.until("document.getElementById('answer').textContent !== ''")
        score = server.post("/rerank", {"query": "the cat", "documents": ["a dog"]}).json["results"][0]
        assert fresh.text("answer") == f"{score['relevance_score']:.6f}"
        assert fresh.text("name-a") == "Query"
    assert fresh.trouble == []


@needs_chromium
@pytest.mark.parametrize("width", [1200, 400, 320])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_its_window(server: Client, fresh: Tab, width: int, dark: bool) -> None:
    fresh.look(width, 900, dark=dark)
    fresh.open(server.address + "/")
    assert fresh.run("document.documentElement.scrollWidth") <= width
    paper = fresh.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
