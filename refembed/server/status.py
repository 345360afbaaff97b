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
    """What moves."""
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
    """The page."""
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

MORE_STYLE = """
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d; --paper: #0d1117; --tint: #161b22;
    --blue: #6cb6ff; --orange: #f0883e; --good: #56d364; --bad: #ff7b72; }
  .token small { color: var(--soft); }
}
td span { font-variant-numeric: tabular-nums; }
label { display: block; font-weight: 600; margin: .8rem 0 .2rem; }
textarea, input { width: 100%; font: inherit; color: inherit; background: var(--tint); padding: .4rem .5rem;
  border: 1px solid var(--line); border-radius: 4px; }
textarea { min-height: 4.5rem; resize: vertical; }
button { margin: .8rem 0; padding: .35rem 1rem; color: inherit; background: var(--tint); border-radius: 4px;
  border: 1px solid var(--soft); cursor: pointer; }
button:disabled { opacity: .6; cursor: default; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.2rem; }
.answer { font-size: 1.5rem; font-variant-numeric: tabular-nums; margin: .2rem 0; min-height: 2.2rem; }
.trouble { color: var(--bad); }
@media (max-width: 40rem) { .two { grid-template-columns: 1fr; } table.facts td:first-child { min-width: 7rem; } }
"""

KEY = """<section id="door">
<h2>API key</h2>
<noscript><p>This server wants an API key. A script has to send it, and scripts are blocked.</p></noscript>
<div id="ask" hidden>
<label for="key">This server wants one of its API keys. It stays in this page and is gone when you leave.</label>
<input id="key" type="password" autocomplete="off" spellcheck="false">
<button id="enter" type="button">Use this key</button>
</div>
</section>
"""

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1 id="title">{title}</h1>
<p class="lead">Texts to vectors over HTTP.</p>
</header>
<main>
{key}<p id="trouble" class="trouble" role="alert"></p>
<div id="inside"{hidden}>
<section id="model-facts">
<h2>Model</h2>
{facts}
<p><a href="openapi.json">What it takes and gives (OpenAPI)</a></p>
</section>
<section id="server-figures">
<h2>Now</h2>
{figures}
</section>
<section id="compare">
<h2>Two texts</h2>
<noscript><p>Comparing needs scripts, and they are blocked.</p></noscript>
<div id="box" hidden>
<div class="two">
<div><label id="name-a" for="a">One</label><textarea id="a">How do I cook pasta?</textarea></div>
<div><label id="name-b" for="b">Other</label><textarea id="b">A recipe for spaghetti</textarea></div>
</div>
<button id="go" type="button">Compare</button>
<p id="answer" class="answer" role="status"></p>
<p id="meaning" class="source"></p>
<div class="two">
<div><h3 id="count-a"></h3><div id="tokens-a" class="tokens"></div></div>
<div><h3 id="count-b"></h3><div id="tokens-b" class="tokens"></div></div>
</div>
</div>
</section>
</div>
</main>
<script type="application/json" id="settings">{settings}</script>
<script>{script}</script>
</body>
</html>
"""

SCRIPT = r"""
"use strict";
const at = id => document.getElementById(id);
const settings = JSON.parse(at("settings").textContent);
let key = "", kind = settings.kind, timer = 0;

async function ask(path, body) {
  const headers = key ? {"Authorization": "Bearer " + key} : {};
  const how = body === undefined ? {headers} : {method: "POST", headers, body: JSON.stringify(body)};
  const answer = await fetch(path, {...how, cache: "no-store", credentials: "omit"});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error.message);
  return found;
}

async function refresh() {
  clearTimeout(timer);
  try {
    const found = await ask("status");
    for (const [name, value] of Object.entries(found)) if (at(name)) at(name).textContent = String(value);
    at("title").textContent = document.title = "refembed: " + found.model;
    kind = found.pooling === "rank" ? "rank" : found.pooling === "none" ? "none" : "pair";
    at("trouble").textContent = "";
    open_box();
  } catch (e) {
    at("trouble").textContent = e instanceof TypeError ? "The server does not answer." : e.message;
    if (settings.guarded && !(e instanceof TypeError)) return;
  }
  timer = setTimeout(refresh, document.hidden ? 10000 : 2000);
}

function open_box() {
  at("box").hidden = at("inside").hidden = false;
  if (at("ask")) at("door").hidden = true;
  if (kind === "rank") { at("name-a").textContent = "Query"; at("name-b").textContent = "Document"; }
}

function show_tokens(side, tokens) {
  at("count-" + side).textContent = tokens.length + (tokens.length === 1 ? " token" : " tokens");
  at("tokens-" + side).replaceChildren(...tokens.map(({id, piece}) => {
    const box = document.createElement("span"), number = document.createElement("small");
    box.className = "token";
    const bytes = b => "\\x" + b.toString(16).padStart(2, "0");
    box.textContent = typeof piece === "string" ? piece : piece.map(bytes).join("");
    number.textContent = " " + id;
    box.append(number);
    return box;
  }));
}

function cosine(x, y) {
  let xy = 0, xx = 0, yy = 0;
  for (let i = 0; i < x.length; i++) { xy += x[i] * y[i]; xx += x[i] * x[i]; yy += y[i] * y[i]; }
  return xx && yy ? xy / Math.sqrt(xx * yy) : xx === yy ? 1 : 0;
}

async function measure(a, b) {
  if (kind === "rank") {
    const found = await ask("v1/rerank", {query: a, documents: [b]});
    return [found.results[0].relevance_score, "score, as the model's head gives it"];
  }
  if (kind === "none") return [null, "With pooling none each token has a vector, and a text has none."];
  const found = await ask("v1/embeddings", {input: [a, b], encoding_format: "float"});
  return [cosine(found.data[0].embedding, found.data[1].embedding), "cosine: 1 alike, 0 unrelated"];
}

async function compare() {
  const a = at("a").value, b = at("b").value;
  at("go").disabled = true;
  at("answer").textContent = at("meaning").textContent = "";
  try {
    const options = {add_special: kind !== "rank", parse_special: kind !== "rank", with_pieces: true};
    for (const [side, text] of [["a", a], ["b", b]])
      show_tokens(side, (await ask("tokenize", {content: text, ...options})).tokens);
    const [value, meaning] = await measure(a, b);
    at("answer").textContent = value === null ? "" : value.toFixed(6);
    at("meaning").textContent = meaning;
    at("trouble").textContent = "";
  } catch (e) {
    at("trouble").textContent = e instanceof TypeError ? "The server does not answer." : e.message;
  }
  at("go").disabled = false;
}

function enter() { key = at("key").value; at("key").value = ""; refresh(); }

at("go").addEventListener("click", compare);
if (settings.guarded) {
  at("ask").hidden = false;
  at("enter").addEventListener("click", enter);
  at("key").addEventListener("keydown", e => { if (e.key === "Enter") enter(); });
} else {
  open_box();
  timer = setTimeout(refresh, 2000);
}
"""

LOADING = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>refembed</title>
<link rel="icon" href="data:,"></head><body><p>The model is being loaded.</p></body></html>
"""
