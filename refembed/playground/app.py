"""The application: the page, what it asks for, and what stands in front of both.

A request passes: is it meant for this machine (Host), does it come from the page (Origin, Sec-Fetch-Site), route, body,
one thread that computes. A page of another site can make a browser send requests to 127.0.0.1, under its own name
if that name resolves there (DNS rebinding): such requests bear that name in Host or Origin, and are answered 403.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from refembed.errors import RefembedError
from refembed.html import assets
from refembed.html.assets import read_asset
from refembed.html.page import STYLE
from refembed.parse_json import parse_object
from refembed.playground.answers import NAMES, Answers
from refembed.server.json_text import dumps

log = logging.getLogger("refembed.playground")

LOCAL = ("localhost", "127.0.0.1", "::1")
MOST_BYTES = 256 * 1024  # of a body: twelve texts of 4,000 characters
MOST_WAITING = 8  # requests that are computed or wait for it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
SCRIPT = "text/javascript; charset=utf-8"
FILES = {  # path -> what it is, and its text
    "/": ("text/html; charset=utf-8", read_asset(__file__, "page.html")),
    "/page.css": ("text/css; charset=utf-8", STYLE + read_asset(__file__, "page.css")),
    "/map.js": (SCRIPT, read_asset(assets.__file__, "map.js")),
    **{f"/{name}.js": (SCRIPT, read_asset(__file__, f"{name}.js")) for name in ("page", "parts", "attention", "plane")},
}


class Refused(Exception):  # noqa: N818  # an answer, not a mistake
    """A request that is answered with a sentence and a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class App:
    """The ASGI application.

    hosts  names and addresses that it listens on, as `--host` has them: these may stand in a request's Host
    """

    def __init__(self, answers: Answers, hosts: Sequence[str] = ("127.0.0.1",)) -> None:
        self.answers, self.hosts = answers, tuple(hosts)
        self.worker = ThreadPoolExecutor(1, "refembed-playground")
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self.respond(request)
        except ClientDisconnect:
            return
        except Refused as e:
            response = said(e.status, str(e))
        await response(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        """The answer. Refused where there is none."""
        self.admit(request)
        path = request.url.path
        if request.method in ("GET", "HEAD") and path in FILES:
            kind, text = FILES[path]
            return Response(text, headers=HEADERS | {"content-type": kind})
        name = path.removeprefix("/")
        if name not in NAMES:
            raise Refused(404, f"there is nothing at {path[:80]}")
        if request.method != "POST":
            raise Refused(405, f"{path} takes POST")
        body = parsed(await read(request))
        if self.waiting >= MOST_WAITING:
            raise Refused(503, "too many requests wait; try again in a moment")
        self.waiting += 1
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self.worker, self.answers.answer, name, body)
        except RefembedError as e:
            raise Refused(400, sentence(e)) from None
        except MemoryError:
            raise Refused(500, "there is not enough memory for that") from None
        except Exception as e:
            log.exception("%s", path)
            raise Refused(500, f"refembed failed: {type(e).__name__}: {' '.join(str(e).split())}") from None
        finally:
            self.waiting -= 1
        return Response(dumps(found), headers=HEADERS | {"content-type": "application/json; charset=utf-8"})

    def admit(self, request: Request) -> None:
        """Refused with 403 for a request that is not of the page that this server gave out."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self.is_own(host):
            raise Refused(403, f"this page is not known as {host[:80]!r}: open it as http://127.0.0.1, with its port")
        if origin is not None and origin != f"{request.url.scheme}://{host}":
            raise Refused(403, f"a page of {origin[:80]!r} may not ask here")
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise Refused(403, "a page of another site may not ask here")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            raise Refused(415, "the body is to be application/json")

    def is_own(self, host: str) -> bool:
        """Whether a Host header names this machine as the page was opened: by address, or by a name it listens on."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in LOCAL or name in (h.lower() for h in self.hosts):
            return True
        return any(is_any_address(h) for h in self.hosts) and is_address(name)


def is_address(name: str) -> bool:
    """Whether a name is an IP address: no other site can have it resolve to this machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_any_address(host: str) -> bool:
    """Whether listening there means listening on all of this machine's addresses: 0.0.0.0, ::."""
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


async def read(request: Request) -> bytes:
    """The body. Refused with 413 above MOST_BYTES."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the request has more than {MOST_BYTES:,} bytes")
    return bytes(body)


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        return parse_object(body or b"{}")
    except ValueError as e:
        raise Refused(400, f"the body is no JSON object: {e}") from None


def sentence(e: RefembedError) -> str:
    """An error on one line: what is wrong, and what to do."""
    text = " ".join(e.message.split())
    hint = f" ({' '.join(e.hint.split())})" if e.hint else ""
    return f"{text[:1].upper()}{text[1:]}{hint}."


def said(status: int, message: str) -> Response:
    """An error as JSON."""
    more = {"content-type": "application/json; charset=utf-8"} | ({"retry-after": "1"} if status == 503 else {})
    return Response(dumps({"error": {"message": message}}), status, headers=HEADERS | more)
