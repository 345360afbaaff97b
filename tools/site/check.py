"""Whether the finished site holds together: `python -m tools.site.check docs/build/html`, the last step of `make docs`.

Every link and picture of every page leads to a file of the site, and to a place that is in it; no page loads a script,
a style or a font from elsewhere, so that the site can be read from a disk. Links to other sites are not followed here:
`make docs-links` does that.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
FETCHES = re.compile(r"url\(\s*['\"]?(https?:|//)|@import\s+['\"]?(https?:|//)")


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.has_main = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One element."""
        found = {name: value or "" for name, value in attrs}
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "author", "license"):
            self.loaded.append(found.get("href", ""))
        elif tag in LOADED and LOADED[tag] in found:
            self.loaded.append(found[LOADED[tag]])


def faults(site: Path) -> Iterator[str]:
    """What does not hold, a line each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no pages"
    for path, page in pages.items():
        where = path.relative_to(site)
        for link in page.loaded:
            if urlsplit(link).scheme in ("http", "https") or link.startswith("//"):
                yield f"{where}: loads {link}"
        for link in [*page.links, *page.loaded]:
            yield from (f"{where}: {link}: {fault}" for fault in fault_of(link, path, pages))
    for path in sorted(site.rglob("*.css")):
        if FETCHES.search(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: loads from elsewhere"


def fault_of(link: str, path: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Why a link leads nowhere, if it does not."""
    url = urlsplit(link)
    if url.scheme or link.startswith("//"):
        return
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    if not target.exists():
        yield "no such file"
    elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].places:
        yield "no such place in it"


def main() -> None:
    """Print what does not hold; exit code 1 where there is anything."""
    site = Path(sys.argv[1]).resolve()
    found = list(faults(site))
    for line in found:
        print(line)  # noqa: T201  # it is a program
    pages = sum(1 for _ in site.rglob("*.html"))
    print(f"{pages} pages, {len(found)} faults", file=sys.stderr)  # noqa: T201  # likewise
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
