"""`refembed history`: which builds of llama.cpp give the same bits for a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from refembed.cli.options import file_option, json_option, quiet_option
from refembed.cli.show import decode, escape, note, print_json, table
from refembed.cli.texts import Texts
from refembed.errors import RequestError
from refembed.pipeline.opening import open_gguf
from refembed.verify.history import BuildRow, compare_builds
from refembed.verify.texts import SENTENCES, TEXTS

EPILOG = """\b
Examples:
  pip download --no-deps xllamacpp==2026.9.10809 && pip download --no-deps xllamacpp==2026.10.11549
  refembed history model.gguf xllamacpp-2026.9*.whl xllamacpp-2026.10*.whl
  refembed history minilm old.whl installed --file texts.txt
  refembed history model.gguf node-llama-cpp-linux-x64-3.22.1.tgz ./build/bin --cpu haswell --json

BUILD is a wheel, an npm tarball, a folder of libllama and libggml, or `installed`. docs/history.md has MiniLM's
answers of two years. Exit codes: 0 all builds give the same bits, 1 no build gives vectors, 3 they do not.
"""

DIFFERS = 3  # exit code
DEFAULT = (*TEXTS, " ".join(SENTENCES[:3]), " ".join(SENTENCES * 2))


@click.command("history", epilog=EPILOG)
@click.argument("model", metavar="MODEL")
@click.argument("builds", metavar="BUILD...", nargs=-1, required=True)
@file_option
@click.option("--pooling", default="native", show_default=True, metavar="NAME", help="native, none, mean, cls, last.")
@click.option("--cpu", default="", metavar="NAME", help="Of packages with code for several processors: which.")
@json_option
@quiet_option
def command(
    model: str, builds: tuple[str, ...], file: str | None, pooling: str, cpu: str, as_json: bool, quiet: bool
) -> None:
    """Ask builds of llama.cpp for the same texts, oldest first, and say which give the same bits.

    Each runs in a process of its own, as it does unasked. Vectors are compared with those of the last build: a letter
    for each set of bits, A the last build's, and how far the unit vectors are from it.
    """
    texts = list(DEFAULT) if file is None else [decode(t) for t in Texts((), file)]
    if not texts:
        raise RequestError(f"{file}: no texts", hint="one a line")
    path = open_gguf(model).path
    note(f"{len(builds)} builds, {len(texts)} texts", quiet=quiet)
    places = [None if build == "installed" else Path(build) for build in builds]
    for place in places:
        if place is not None and not place.exists():
            raise RequestError(
                f"{place}: no such package or folder", hint="`pip download --no-deps xllamacpp==VERSION`"
            )
    found = compare_builds(path, places, texts, pooling=pooling, cpu=cpu)
    if as_json:
        print_json({"texts": len(texts), "builds": [asdict(row) for row in found]})
    else:
        show(found, len(texts))
    if any(row.group != "A" for row in found):
        raise click.exceptions.Exit(DIFFERS)


def show(found: list[BuildRow], n_texts: int) -> None:
    """A table, and what it means for vectors that are stored."""
    table(["build", "llama.cpp", "bits", ">moved", ">1-cos", ""], [cells(row) for row in found])
    last = next(row for row in reversed(found) if row.group)
    first = since(found)
    if first != last.name:
        click.echo(f"the same bits for all {n_texts} texts since {escape(first)}")
    for row in found:
        if row.tokens:
            click.echo(f"{escape(row.name)}: other tokens for {row.tokens} of {n_texts} texts: embed those again")


def since(found: list[BuildRow]) -> str:
    """The first build of the unbroken run of A that ends with the last."""
    run = ""
    for row in found:
        if row.group:
            run = (run or row.name) if row.group == "A" else ""
    return run


def cells(row: BuildRow) -> list[str]:
    """A build's line."""
    number = f"b{row.number}" if row.number else ""
    if not row.group:
        return [escape(row.name), number, "", "", "", escape(row.failed)]
    if row.moved is None or row.distance is None:
        return [escape(row.name), number, row.group, "", "", "vectors of another length"]
    return [escape(row.name), number, row.group, f"{row.moved:.2g}", f"{row.distance:.2g}", ""]
