"""What the notebooks of docs/course show besides numbers: the source of a function as it is now, and tables.

    quote(layer_norm)                      its file and its code, read when the cell runs
    table(["token", "id"], [["a", 1]])     rows and columns

Notebooks show the one as Markdown and the other as HTML; elsewhere both are plain text.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from refembed.html.page import esc


@dataclass(frozen=True)
class Markdown:
    """A text that notebooks render."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def quote(function: Callable[..., Any] | type, name: str = "") -> Markdown:
    """The source of a function or a class, without its docstring, and where it stands.

    name  how refembed calls it, where that is not the function's own name
    """
    module = inspect.getmodule(function)
    path = (module.__name__ if module else "").replace(".", "/") + ".py"
    code = without_docstring(textwrap.dedent(inspect.getsource(function)))
    return Markdown(f"`{path}`: `{name or function.__qualname__}`\n\n```python\n{code}\n```\n")


def without_docstring(code: str) -> str:
    """The source of a definition without the text at its head."""
    lines, node = code.rstrip().splitlines(), ast.parse(code).body[0]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))  # what `quote` is given
    first = node.body[0]
    if len(node.body) > 1 and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del lines[first.lineno - 1 : node.body[1].lineno - 1]
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """Rows under a header, as text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{esc(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        return (
            '<div class="table-wrapper" style="overflow-x:auto"><table class="docutils align-default">'
            f"<thead>{row(self.header, 'th')}</thead><tbody>{body}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Rows under a header, each as long as it; floats with six significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return Table(tuple(header), tuple(tuple(map(cell, row)) for row in rows))
