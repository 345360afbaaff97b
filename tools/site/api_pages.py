"""A page of the site for each public package, made of docstrings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import refembed
from tools.site.public_names import INTERNAL, PACKAGES, VERIFY

TITLES = {
    "refembed": "the way in",
    "refembed.batch": "rows with vectors, in any engine",
    "refembed.chunk": "long texts in pieces",
    "refembed.convert": "Hugging Face folders to GGUF",
    "refembed.corpus": "vectors that survive a kill",
    "refembed.evaluate": "retrieval measured",
    "refembed.gguf": "files",
    "refembed.hub": "models by name",
    "refembed.pooling": "from tokens to one vector",
    "refembed.similarity": "vectors compared",
    "refembed.testing": "properties for other engines",
}


def entry(full: str) -> list[str]:
    """autodoc's directive for a public name: a class with its methods, a function, or a value."""
    module, _, name = full.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, type):
        lines = [f".. autoclass:: {full}", "   :members:", "   :inherited-members: tuple, Exception, object"]
        if left_out := INTERNAL.get(name):
            lines.append(f"   :exclude-members: {', '.join(left_out.split())}")
        return [*lines, ""]
    return [
        f".. {'autofunction' if callable(value) else 'autodata'}:: {full}",
        *([] if callable(value) else ["   :no-value:"]),
        "",
    ]


def page(package: str) -> str:
    """Markdown, with reStructuredText where autodoc wants it."""
    module = importlib.import_module(package)
    names = [f"{package}.{name}" for name in module.__all__ if not name.startswith("__")]
    if package == "refembed":
        names += [f"refembed.{name}" for name in refembed.ERRORS]
    lines = [
        f"# `{package}`: {TITLES[package]}",
        "",
        "```{eval-rst}",
        f".. automodule:: {package}",
        "   :no-members:",
        "",
    ]
    for name in names:
        lines += entry(name)
    return "\n".join([*lines, "```", ""])


def verify_page() -> str:
    """What stands in no package's list of names."""
    lines = ["# `refembed.verify`, and what tools are made of", "", "```{eval-rst}"]
    for name in VERIFY:
        lines += entry(name)
    return "\n".join([*lines, "```", ""])


def first_page(names: list[str]) -> Iterator[str]:
    """The list of packages."""
    yield from (
        "# Python",
        "",
        "Every example is run by the tests. [What may change](../../stability.md) says which names are stable.",
        "",
    )
    yield from ("| | |", "|---|---|")
    yield from (f"| [`{package}`]({package}.md) | {TITLES[package]} |" for package in PACKAGES)
    yield "| [`refembed.verify`](refembed.verify.md) | engines compared, and what tools are made of |"
    yield from ("", "```{toctree}", ":hidden:", "", *names, "```", "")


def write(folder: Path) -> None:
    """One file a package, and index.md."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        (folder / f"{package}.md").write_text(page(package), encoding="utf-8")
    (folder / "refembed.verify.md").write_text(verify_page(), encoding="utf-8")
    (folder / "index.md").write_text("\n".join(first_page([*PACKAGES, "refembed.verify"])), encoding="utf-8")
