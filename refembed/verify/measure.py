"""From an engine's vectors to distances: under which pooling they are compared, and the noise floor of these texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refembed.pooling.heads import width
from refembed.verify import early, identity
from refembed.verify.compare.floor import Floor, floor_of
from refembed.verify.engines.base import Engine
from refembed.verify.findings import Findings
from refembed.verify.reference import Item, Reference, Vectors
from refembed.verify.verdict import Cause


def measure(
    reference: Reference,
    engine: Engine,
    items: list[Item],
    vectors: Vectors,
    progress: Callable[[str], object],
    asked_for: bool = False,
) -> Findings:
    """Vectors against the noise floor. An engine that does not pool is compared row by row, one that pools otherwise
    than the file says under its own pooling where the file says nothing."""
    remarks: list[str] = []
    cause: Cause | None = None
    if all(v.ndim == 2 for v in vectors) and reference.pooling != "none":
        if engine.name.startswith("http") and engine.info.get("dialect") != "tei tokens":
            why = early.why(reference, asked_for)
            cause = Cause("pooling-none", f"does not pool: it gives a vector for each token, where {why}", 0.0)
        reference = replace(reference, pooling="none")
        remarks.append("the engine gives a vector for each token: compared row by row, without pooling")
    elif all(v.ndim == 1 for v in vectors) and vectors[0].shape[-1] != 1:
        reference, vectors, said, cause = pooled_as(reference, engine, items, vectors, asked_for)
        remarks += said
    progress("measuring the noise floor")
    floor = floor_of(reference, items, sample=True)
    distances, nearest = floor.distances(vectors)
    found = Findings(reference, items, vectors, floor, distances, nearest, remarks, [])
    if cause is not None and found.agree:
        found.early = cause
    elif cause is not None:
        found.in_addition = cause
    return found


def pooled_as(
    reference: Reference, engine: Engine, items: list[Item], vectors: Vectors, asked_for: bool
) -> tuple[Reference, Vectors, list[str], Cause | None]:
    """The reference under the pooling that these vectors have, with a remark and maybe a finding about it.

    A file that names a pooling is held to it; of one that names none every pooling is right, and the engine's is taken.
    """
    n, wanted = vectors[0].shape[-1], width(reference.model.hparams, reference.pooling)
    if reference.pooling != "none" and n == wanted:
        return reference, vectors, [], None
    near = early.nearest_pooling(reference, items, vectors)
    if near is None:
        return reference, vectors, [], None
    changed, good = near
    if reference.pooling == "none" and not asked_for:
        said = early.unnamed_remark(reference, changed, good)
        return changed, vectors, [said], None
    if good or reference.pooling == "none":
        return changed, vectors, [], early.pooling_cause(reference, changed, asked_for)
    return reference, vectors, [], None


def without_vectors(
    reference: Reference, info: dict[str, Any], cause: Cause, ids: Sequence[Any], engine: Engine
) -> Findings:
    """Findings where no vector is worth a comparison."""
    nothing = np.zeros(0)
    floor = Floor({}, nothing, 0.0, 0.0)
    found = Findings(reference, [], [], floor, nothing, [], [], list(ids), info, early=cause)
    found.pieces = identity.pieces_by_id(engine, ids)
    return found
