"""A map of attention whose layer and head a reader chooses: a canvas, a few lines of script, and words for all of it.

Vaswani et al. 2017, "Attention Is All You Need": row i of softmax(Q Kᵀ / sqrt(D)) says how much of each token's value
goes into token i. Weights are kept in 8 bits, so a number shown is right to 0.01.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.html.assets import read_asset
from refembed.html.page import esc, table, visible
from refembed.html.picture import WHITE_TO_BLUE

Array = npt.NDArray[Any]

MOST_TOKENS = 512  # of a text; the map shows its beginning
MOST_CELLS = 3_000_000  # bytes kept of all heads; beyond that, of layers that were not chosen, their mean alone

PARTS = read_asset(__file__, "map.js").replace("export ", "")  # a module of the playground, and a part of this script
SCRIPT = read_asset(__file__, "attention.js").replace("// map.js\n", PARTS)


def attention_map(
    id: str, layers: Mapping[int, Array], tokens: Sequence[str], *, layer: int, head: int | None = None
) -> str:
    """The map, with its controls.

    id      of the figure, unlike any other on the page
    layers  layer -> (H, T, T); row i is where token i looks
    tokens  (T) pieces
    layer   shown first, and kept with all its heads; head: shown first, None is the mean of all
    """
    T = min(len(tokens), MOST_TOKENS)
    cells = sum(a.shape[0] * T * T for a in layers.values())
    maps = {str(il): heads_of(a[:, :T, :T], cells <= MOST_CELLS or il == layer) for il, a in sorted(layers.items())}
    first = "mean" if head is None else str(head)
    data = {
        "tokens": [esc_script(t) for t in tokens[:T]], "maps": maps, "layer": str(layer), "head": first,
        "ramp": WHITE_TO_BLUE,
    }  # fmt: skip
    options = "".join(f'<option value="{il}">layer {il}</option>' for il in sorted(layers))
    cut = f" Only the first {T} of {len(tokens)} tokens are shown." if len(tokens) > T else ""
    rows = table_of(layers[layer], tokens, head) if T <= 40 else ""
    words = f"Attention of layer {layer}: {strongest(layers[layer], tokens, head)}"
    return (
        f'<figure id="{id}"><div class="controls"><label>Layer <select class="layer">{options}</select></label>'
        f'<label>Head <select class="head"></select></label><output aria-live="polite"></output></div>'
        f'<canvas class="map" role="img" width="100" height="100" aria-label="{esc(words)}"></canvas>'
        "<figcaption>Each row is a token that looks, each column a token that is looked at, both in reading order from "
        f"the top left; darker is more, and every row adds up to 1.{cut} Point at a cell to read its number. "
        f"{esc(words)}.</figcaption>{rows}"
        f'<script type="application/json">{json.dumps(data).replace("<", chr(92) + "u003c")}</script>'
        f"<script>{SCRIPT.replace('ID', id)}</script></figure>"
    )


def esc_script(text: str) -> str:
    """A piece as the script shows it: by textContent, so without markup, but with invisible characters visible."""
    return "".join(map(visible, text))


def heads_of(a: Array, every: bool) -> dict[str, str]:
    """ "mean", and each head where asked for, as base64 of T x T bytes."""
    maps = {"mean": packed(a.mean(axis=0))}
    return maps | {str(h): packed(x) for h, x in enumerate(a)} if every else maps


def packed(x: Array) -> str:
    """Numbers from 0 to 1 as bytes."""
    bits = np.rint(np.clip(np.nan_to_num(np.asarray(x, np.float64)), 0, 1) * 255).astype(np.uint8)
    return base64.b64encode(bits.tobytes()).decode()


def heads_to_draw(a: Array, head: int | None) -> Array:
    """One head, or the mean of all: (T, T)."""
    found: Array = a.mean(axis=0) if head is None else a[head]
    return found


def strongest(a: Array, tokens: Sequence[str], head: int | None) -> str:
    """The largest weight in words."""
    x = np.nan_to_num(heads_to_draw(a, head))
    i, j = divmod(int(x.argmax()), len(x))
    who = "the mean of all heads" if head is None else f"head {head}"
    return f"in {who}, “{tokens[i]}” looks most at “{tokens[j]}”, with weight {x[i, j]:.2f}"


def table_of(a: Array, tokens: Sequence[str], head: int | None) -> str:
    """What each token looks at most, for those who cannot see the map."""
    x = heads_to_draw(a, head)
    rows = []
    for i, piece in enumerate(tokens):
        best = np.argsort(-np.nan_to_num(x[i]), kind="stable")[:3]
        rows.append((esc(piece), ", ".join(f"{esc(tokens[j])} {x[i, j]:.2f}" for j in best)))
    return f"<details><summary>The same in words</summary>{table(('token', 'looks most at'), rows)}</details>"
