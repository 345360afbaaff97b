"""Options of `refembed embed` for files of rows on many processes and machines. Everything heavy is imported later."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import click
from click.core import ParameterSource

ENGINES = ("ray",)
OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        help="Take each TEXT as a folder or a pattern of .parquet and .jsonl files, embed their rows on Ray, and write "
        "files with vectors into the folder --output. --resume goes on; --processes: how many compute at a time.",
    ),
    click.option(
        "--ray-address", envvar="RAY_ADDRESS", metavar="ADDRESS",
        help="The cluster; auto is the one that this machine belongs to.  [default: one is started here]",
    ),
    click.option("--column", default="text", metavar="NAME", help="--engine: the texts' column.  [default: text]"),
    click.option(
        "--into", default="embedding", metavar="NAME",
        help="--engine: a new column, for the vectors.  [default: embedding]",
    ),
    click.option(
        "--rows", type=click.IntRange(1), metavar="N",
        help="--engine: rows of a file that is written, at most.  [default: 20000]",
    ),
    click.option(
        "--on-error", type=click.Choice(("raise", "column")), default="raise",
        help="--engine: what a row is that has no text, or one too long: an error, or a row without a vector, and why "
        "in the column NAME_error.  [default: raise]",
    ),
    click.option(
        "--allow-mixed", is_flag=True,
        help="--engine: let processors and versions of libraries differ; vectors may then differ in their last bits.",
    ),
)  # fmt: skip
OWN = ("ray_address", "column", "into", "rows", "on_error", "allow_mixed")
# what goes with --engine; any other option on the command line is refused
WITH_IT = (
    *OWN, "engine", "texts", "model", "output", "resume", "processes", "pooling", "normalize", "dimensions", "truncate",
    "prompt_name", "prefix", "numerics", "semantics", "profile", "flash_attn", "repack", "memory_budget", "lora",
    "quiet", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class EngineFlags:
    """What the options say."""

    engine: str | None
    ray_address: str | None
    column: str
    into: str
    rows: int | None
    on_error: str
    allow_mixed: bool


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options above; the command gets all of them as `engine`, EngineFlags, checked against all others."""

    @functools.wraps(command)
    def gathered(*args: Any, **options: Any) -> Any:
        flags = EngineFlags(**{f.name: options.pop(f.name) for f in fields(EngineFlags)})
        check(click.get_current_context(), flags)
        return command(*args, engine=flags, **options)

    decorated: Callable[..., Any] = gathered
    for add in reversed(OPTIONS):
        decorated = add(decorated)
    return decorated


def check(ctx: click.Context, flags: EngineFlags) -> None:
    """Refuse options that do not go together. click.UsageError."""
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        spelled = max(param.opts, key=len)
        if given and flags.engine is None and param.name in OWN:
            raise click.UsageError(f"{spelled} goes with --engine {ENGINES[0]}.")
        if given and flags.engine is not None and param.name not in WITH_IT:
            raise click.UsageError(f"--engine {flags.engine}: {spelled} does not go with it.")
