"""HTML, CSS and JavaScript in files of their own, next to the module that uses them."""

from __future__ import annotations

from pathlib import Path


def read_asset(module_file: str, name: str) -> str:
    """The text of the file `name` in the folder of a module.

    module_file  the module's `__file__`
    """
    return Path(module_file).with_name(name).read_text(encoding="utf-8")
