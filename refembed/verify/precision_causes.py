"""An engine that computes in TF32, float16 or bfloat16 is held to that precision's noise floor, not to float32's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from refembed.verify.batch_causes import case_of
from refembed.verify.compare.local import compare_traces
from refembed.verify.findings import Findings
from refembed.verify.precision import Fit, other_cause, precision_of
from refembed.verify.trials import under
from refembed.verify.verdict import Cause


def in_its_precision(found: Findings, progress: Callable[[str], object]) -> Findings | None:
    """The findings against the noise floor of the precision that the engine has; None where it has none."""
    case = case_of(found, progress)
    fit = precision_of(case)
    if fit is None:
        return None
    progress(f"{fit.precision.name}: looking for another cause below its rounding")
    beyond = other_cause(case, fit)
    if beyond:  # with it taken for known, the precision may be another one, or none
        again = precision_of(under(case, beyond))
        if again is None:
            return None
        fit = again
    floor = fit.case.floor
    distances, nearest = floor.distances(found.vectors)
    off = float(found.distances.max())
    remark = (
        f"{fit.precision.name}: 1 - cos to float32 is up to {off:.2g}, {fit.size:.2g} times what refembed finds for "
        f"this precision{'' if fit.by_size else ', and to the same side'}"
    )
    held = replace(found, floor=floor, distances=distances, nearest=nearest, remarks=[*found.remarks, remark])
    held.precision, held.beyond = fit, beyond
    if found.traces is not None and found.shown is not None:
        r, ids = found.reference, list(found.traced_ids)
        others = [partial(h.change(r).show, ids) for h in fit.samples]
        held.traces = compare_traces(r, ids, found.shown, others=others)
        held.remarks = [remark for remark in held.remarks if not remark.endswith("although the vectors agree")]
    return held


def precision_cause(fit: Fit) -> Cause:
    """The precision itself, of an engine that is sound."""
    says = f"is right within the rounding of {fit.precision.name}: it {fit.precision.says}"
    return Cause(fit.precision.id, says, float(fit.case.distances.max()), fit.by_size)


def causes_beyond(found: Findings) -> list[Cause]:
    """What the engine does otherwise, in that precision."""
    fit = found.precision
    if fit is None:
        return []
    left = float(np.max(fit.case.distances))
    return [Cause(f"{h.id} + {fit.precision.id}", f"{h.says}, and {fit.precision.says}", left) for h in found.beyond]
