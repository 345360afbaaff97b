"""The site: `make docs`. docs/decisions/008 says why it is made with these."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from refembed import __version__  # noqa: E402  # found there
from tools.site import api_pages, architectures, cli_pages, openapi_page  # noqa: E402  # likewise

project = "refembed"
author = "The refembed developers"
project_copyright = "The refembed developers. MIT license"
version = release = __version__

extensions = [
    "myst_nb",  # Markdown pages, and pages whose code is run while the site is made
    "sphinx.ext.autodoc",  # docstrings
    "sphinx_copybutton",
    "sphinx_design",  # cards, tabs, what can be unfolded
    "tools.site.links",
    "tools.site.docstrings",
    "tools.site.mathml",
]
exclude_patterns = ["build", "**/.ipynb_checkpoints"]
suppress_warnings = [
    "myst.header",  # tables that programs write stand under headings of their own depth
    "config.cache",  # functions in this file
]

# Markdown
myst_enable_extensions = ["deflist", "colon_fence", "dollarmath"]
myst_heading_anchors = 4  # GitHub's anchors: the same links work there
myst_dmath_allow_labels = False
myst_dmath_allow_digits = False  # "$5 and $6" is no formula
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": "{{path}}"}  # source: tools/site/links.py
myst_update_mathjax = False
html_math_renderer = "mathml"

# pages that are run; what they gave is kept until their source changes
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "build" / "run")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True


def own_kernel_settings() -> None:
    """Lessons run under these settings, whatever the reader of this machine has for IPython; no remarks but errors."""
    folder = ROOT / "docs" / "build" / "ipython"
    (folder / "profile_default").mkdir(parents=True, exist_ok=True)
    (folder / "profile_default" / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 40\n")
    os.environ["IPYTHONDIR"] = str(folder)


# Python
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 90
autodoc_type_aliases = {name: name for name in ("F32", "F64", "I32", "I64", "U8", "Float", "Array", "Input")}

# HTML
html_theme = "furo"
html_title = f"refembed {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # a page opened from a disk may not fetch another one to quote it
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
smartquotes = False  # `--file` keeps its two dashes
pygments_style = "default"
pygments_dark_style = "github-dark"

linkcheck_ignore = [r"http://(127\.0\.0\.1|localhost)", r"https?://HOST"]
linkcheck_timeout = 20
linkcheck_workers = 4


def on_source_read(app: Any, docname: str, source: list[str]) -> None:
    """docs/architectures.md is one page for readers of the repository, and many on the site."""
    if docname == "architectures":
        source[0] = architectures.overview(source[0])
    if docname == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def setup(app: Any) -> None:
    """Make the pages that are read from the code itself."""
    own_kernel_settings()
    made = Path(app.srcdir) / "made"
    cli_pages.write(made / "cli")
    api_pages.write(made / "api")
    openapi_page.write(made / "server")
    architectures.write(Path(app.srcdir))
    app.connect("source-read", on_source_read, priority=50)  # before links are made to work
