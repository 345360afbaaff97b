"""The page: who may ask for it and how much, and what it does in real Chromium."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from refembed.errors import RequestError
from refembed.playground.app import FILES, MOST_BYTES, MOST_WAITING, App
from tests.server.browser import Tab, browser, needs_chromium
from tests.server.servers import Answer, Client, started

pytestmark = pytest.mark.system

HOSTILE = "</script><img src=x onerror=alert(1)> `code` 'quotes' \" 漢字 🦊"
JSON = {"content_type": "application/json"}
ANSWERED = "(document.getElementById('result').dataset.answered || '0')"  # the number of the answer that is shown


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Client]:
    with started("explain", "--serve", "-m", tiny, "--numerics", "exact", "hello world", "a dog", "the cat") as client:
        yield client


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(tab: Tab, server: Client) -> Tab:
    """The page in a tab that nothing went wrong in yet, with its first text explained."""
    tab.trouble.clear()
    tab.loaded.clear()
    tab.look(1200, 1000)
    tab.open(server.address + "/")
    done(tab)
    return tab


def done(tab: Tab, before: str = "0") -> None:
    """Wait until another answer than the one before is shown."""
    tab.until(f"{ANSWERED} !== {before!r} && document.getElementById('state').textContent === ''")


def choose(tab: Tab, id: str, value: str) -> None:
    """Choose in a select, as its user does, and wait for what comes of it."""
    before = tab.run(ANSWERED)
    tab.run(f"document.getElementById({id!r}).value = {json.dumps(value)};"
            f"document.getElementById({id!r}).dispatchEvent(new Event('change', {{bubbles: true}}))")  # fmt: skip
    done(tab, before)


def explain(tab: Tab, text: str) -> None:
    before = tab.run(ANSWERED)
    tab.fill("text", text)
    tab.click("go")
    done(tab, before)


def press(tab: Tab, key: str, times: int = 1) -> None:
    """A key of a keyboard."""
    codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40, "End": 35}
    for _ in range(times):
        for kind in ("rawKeyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])


def cells(tab: Tab, id: str) -> list[list[str]]:
    """The rows of the table in an element."""
    rows = f"[...document.querySelectorAll('#{id} tbody tr')]"
    texts = f"{rows}.map(r => [...r.cells].map(c => c.textContent))"
    found: list[list[str]] = json.loads(tab.run(f"JSON.stringify({texts})"))
    return found


def ask(server: Client, name: str, body: Any, **headers: str) -> Answer:
    return server.post(f"/{name}", body, **(JSON | headers))


# -- who may ask -----------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere_and_no_script_is_in_the_page(server: Client) -> None:
    answer = server.get("/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in FILES:
        text = server.get(path).body.decode()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|innerHTML|eval\(", text), path

    class Handlers(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert not any(name.startswith("on") or name == "style" for name, _ in attrs)
            assert tag != "script" or dict(attrs).keys() == {"type", "src"}

    Handlers().feed(answer.body.decode())


def port(server: Client) -> int:
    return int(urlsplit(server.address).port or 0)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "127.0.0.1.evil.example:{}", "localhost.evil:{}", "", "[::1", "8.8.8.8:{}",
     "127.0.0.1@evil.example"],
)  # fmt: skip
def test_a_foreign_host_is_refused(server: Client, host: str) -> None:
    """DNS rebinding: a name of another site that resolves to this machine."""
    for method, path, body in (("GET", "/", None), ("POST", "/explain", {"text": "hello"})):
        answer = server.ask(method, path, body, **JSON, host=host.format(port(server)))
        assert answer.status in (400, 403)
        assert b"<html" not in answer.body


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST", "[::1]:{}", "localhost:9000"])
def test_this_machines_names_are_answered(server: Client, host: str) -> None:
    assert server.get("/", host=host.format(port(server))).status == 200


def test_listening_on_all_addresses_takes_any_address_and_no_name() -> None:
    app = App(None, ("0.0.0.0",))  # type: ignore[arg-type]  # nothing is asked of it
    assert app.is_own("192.168.1.7:8090")
    assert not app.is_own("evil.example:8090")
    assert App(None, ("box.local",)).is_own("box.local:8090")  # type: ignore[arg-type]
    app.worker.shutdown()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({}, 200),
    ],
)
def test_pages_of_other_sites_may_not_ask(server: Client, headers: dict[str, str], status: int) -> None:
    answer = ask(server, "model", {}, **headers)
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers
    if status != 200:
        assert len(answer.json["error"]["message"]) > 20
    same = ask(server, "model", {}, origin=server.address)
    assert same.status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/explain", b"{", 400, "no JSON object"),
        ("POST", "/explain", b"[1]", 400, "no JSON object"),
        ("POST", "/explain", b"[" * 50_000, 400, "no JSON object"),
        ("POST", "/explain", b"\xff", 400, "no JSON object"),
        ("POST", "/explain", b'{"text": "' + b"a" * MOST_BYTES + b'"}', 413, "more than 262,144 bytes"),
        ("POST", "/explain", {"text": "hello " * 80}, 400, "The text has 82 tokens, and the model reads at most 64"),
        ("POST", "/explain", {"text": "a" * 5000}, 400, "5,000 characters"),
        ("POST", "/nosuch", {}, 404, "nothing at /nosuch"),
        ("GET", "/explain", None, 405, "takes POST"),
        ("GET", "/../page.py", None, 404, "nothing at"),
        ("DELETE", "/", None, 404, "nothing at"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(
    server: Client, method: str, path: str, body: Any, status: int, words: str
) -> None:
    answer = server.ask(method, path, body, **JSON)
    assert answer.status == status
    assert words in answer.json["error"]["message"]


def test_the_server_survives_clients_that_leave(server: Client) -> None:
    at = urlsplit(server.address)
    head = b"POST /explain HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
    for sent in (head + b"{", b"GET"):
        with socket.create_connection((at.hostname, at.port)) as s:
            s.sendall(sent)
    assert ask(server, "explain", {"text": "hello"}).status == 200
    assert not any("Traceback" in line for line in server.log)


def asked(app: App) -> tuple[int, str]:
    """One request, without a server: status, and what the error says."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/model", "headers": headers, "query_string": b"",
             "scheme": "http", "server": ("localhost", 80)}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]).get("error", {}).get("message", "")


