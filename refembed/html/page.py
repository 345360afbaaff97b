"""The frame of a page: escaping, style, sections, and writing the file whole or not at all."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refembed._version import __version__
from refembed.atomic_write import replacing
from refembed.errors import RequestError

STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --paper: #fff; --tint: #f6f8fa; --blue: #0b5cad;
  --orange: #b34700; --violet: #6f42c1; --good: #116329; --bad: #a40e26; --mark: #fff1e5; --odd: #ffebe9;
  color-scheme: light dark; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa4ae; --line: #373e47; --paper: #15191f; --tint: #1e242c; --blue: #6cb2f7;
    --orange: #f0883e; --violet: #bd93f9; --good: #56d364; --bad: #ff7b72; --mark: #3a2a17; --odd: #43191c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .2rem 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .3rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--blue); }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88em; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: .8rem 0 0; padding: 0; }
.lead { color: var(--soft); }
.formula { background: var(--tint); border-left: 3px solid var(--blue); padding: .35rem .7rem; margin: .3rem 0;
  overflow-x: auto; white-space: pre-wrap; }
.source { color: var(--soft); font-size: .88rem; margin: .2rem 0 .6rem; }
.verdict { border: 1px solid var(--line); border-left: 8px solid var(--soft); border-radius: 4px; padding: .7rem 1rem;
  margin: 1rem 0; }
.verdict strong { font-size: 1.25rem; }
.verdict.good { border-left-color: var(--good); } .verdict.good strong { color: var(--good); }
.verdict.bad { border-left-color: var(--bad); } .verdict.bad strong { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .22rem .8rem .22rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 3rem; }
td:first-child:not(.number) { min-width: 5.5rem; }
td:last-child:not(.number):not(:first-child):not(:empty) { min-width: 9rem; }
table.facts td:first-child { min-width: 10rem; color: var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.word { white-space: nowrap; }
tr.marked td { background: var(--mark); }
figure { margin: .8rem 0 1.2rem; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; max-width: 46rem; }
svg { max-width: 100%; height: auto; display: block; }
.plot { overflow-x: auto; }
@media screen and (max-width: 46rem) { .plot svg { max-width: none; width: 44rem; } }
svg text { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
img.map, canvas.map { image-rendering: pixelated; border: 1px solid var(--line); display: block; max-width: 100%; }
.tokens { line-height: 2.1; margin: .4rem 0; overflow-wrap: anywhere; }
.token { border: 1px solid var(--line); border-radius: 3px; padding: .12rem .28rem; margin: 0 .08rem;
  white-space: pre-wrap; display: inline-block; line-height: 1.5; max-width: 100%; font-size: .85rem;
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.token.odd { border: 2px solid var(--bad); background: var(--odd); }
.token small { color: var(--soft); }
td .tokens { margin: 0; line-height: 1.9; }
.scale { display: flex; align-items: center; gap: .5rem; font-size: .85rem; color: var(--soft); margin: .3rem 0; }
.scale span.bar { display: inline-block; width: 9rem; height: .8rem; border: 1px solid var(--line); }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: 4px; padding: .3rem .8rem; }
summary { cursor: pointer; font-weight: 600; }
.controls { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; margin: .5rem 0; align-items: center; }
select, button { font: inherit; padding: .1rem .3rem; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media print { nav, .controls { display: none; } body { max-width: none; } details { break-inside: avoid; } }
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # no network, ever

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
<footer>Written by refembed {version}. This file stands alone: it loads nothing.</footer>
</body>
</html>
"""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; `body` is HTML."""

    id: str
    heading: str
    body: str


def esc(text: object) -> str:
    """Any text as HTML that shows it: markup escaped; control, direction and stray characters made visible."""
    return html.escape("".join(map(visible, str(text))), quote=True)


def visible(c: str) -> str:
    """One character; what no page can show becomes a picture of it, or its number."""
    n = ord(c)
    if c.isprintable():
        return c
    if n < 0x20 or n == 0x7F:
        return chr(0x2421 if n == 0x7F else 0x2400 + n)  # control pictures
    return "\ufffd" if 0xD800 <= n < 0xE000 else "\u00a0" if c.isspace() else f"\\u{{{n:x}}}"


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """A whole page. title is plain text; lead and the sections' bodies are HTML."""
    parts = list(sections)
    links = "".join(f'<li><a href="#{s.id}">{esc(s.heading)}</a></li>' for s in parts)
    bodies = "\n".join(f'<section id="{s.id}">\n<h2>{esc(s.heading)}</h2>\n{s.body}\n</section>' for s in parts)
    return FRAME.format(
        title=esc(title), policy=POLICY, lead=lead, links=links, sections=bodies, style=STYLE, version=esc(__version__)
    )


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    marked: Sequence[int] = (),
    caption: str = "",
    kind: str = "",
) -> str:
    """A table. Cells are HTML already; a head that begins with `>` is a column of numbers.

    marked   rows that are set off
    caption  what the table holds, for those who cannot see where it stands
    kind     "facts": labels in the first column, and what they say
    """
    rows = list(rows)
    kept = [i for i in range(len(heads)) if not rows or any(row[i] for row in rows)]  # a column of nothing says nothing
    heads, rows = [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]
    right = [h.startswith(">") for h in heads]
    cls = [' class="number"' if r else "" for r in right]
    top = "".join(f'<th scope="col"{c}>{esc(h.removeprefix(">"))}</th>' for h, c in zip(heads, cls, strict=True))
    body = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td{c}>{x}</td>" for x, c in zip(row, cls, strict=True))
        body.append(f'<tr class="marked">{cells}</tr>' if i in marked else f"<tr>{cells}</tr>")
    label = (f' class="{kind}"' if kind else "") + (f' aria-label="{esc(caption)}"' if caption else "")
    head = f"<thead><tr>{top}</tr></thead>"
    return f'<div class="wide"><table{label}>{head}<tbody>{"".join(body)}</tbody></table></div>'


def figure(picture: str, caption: str) -> str:
    """A picture (HTML) with words beneath (HTML)."""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def write_page(path: str | Path, text: str) -> Path:
    """Write a page in UTF-8, whole or not at all. RequestError where it cannot be written."""
    target = Path(os.path.realpath(str(path)))
    try:
        with replacing(target) as out:
            out.write(text.encode("utf-8", "replace"))
    except OSError as e:
        hint = "--html takes the name of a file in a folder that exists"
        raise RequestError(f"{path}: cannot be written: {e.strerror or e}", hint=hint) from None
    return target
