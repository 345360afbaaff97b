"""The cells of docs/course/*.md, and `python -m tools.lessons`: the lessons as notebooks, run, in build/notebooks.

A lesson is a notebook in MyST Markdown, which Jupytext and MyST-NB read. `cells` reads as much of that as these files
have, so that tests run a lesson without Jupyter. Notebooks need the extra `docs` (Jupytext, nbclient, ipykernel).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "docs" / "course"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = re.compile(r"\A(?::[^\n]*\n)+")
TAGS = re.compile(r"^:tags: \[([^\]]*)\]$", re.MULTILINE)
HIDDEN = ("hide-input", "hide-cell")  # folded on a page, and in a notebook


class Cell(NamedTuple):
    """One cell of code."""

    line: int  # of its first line in the file
    tags: tuple[str, ...]
    code: str


def lessons() -> list[Path]:
    """The files, in order."""
    return sorted(COURSE.glob("[0-9]*.md"))


def cells(path: Path) -> list[Cell]:
    """The code of a lesson."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in CELL.finditer(text):
        options = OPTIONS.match(match[1])
        head = options[0] if options else ""
        tags = TAGS.search(head)
        line = text[: match.start(1)].count("\n") + 1 + head.count("\n")
        found.append(Cell(line, tuple(tags[1].replace(" ", "").split(",")) if tags else (), match[1][len(head) :]))
    return found


def prose(path: Path) -> str:
    """What is not code, without the header."""
    return CELL.sub("", path.read_text(encoding="utf-8").split("\n---\n", 1)[1])


def write_notebook(path: Path, folder: Path, timeout: int) -> Path:
    """Convert a lesson, run it, and write it with its outputs."""
    try:
        import jupytext
        import nbformat
        from nbclient import NotebookClient
    except ImportError as e:
        sys.exit(f"{e.name} is not installed: pip install '.[docs]', or make notebooks")

    notebook = jupytext.read(path)
    for cell in notebook.cells:
        if set(HIDDEN) & set(cell.metadata.get("tags", ())):
            cell.metadata["jupyter"] = {"source_hidden": True}
        if cell.cell_type == "markdown":  # links to other lessons work; those to pages become names
            cell.source = re.sub(r"\((\d\d-[\w-]+)\.md\)", r"(\1.ipynb)", cell.source)
            cell.source = re.sub(r"\[([^\]]+)\]\(\.\./([\w-]+\.md)\)", r"\1 (`docs/\2`)", cell.source)
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    target = folder / f"{path.stem}.ipynb"
    nbformat.write(notebook, target)
    return target


def main(arguments: list[str] | None = None) -> int:
    """Write all notebooks, or those of some lessons."""
    parser = argparse.ArgumentParser(prog="python -m tools.lessons", description=__doc__)
    parser.add_argument("lessons", nargs="*", type=Path, help="Markdown files (all of docs/course)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "notebooks")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.lessons or lessons():
        print(write_notebook(path, options.output, options.timeout), file=sys.stderr)  # noqa: T201  # its job
    return 0


if __name__ == "__main__":
    sys.exit(main())
