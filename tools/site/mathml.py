"""Formulas as MathML, which browsers show by themselves: MathJax would be fetched from another site."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert


def show(self: Any, node: Any) -> None:
    """A formula within a line."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def show_block(self: Any, node: Any) -> None:
    """A formula of its own."""
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (show, None), (show_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
