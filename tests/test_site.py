"""What `make docs` makes of code: links that lead nowhere are found, docstrings keep their sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from refembed.cli import COMMANDS
from refembed.server.openapi import ENDPOINTS, SCHEMAS
from tools.site import api_pages, architectures, check, cli_pages, commands, docstrings, links, openapi_page
from tools.site.public_names import PACKAGES, VERIFY

ROOT = Path(__file__).parents[1]
GOOD = '<html><body id="top"><a href="b.html#here">b</a><img src="i.png"></body></html>'
BAD = {  # what stands in a page -> what is said of it
    '<a href="c.html">': "c.html: no such file",
    '<a href="b.html#there">': "b.html#there: no such place in it",
    '<a href="#nowhere">': "#nowhere: no such place in it",
    '<img src="j.png">': "j.png: no such file",
    '<script src="https://example.org/x.js"></script>': "loads https://example.org/x.js",
    '<link rel="stylesheet" href="//example.org/x.css">': "loads //example.org/x.css",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text('<p id="here"><a href="a.html">a</a> <a href="https://example.org">e</a></p>')
    (tmp_path / "i.png").write_bytes(b"")
    return tmp_path


def test_a_site_that_holds_together_has_no_faults(site: Path) -> None:
    assert list(check.faults(site)) == []


@pytest.mark.parametrize("planted", BAD)
def test_a_planted_fault_is_found(site: Path, planted: str) -> None:
    (site / "a.html").write_text(GOOD.replace("</body>", f"{planted}</body>"))
    assert list(check.faults(site)) == [f"a.html: {BAD[planted]}"]


def test_a_style_that_loads_from_elsewhere_is_found(site: Path) -> None:
    (site / "s.css").write_text("@font-face { src: url( 'https://example.org/f.woff') }")
    assert list(check.faults(site)) == ["s.css: loads from elsewhere"]
    (site / "s.css").write_text("a { background: url(data:image/png;base64,AA) }")
    assert list(check.faults(site)) == []


DOCSTRING = """\
First line with `code` and a*b, x_t and T_.

a, b      what they are,
          and more
n_ubatch  `0`: none
Raises ValueError for `c`s.

    as it stands   |x|

>>> 1 + 1
2
"""
CONVERTED = """\
First line with ``code`` and a\\*b, x_t and T\\_.


``a, b``
   what they are,
   and more


``n_ubatch``
   ``0``: none

Raises ValueError for ``c``\\ s.

::

      as it stands   |x|

>>> 1 + 1
2
"""


def test_a_docstring_keeps_its_sense() -> None:
    assert "\n".join(docstrings.converted(DOCSTRING.splitlines())) == CONVERTED


def test_links_lead_to_pages_of_the_site() -> None:
    links.linked.clear()
    text = "[a](../refembed/model/bert.py) [b](verify.md#how) [c](../CONTRIBUTING.md) [d](https://e.org) [e](#f)\n"
    assert links.rewritten(text, "tour", Path("docs")) == (
        "[a](source:source/refembed/model/bert.py.html) [b](verify.md#how) [c](project/contributing.md) "
        "[d](https://e.org) [e](#f)\n"
    )
    assert links.linked == {"refembed/model/bert.py"}
    assert links.rewritten("[x](docs/tour.md)", "project/contributing", Path()) == "[x](../tour.md)"
    picture = "![a plot](tradeoff-amd-epyc-2-cores-linux.svg)"
    assert links.rewritten(picture, "tradeoff", Path("docs")) == picture
    fenced = "```python\na[0](../refembed/model/bert.py)\n```\n"
    assert links.rewritten(fenced, "tour", Path("docs")) == fenced


def test_every_public_name_is_on_a_page() -> None:
    """Those that tests/test_docstrings.py wants examples of."""
    shown = "".join(map(api_pages.page, api_pages.PACKAGES)) + api_pages.verify_page()
    names = [f"{p}.{n}" for p in PACKAGES for n in __import__(p, fromlist=["x"]).__all__]
    names += VERIFY
    assert [name for name in names if f":: {name}\n" not in shown and not name.endswith("__")] == []
    assert api_pages.TITLES.keys() == set(api_pages.PACKAGES)


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_s_page_has_its_options(verb: str) -> None:
    command = next(c for c in commands.commands() if c.name == f"refembed {verb}")
    page = cli_pages.page(command)
    assert len(command.options) > 1
    assert [spelling for spelling, _ in command.options if f"`{spelling}`\n: " not in page] == []


def test_an_option_s_help_means_itself() -> None:
    assert cli_pages.escaped("as `*-0`, a*b <c> [d] _e") == "as `*-0`, a\\*b \\<c\\> \\[d\\] \\_e"


def test_every_endpoint_and_schema_is_on_the_server_s_page() -> None:
    page = openapi_page.page()
    paths = [path for _, names, *_ in ENDPOINTS for path in names.split()]
    assert [path for path in paths if path not in page] == []
    assert [name for name in SCHEMAS if f"### {name}\n" not in page] == []
    assert "| `input` |  | [Texts](#texts) |" in page


def test_every_architecture_has_a_page_that_the_table_leads_to(tmp_path: Path) -> None:
    from refembed.model import ARCHITECTURES

    (tmp_path / "architectures.md").write_text((ROOT / "docs/architectures.md").read_text(encoding="utf-8"))
    architectures.write(tmp_path)
    pages = {path.stem for path in (tmp_path / architectures.FOLDER).glob("*.md")}
    assert pages == {*ARCHITECTURES, "measured"}
    overview = architectures.overview((tmp_path / "architectures.md").read_text(encoding="utf-8"))
    assert [name for name in pages if f"]({architectures.FOLDER}/{name}.md)" not in overview] == []
    assert "../../../refembed/model/bert.py" in (tmp_path / architectures.FOLDER / "bert.md").read_text()
