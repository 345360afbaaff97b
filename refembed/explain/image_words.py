"""An image's way through a tower in words, for the terminal, for pages and as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from refembed.explain.images import ImageStep, ImageWalkthrough
from refembed.explain.words import spell_numbers


def lead(w: ImageWalkthrough) -> str:
    """The whole in a sentence."""
    return (
        f"An image of {w.given.width} x {w.given.height} pixels through {w.info['model']} and its tower "
        f"{w.info['tower']}, computed with the numerics “{w.info['numerics']}”."
    )


def facts(w: ImageWalkthrough) -> str:
    """Sizes from the image to its tokens."""
    merged = w.patches.width // w.tokens.width
    return (
        f"{w.given.width} x {w.given.height} pixels become {w.read.width} x {w.read.height} that the tower reads; "
        f"these are {w.patches.width} x {w.patches.height} = {w.patches.width * w.patches.height} patches of "
        f"{w.read.width // w.patches.width} x {w.read.height // w.patches.height} pixels; squares of {merged} x "
        f"{merged} become {w.tokens.width} x {w.tokens.height} = {w.tokens.width * w.tokens.height} tokens."
    )


def caption(w: ImageWalkthrough) -> str:
    """The first picture."""
    pixels, patches = f"{w.read.width} x {w.read.height}", f"{w.patches.width} x {w.patches.height}"
    return f"What the tower reads: {pixels} pixels, {patches} patches"


def spell_layers(w: ImageWalkthrough) -> list[list[str]]:
    """A row for each layer."""
    return [
        [str(x.layer), f"{x.norm:.4g}", f"{x.kept:.4f}", opt(x.entropy, ".2f"), opt(x.to_self, ".1%")] for x in w.layers
    ]


def opt(value: float | None, form: str) -> str:
    """A number that may be unknown."""
    return "-" if value is None else format(value, form)


def strongest(grid: Any, n: int = 3) -> str:
    """The largest cells of a grid: "row,column 0.12"."""
    flat = np.argsort(-np.abs(grid), axis=None, kind="stable")[:n]
    places = [tuple(int(i) for i in np.unravel_index(int(k), grid.shape)) for k in flat]
    return ", ".join(f"{row},{column} {grid[row, column]:.3g}" for row, column in places)


def as_object(w: ImageWalkthrough) -> dict[str, Any]:
    """Everything but the picture as JSON has it."""
    return {
        "format": "refembed-image-walkthrough-1", "info": w.info, "given": w.given._asdict(), "read": w.read._asdict(),
        "patches": w.patches._asdict(), "tokens": w.tokens._asdict(), "patch": list(w.patch), "layer": w.layer,
        "before": [step(s) for s in w.before], "inside": [step(s) for s in w.inside],
        "behind": [step(s) for s in w.behind],
        "layers": [
            {"layer": x.layer, "norm": x.norm, "kept": x.kept, "entropy": x.entropy, "to_self": x.to_self}
            for x in w.layers
        ],
        "looked_at": {str(il): x.tolist() for il, x in w.looked_at.items()},
        "looks": None if w.looks is None else w.looks.tolist(), "lengths": w.lengths.tolist(), "text": w.text,
        "n_tokens": w.n_tokens, "pooling": w.how, "shares": None if w.shares is None else w.shares.tolist(),
        "image_share": w.image_share, "vector": w.vector.tolist(), "notes": w.notes,
    }  # fmt: skip


def step(s: ImageStep) -> dict[str, Any]:
    """One tensor."""
    return {"name": s.name, "shape": list(s.shape), "numbers": list(s.numbers), "title": s.title, "formula": s.formula}


__all__ = ["as_object", "caption", "facts", "lead", "opt", "spell_layers", "spell_numbers", "strongest"]
