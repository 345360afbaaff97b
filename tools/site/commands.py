"""`refembed --help` and the help of every verb, as data: pages of the site and man pages are made of it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from refembed.cli import COMMANDS, refembed

EXIT_CODES = (
    ("0", "done"),
    ("1", "the request cannot be met: usage, an input, another engine"),
    ("2", "the model cannot be used"),
    ("3", "two engines or runs differ (`verify`, `diff`); `doctor` found errors in a file"),
    ("70", "a fault in refembed itself"),
    ("130", "interrupted; 141 where the reader of stdout went away"),
)
ENVIRONMENT = (
    (
        "REFEMBED_CACHE",
        "the folder of models and vectors; without it `$XDG_CACHE_HOME/refembed` or `~/.cache/refembed`",
    ),
    ("REFEMBED_THREADS", "cores to use, also by BLAS"),
    ("REFEMBED_DEBUG", "any value: errors come with a traceback"),
    ("NUMBA_CACHE_DIR", "where compiled kernels are kept"),
    ("HF_HOME, HF_HUB_OFFLINE, HF_TOKEN", "huggingface_hub's, for models of Hugging Face"),
)


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `as_it_stands` lines that are not to be filled."""

    lines: tuple[str, ...]
    as_it_stands: bool


@dataclass(frozen=True)
class Command:
    """What the help of a command says."""

    name: str  # `refembed embed`
    summary: str
    usage: str  # without the name
    about: tuple[Text, ...]
    options: tuple[tuple[str, str], ...]  # spellings with the value's name; what it does
    more: tuple[Text, ...]  # examples, formats, exit codes


def commands() -> Iterator[Command]:
    """`refembed`, then its verbs in the order of its help."""
    yield described(refembed, "refembed", refembed.help or "")
    for verb, summary in COMMANDS.items():
        with click.Context(refembed, info_name="refembed") as ctx:
            command = refembed.get_command(ctx, verb)
        assert command is not None
        yield described(command, f"refembed {verb}", summary)


def described(command: click.Command, name: str, summary: str) -> Command:
    """A command's help."""
    root = click.Context(refembed, info_name="refembed", help_option_names=["-h", "--help"])
    ctx = root if command is refembed else command.context_class(command, info_name=name, parent=root)
    usage = " ".join(command.collect_usage_pieces(ctx))
    records = [param.get_help_record(ctx) for param in command.get_params(ctx)]
    return Command(
        name,
        summary.rstrip(),
        usage,
        texts(command.help),
        tuple((spelling, shortened(what)) for spelling, what in filter(None, records) if what),  # no bare arguments
        texts(command.epilog),
    )


def texts(help_text: str | None) -> tuple[Text, ...]:
    """Paragraphs; one that begins with click's mark \\b keeps its lines."""
    found = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(help_text or "").replace("\f", "")):
        lines = [line.rstrip() for line in block.splitlines() if line.strip()]
        if lines:
            kept = lines[0].strip() == "\b"
            found.append(Text(tuple(lines[kept:]), kept))
    return tuple(found)


def shortened(text: str) -> str:
    """Without this user's home folder, and with single spaces."""
    return re.sub(r"\s+", " ", text).replace(str(Path.home()), "~").strip()
