"""An image's way through a tower as an illustrated page: patches, attention and shares drawn over the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refembed.arrays import F64, U8
from refembed.explain.image_words import caption, facts, lead, spell_layers, spell_numbers
from refembed.explain.images import FIRST, ImageStep, ImageWalkthrough
from refembed.html.page import Section, esc, figure, page, table
from refembed.html.picture import RED_TO_BLUE, WHITE_TO_BLUE, image, ramp, scale_bar

WIDEST = 560  # pixels of a picture on the page
LINE = (255, 255, 255)
MARK = (230, 60, 20)  # around the patch whose numbers are shown
LEAST = 420  # pixels that a picture is enlarged to, so that lines between patches can be seen


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


def patches(w: ImageWalkthrough) -> str:
    """The picture as the tower reads it, cut into patches."""
    alt = caption(w)
    drawn = with_lines(enlarged(w.seen, w), w, both=True)
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
    first = figure(shown(overlay(w, w.looks, mark=True), alt) + scale_bar(float(w.looks.max()), False), f"{esc(alt)}.")
    many = [
        figure(shown(overlay(w, x), f"Layer {il}: how much each patch is looked at", 240), f"Layer {il}")
        for il, x in chosen(w.looked_at)
    ]
    words = "How much each patch is looked at by all others, the mean of all heads: darker is more, layer by layer."
    row_of = '<div style="display:flex;flex-wrap:wrap;gap:1rem">' + "".join(many) + "</div>"
    heads = [">layer", ">mean |x|", ">cos(out, in)", ">entropy of attention, bits", ">to itself"]
    return first + intro(words) + row_of + table(heads, spell_layers(w), caption="Layers in numbers")


def chosen(found: dict[int, F64], most: int = 9) -> list[tuple[int, F64]]:
    """At most so many layers, from the first to the last."""
    every = sorted(found.items())
    at = sorted({round(i * (len(every) - 1) / max(most - 1, 1)) for i in range(most)}) if len(every) > most else None
    return every if at is None else [every[i] for i in at]


def tokens(w: ImageWalkthrough) -> str:
    """Lengths of the rows."""
    alt = f"Length of each of {w.tokens.width} x {w.tokens.height} rows that the text model gets"
    top = float(w.lengths.max())
    drawn = shown(overlay(w, w.lengths), alt) + scale_bar(top, False)
    return steps(w.behind) + figure(drawn, f"{esc(alt)}: from {w.lengths.min():.4g} to {top:.4g}.")


def vector(w: ImageWalkthrough) -> str:
    """What each token of the image contributes."""
    text = intro(f"The text model reads {w.n_tokens} tokens: {w.text}. Pooling: {w.how}.")
    if w.shares is None or w.image_share is None:
        return text + "".join(intro(note) for note in w.notes if "ooling" in note)
    alt = f"Share of each token of the image in the vector, {w.image_share:.1%} in all"
    top = float(np.abs(w.shares).max())
    drawn = shown(overlay(w, w.shares, signed=True), alt) + scale_bar(top, True)
    words = "q · p / |p|², with q what a token adds to the pooled vector p; red pulls the other way"
    return text + figure(drawn, f"{esc(alt)}: {esc(words)}.")


# -- pictures --------------------------------------------------------------------------------------------------------


def enlarged(rgb: U8, w: ImageWalkthrough) -> U8:
    """Pixels once or several times larger, so that a patch is more than a few pixels wide."""
    k = max(1, -(-LEAST // max(w.read)))
    return np.ascontiguousarray(rgb.repeat(k, axis=0).repeat(k, axis=1))


def overlay(w: ImageWalkthrough, grid: F64, *, signed: bool = False, mark: bool = False) -> U8:
    """A color for each cell of a grid, laid over the gray picture; darker or more colored is more."""
    rgb = enlarged(w.seen, w)
    top = float(np.abs(grid).max()) or 1.0
    colors = ramp((grid / top + 1) / 2, RED_TO_BLUE) if signed else ramp(np.abs(grid) / top, WHITE_TO_BLUE)
    height, width, _ = rgb.shape
    large = colors.repeat(-(-height // len(colors)), axis=0).repeat(-(-width // colors.shape[1]), axis=1)
    gray = (rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    mixed = 0.4 * gray + 0.6 * large[:height, :width]
    out = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return with_lines(out, w, both=False) if mark else out


def with_lines(rgb: U8, w: ImageWalkthrough, both: bool) -> U8:
    """Lines between patches, thicker ones between tokens, and a frame around the patch whose numbers are shown.

    both  all lines; otherwise the frame alone
    """
    out, (height, width, _) = rgb.copy(), rgb.shape
    tall, wide = height // w.patches.height, width // w.patches.width
    if both:
        for step, thick in ((tall, 1), (height // w.tokens.height, 2)):
            for y in range(step, height, step):
                out[y - thick + 1 : y + 1] = LINE
        for step, thick in ((wide, 1), (width // w.tokens.width, 2)):
            for x in range(step, width, step):
                out[:, x - thick + 1 : x + 1] = LINE
    y, x = w.patch[0] * tall, w.patch[1] * wide
    for edge in (np.s_[y : y + 2, x : x + wide], np.s_[y + tall - 2 : y + tall, x : x + wide],
                 np.s_[y : y + tall, x : x + 2], np.s_[y : y + tall, x + wide - 2 : x + wide]):  # fmt: skip
        out[edge] = MARK
    return out


def shown(rgb: U8, alt: str, widest: int = WIDEST) -> str:
    """A picture on the page."""
    height, width, _ = rgb.shape
    scale = min(1.0, widest / max(width, height))
    return image(rgb, alt, round(width * scale), round(height * scale))
