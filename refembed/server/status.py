"""GET /: a page that says what runs here, and compares two texts. GET /status: the same figures as JSON.

The page holds its facts as text, so it reads without scripts; a script keeps the figures fresh and compares. It loads
nothing but answers of this server. Where there are API keys it holds no facts: it asks for a key, which stays in the
page's own memory, and fetches them.
"""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from refembed._version import __version__
from refembed.html.assets import read_asset
from refembed.html.page import STYLE, esc, table
from refembed.server.replies import reply
from refembed.server.state import State

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

FACTS = (  # of /status, key -> what the page calls it
    ("model", "Model"),
    ("architecture", "Architecture"),
    ("pooling", "Pooling"),
    ("normalize", "Normalized"),
    ("dimension", "Numbers a vector"),
    ("numerics", "Numerics"),
    ("context", "Longest text, tokens"),
    ("weights", "Weights"),
    ("version", "Server"),
)
FIGURES = (
    ("uptime", "Up, seconds"),
    ("texts", "Texts"),
    ("tokens", "Tokens"),
    ("tokens_per_second", "Tokens a second, last 10 s"),
    ("tokens_per_second_computing", "Tokens a second while computing"),
    ("processing", "Requests being computed"),
    ("waiting", "Requests waiting"),
)
NORMS = {-1: "no", 0: "largest magnitude 32760", 1: "taxicab", 2: "Euclid"}


async def status(state: State, request: Request) -> Response:
    """GET /status: facts and figures."""
    return reply(facts(state) | figures(state))


async def page(state: State, request: Request) -> Response:
    """GET /, /index.html."""
    if not state.loaded:
        return Response(LOADING, 503, headers=HEADERS | {"retry-after": "2"})
    return Response(render(state), headers=HEADERS)


def facts(state: State) -> dict[str, Any]:
    """What stays as it is."""
    info, how = state.embedder.info, state.how
    norm = state.settings.embd_normalize
    return {
        "model": state.settings.name,
        "architecture": info.architecture,
        "pooling": how,
        "normalize": "no" if how in ("none", "rank") else NORMS.get(norm, f"{norm}-norm"),
        "dimension": state.embedder.width(how),
        "numerics": info.numerics,
        "context": state.limits.longest,
        "weights": f"{state.facts.file_type}, {state.facts.n_params:,} numbers, {state.facts.size:,} bytes",
        "version": f"refembed {__version__}",
    }


def figures(state: State) -> dict[str, Any]:
    m = state.metrics
    return {
        "uptime": round(time.time() - state.started),
        "texts": m.texts,
        "tokens": m.tokens,
        "tokens_per_second": round(m.recent(), 1),
        "tokens_per_second_computing": round(m.tokens / m.seconds, 1) if m.seconds else 0.0,
        "processing": m.processing,
        "waiting": m.deferred,
    }


def render(state: State) -> str:
    guarded = bool(state.settings.api_keys)
    known: dict[str, Any] = {} if guarded else facts(state) | figures(state)
    kind = "" if guarded else {"rank": "rank", "none": "none"}.get(state.how, "pair")
    title = "refembed" if guarded else f"refembed: {known['model']}"
    return FRAME.format(
        title=esc(title),
        style=STYLE + MORE_STYLE,
        facts=rows(FACTS, known, "What the model is"),
        figures=rows(FIGURES, known, "What the server does"),
        key=KEY if guarded else "",
        hidden=" hidden" if guarded else "",
        settings=json.dumps({"guarded": guarded, "kind": kind}),
        script=SCRIPT,
    )


def rows(names: tuple[tuple[str, str], ...], known: dict[str, Any], caption: str) -> str:
    """A table with a cell a fact, which the script can fill."""
    cells = [(esc(what), f'<span id="{key}">{esc(known.get(key, ""))}</span>') for key, what in names]
    return table(("", ""), cells, caption=caption, kind="facts").replace(EMPTY_HEAD, "")


EMPTY_HEAD = '<thead><tr><th scope="col"></th><th scope="col"></th></tr></thead>'

MORE_STYLE = read_asset(__file__, "status.css")

KEY = read_asset(__file__, "status_key.html")

FRAME = read_asset(__file__, "status.html")

SCRIPT = read_asset(__file__, "status.js")

LOADING = read_asset(__file__, "loading.html")
