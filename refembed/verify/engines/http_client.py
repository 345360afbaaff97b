"""JSON over HTTP with the standard library, and one sentence for whatever goes wrong.

| what happens                              | EngineError says                                            |
|-------------------------------------------|-------------------------------------------------------------|
| no listener,    no such host, no TLS      | ... cannot be reached: the system's own reason              |
| no answer in time                         | ... gave no answer in N s                                   |
| status 4xx, 5xx                           | ... answered 400: the message in the body                   |
| a redirect                                | ... sends elsewhere: the address                            |
| https where the port speaks HTTP          | ... speaks plain HTTP: within seconds (`http_port`)         |
| HTML, text, broken JSON                   | ... answered with an HTML page "title", not with JSON       |
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from refembed._version import __version__
from refembed.errors import EngineError, RequestError
from refembed.parse_json import parse_json
from refembed.verify.engines.http_port import HANDSHAKE, check_scheme, speaks_tls

LIMIT = 1 << 30  # bytes of one answer; a vector of 4096 numbers takes about 90 KB
PIECE = 1 << 18  # bytes read at a time, so that the clock is looked at
KEY_HINT = "--api-key KEY sends a key, or the environment variable REFEMBED_API_KEY"
HINTS = {  # status: what to try
    401: KEY_HINT,
    403: KEY_HINT,
    429: "the server limits the rate of requests: ask again later, or give fewer texts with --texts FILE",
    501: "llama-server embeds when it is started with --embeddings",
    503: "a server that is still loading its model answers so: ask again when it is ready",
}


class RefusedError(EngineError):
    """The server answered, with a status that is an error."""

    def __init__(self, message: str, status: int, *, hint: str = "") -> None:
        self.status = status
        super().__init__(message, hint=hint)


class NotJsonError(EngineError):
    """The server answered with something else than JSON."""


class Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a POST would arrive as a GET without its body."""

    def redirect_request(self, *_: Any) -> None:
        """None: it stays an error."""


