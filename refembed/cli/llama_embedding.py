"""llama-embedding's command line on `refembed embed`: its flags, and its way to read texts. No numbers here.

A command line that has one of TELLTALES is read and printed as llama-embedding would, unless --format, --json,
--output or --compare ask for refembed's own output. Facts: examples/embedding/embedding.cpp and common/arg.cpp of
llama.cpp. What differs on purpose is in docs/embed.md.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from refembed.cli.options import TextCommand, hush, own_options
from refembed.cli.show import is_terminal
from refembed.cli.texts import check_file
from refembed.errors import RequestError

BATCH_SIZE = 2048  # tokens: llama.cpp's --batch-size

# options that only llama-embedding has: one of them makes a command line its
TELLTALES = (
    "prompt", "binary_file", "embd_output_format", "embd_separator", "cls_separator", "verbose_prompt", "log_disable",
    "escape", "compat",
)  # fmt: skip

OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option("-p", "--prompt", metavar="TEXT", help="The text, or several with the separator between."),
    click.option("-bf", "--binary-file", metavar="FILE", help="Take a file as it is, byte for byte, for --prompt."),
    click.option(
        "--embd-output-format",
        type=click.Choice(("", "array", "json", "json+", "raw")),
        default="",
        help="array: [[...],[...]], json: as OpenAI's, json+: with cosines, raw: a vector a line; 7 decimals. "
        "Without it: columns, and the cosine of every two texts.",
    ),
    click.option("--embd-separator", metavar="STRING", default="\n", help="What parts texts.  [default: a line end]"),
    click.option(
        "--cls-separator", metavar="STRING", default="\t", help="What parts query and document.  [default: a TAB]"
    ),
    click.option("-e", "--escape/--no-escape", default=True, help="Whether \\n, \\t, \\x41 ... in texts are one byte."),
    click.option(
        "--attention",
        type=click.Choice(("causal", "non-causal")),
        help="What a token sees: those before it, or all.  [default: as the model says; encoders see all in any case]",
    ),
    click.option(
        "-c", "--ctx-size", type=click.IntRange(0), default=0, envvar="LLAMA_ARG_CTX_SIZE", metavar="N",
        help="Tokens of the context; 0 is what the model was trained with.",
    ),
    click.option(
        "-b", "--batch-size", type=click.IntRange(1), envvar="LLAMA_ARG_BATCH", metavar="N",
        help="Most tokens of one text.  [default: 2048, or --ctx-size where that is larger]",
    ),
    click.option(
        "-ub", "--ubatch-size", type=click.IntRange(0), envvar="LLAMA_ARG_UBATCH", metavar="N",
        help="Accepted; as in llama-embedding it is --batch-size.",
    ),
    click.option("--verbose-prompt", is_flag=True, help="Print the tokens of each text first."),
    click.option("--log-disable", is_flag=True, callback=hush, help="Nothing on stderr but errors; results stay."),
    click.option("--compat", type=click.Choice(("llama.cpp",)), help="Read --file and print as llama-embedding would."),
)  # fmt: skip


@dataclass(frozen=True)
class LlamaFlags:
    """What a command line says in llama-embedding's words."""

    active: bool  # whether it is one of llama-embedding's
    prompt: str | None
    binary_file: str | None
    embd_output_format: str
    embd_separator: str
    cls_separator: str
    escape: bool
    attention: str | None
    ctx_size: int
    batch_size: int | None
    verbose_prompt: bool
    log_disable: bool

    @property
    def n_batch(self) -> int:
        """Tokens that one text, and texts computed together, may have."""
        return max(self.batch_size or BATCH_SIZE, self.ctx_size)

    def longest(self, n_ctx: int, causal: bool) -> int:
        """Most tokens of a text for a model that reads n_ctx. Only what looks back keeps to the context's size."""
        limits = [n_ctx]
        if self.active or self.batch_size:
            limits.append(self.n_batch)
        if self.ctx_size and causal:
            limits.append(-(-self.ctx_size // 256) * 256)  # llama_context pads it
        return min(limits)


def llama_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """OPTIONS; the command gets them as `llama`, LlamaFlags."""

    @functools.wraps(command)
    def gathered(*args: Any, **options: Any) -> Any:
        ctx = click.get_current_context()
        given = (ctx.get_parameter_source(name) for name in TELLTALES)
        active = any(source is ParameterSource.COMMANDLINE for source in given)
        names = [name for name in LlamaFlags.__dataclass_fields__ if name != "active"]
        flags = LlamaFlags(active, **{name: options.pop(name) for name in names})
        if flags.embd_separator == "" or flags.cls_separator == "":
            raise click.UsageError("A separator has at least one character.")
        options.pop("ubatch_size"), options.pop("compat")
        return command(*args, llama=flags, **options)

    decorated: Callable[..., Any] = gathered
    for add in reversed(OPTIONS):
        decorated = add(decorated)
    return decorated


class LlamaCommand(TextCommand):
    """A command that lets pass what llama-embedding would take and is not needed here, `--embd_normalize` included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take those flags out; remember them for a note."""
        from refembed.cli.ignored_flags import split

        kept, ctx.meta["refembed.ignored"] = split(args, own_options(self))
        return super().parse_args(ctx, kept)


class Prompts:
    """The texts of a prompt, in order, as bytes; for whom `Texts` would do otherwise.

    The whole prompt is unescaped, then cut at each separator; empty pieces are texts. Of a file one line end at its
    very end is dropped, of --binary-file nothing. Without any of them standard input is the file.
    """

    def __init__(self, flags: LlamaFlags, file: str | None) -> None:
        given = [source is not None for source in (flags.prompt, flags.binary_file, file)]
        if sum(given) > 1:
            raise click.UsageError("Give one of --prompt, --file and --binary-file.")
        if not any(given):
            if sys.stdin is None or is_terminal(sys.stdin):
                raise click.UsageError("Give --prompt TEXT, --file FILE, or a text on standard input.")
            file = "-"
        raw = content(flags, file)
        separator = os.fsencode(flags.embd_separator)
        self.texts = (unescaped(raw) if flags.escape else raw).split(separator)
        self.done, self.total = 0, len(self.texts)

    def where(self, index: int) -> str:
        """The place of a text, as llama-embedding counts."""
        return f"prompt {index}"

    def __iter__(self) -> Iterator[bytes]:
        for text in self.texts:
            self.done += 1
            yield text


def content(flags: LlamaFlags, file: str | None) -> bytes:
    """The prompt before anything is done to it. RequestError for a file that cannot be read."""
    if flags.prompt is not None:
        return os.fsencode(flags.prompt)
    name = flags.binary_file or file or "-"
    if name == "-":
        raw = sys.stdin.buffer.read()
    else:
        check_file(Path(name))
        try:
            raw = Path(name).read_bytes()
        except OSError as e:
            raise RequestError(f"{name}: {e.strerror or e}", hint="--file takes a text file") from None
    return raw if flags.binary_file else raw.removesuffix(b"\n")


ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}


def unescaped(raw: bytes) -> bytes:
    """`\\n \\r \\t \\' \\" \\\\ \\xHH` as one byte each; other backslashes stay (string_process_escapes)."""

    def byte(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else ESCAPED[code]

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|[nrt'\"\\])", byte, raw)
