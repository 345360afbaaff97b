"""`refembed diff`: two traces, tensor by tensor."""

from __future__ import annotations

import math
from typing import Any

import click

from refembed.cli.options import json_option, quiet_option
from refembed.cli.show import escape, note, print_json, spell_shape, table
from refembed.errors import RequestError
from refembed.model.trace import Trace
from refembed.verify.differences import Line, load_run, side_by_side

EPILOG = """\b
Examples:
  refembed trace --numerics exact --save a.npz "some text"
  refembed trace --numerics fast  --save b.npz "some text"
  refembed diff a.npz b.npz
  refembed diff a.npz b.npz --rel 1e-5 --all
  refembed diff a.npz dump.txt     what llama.cpp's eval-callback printed

A tensor agrees if it is identical, or within --ulp, or within --rel. Exit codes: 0 all agree, 1 not two traces,
3 at least one tensor differs, or is in one trace only (--common leaves those out).
"""

DIFFERS = 3  # exit code
MAX_TENSORS_PRINTED = 30  # tensors, without --all


@click.command("diff", epilog=EPILOG)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--ulp", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="Agree up to N steps of float32 between any two elements.",
)  # fmt: skip
@click.option(
    "--rel", type=click.FloatRange(0), default=0.0, show_default=True, metavar="X",
    help="Agree up to X: the largest difference over the largest magnitude in A's tensor.",
)  # fmt: skip
@click.option("--common", is_flag=True, help="Leave out tensors that only one of the two has.")
@click.option("--all", "every", is_flag=True, help="List every tensor, not only the first that differ.")
@json_option
@quiet_option
def command(a: str, b: str, ulp: int, rel: float, common: bool, every: bool, as_json: bool, quiet: bool) -> None:
    """Compare two traces, A being the reference: `refembed trace --save` writes them.

    Either may be the text that llama.cpp's eval-callback prints (llama-eval-callback, llama-debug): compared are then
    the numbers that were printed, to four decimals.
    """
    if math.isnan(rel):
        raise click.UsageError("--rel nan bounds nothing.")
    x, y = load_run(a), load_run(b)
    lines = side_by_side(x, y)
    if common:
        lines = [line for line in lines if not line.only]
    if not any(line.difference for line in lines):
        hint = "are these traces of the same model? `refembed trace` shows a trace's names"
        raise RequestError(f"{a} and {b} have no tensor in common", hint=hint)
    differing = [line for line in lines if not line.within(ulp, rel)]
    about_texts(x, y, quiet)
    if as_json:
        print_json(as_object(lines, differing, ulp, rel))
    else:
        show(lines, differing, every)
    if differing:
        raise click.exceptions.Exit(DIFFERS)


def about_texts(x: Trace, y: Trace, quiet: bool) -> None:
    """Say what was run, and whether it was the same."""
    for name, trace in (("A", x), ("B", y)):
        about = ", ".join(f"{k} {trace.meta[k]}" for k in ("engine", "numerics", "pooling") if k in trace.meta)
        note(f"{name}: {escape(about) or 'no provenance'}, {len(trace)} tensors", quiet=quiet)
    ours, theirs = x.meta.get("tokens"), y.meta.get("tokens")
    if ours is not None and theirs is not None and list(ours) != list(theirs):
        note("warning: the two are runs of different token ids, so everything differs")


def show(lines: list[Line], differing: list[Line], every: bool) -> None:
    """A table, and the verdict."""
    both = sum(line.difference is not None for line in lines)
    listed = lines if every else differing[:MAX_TENSORS_PRINTED]
    if listed:
        heads = ["tensor", "in B", "shape", ">ulp", ">largest", ">relative", ">nmse", ">1-cos", ""]
        table(heads, [cells(line, line in differing) for line in listed], alarming="")
    if len(listed) < len(differing):
        click.echo(f"... and {len(differing) - len(listed)} more that differ; --all lists every tensor")
    if not differing:
        click.echo(f"{both} tensors agree")
        return
    first = differing[0]
    what = f"only in {first.only.upper()}" if first.difference is None else str(first.difference)
    click.echo(f"{len(differing)} of {len(lines)} tensors differ, the first is {escape(first.title)}: {what}")


def cells(line: Line, differs: bool) -> list[str]:
    """A tensor's row."""
    d = line.difference
    name, shape = escape(line.title), spell_shape(line.shape)
    if d is None:
        return [name, "", shape, "", "", "", "", "", f"only in {line.only.upper()}"]
    other = "" if line.other == line.name else escape(line.other or "")
    if d.identical:
        return [name, other, shape, "0", "0", "0", "0", "0", "identical"]
    bad = f"not finite: {d.nonfinite_a} | {d.nonfinite_b}" if d.nonfinite_a or d.nonfinite_b else ""
    numbers = [str(d.max_ulps), *(f"{v:.3g}" for v in (d.max_abs, d.rel_peak, d.nmse, d.cosine))]
    return [name, other, shape, *numbers, bad or ("differs" if differs else "agrees")]


def as_object(lines: list[Line], differing: list[Line], ulp: int, rel: float) -> dict[str, Any]:
    """The comparison as JSON; what is infinite becomes null."""
    return {
        "agree": not differing,
        "ulp": ulp,
        "rel": rel,
        "first": differing[0].title if differing else None,
        "tensors": [tensor_object(line, ulp, rel) for line in lines],
    }


def tensor_object(line: Line, ulp: int, rel: float) -> dict[str, Any]:
    """One tensor as JSON."""
    about = {"name": line.name, "k": line.k, "shape": list(line.shape), "agrees": line.within(ulp, rel)}
    d = line.difference
    if d is None:
        return about | {"only": line.only}
    numbers = {k: v if math.isfinite(v) else None for k, v in vars(d).items() if isinstance(v, float)}
    places = {"worst": d.worst, "worst_row": d.worst_row}
    counts = {"identical": d.identical, "max_ulps": d.max_ulps, "nonfinite": [d.nonfinite_a, d.nonfinite_b]}
    return about | {"other": line.other} | counts | numbers | places
