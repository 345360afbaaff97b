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
from refembed.html.assets import read_asset

STYLE = read_asset(__file__, "page.css")

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # no network, ever

FRAME = read_asset(__file__, "page.html")


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


def clipped(text: str, most: int) -> str:
    """The beginning of a text, at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


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
