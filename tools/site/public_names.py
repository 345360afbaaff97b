"""Which Python names the reference shows: those whose docstrings must have running examples."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def tables() -> dict[str, Any]:
    """PACKAGES, VERIFY and INTERNAL of tests/test_docstrings.py: read, not imported, since that needs pytest."""
    tree = ast.parse((ROOT / "tests/test_docstrings.py").read_text(encoding="utf-8"))
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("PACKAGES", "VERIFY", "INTERNAL")
    }  # fmt: skip


TABLES = tables()
PACKAGES: tuple[str, ...] = TABLES["PACKAGES"]
VERIFY: tuple[str, ...] = TABLES["VERIFY"]
INTERNAL: dict[str, str] = TABLES["INTERNAL"]  # class -> methods that users do not call
