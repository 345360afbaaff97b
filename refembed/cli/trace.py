"""`refembed trace`: every tensor of one text's run through the model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from refembed.cli.first_word import take_model
from refembed.cli.models import open_embedder, spell_model
from refembed.cli.options import (
    TextCommand,
    image_option,
    json_option,
    lora_option,
    mmproj_option,
    model_option,
    numerics_options,
    pooling_option,
    quiet_option,
    truncate_option,
)
from refembed.cli.show import decode, note, print_json, spell_shape, table
from refembed.cli.texts import Texts
from refembed.errors import RequestError

EPILOG = """\b
Examples:
  refembed trace "Hello, world!"
  refembed trace --filter "*-0" --filter "result_*" "Hello, world!"
  refembed trace --numerics exact --save run.npz "Hello, world!"
  refembed trace -m model.gguf --mmproj mmproj.gguf --image photo.png

Names are those of llama.cpp's graph, and repeat as they do there: Qcur-0 is a product, and once more the product plus
its bias. Shapes are rows first: (tokens, channels). The last tensor, result_embd_pooled, is not normalized.
"""

FIRST = 4  # values shown of each tensor


@click.command("trace", cls=TextCommand, epilog=EPILOG)
@click.argument("text", nargs=-1, metavar="TEXT")
@model_option
@numerics_options
@lora_option
@mmproj_option
@image_option
@pooling_option
@truncate_option
@click.option(
    "--filter", "patterns", multiple=True, metavar="GLOB", help="Show only tensors of such names; repeatable."
)
@click.option("--save", metavar="FILE", help="Keep the whole run as .npz; refembed.Trace.load reads it.")
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, /,
    text: tuple[str, ...], model: str, numerics: dict[str, Any], lora: tuple[str, ...], mmproj: str | None,
    images: tuple[str, ...], pooling: str, truncate: bool,
    patterns: tuple[str, ...], save: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Show each tensor of the run of TEXT: name, shape, mean, std, min, max, and its first values.

    Mean, std, min and max are over the finite values; where some are not finite, a column counts them. --json prints an
    object a line. --save keeps all tensors, whatever --filter shows. With --image and no TEXT they are the vision
    tower's, with TEXT those of the text model's run on both.
    """
    model, text = take_model(ctx, model, text, more=bool(images), quiet=quiet)
    if images and not mmproj:
        raise click.UsageError("--image needs --mmproj FILE, the model's vision tower.")
    if len(images) > 1 and not text:
        raise click.UsageError(f"trace takes one image without a text, not {len(images)}.")
    if len(text) > 1:
        raise click.UsageError(f"trace takes one text, not {len(text)}; a text with spaces goes in quotes.")
    texts = [] if images and not text else list(Texts(text, None))
    if len(texts) > 1:
        raise RequestError(f"trace takes one text, not the {len(texts)} lines of standard input")
    embedder = open_embedder(model, numerics, lora, mmproj=mmproj)
    note(spell_model(model, embedder.info), quiet=quiet)
    if not texts:
        trace = embedder.trace_image(images[0])
        note(f"the vision tower, numerics {trace.meta['numerics']}", quiet=quiet)
    else:
        given = {"text": decode(texts[0]), "image": list(images)} if images else texts[0]
        trace = embedder.trace(given, pooling=pooling, truncate=truncate)
        how = f"pooling {trace.meta['pooling']}, numerics {trace.meta['numerics']}, {len(trace.meta['tokens'])} tokens"
        note(how, quiet=quiet)
    shown = [
        measure(i, t.name, t.array)
        for i, t in enumerate(trace.tensors)
        if not patterns or any(fnmatchcase(t.name, p) for p in patterns)
    ]
    if save:
        saved = trace.save(save)
        note(f"{len(trace)} tensors saved in {saved}", quiet=quiet)
    if patterns and not shown:
        hint = "`refembed trace TEXT` lists all names"
        raise RequestError(f"no tensor's name matches {' or '.join(patterns)}", hint=hint)
    show(shown, as_json)
    broken = sum(row["nonfinite"] > 0 for row in shown)
    if broken:
        note(f"warning: {broken} of these tensors have values that are not finite")


def measure(index: int, name: str, x: npt.NDArray[Any]) -> dict[str, Any]:
    """A tensor in a few numbers, computed in double over its finite values; None where it has none."""
    values = x.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    some = len(finite) > 0
    return {
        "index": index,
        "name": name,
        "shape": list(x.shape),
        "dtype": str(x.dtype),
        "mean": float(finite.mean()) if some else None,
        "std": float(finite.std()) if some else None,
        "min": float(finite.min()) if some else None,
        "max": float(finite.max()) if some else None,
        "nonfinite": len(values) - len(finite),
        "first": [float(v) if np.isfinite(v) else str(v) for v in values[:FIRST]],
    }


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row)
        return
    broken = any(row["nonfinite"] for row in rows)
    heads = ["tensor", "shape", ">mean", ">std", ">min", ">max", *([">non-finite"] if broken else []), "first values"]
    table(heads, [cells(row, broken) for row in rows], alarming="non-finite")


def cells(row: dict[str, Any], broken: bool) -> list[str]:
    """A tensor's line."""
    numbers = [number(row[k]) for k in ("mean", "std", "min", "max")]
    bad = [str(row["nonfinite"] or "")] if broken else []
    return [row["name"], spell_shape(row["shape"]), *numbers, *bad, " ".join(map(number, row["first"]))]


def number(value: float | str | None) -> str:
    """Five digits."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:.5g}"
