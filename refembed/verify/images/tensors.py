"""Tensors of an engine's tower against the reference's: the first wrong one, and which hypotheses explain it.

A whole trace is compared operation by operation, ours on the engine's own inputs (`compare.local`); a printed one,
which shows a few numbers of each tensor, in the places that were printed (`verify.printed`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from refembed.arrays import U8
from refembed.model.trace import Recorder, Trace
from refembed.verify.compare.local import LEAST, Comparison, compare_runs, error, run_numerics
from refembed.verify.engines.images import ImageEngine
from refembed.verify.images.hypothesis import FAILURES, ImageHypothesis
from refembed.verify.images.pixels import pixel_hypotheses
from refembed.verify.images.reference import ImageReference
from refembed.verify.images.towers import tower_hypotheses
from refembed.verify.printed import NUMERICS as PRINTED
from refembed.verify.printed import rooms_of, rows_of

TRACED = 1 << 28  # numbers of all attention weights of one image: beyond, tensors are not compared
NOTHING_PAIRS = "no tensor that the engine shows has the name and shape of one of the tower's"
LARGE = "tensors are not compared: the attention weights of such an image take too much memory"


@dataclass(frozen=True)
class Inside:
    """What a look at an engine's tensors gave. Fields stay empty where it shows none."""

    theirs: Trace | None = None
    found: Comparison | None = None
    size: str = ""  # how its tower's pixels differ in number from ours
    remark: str = ""

    def first(self, wrong: bool) -> str | None:
        """The first wrong tensor. wrong: something is known to be wrong (`Comparison.first_odd`)."""
        if self.size:
            return "inp_raw"
        row = None if self.found is None else self.found.first_odd if wrong else self.found.first_wrong
        return str(row) if row else None


def look_inside(r: ImageReference, engine: ImageEngine, image: U8) -> Inside:
    """Every tensor of the tower on one image."""
    hp = r.tower.hparams
    N = r.tower.n_tokens(image) * hp.n_merge**2
    if hp.n_head * hp.n_layer * N * N > TRACED:
        return Inside(remark=LARGE)
    theirs = engine.trace_image(image)
    if theirs is None:
        return Inside()
    own = r.tower.pixels(r.seen(image)).shape
    if "inp_raw" in theirs and theirs["inp_raw"].squeeze().shape != own:
        h, w = theirs["inp_raw"].shape[-2:]
        return Inside(theirs, size=f"reads {w} x {h} pixels of the image, where llama.cpp reads {own[2]} x {own[1]}")
    found = compared(r, image, theirs)
    said = "the engine prints some numbers of each tensor: compared there" if theirs.meta.get("partial") else ""
    return Inside(theirs, found, remark=said if found.rows else NOTHING_PAIRS)


def compared(r: ImageReference, image: U8, theirs: Trace) -> Comparison:
    """Each tensor that both have."""
    if not theirs.meta.get("partial"):
        return compare_runs(partial(r.show, image), r.tower.hparams.n_head, theirs)
    ours = {}
    for numerics in PRINTED:
        recorder = Recorder()
        with np.errstate(all="ignore"):
            r.show(image, numerics, recorder)
        ours[numerics] = recorder.trace
    return Comparison(rows_of(ours, theirs, rooms_of(ours)))


def explaining(
    r: ImageReference, image: U8, inside: Inside, late: Callable[[], bool]
) -> tuple[list[ImageHypothesis], int]:
    """Hypotheses under which no tensor is wrong any more, and how many were tried."""
    found, tried = [], 0
    for h in (*pixel_hypotheses(r), *tower_hypotheses(r)):
        if late():
            break
        tried += 1
        try:
            if explains(h.change(r), image, inside):
                found.append(h)
        except FAILURES:
            continue
    plain = [h for h in found if not h.id.startswith("published")]
    return plain or found, tried  # the published model is several things at once


def explains(r: ImageReference, image: U8, inside: Inside) -> bool:
    """Whether a changed reference has all tensors."""
    assert inside.theirs is not None
    theirs = inside.theirs
    if "inp_raw" in theirs and theirs["inp_raw"].squeeze().shape != r.tower.pixels(r.seen(image)).shape:
        return False
    if theirs.meta.get("partial"):
        rows = compared(r, image, theirs).rows
        return len(rows) > 0 and not any(row.wrong for row in rows)
    known = [] if inside.found is None else inside.found.rows
    bounds = {(row.name, row.k): row.bound for row in known}
    run = run_numerics(partial(r.show, image), theirs, "exact")
    errors = {
        (pair.name, pair.k): error(x, theirs.tensors[j].array.reshape(x.shape))
        for j, (pair, x) in run.kept.items()
        if theirs.tensors[j].array.size == x.size
    }
    if ("inp_raw", 0) not in errors or len(errors) < len(known):
        return False
    return all(e <= bounds.get(key, 3 * LEAST if key[0] == "inp_raw" else 1e-2) for key, e in errors.items())
