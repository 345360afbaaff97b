"""The command line, one verb a file. Results go to stdout, everything else to stderr.

    exit 0     done
    exit 1     the request cannot be met: usage, an input, another engine
    exit 2     the model cannot be used
    exit 3     two engines or runs differ (`verify`, `diff`); `doctor` found errors in a file
    exit 70    a fault in refembed itself
    exit 130   interrupted; 141 where the reader of stdout went away

No error shows a traceback unless REFEMBED_DEBUG is set. A command's module is imported when that command runs.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gc
import importlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn, TextIO

import click

from refembed._version import __version__
from refembed.cli.overwriting import CheckedContext
from refembed.errors import RefembedError
from refembed.kernels.llvm import compiling

COMMANDS = {  # verb -> what `refembed --help` says of it; `refembed/cli/<verb>.py` has the click command, `command`
    "embed": "Turn texts into vectors.",
    "rerank": "Say how well documents answer a query.",
    "tokenize": "Show the tokens of texts.",
    "detokenize": "Turn token ids back into text.",
    "info": "Say what a model file is.",
    "trace": "Show every tensor of one text's run.",
    "explain": "Follow a text through the model, step by step, for learners.",
    "verify": "Compare an engine with the reference, or with an older engine.",
    "history": "Say which builds of llama.cpp give the same bits.",
    "diff": "Compare two traces, tensor by tensor.",
    "doctor": "Look for mistakes in a model file, and say what to do.",
    "serve": "Answer HTTP clients of llama-server, OpenAI, Ollama, TEI.",
    "convert": "Turn a Hugging Face folder into a GGUF file.",
    "quantize": "Store a model's weights in fewer bits.",
    "warm": "Compile the kernels that a model needs, before workers start.",
    "cache": "Say what the cache of vectors holds, or empty it.",
    "chunk": "Cut a long text into pieces that a model can read.",
    "compress": "Store vectors in fewer bytes, and measure what that costs.",
    "evaluate": "Measure retrieval and similarity on your own texts.",
}

COMPLETING = "_REFEMBED_COMPLETE"  # environment variable: the shell asks what may follow
EXIT_USAGE, EXIT_FAULT, EXIT_INTERRUPTED, EXIT_PIPE = 1, 70, 130, 141
CLOSED_PIPE = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)  # the reader went away

EPILOG = """\b
Example:
  refembed embed "Hello, world!"
  refembed embed --file corpus.txt --output corpus.npy
  refembed embed --compare "How do I cook pasta?" "A recipe for spaghetti"
"""


class Verbs(click.Group):
    """A group that knows its commands by name and imports the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"refembed.cli.{cmd_name}").command
        command.context_class = CheckedContext
        if COMPLETING in os.environ:
            from refembed.cli.completion import complete_values

            return complete_values(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            guess = f" Did you mean `{near[0]}`?" if near else f' To embed a text: refembed embed "{args[0]}"'
            ctx.fail(f"No such command {args[0]!r}.{guess}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Verbs, epilog=EPILOG, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "-V", "--version", prog_name="refembed", message="%(prog)s %(version)s")
@click.pass_context
def refembed(ctx: click.Context) -> None:
    """GGUF text embeddings, computed as llama.cpp does, in Python one can read."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


def main() -> NoReturn:
    """The program `refembed`."""
    code = run(sys.argv[1:])
    gc.freeze()  # as it ends, Python would look twice for cycles among all objects of Numba: 0.2 s
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Do what the arguments ask for and return the exit code. Whatever goes wrong ends in one short message."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # \\u2581, where it would fail for want of the character
        with conversion_remarks():
            code = dispatch(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be reported
        return code
    except Exception as e:
        if os.environ.get("REFEMBED_DEBUG"):
            traceback.print_exc()
        return report(e, args)
    except KeyboardInterrupt as e:
        say_interrupted(e)
        return EXIT_INTERRUPTED


class ConversionRemarks(logging.Handler):
    """Prints what `convert` warns of, unless the command has set up logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line on stderr."""
        if not any(type(handler) is logging.StreamHandler for handler in logging.getLogger().handlers):
            click.echo(f"warning: {record.getMessage()}", err=True)


@contextlib.contextmanager
def conversion_remarks() -> Iterator[None]:
    """Print what `convert` warns of for as long as a command runs."""
    log, handler = logging.getLogger("refembed.convert"), ConversionRemarks()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def dispatch(args: Sequence[str]) -> int:
    """Let click read the arguments and call the command."""
    if COMPLETING in os.environ:  # the shell asks for completions
        refembed.main(list(args), prog_name="refembed")
    compiling.ask(lambda line: click.echo(f"refembed: {line}", err=True))  # until --quiet takes it back
    try:
        with refembed.make_context("refembed", list(args)) as ctx:
            refembed.invoke(ctx)
    except click.exceptions.Exit as e:
        return e.exit_code
    return 0


def report(e: Exception, args: Sequence[str] = ()) -> int:
    """Say on stderr what went wrong; return the exit code that stands for it."""
    if isinstance(e, OSError) and (e.errno == errno.EPIPE or (e.errno in CLOSED_PIPE and e.filename is None)):
        discard(sys.stdout, sys.stderr)
        return EXIT_PIPE
    if isinstance(e, click.Abort):
        say_interrupted(e.__cause__ or e.__context__ or e)
        return EXIT_INTERRUPTED
    if isinstance(e, RefembedError):
        click.echo(f"error: {e}", err=True)
        return e.exit_code
    if isinstance(e, click.ClickException):
        ctx = getattr(e, "ctx", None)
        click.echo(f"error: {e.format_message()}", err=True)
        path = ctx.command_path if ctx else " ".join(["refembed", *[word for word in args[:1] if word in COMMANDS]])
        click.echo(f"  hint: `{path} --help` shows what it takes", err=True)
        return EXIT_USAGE
    if isinstance(e, OSError):
        click.echo(f"error: {e.filename or 'standard output'}: {e.strerror or e}", err=True)
        discard(sys.stdout)
        return EXIT_USAGE
    click.echo(f"error: refembed failed: {type(e).__name__}: {' '.join(str(e).split())}", err=True)
    click.echo("  hint: this is a fault in refembed; REFEMBED_DEBUG=1 shows where it is", err=True)
    return EXIT_FAULT


def say_interrupted(e: BaseException) -> None:
    """Say so, and what the interrupted command left for the next run (`left`, on the exception)."""
    left = getattr(e, "left", "")
    click.echo(f"refembed: interrupted{f'; {left}' if left else ''}", err=True)


def discard(*streams: TextIO | None) -> None:
    """Point streams that broke at nothing, so that the interpreter does not stumble over them once more as it ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not a real file
            os.dup2(nothing, stream.fileno())  # type: ignore[union-attr]  # AttributeError is caught
    os.close(nothing)
