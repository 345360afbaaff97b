"""What `run` has measured of an engine, and how a verdict is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refembed.arrays import F64
from refembed.model.trace import Trace
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.verify.budget import Budget
from refembed.verify.compare.arrays import Difference, compare
from refembed.verify.compare.floor import Floor
from refembed.verify.compare.length import Length
from refembed.verify.compare.local import Comparison
from refembed.verify.diagnose import Diagnosis
from refembed.verify.hypotheses.batch_effects import BatchEffects
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.precision import Fit
from refembed.verify.reference import Item, Reference, Vectors
from refembed.verify.verdict import Cause, Evidence, TextRow, Verdict, sentence


@dataclass
class Findings:
    """What is known so far."""

    reference: Reference
    items: list[Item]
    vectors: Vectors
    floor: Floor
    distances: F64
    nearest: list[str]
    remarks: list[str]
    ids: list[tuple[str, list[int], list[int]]]
    info: dict[str, Any] = field(default_factory=dict)  # what the engine says of itself
    early: Cause | None = None  # a finding that needs no search
    in_addition: Cause | None = None  # one that holds in addition to whatever else differs
    budget: Budget = field(default_factory=Budget)  # of the search for a cause
    pieces: dict[int, str] = field(default_factory=dict)  # the engine's own text of its token ids
    batch_effects: BatchEffects | None = None
    traces: Comparison | None = None
    traced: Item = ""
    traced_ids: tuple[int, ...] = ()
    shown: Trace | None = None  # the engine's tensors of that text
    precision: Fit | None = None  # fewer bits than float32, whose floor this one is
    beyond: Sequence[Hypothesis] = ()  # and what the engine does otherwise, below that

    @property
    def agree(self) -> bool:
        """Whether all directions are within rounding."""
        return bool((self.distances <= self.floor.bound).all())

    @property
    def tokens(self) -> list[int]:
        """Tokens of each text."""
        return [len(self.reference.ids_of(i)) for i in self.items]


def verdict_of(
    found: Findings, kind: Any, causes: Sequence[Cause], length: Length | None, diagnosis: Diagnosis | None = None
) -> Verdict:
    """All of it in one record."""
    wrong = kind in ("differs", "unexplained") and not found.agree
    first = None if found.traces is None else found.traces.first_odd if wrong else found.traces.first_wrong
    name = (
        "inp_tokens"
        if found.ids and found.traces and kind in ("differs", "unexplained")
        else str(first)
        if first
        else None
    )
    evidence = Evidence(
        texts=tuple(text_row(found, i, length) for i in range(len(found.items))),
        tensors=tuple(found.traces.rows) if found.traces else (),
        traced=str(found.traced),
        traced_ids=found.traced_ids,
        ids=tuple(found.ids),
        tried=diagnosis.tried if diagnosis else 0,
        trials=tuple((t.id, t.left) for t in diagnosis.best) if diagnosis else (),
        length=length.says if length else "",
        remarks=tuple(r for r in found.remarks if not r.startswith("tensors: ")),
        untried=found.budget.says(),
        pieces=dict(found.pieces),
        precision=found.precision.precision.name if found.precision else "",
    )
    if not found.items:  # nothing was measured
        return Verdict(kind, sentence(causes), tuple(causes), name, {}, evidence)
    spread, bound = found.floor.spread, found.floor.bound
    floor = {
        "spread_median": float(np.median(spread)), "spread_worst": float(spread.max()),
        "bound_median": float(np.median(bound)), "bound_worst": float(bound.max()), "builds": found.floor.builds,
    }  # fmt: skip
    return Verdict(kind, sentence(causes), tuple(causes), name, floor, evidence)


def text_row(found: Findings, i: int, length: Length | None) -> TextRow:
    x, y = found.floor.by_numerics[found.nearest[i]][i], found.vectors[i]
    difference: Difference | None = None
    if x.shape == y.shape and np.isfinite(y).all():
        a = normalize_rows(x.astype(np.float32), 2) if length is None or length.kind != "raw" else x.astype(np.float32)
        b = (
            y.astype(np.float32)
            if length and length.kind in ("raw", "normalized")
            else normalize_rows(y.astype(np.float32), 2)
        )
        difference = compare(a, b)
    size = float(np.linalg.norm(x))
    ratio = float(np.linalg.norm(y)) / size if size else 0.0
    return TextRow(
        str(found.items[i]), found.tokens[i], float(found.distances[i]), float(found.floor.bound[i]), found.nearest[i],
        ratio, difference,
    )  # fmt: skip