class Client:
    """One server.

    url       an address; `origin` and `path` are its parts, a name and password in it become a header
    api_key   sent as `Authorization: Bearer KEY`; never shown in a message
    timeout   seconds that one request may take, from the connection to the last byte
    headers   to be sent in addition
    """

    def __init__(self, url: str, api_key: str | None, timeout: float, headers: Mapping[str, str] | None) -> None:
        if not timeout > 0:
            raise RequestError(f"timeout={timeout!r}: must be a number of seconds above 0")
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as e:
            raise RequestError(f"{url}: not an address: {e}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise RequestError(f"{url}: not an address of the form http://host:port")
        netloc = f"[{host}]" if ":" in host else host
        self.origin = f"{parts.scheme}://{netloc}" + (f":{port}" if port else "")
        self.path = parts.path.rstrip("/")
        self.query = (
            f"?{parts.query}" if parts.query else ""
        )  # "api-version=..." of some gateways goes with every request
        self.timeout = timeout
        self.headers = {"Accept": "application/json", "User-Agent": f"refembed/{__version__}", **(headers or {})}
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self.headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"
        handlers: list[Any] = [Stay()]
        if is_local(host):  # a proxy from the environment cannot reach this machine
            handlers.append(urllib.request.ProxyHandler({}))
        self.opener = urllib.request.build_opener(*handlers)
        self.host, self.port = host, port
        check_scheme(parts.scheme, host, port, timeout)

    def get(self, path: str) -> Any:
        """The JSON at origin + path."""
        return self.ask(path, None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON answer to a JSON body."""
        return self.ask(path, json.dumps(body).encode())

    def ask(self, path: str, body: bytes | None) -> Any:
        """One request; its answer as JSON."""
        url = self.origin + path + self.query
        headers = self.headers if body is None else {**self.headers, "Content-Type": "application/json"}
        deadline = time.monotonic() + self.timeout
        try:
            request = urllib.request.Request(url, body, headers)
            with self.opener.open(request, timeout=self.timeout) as answer:
                kind, data = answer.headers.get("Content-Type", ""), read(answer, url, deadline, self.timeout)
        except urllib.error.HTTPError as e:
            with e:
                raise refusal(url, e, deadline, self.timeout) from None
        except TimeoutError:
            raise late(url, self.timeout) from None
        except (OSError, http.client.HTTPException, ValueError) as e:
            reason = getattr(e, "reason", e)
            if isinstance(reason, TimeoutError):
                raise late(url, self.timeout) from None
            raise EngineError(
                f"{url} cannot be reached: {reason or type(e).__name__}", hint=self.unreachable(e)
            ) from None
        return parsed(url, kind, data)

    def unreachable(self, error: Exception) -> str:
        """What to try where a connection failed, or was closed without an answer."""
        closed = isinstance(error, (http.client.HTTPException, ConnectionResetError))  # not refused: a server is there
        if closed and self.origin.startswith("http:") and speaks_tls(self.host, self.port or 80, HANDSHAKE):
            return f"this port speaks TLS: write the address as https{self.origin.removeprefix('http')}"
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            return "its certificate is not trusted here: SSL_CERT_FILE=FILE names the authority that signed it"
        return "is the server running, and is this its port?"


def is_local(host: str) -> bool:
    """Whether this names the machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def read(answer: Any, url: str, deadline: float, timeout: float) -> bytes:
    """The whole body, in time and of a size that fits."""
    pieces, size = [], 0
    while piece := answer.read1(PIECE):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline:
            raise late(url, timeout)
        if size > LIMIT:
            raise EngineError(f"{url} answered with more than {LIMIT >> 20} MiB")
    return b"".join(pieces)


def late(url: str, timeout: float) -> EngineError:
    """The error for a server that takes too long."""
    return EngineError(
        f"{url} gave no answer in {timeout:g} s",
        hint="--timeout SECONDS waits longer, --batch 1 sends one text a request",
    )


def refusal(url: str, e: urllib.error.HTTPError, deadline: float, timeout: float) -> RefusedError:
    """The error for a status of 300 and above, with what the body says."""
    if location := e.headers.get("Location"):
        return RefusedError(f"{url} answered {e.code} and sends elsewhere: {location}", e.code, hint="use that address")
    try:
        said = error_message(e.headers.get("Content-Type", ""), read(e, url, deadline, timeout))
    except (OSError, http.client.HTTPException, AttributeError):
        said = ""
    hint = HINTS.get(e.code, "")
    if "--embeddings" in said:  # it says so itself
        hint = ""
    if e.code == 400 and "https" in said.lower():  # nginx: "The plain HTTP request was sent to HTTPS port"
        hint = f"write the address as https{url.removeprefix('http')}"
    return RefusedError(f"{url} answered {e.code}: {said or e.reason or 'nothing more'}", e.code, hint=hint)


def parsed(url: str, kind: str, data: bytes) -> Any:
    """The body as JSON, or an error that says what it is instead."""
    try:
        return parse_json(data)
    except ValueError as e:
        if not data.strip():
            raise NotJsonError(f"{url} answered with an empty body, not with JSON") from None
        if is_html(kind, data):
            hint = "this looks like a web page; the API may have another path or port"
            raise NotJsonError(f"{url} answered with {error_message(kind, data)}, not with JSON", hint=hint) from None
        raise NotJsonError(f"{url} answered with something that is not JSON ({e}): {data[:80]!r}") from None


def is_html(kind: str, data: bytes) -> bool:
    """Whether this is a page rather than an answer."""
    return "html" in kind.lower() or bool(re.match(rb"\s*<(!doctype|html|head|body)", data[:200], re.IGNORECASE))


def error_message(kind: str, data: bytes) -> str:
    """What a body says: the message in its JSON, the title of its page, or how it begins; one line."""
    if is_html(kind, data):
        title = re.search(rb"<title[^>]*>(.*?)</title", data[:20000], re.IGNORECASE | re.DOTALL)
        return "an HTML page" + (f" {one_line(title[1].decode(errors='replace'))!r}" if title else "")
    try:
        found = parse_json(data)
    except ValueError:
        return one_line(data.decode(errors="replace"))
    for key in ("error", "message", "detail", "msg"):  # llama-server, OpenAI; TEI, Ollama; FastAPI, vLLM
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return one_line(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))


def one_line(text: str, most: int = 300) -> str:
    """White space folded, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + " ..."
