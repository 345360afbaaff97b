"""An image's way through a tower as an illustrated page: patches, attention and shares drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refembed.arrays import F64
from refembed.explain.image_words import caption, facts, lead, spell_layers, spell_numbers
from refembed.explain.images import FIRST, ImageStep, ImageWalkthrough
from refembed.html.page import Section, esc, figure, page, table
from refembed.html.patches import Cut, overlay, shown, side_by_side, with_lines
from refembed.html.picture import scale_bar


def image_page(w: ImageWalkthrough) -> str:
    """The page as HTML."""
    sections = [
        Section("patches", "1. From pixels to patches", patches(w)),
        Section("embedding", "2. From patches to vectors", steps(w.before)),
        Section("layer", f"3. Layer {w.layer}, step by step", steps(w.inside)),
        Section("attention", "4. Attention over the picture", attention(w)),
        Section("tokens", "5. From patches to tokens", tokens(w)),
        Section("vector", "6. The image in the vector", vector(w)),
        Section("model", "The model", table(["", ""], [(esc(k), esc(v)) for k, v in w.info.items()], kind="facts")),
    ]
    return page("How an image becomes a vector", esc(lead(w)), [s for s in sections if s.body])


def intro(text: str) -> str:
    return f"<p>{esc(text)}</p>"


def cut_of(w: ImageWalkthrough) -> Cut:
    """The picture as the tower reads it, and its patches; the one whose numbers are shown is marked."""
    return Cut(w.seen, (w.patches.width, w.patches.height), (w.tokens.width, w.tokens.height), w.patch)


def patches(w: ImageWalkthrough) -> str:
    """The picture as the tower reads it, cut into patches."""
    alt = caption(w)
    drawn = with_lines(cut_of(w))
    return intro(facts(w)) + figure(shown(drawn, alt), f"{esc(alt)}. Thin lines are patches, thick ones tokens; the "
                                    "frame is the patch whose numbers are shown.")  # fmt: skip


def steps(found: Sequence[ImageStep]) -> str:
    """Each with its formula, shape and numbers."""
    return "".join(map(one_step, found))


def one_step(s: ImageStep) -> str:
    formula = f'<div class="formula mono">{esc(s.formula)}</div>' if s.formula else ""
    more = " ..." if np.prod(s.shape) > FIRST else ""
    shape = " x ".join(map(str, s.shape))
    return (
        f"<h3>{esc(s.title)} <code>{esc(s.name)}</code></h3>{formula}"
        f'<p class="mono">({shape}); {spell_numbers(s.numbers)}{more}</p>'
    )


def attention(w: ImageWalkthrough) -> str:
    """Where the patch looks, and what each layer's patches look at."""
    if w.looks is None:
        return "".join(intro(note) for note in w.notes if "attention" in note)
    row, column = w.patch
    alt = f"Where patch {row},{column} looks in layer {w.layer}, the mean of {w.info['heads']} heads"
    looks = shown(overlay(cut_of(w), w.looks, mark=True), alt)
    first = figure(looks + scale_bar(float(w.looks.max()), False), f"{esc(alt)}.")
    many = [
        figure(shown(overlay(cut_of(w), x), f"Layer {il}: how much each patch is looked at", 240), f"Layer {il}")
        for il, x in chosen(w.looked_at)
    ]
    words = "How much each patch is looked at by all others, the mean of all heads: darker is more, layer by layer."
    heads = [">layer", ">mean |x|", ">cos(out, in)", ">entropy of attention, bits", ">to itself"]
    return first + intro(words) + side_by_side(many) + table(heads, spell_layers(w), caption="Layers in numbers")


def chosen(found: dict[int, F64], most: int = 9) -> list[tuple[int, F64]]:
    """At most so many layers, from the first to the last."""
    every = sorted(found.items())
    at = sorted({round(i * (len(every) - 1) / max(most - 1, 1)) for i in range(most)}) if len(every) > most else None
    return every if at is None else [every[i] for i in at]


def tokens(w: ImageWalkthrough) -> str:
    """Lengths of the rows."""
    alt = f"Length of each of {w.tokens.width} x {w.tokens.height} rows that the text model gets"
    top = float(w.lengths.max())
    drawn = shown(overlay(cut_of(w), w.lengths), alt) + scale_bar(top, False)
    return steps(w.behind) + figure(drawn, f"{esc(alt)}: from {w.lengths.min():.4g} to {top:.4g}.")


def vector(w: ImageWalkthrough) -> str:
    """What each token of the image contributes."""
    text = intro(f"The text model reads {w.n_tokens} tokens: {w.text}. Pooling: {w.how}.")
    if w.shares is None or w.image_share is None:
        return text + "".join(intro(note) for note in w.notes if "ooling" in note)
    alt = f"Share of each token of the image in the vector, {w.image_share:.1%} in all"
    top = float(np.abs(w.shares).max())
    drawn = shown(overlay(cut_of(w), w.shares, signed=True), alt) + scale_bar(top, True)
    words = "q · p / |p|², with q what a token adds to the pooled vector p; red pulls the other way"
    return text + figure(drawn, f"{esc(alt)}: {esc(words)}.")
