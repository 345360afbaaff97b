"""What a person reads: notes on stderr, tables on stdout. Colored on a terminal, plain aligned text elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from refembed.pipeline.progress import is_terminal as is_terminal

ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def note(message: str, *, quiet: bool = False) -> None:
    """A remark on stderr."""
    if not quiet:
        click.echo(message, err=True)


def decode(text: str | bytes) -> str:
    """Characters of a text; bytes that are not UTF-8, and halves of surrogate pairs, become U+FFFD."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return raw.decode("utf-8", "replace")


def escape(text: str | bytes, limit: int | None = None) -> str:
    """A text on one line that no terminal acts upon.

    Control characters, direction marks and bytes that are not UTF-8 are shown as `\\n`, `\\x1b`, `\\u202e`.
    limit  longest result, in characters; what is longer ends in `...`
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    shown = "".join(c if c.isprintable() else ESCAPES.get(c) or escape_character(c) for c in text[:limit])
    if limit is not None and (len(shown) > limit or len(text) > limit):
        shown = shown[: limit - 3] + "..."
    return shown


def escape_character(c: str) -> str:
    """One unprintable character; a surrogate that stands for a stray byte is shown as that byte."""
    n = ord(c)
    if 0xDC80 <= n <= 0xDCFF:
        n -= 0xDC00
    return f"\\x{n:02x}" if n < 0x100 else f"\\u{n:04x}" if n < 0x10000 else f"\\U{n:08x}"


def fold(text: str, indent: str = "", head: str = "", color: str = "") -> str:
    """A paragraph in lines of the terminal's width; as it is where stdout is no terminal: for grep.

    indent  in front of every line but the first
    head    what the text begins with, shown bold and in a color
    """
    if is_terminal(sys.stdout):
        width = max(shutil.get_terminal_size().columns, 40)
        text = textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return click.style(head, fg=color, bold=True) + text[len(head) :] if head and text.startswith(head) else text


def print_json(value: Any) -> None:
    """One line of JSON on stdout, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace") + b"\n")


def spell_shape(shape: Sequence[int]) -> str:
    """`3x32`; `()` for a single number."""
    return "x".join(map(str, shape)) or "()"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, alarming: str = "") -> None:
    """Print rows of strings under column heads.

    columns   heads; one that begins with `>` is set flush right
    alarming  the head of a column whose cells are red where they are not empty
    """
    heads, right = [c.removeprefix(">") for c in columns], [c.startswith(">") for c in columns]
    if is_terminal(sys.stdout):
        rich_table(heads, right, rows, alarming)
    else:
        plain_table(heads, right, list(rows))


def plain_table(heads: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns two spaces apart, never cut or wrapped: for grep and awk."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        click.echo("  ".join(cells).rstrip())


def rich_table(heads: Sequence[str], right: Sequence[bool], rows: Iterable[Sequence[str]], alarming: str) -> None:
    """The same in color, folded to the terminal's width. Honors NO_COLOR and COLUMNS."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head, r in zip(heads, right, strict=True):  # texts may be folded, numbers never
        grid.add_column(head, justify="right" if r else "left", overflow="fold", no_wrap=r)
    for row in rows:
        grid.add_row(*(Text(c, "bold red" if h == alarming else "") for c, h in zip(row, heads, strict=True)))
    Console(highlight=False).print(grid)