class Failing:
    """Answers that raise."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def answer(self, name: str, body: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RequestError("the text is odd", hint="type\nanother"), (400, "The text is odd (type another).")),
        (ValueError("a\nb"), (500, "refembed failed: ValueError: a b")),
        (MemoryError(), (500, "there is not enough memory for that")),
    ],
)
def test_what_fails_is_one_sentence(error: Exception, expected: tuple[int, str]) -> None:
    app = App(Failing(error))  # type: ignore[arg-type]  # it answers
    assert asked(app) == expected
    assert app.waiting == 0
    app.worker.shutdown()


def test_where_many_requests_wait_one_more_is_refused() -> None:
    app = App(Failing(ValueError()))  # type: ignore[arg-type]  # it answers
    app.waiting = MOST_WAITING
    assert asked(app) == (503, "too many requests wait; try again in a moment")
    app.worker.shutdown()


# -- in Chromium -----------------------------------------------------------------------------------------------------


@needs_chromium
def test_chromium_shows_what_the_server_answers(server: Client, page: Tab) -> None:
    found = ask(server, "explain", {"text": "hello world"}).json
    assert page.run("document.getElementById('text').value") == "hello world"
    assert found["said"]["verdict"] in page.text("verdict")
    rows = cells(page, "token-table")
    assert [r[1:4] for r in rows] == [[str(i), str(t["id"]), t["bytes"]] for i, t in enumerate(found["tokens"])]
    assert [r[1] for r in cells(page, "share-table")] == [f"{s:.4f}" for s in found["shares"]]
    assert page.run("document.querySelectorAll('#plane circle').length") == len(found["tokens"])
    page.click("leave")
    page.until("document.getElementById('leave').hidden")
    left = ask(server, "leave-out", {"text": "hello world"}).json["distances"]
    assert [float(r[3]) for r in cells(page, "share-table")] == pytest.approx(left, rel=0.01)
    assert page.trouble == []
    assert all(url.startswith((server.address, "data:")) for url in page.loaded)


@needs_chromium
def test_chromium_switches_faults_and_finds_them_by_their_words(server: Client, page: Tab) -> None:
    page.run("const f = document.getElementById('find'); f.value = 'erf gelu'; f.dispatchEvent(new Event('input'))")
    listed = json.loads(page.run("JSON.stringify([...document.getElementById('fault').options].map(o => o.value))"))
    assert listed == ["", "gelu-erf"]
    choose(page, "fault", "gelu-erf")
    found = ask(server, "explain", {"text": "hello world", "fault": "gelu-erf"}).json
    assert page.run("document.getElementById('verdict').className") == f"verdict {found['said']['kind']}"
    assert found["said"]["verdict"] in page.text("verdict")
    assert "ffn_gelu-0" in page.text("verdict")
    assert len(cells(page, "moved")) == len(found["moved"]["layers"]) + len(found["moved"]["tensors"])
    assert page.run("document.querySelector('#moved tr.marked').cells[0].textContent") == "ffn_gelu-0"
    before = page.run(ANSWERED)
    page.click("undo")
    done(page, before)
    assert page.run("document.getElementById('verdict').className.trim()") == "verdict"
    choose(page, "pooling", "cls")
    assert page.text("pooling-title") == "The first token"
    assert [r[1] for r in cells(page, "share-table")] == ["1.0000", "0.0000", "0.0000", "0.0000"]
    assert page.trouble == []


@needs_chromium
def test_chromium_compares_texts(server: Client, page: Tab) -> None:
    texts = ["hello", "hello", "the cat"]
    page.fill("texts", "\n".join(texts))
    page.run("document.getElementById('several-form').requestSubmit()")
    page.until("document.querySelectorAll('#cosines tbody tr').length === 3")
    x = ask(server, "similarity", {"texts": texts}).json["cosines"]
    assert [row[1:] for row in cells(page, "cosines")] == [[f"{v:.3f}" for v in row] for row in x]
    assert page.text("most-alike").startswith("Most alike are “hello” and “hello”: 1.0000")
    assert page.trouble == []


@needs_chromium
def test_chromium_shows_text_as_text_and_errors_as_sentences(page: Tab) -> None:
    explain(page, HOSTILE)
    assert page.run("document.images.length") == 0
    assert page.trouble == []
    explain(page, "hello " * 80)
    assert "82 tokens" in page.text("trouble")
    assert page.run("document.getElementById('result').hidden")
    explain(page, "hello")
    assert page.text("trouble") == ""
    assert not page.run("document.getElementById('result').hidden")


@needs_chromium
def test_the_page_works_by_keyboard(page: Tab) -> None:
    page.run("document.getElementById('map').focus()")
    before = page.text("looks")
    page.run("document.getElementById('map').scrollIntoView()")
    for key in ("ArrowDown", "ArrowRight"):
        press(page, key, 4)  # to the last row and column: tokens 3
    assert page.text("looks") != before or "(3) looks at" in before
    assert re.search(r"\(3\) looks at “.*” \(3\): 0\.\d{4}", page.text("looks"))
    assert page.text("looks") in page.run("document.getElementById('map').getAttribute('aria-label')")
    page.run("document.getElementById('depth').focus()")
    press(page, "End")
    assert "After layer 1 (2 of 2)" in page.text("depth-says")
    assert page.run("document.getElementById('depth').getAttribute('aria-valuetext')") == "After layer 1 (2 of 2)"
    reached = set()
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    for _ in range(60):
        press(page, "Tab")
        reached.add(page.run("document.activeElement.id"))
    controls = "text pooling weights find fault go undo layer head map depth play leave texts"
    assert set(controls.split()) <= reached
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).length"
    assert page.run(unnamed) == 0


@needs_chromium
def test_points_are_in_their_places_when_an_answer_comes(page: Tab) -> None:
    """They glide from layer to layer; they do not fly in from the corner."""
    page.run("globalThis.glides = 0; document.addEventListener('transitionrun', () => glides++)")
    explain(page, "hello world")
    assert page.run("glides") == 0
    page.run("document.getElementById('depth').focus()")
    press(page, "End")
    page.until("glides > 0")


@needs_chromium
def test_a_search_counts_the_faults_that_match(page: Tab) -> None:
    explain(page, "hello world")
    choose(page, "fault", "gelu-erf")
    page.run("document.getElementById('find').value = 'no such words';"
             "document.getElementById('find').dispatchEvent(new Event('input'))")  # fmt: skip
    assert page.text("found").startswith("0 of ")
    assert page.run("document.getElementById('fault').value") == "gelu-erf"


@needs_chromium
def test_motion_stops_where_a_reader_prefers_none(page: Tab) -> None:
    moves = "getComputedStyle(document.querySelector('#plane g')).transitionDuration"
    assert page.run(moves) == "0.45s"
    reduced = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.call("Emulation.setEmulatedMedia", features=reduced)
    assert page.run(moves) == "0s"


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, True), (400, False), (400, True), (320, False)])
def test_the_page_fits_its_window(page: Tab, width: int, dark: bool) -> None:
    page.look(width, 900, dark=dark)
    explain(page, "hello world the cat sat on a mat " * 3)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.getElementById('map').getBoundingClientRect().right") <= width
    squeezed = "parseFloat(map.style.width) - map.getBoundingClientRect().width"
    assert (
        abs(page.run(f"const map = document.getElementById('map'); {squeezed}")) < 0.5
    )  # clicks hit what they point at
    paper = page.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(21, 25, 31)" if dark else "rgb(255, 255, 255)")
