"""`refembed detokenize`: token ids to text."""

from __future__ import annotations

import re
import sys

import click

from refembed.cli.options import model_option
from refembed.cli.show import escape, is_terminal
from refembed.errors import RequestError
from refembed.pipeline.opening import load_tokenizer

EPILOG = """\b
Examples:
  refembed detokenize 101 7592 1010 2088 999 102
  refembed detokenize "[101, 7592, 1010, 2088, 999, 102]"
  refembed tokenize --ids "Hello, world!" | refembed detokenize --no-special
"""


@click.command("detokenize", epilog=EPILOG)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@model_option
@click.option("--no-special", is_flag=True, help="Leave special tokens ([CLS], [SEP] ...) out.")
def command(ids: tuple[str, ...], model: str, no_special: bool) -> None:
    """Print the text that token IDs stand for.

    IDs are numbers with spaces, commas or brackets around them. Without any, each line of standard input is a list, and
    its text a line. A text is printed as the bytes it is; on a terminal, control characters are shown as \\x1b, say.
    """
    if not ids and (sys.stdin is None or is_terminal(sys.stdin)):
        raise click.UsageError("Give token ids (101 7592 102), or lists of them on standard input.")
    lists = [" ".join(ids)] if ids else (line.decode("utf-8", "replace") for line in sys.stdin.buffer)
    tokenizer = load_tokenizer(model)
    out, careful = sys.stdout.buffer, is_terminal(sys.stdout)
    for line in lists:
        numbers = ids_in(line)
        text = tokenizer.decode_bytes(numbers, remove_special=no_special, unparse_special=not no_special)
        out.write((b"\n".join(escape(part).encode() for part in text.split(b"\n")) if careful else text) + b"\n")


def ids_in(line: str) -> list[int]:
    """The ids of a line; whether the vocabulary has them is the tokenizer's question."""
    words = re.split(r"[\s,\[\]]+", line.strip().strip("[]"))
    ids = []
    for word in filter(None, words):
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise RequestError(f"{word[:40]!r} is not a token id", hint="ids are whole numbers: 101 7592 102")
        ids.append(int(word))
    return ids
