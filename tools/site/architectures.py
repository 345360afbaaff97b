"""docs/architectures.md is 5,000 lines: on the site each architecture is a page of its own."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "made/architectures"  # in docs/


def parts(text: str) -> tuple[str, dict[str, str], str]:
    """What stands before the architectures, the section of each, and what stands behind."""
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    named = {section.split("\n", 1)[0][3:].strip(): section for section in sections}
    behind = named.pop("Measured")
    return head, named, behind


def write(docs: Path) -> None:
    """A page for each section."""
    folder = docs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _, named, measured = parts((docs / "architectures.md").read_text(encoding="utf-8"))
    (folder / "measured.md").write_text(measured.removeprefix("#"), encoding="utf-8")
    for name, section in named.items():
        text = section.removeprefix("## ").replace("](../", "](../../../")
        text = re.sub(r"\]\((?=[\w-]+\.md)", "](../../", text)
        text = re.sub(r"\]\(#([\w-]+)\)", lambda m: f"]({m[1]}.md)" if m[1] in named else m[0], text)
        (folder / f"{name}.md").write_text(f"# {text}", encoding="utf-8")


def overview(text: str) -> str:
    """The page without its sections: links of the table lead to pages."""
    head, named, _ = parts(text)
    for name in named:
        head = head.replace(f"](#{name})", f"]({FOLDER}/{name}.md)")
    names = [f"{FOLDER}/{name}" for name in (*named, "measured")]
    behind = f"[Every variant, as it was measured]({FOLDER}/measured.md)"
    return "\n".join([head, behind, "", "```{toctree}", ":hidden:", "", *names, "```", ""])
