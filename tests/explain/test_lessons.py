"""What notebooks of the course show besides numbers."""

from __future__ import annotations

import ast
import inspect
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from refembed.explain.lessons import Markdown, quote, table
from refembed.kernels.exact import activations, norms
from refembed.tokenizer.wordpiece import WordPiece


def code_of(quoted: Markdown) -> str:
    return quoted.text.split("```python\n")[1].rstrip("`\n")


@pytest.mark.parametrize("function", [norms.layer_norm, activations.silu, WordPiece.match])
def test_a_quotation_is_the_source_without_its_docstring(function: Callable[..., Any]) -> None:
    sources = (code_of(quote(function)), textwrap.dedent(inspect.getsource(function)))
    found, full = (ast.parse(source).body[0] for source in sources)
    assert isinstance(found, ast.FunctionDef)
    assert isinstance(full, ast.FunctionDef)
    assert ast.get_docstring(full)
    assert [ast.dump(node) for node in found.body] == [ast.dump(node) for node in full.body[1:]]
    assert found.name == full.name


def test_a_quotation_names_its_file_and_says_what_it_is() -> None:
    assert quote(norms.layer_norm).text.startswith("`refembed/kernels/exact/norms.py`: `layer_norm`\n")
    assert quote(norms.layer_norm, "LN")._repr_markdown_().startswith("`refembed/kernels/exact/norms.py`: `LN`\n")


def test_a_table_is_html_in_a_notebook_and_plain_text_elsewhere() -> None:
    shown = table(["a", "b<c"], [(1 / 3, "x&y"), (2, "z")])
    html = ET.fromstring(shown._repr_html_())
    assert [[cell.text for cell in row] for row in html.iter("tr")] == [["a", "b<c"], ["0.333333", "x&y"], ["2", "z"]]
    assert repr(shown) == "a         b<c\n0.333333  x&y\n2         z"
