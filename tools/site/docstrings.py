"""Docstrings of this repository as reStructuredText.

They are plain text that help() prints well: a list of arguments is a column of names and a column of what they are,
code stands in single back quotes, and what is indented is meant to be seen as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

ENTRY = re.compile(r"^(?P<name>[\w*][\w*., ]*?) {2,}(?P<text>\S.*)$")
CODE = re.compile(r"(`+)(.+?)\1")


def inline(text: str) -> str:
    """A line of prose: code as code, and nothing else a mark."""
    pieces, at = [], 0
    for match in CODE.finditer(text):
        pieces += [plain(text[at : match.start()]), f"``{match[2].strip()}``"]
        at = match.end()
        if text[at : at + 1].isalnum():  # `code`s
            pieces.append("\\ ")
    return "".join([*pieces, plain(text[at:])])


def plain(text: str) -> str:
    """Prose whose characters mean themselves; a page of docs/ becomes a link."""
    text = re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)
    return re.sub(r"(?<!\w)docs/([\w/-]+)\.md", r":doc:`docs/\1.md </\1>`", text)


def indent_of(line: str) -> int:
    """Spaces in front."""
    return len(line) - len(line.lstrip())


def converted(lines: Sequence[str]) -> list[str]:
    """The lines of a docstring, as Sphinx reads them."""
    out: list[str] = []
    for block in blocks(lines):
        out += [*converted_block(block), ""]
    return out


def blocks(lines: Sequence[str]) -> list[list[str]]:
    """Runs of lines that are not blank."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line.rstrip())
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def converted_block(block: list[str]) -> list[str]:
    """One run of lines: an example, something to be seen as it stands, or prose with lists of names in it."""
    if block[0].lstrip().startswith(">>>"):
        return block
    if all(indent_of(line) for line in block):
        return ["::", "", *(f"  {line}" for line in block)]
    out: list[str] = []
    i = 0
    while i < len(block):
        line = block[i]
        entry = ENTRY.match(line)
        continues = i + 1 < len(block) and indent_of(block[i + 1]) > 0
        if entry is None and not continues:
            out.append(inline(line))
            i += 1
            continue
        head, text = (entry["name"], [entry["text"]]) if entry else ("", [line])
        i += 1
        while i < len(block) and indent_of(block[i]):
            text.append(block[i].strip())
            i += 1
        if not entry:  # prose that goes on further in
            out += [inline(t) for t in text]
            continue
        out += ["", f"``{head.strip()}``", *(f"   {inline(t)}" for t in text), ""]
    return out


def on_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc asks for each docstring."""
    lines[:] = converted(lines)


def on_skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a named tuple are in its signature; "Alias for field number 0" says no more."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-skip-member", on_skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
