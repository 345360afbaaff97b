"""`refembed doctor`: mistakes in a model file, without running a text."""

from __future__ import annotations

from collections import Counter

import click

from refembed.cli.options import json_option, model_argument, quiet_option
from refembed.cli.show import escape, fold, note, print_json
from refembed.gguf import GGUFFile
from refembed.pipeline.opening import open_gguf
from refembed.verify.doctor import SEVERITIES, examine, in_order
from refembed.verify.doctor.finding import Finding
from refembed.verify.doctor.weights import check_weights

EPILOG = """\b
Examples:
  refembed doctor model.gguf
  refembed doctor model.gguf --no-weights
  refembed doctor model.gguf --json | jq '.findings[].do'

Exit codes: 0 no errors (warnings and notes do not count), 2 not a GGUF file, 3 at least one finding is an error.
"""

SICK = 3  # exit code
MARKS = {"error": "✗", "warning": "!", "note": "·", "": "✓"}
COLORS = {"error": "red", "warning": "yellow", "note": "blue", "": "green"}
VERDICTS = {  # by the gravest finding
    "error": "its vectors will be wrong, or there will be none",
    "warning": "its vectors may be wrong, by how it was trained or by the program that runs it",
    "note": "nothing is wrong with it that can be seen in the file",
    "": "nothing to complain about",
}


@click.command("doctor", epilog=EPILOG)
@model_argument
@click.option("--weights/--no-weights", default=True, help="Read every weight, looking for NaN and infinity.")
@json_option
@quiet_option
def command(model: str, weights: bool, as_json: bool, quiet: bool) -> None:
    """Check MODEL, a GGUF file or the name of a model: what embedding needs, and whether the file has it right.

    Pooling, special tokens, pre-tokenizer, heads and dense layers, context, types, NaN in weights and scales. Each
    finding says what to do. Nothing is changed.
    """
    f = open_gguf(model)
    found = examine(f)
    if weights:
        note(f"reading {f.size / 2**20:,.0f} MiB of weights", quiet=quiet or f.size < 1 << 28)
        found = in_order(found + list(check_weights(f)))
    if as_json:
        print_json(as_object(f, found, weights))
    else:
        show(f, found)
    if any(x.severity == "error" for x in found):
        raise click.exceptions.Exit(SICK)


def show(f: GGUFFile, found: list[Finding]) -> None:
    """For a person: the verdict in one sentence, then each finding and what to do about it."""
    count = Counter(x.severity for x in found)
    worst = next((s for s in SEVERITIES if count[s]), "")
    summary = ", ".join(f"{count[s]} {s}{'s' * (count[s] != 1)}" for s in SEVERITIES if count[s])
    head = f"{MARKS[worst]} {escape(str(f.path))}"
    said = f"{head}: {VERDICTS[worst]}{f' ({summary})' if summary else ''}"
    click.echo(fold(said, "  ", head, COLORS[worst]))
    for x in found:
        where = f" [{escape(x.where)}]" if x.where and x.where not in x.says else ""
        head = f"{MARKS[x.severity]} {x.severity}"
        click.echo("\n" + fold(f"{head}: {x.check}: {escape(x.says)}{where}", "    ", head, COLORS[x.severity]))
        click.echo(fold(f"    do: {escape(x.do)}", "        "))


def as_object(f: GGUFFile, found: list[Finding], weights: bool) -> dict[str, object]:
    """Findings as JSON."""
    count = Counter(x.severity for x in found)
    return {
        "path": str(f.path),
        "healthy": not count["error"],
        "weights_read": weights,
        "counts": {s: count[s] for s in SEVERITIES},
        "findings": [vars(x) for x in found],
    }
