"""`refembed explain`: the way of one text through a model, for learners."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.core import ParameterSource

from refembed.cli.first_word import take_model
from refembed.cli.models import open_embedder, spell_model
from refembed.cli.options import (
    TextCommand,
    file_option,
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
from refembed.cli.show import decode, escape, note, print_json, table
from refembed.cli.texts import Texts
from refembed.errors import RequestError
from refembed.explain.walkthrough import FIRST, Step, Walkthrough, explain, normalized
from refembed.explain.words import as_object, in_one_sentence, spell_numbers, spell_parts, spell_shape, spell_shares
from refembed.similarity import cosine

if TYPE_CHECKING:
    from refembed.embedder import Embedder

EPILOG = """\b
Examples:
  refembed explain "Hello, world!"
  refembed explain "Hello, world!" --layer -1 --token 2
  refembed explain "a cat" "a dog" "a car" --html page.html
  refembed explain -m qwen3.gguf --pooling last "Hello, world!"
  refembed explain -m model.gguf --mmproj mmproj.gguf --image photo.png --html page.html
  refembed explain --serve minilm

Every number is the model's own. The first text is followed step by step; further ones are compared with it.
"""

INSTALL = "pip install starlette uvicorn httptools orjson (refembed's extra `server`)"
SHOWN_PARTS = 24  # of a tokenizer's stage
SHOWN_TOKENS = 60  # of the table of shares
ON_THE_PAGE = (
    "html",
    "as_json",
    "layer",
    "head",
    "token",
    "truncate",
    "mmproj",
    "images",
)  # what --serve leaves to the page, or has not
NOT_OF_IMAGES = ("file", "head", "token", "truncate")  # options of a walkthrough of texts alone
TEXTS = ("A cat sat on the mat.", "The dog lay on the rug.", "Interest rates rose again in May.")  # of --serve


@click.command("explain", cls=TextCommand, epilog=EPILOG)
@click.argument("text", nargs=-1, metavar="TEXT...")
@file_option
@model_option
@click.option("--html", metavar="FILE", help="Write an illustrated page that stands alone: no network, one file.")
@click.option(
    "--layer", type=int, metavar="N", help="Show layer N in full; -1: the last.  [default: 0; of an image the last]"
)
@click.option("--head", type=int, metavar="N", help="--html: the head that the map of attention shows first.")
@click.option(
    "--token", type=int, metavar="N", help="Whose numbers are shown.  [default: the first that is not special]"
)
@click.option("--serve", is_flag=True, help="Open a page on this machine: type texts, switch pooling, weights, faults.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="--serve: 0 takes any free port."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="--serve: the address to listen on.")
@pooling_option
@numerics_options
@lora_option
@mmproj_option
@image_option
@truncate_option
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context, /,
    text: tuple[str, ...], file: str | None, model: str, html: str | None, layer: int | None, head: int | None,
    token: int | None, serve: bool, port: int, host: str, pooling: str, numerics: dict[str, Any],
    lora: tuple[str, ...], mmproj: str | None, images: tuple[str, ...], truncate: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Show how TEXT becomes a vector: characters, tokens, each step of a layer, pooling, normalization.

    Each step has its formula, where it comes from (paper, GGUF tensors and keys), its shape and a few of its numbers.
    """
    check_options(ctx, serve, bool(images))
    more = serve or file is not None or bool(images)
    model, text = take_model(ctx, model, text, more=more, quiet=quiet)
    if serve:
        given = [decode(t) for t in Texts(text, file)] if text or file is not None else []
        show_page(open_embedder(model, numerics, lora), given or list(TEXTS), pooling, host, port, quiet)
        return
    if images:
        from refembed.cli import explain_image

        explain_image.run(model, numerics, lora, mmproj, images, text, pooling, layer, html, as_json, quiet)
        return
    texts = list(Texts(text, file))
    embedder = open_embedder(model, numerics, lora)
    if head is not None and not 0 <= head < embedder.info.n_head:
        raise click.UsageError(f"--head {head}: the model has heads 0 to {embedder.info.n_head - 1}.")
    walkthrough = explain(embedder, texts, pooling=pooling, layer=layer or 0, token=token, truncate=truncate)
    note(spell_model(model, embedder.info), quiet=quiet)
    if html:
        from refembed.explain.page import walkthrough_page
        from refembed.html.page import write_page

        path = write_page(html, walkthrough_page(walkthrough, head))
        note(f"page written to {path}", quiet=quiet)
    if as_json:
        print_json(as_object(walkthrough))
    elif not html:
        show(walkthrough)


def check_options(ctx: click.Context, serve: bool, images: bool) -> None:
    """UsageError for options that do not go together."""
    given = {
        str(param.name): max(param.opts, key=len)
        for param in ctx.command.params
        if ctx.get_parameter_source(str(param.name)) not in (ParameterSource.DEFAULT, None)
    }
    for name, option in given.items():
        if serve and name in ON_THE_PAGE:
            raise click.UsageError(f"{option} does not go with --serve: the page shows every layer, head and token.")
        if not serve and name in ("port", "host"):
            raise click.UsageError(f"{option} goes with --serve.")
        if images and name in NOT_OF_IMAGES:
            raise click.UsageError(f"{option} does not go with --image: it is about texts alone.")


