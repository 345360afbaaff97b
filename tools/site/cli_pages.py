"""A page of the site for each verb of the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tools.site.commands import ENVIRONMENT, EXIT_CODES, Command, Text, commands


def escaped(text: str) -> str:
    """Help as Markdown: back quotes are code, whatever else means something to Markdown is itself."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<>\[\]{}$#|])", r"\\\1", p) for p in pieces)


def option_list(options: Sequence[tuple[str, str]]) -> list[str]:
    """A definition list."""
    lines = []
    for spelling, what in options:
        lines += [f"`{spelling}`", f": {escaped(what)}", ""]
    return lines


def texts(paragraphs: Sequence[Text]) -> list[str]:
    """Prose, and blocks that keep their lines; the first line of such a block names it."""
    lines = []
    for text in paragraphs:
        if text.as_it_stands:
            head, *rest = text.lines
            indented = all(line.startswith(" ") for line in rest)
            body = [re.sub(r"^  ", "", line) for line in rest]
            if rest and indented and len(head) < 60:
                lines += [f"**{escaped(head.rstrip(':'))}**", "", "```text", *body, "```", ""]
            else:
                lines += ["```text", *text.lines, "```", ""]
        else:
            lines += [escaped(" ".join(line.strip() for line in text.lines)), ""]
    return lines


def page(command: Command) -> str:
    """Markdown."""
    lines = [f"# {command.name}", "", "```text", f"{command.name} {command.usage}", "```", ""]
    lines += texts(command.about)
    if command.options:
        lines += ["## Options", "", *option_list(command.options)]
    lines += texts(command.more)
    return "\n".join(lines)


def first_page(found: Sequence[Command]) -> str:
    """The list of verbs, exit codes, environment."""
    names = [command.name.partition(" ")[2] for command in found[1:]]
    lines = ["# The command line", "", *texts(found[0].about)]
    lines += ["| command | |", "|---|---|"]
    lines += [f"| [`{c.name}`]({n}.md) | {escaped(c.summary)} |" for c, n in zip(found[1:], names, strict=True)]
    lines += [
        "",
        "Results go to stdout, everything else to stderr. The same pages are man pages: `man refembed-embed`.",
        "",
    ]
    lines += ["## Exit codes", "", "| | |", "|---|---|", *(f"| {code} | {what} |" for code, what in EXIT_CODES), ""]
    lines += ["## Environment", "", "| | |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in ENVIRONMENT), ""]
    lines += ["```{toctree}", ":hidden:", "", *names, "```", ""]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """One file a verb, and index.md."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(commands())
    (folder / "index.md").write_text(first_page(found), encoding="utf-8")
    for command in found[1:]:
        (folder / f"{command.name.partition(' ')[2]}.md").write_text(page(command), encoding="utf-8")
