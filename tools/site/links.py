"""Links of Markdown pages that leave docs/, and the files they lead to.

A reader of the repository follows `[...](../refembed/model/bert.py)` to the file. On the site the same link leads to a
page `source/refembed/model/bert.py.html` with the file in it, highlighted; and the pages named in SHOWN, which lie
outside of docs/ because the repository's front page looks for them there, are pages of the site.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

ROOT = Path(__file__).parents[2]
SHOWN = {  # page of the site -> the file of the repository that it shows
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
    "project/reporting": "SECURITY.md",
    "project/tests": "tests/README.md",
    "conformance": "conformance/README.md",
}
PAGES = {file: page for page, file in SHOWN.items()} | {"README.md": "index"}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|//)([^)#\s]+)(#[^)\s]*)?(?=\))")
TEXTS = (".py", ".md")  # files of a linked folder that are shown
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
linked: set[str] = set()  # files that pages link to; each becomes a page


def on_source_read(app: Any, docname: str, source: list[str]) -> None:
    """Put the file that a page shows into it, and make its links lead to pages of the site."""
    home = Path("docs", docname).parent
    if docname in SHOWN:
        home = Path(SHOWN[docname]).parent
        source[0] = (ROOT / SHOWN[docname]).read_text(encoding="utf-8")
    source[0] = rewritten(source[0], docname, home)


def rewritten(text: str, docname: str, home: Path) -> str:
    """A page's Markdown with links that the site can follow.

    docname  the page, without its suffix
    home     the folder of the repository that its links start from
    """

    def replace(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        file = os.path.normpath(home / path)
        if not (ROOT / file).exists():
            return match[0]  # a page that is made while the site is, or a mistake, which Sphinx then reports
        return target_of(file, docname) + (anchor if file.endswith(".md") else "")

    pieces, at = [], 0
    for fence in FENCE.finditer(text):
        pieces += [LINK.sub(replace, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*pieces, LINK.sub(replace, text[at:])])


def target_of(file: str, docname: str) -> str:
    """What a page links to for a file or folder of the repository."""
    here = Path(docname).parent
    if file in PAGES:
        return Path(os.path.relpath(PAGES[file], here)).as_posix() + ".md"
    if file.startswith("docs/"):  # a page, or a picture
        return Path(os.path.relpath(file.removeprefix("docs/"), here)).as_posix()
    linked.add(file)
    return "source:" + Path(os.path.relpath(f"source/{file}.html", here)).as_posix()


def source_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file and folder that is linked to; a linked folder's texts become pages too."""
    folders = [file for file in linked if (ROOT / file).is_dir()]
    texts = {
        f"{folder}/{path.name}" for folder in folders for path in (ROOT / folder).iterdir() if path.suffix in TEXTS
    }
    for file in sorted(linked | texts):
        path = ROOT / file
        body = folder_page(file, linked | texts) if path.is_dir() else file_page(path)
        yield f"source/{file}", {"title": file, "body": f"<h1>{html.escape(file)}</h1>{body}"}, "page.html"


def folder_page(file: str, pages: set[str]) -> str:
    """What a folder holds; what is a page is a link."""
    rows = []
    for path in sorted((ROOT / file).iterdir()):
        name = html.escape(path.name)
        if f"{file}/{path.name}" in pages:
            rows.append(f'<li><a href="{html.escape(Path(file).name)}/{name}.html">{name}</a></li>')
        elif not path.name.startswith((".", "__pycache__")):
            rows.append(f"<li>{name}</li>")
    return f"<ul>{''.join(rows)}</ul>"


def file_page(path: Path) -> str:
    """A file, highlighted; one that is not text is named and no more."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "<p>Not a text.</p>"
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter(lineanchors="L"))


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this."""
    linked.clear()
    app.connect("source-read", on_source_read, priority=100)
    app.connect("html-collect-pages", source_pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