def show_page(embedder: Embedder, texts: list[str], pooling: str, host: str, port: int, quiet: bool) -> None:
    """Serve the page until it is interrupted."""
    try:
        from refembed.playground.serve import serve
    except ModuleNotFoundError as e:
        if (e.name or "").split(".")[0] not in ("starlette", "uvicorn", "anyio", "httptools", "orjson"):
            raise
        raise RequestError(f"`refembed explain --serve` needs {e.name}", hint=INSTALL) from None
    serve(
        embedder, texts, pooling=pooling, host=host, port=port,
        announce=lambda where: note(f"listening on {where}\nopen it in a browser; Ctrl-C ends it", quiet=quiet),
    )  # fmt: skip


def show(j: Walkthrough) -> None:
    """The walkthrough as text."""
    line("", escape(in_one_sentence(j)))
    click.echo("")
    heading(1, "From characters to token ids", j.tokenizer)
    for stage in j.stages:
        parts = [escape(p) for p in spell_parts(stage, j.special)]
        more = f" ... ({len(parts)} in all)" if len(parts) > SHOWN_PARTS else ""
        line("  " + stage.name, " | ".join(parts[:SHOWN_PARTS]) + more or "(nothing)", stage.rule)
    if j.marks:
        line("  marks", j.marks)
    heading(2, "From ids to vectors", f"each id picks a row; T, the number of tokens, is {j.n_tokens}")
    steps(j.before)
    heading(3, f"Layer {j.layer} of {len(j.layers)}, step by step", "tokens look at each other, then each on its own")
    steps(j.inside)
    heading(4, "Through all layers", "entropy: how widely tokens look, 0 is at one token")
    heads = [">layer", ">mean |x|", ">cos(out, in)", ">entropy, bits", ">to itself", ">to the first token"]
    table(heads, [layer_cells(x) for x in j.layers])
    heading(5, "Pooling: " + j.pooling.title.lower(), j.pooling.formula)
    line("  ", "; ".join(x for x in (j.pooling.source, j.pooling.reads) if x))
    steps(j.behind)
    shares(j)
    unit = normalized(j)
    if j.pooled is not None and unit is not None and len(unit) > 1:
        heading(6, "Normalization", "y = p / |p|,  |p| = sqrt(Σ p²)    llama.cpp's embd_normalize 2")
        click.echo(f"  |p| {np.linalg.norm(j.pooled):.6g}   p {spell_numbers(j.pooled[:FIRST])} ...")
        click.echo(f"  |y| {np.linalg.norm(unit):.6g}   y {spell_numbers(unit[:FIRST])} ...")
    if j.vectors is not None:
        heading(7, "Similarity", "cos(a, b) = a · b / (|a| |b|)")
        n = len(j.vectors)
        rows = [[str(i + 1), *(f"{float(cosine(a, b)):.3f}" for b in j.vectors), escape(j.texts[i], 60)]
                for i, a in enumerate(j.vectors)]  # fmt: skip
        table([">", *(f">{i + 1}" for i in range(n)), "text"], rows)
    for remark in j.notes:
        click.echo(f"\nNote: {remark}")


def shares(j: Walkthrough) -> None:
    """The shares of the tokens in the vector."""
    if j.shares is None:
        return
    click.echo()
    line("  ", spell_shares(j))
    order = list(range(j.n_tokens))
    if j.n_tokens > SHOWN_TOKENS:
        order = sorted(np.argsort(-np.abs(j.shares), kind="stable")[:SHOWN_TOKENS].tolist())
        click.echo(f"  the {SHOWN_TOKENS} largest of {j.n_tokens}")
    table([">place", "token", ">share"], [(str(i), escape(j.pieces[i]), f"{j.shares[i]:.4f}") for i in order])


def heading(n: int, title: str, about: str) -> None:
    """A part's title."""
    click.echo(f"\n{n}. {title}" if n > 1 else f"{n}. {title}")
    line("  ", about)


def steps(found: list[Step]) -> None:
    """Steps: name, shape and title; the formula; what its letters stand for; numbers; the paper."""
    for s in found:
        more = " ..." if np.prod(s.shape) > FIRST else ""
        click.echo(f"\n  {s.label}  {spell_shape(s.shape)}  {s.title}".rstrip())
        if s.formula:
            line("    ", s.formula)
        if s.where:
            line("      ", s.where)
        click.echo(f"    {escape(s.whose)}: {spell_numbers(s.numbers)}{more}")
        if s.source:
            line("    ", s.source)


def line(label: str, text: str, rule: str = "") -> None:
    """Text behind a label, folded to the terminal's width; a rule on a line of its own."""
    width = max(shutil.get_terminal_size().columns, 60)
    indent = " " * (len(label) if not label.strip() else 18)
    begin = label if not label.strip() else f"{label:16}  "
    click.echo(
        textwrap.fill(text, width, initial_indent=begin, subsequent_indent=indent, break_on_hyphens=False) or begin
    )
    if rule:
        click.echo(textwrap.fill(f"({rule})", width, initial_indent=indent, subsequent_indent=indent + " "))


def layer_cells(x: Any) -> list[str]:
    """A layer's row."""
    rest = ((x.entropy, ".2f"), (x.to_self, ".1%"), (x.to_first, ".1%"))
    return [
        str(x.layer),
        f"{x.norm:.4g}",
        f"{x.kept:.4f}",
        *("-" if v is None else format(v, form) for v, form in rest),
    ]
