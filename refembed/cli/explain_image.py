"""`refembed explain --image`: the way of one image through a vision tower, for learners."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from refembed.cli.models import open_embedder, spell_model
from refembed.cli.show import note, print_json, table
from refembed.explain.image_words import as_object, facts, spell_layers, spell_numbers, strongest
from refembed.explain.images import FIRST, ImageStep, ImageWalkthrough, explain_image
from refembed.explain.words import spell_shape


def run(
    model: str, numerics: dict[str, Any], lora: Sequence[str], mmproj: str | None, images: Sequence[str],
    text: Sequence[str], pooling: str, layer: int | None, html: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Explain one image, with one text or none. layer: of the tower; None is the last."""
    if not mmproj:
        raise click.UsageError("--image needs --mmproj FILE, the model's vision tower.")
    if len(images) > 1 or len(text) > 1:
        raise click.UsageError("explain takes one image, with one text or none.")
    embedder = open_embedder(model, numerics, lora, mmproj=mmproj)
    given = text[0] if text else ""
    own = -1 if layer is None else layer
    w = explain_image(embedder, images[0], given, pooling=pooling, layer=own)
    note(f"{spell_model(model, embedder.info)}; tower {Path(mmproj).name}", quiet=quiet)
    if html:
        from refembed.explain.image_page import image_page
        from refembed.html.page import write_page

        path = write_page(html, image_page(w))
        note(f"page written to {path}", quiet=quiet)
    if as_json:
        print_json(as_object(w))
    elif not html:
        show(w)


def show(w: ImageWalkthrough) -> None:
    """The walkthrough as text."""
    click.echo(f"1. From pixels to patches\n  {facts(w)}")
    click.echo(
        f"\n2. From patches to vectors\n  numbers are those of the patch in row {w.patch[0]}, column {w.patch[1]}"
    )
    steps(w.before)
    click.echo(f"\n3. Layer {w.layer} of {len(w.layers)}, step by step")
    steps(w.inside)
    click.echo("\n4. Through all layers\n  entropy: how widely patches look, 0 is at one patch")
    table([">layer", ">mean |x|", ">cos(out, in)", ">entropy, bits", ">to itself"], spell_layers(w))
    if w.looks is not None:
        click.echo(f"  in layer {w.layer} this patch looks most at (row,column weight): {strongest(w.looks)}")
    for il, x in w.looked_at.items():
        if il == w.layer:
            click.echo(f"  and most looked at are: {strongest(x)}")
    click.echo("\n5. From patches to tokens")
    steps(w.behind)
    click.echo(f"\n6. The image in the vector\n  the text model reads {w.n_tokens} tokens: {w.text}; pooling {w.how}")
    if w.shares is not None and w.image_share is not None:
        click.echo(
            f"  the image is {w.image_share:.1%} of the vector; the largest shares (row,column): {strongest(w.shares)}"
        )
    click.echo(f"  the vector begins {spell_numbers(w.vector.reshape(-1)[:FIRST])} ...")
    for remark in w.notes:
        click.echo(f"\nNote: {remark}")


def steps(found: Sequence[ImageStep]) -> None:
    """Name, shape and title; the formula; numbers."""
    for s in found:
        more = " ..." if np.prod(s.shape) > FIRST else ""
        formula = f"    {s.formula}" if s.formula else ""
        click.echo(f"\n  {s.name}  {spell_shape(s.shape)}  {s.title}{formula}\n    {spell_numbers(s.numbers)}{more}")
