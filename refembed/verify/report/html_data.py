"""From a verdict to what the HTML report shows: tables, and the arrays behind its pictures."""

from __future__ import annotations

import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from refembed.embedder import Embedder
from refembed.errors import RefembedError
from refembed.model.trace import Recorder, Trace
from refembed.verify.compare.align import align, without_empty_cells, without_lora
from refembed.verify.compare.contributions import contributions
from refembed.verify.compare.floor import SCREEN
from refembed.verify.engines.base import Engine
from refembed.verify.reference import NUMERICS, Reference, reference_of
from refembed.verify.report.data import Attention, BothTokens, ReportData, TensorError, TextResult, WorstTensor
from refembed.verify.report.text import numbers
from refembed.verify.verdict import Verdict

LAYER = re.compile(r"-(\d+)$")
SHOWN_TOKENS = 6  # texts whose tokens are put side by side


def report_data(verdict: Verdict, engine: Engine, model: str | Path | Embedder, pooling: str = "native") -> ReportData:
    """Everything the page has a section for. The engine is asked for one trace more, where it shows its tensors."""
    embedder = model if isinstance(model, Embedder) else Embedder.load(model, numerics="fast")
    reference, e = reference_of(embedder, pooling), verdict.evidence
    numerics = arithmetic_of(verdict)
    ours, theirs = traces_of(verdict, engine, reference, numerics)

    def piece(i: int) -> str:
        return reference.tokenizer.piece(i).decode(errors="replace") if i < reference.info.n_vocab else "?"

    own = e.pieces if engine.name.startswith("http") else None

    def theirs_of(i: int) -> str:
        return (
            piece(i) if own is None else own.get(i, "")
        )  # a server's ids are read with its own vocabulary or not at all

    return replace(
        plain_report(verdict, engine.name),
        worst=worst_of(verdict, ours, theirs, [piece(i) for i in e.traced_ids]),
        tokens=[
            BothTokens(text, [(i, piece(i)) for i in mine], [(i, theirs_of(i)) for i in other])
            for text, mine, other in e.ids[:SHOWN_TOKENS]
        ],
        traced=[piece(i) for i in e.traced_ids],
        attention=attention_of(with_attention(ours, reference, numerics), theirs),
        contributions=shares_of(ours, reference),
        their_contributions=shares_of(theirs, reference),
        environment=environment_of(verdict) | ({"arithmetic of our tensors here": numerics} if ours else {}),
    )


def plain_report(verdict: Verdict, engine: str) -> ReportData:
    """What the verdict itself says; nothing is computed for it. engine: its name, where the verdict has none."""
    e, facts = verdict.evidence, verdict.evidence.facts
    return ReportData(
        model=f"{facts.get('name', '')} ({facts.get('model', '')})",
        engine=str(facts.get("engine", engine)),
        verdict=verdict.kind,
        cause=verdict.cause,
        advice=verdict.remedy,
        evidence=[*(s for s in numbers(verdict) if "first wrong tensor" not in s), *e.remarks],
        first_wrong_tensor=verdict.first_wrong_tensor,
        texts=[TextResult(t.text, t.tokens, t.distance, t.bound, t.agrees, t.nearest) for t in e.texts],
        tensors=[
            TensorError(r.name, r.k, layer_of(r.name), r.propagated**2, r.local**2, r.bound**2, r.op) for r in e.tensors
        ],
        hypotheses=[(id, left, any(c.id == id for c in verdict.causes)) for id, left in e.trials],
        environment=environment_of(verdict),
    )


def layer_of(name: str) -> int | None:
    """3 of `Qcur-3`."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def arithmetic_of(verdict: Verdict) -> str:
    """The row of `reference.NUMERICS` that the engine is nearest to, on the traced text."""
    e = verdict.evidence
    near = [t.nearest for t in e.texts if t.text == e.traced] or [t.nearest for t in e.texts]
    return next((w for w in near if w in NUMERICS), SCREEN)


def traces_of(
    verdict: Verdict, engine: Engine, reference: Reference, numerics: str
) -> tuple[Trace | None, Trace | None]:
    """Ours in one arithmetic and the engine's, of the text that was traced."""
    ids = list(verdict.evidence.traced_ids)
    if not ids:
        return None, None
    try:
        theirs = engine.trace(ids if engine.can_take_ids else verdict.evidence.traced) if engine.can_trace else None
    except RefembedError:
        theirs = None
    return shown_in(reference, ids, numerics), None if theirs is None else without_lora(theirs)


def shown_in(reference: Reference, ids: list[int], numerics: str) -> Trace:
    """Our tensors of one text."""
    recorder = Recorder({"tokens": ids})
    reference.show(ids, numerics, recorder)
    return recorder.trace


def with_attention(ours: Trace | None, reference: Reference, numerics: str) -> Trace | None:
    """A trace that shows where tokens look: flash attention keeps that to itself, its like without it does not."""
    if ours is None or numerics != "ggml" or any(n.startswith("kq_soft_max-") for n in ours):
        return ours
    return shown_in(reference, list(ours.meta["tokens"]), "ggml, plain")


def worst_of(verdict: Verdict, ours: Trace | None, theirs: Trace | None, pieces: list[str]) -> WorstTensor | None:
    """The first wrong tensor, or the one that has drifted furthest."""
    if ours is None or theirs is None:
        return None
    cut, found = without_empty_cells(theirs), align(ours, theirs)
    rows = verdict.evidence.tensors
    name = verdict.first_wrong_tensor or str(max(rows, key=lambda r: r.propagated, default=""))
    for pair in found.pairs:
        if pair.name + (f"[{pair.k}]" if pair.k else "") == name:
            x, y = ours.tensors[pair.ours].array, cut.tensors[pair.theirs].array
            if x.size == y.size and x.ndim >= 2:
                return WorstTensor(name, x, y.reshape(x.shape), pieces if x.shape[-2] == len(pieces) else ())
    return None


def attention_of(ours: Trace | None, theirs: Trace | None) -> list[Attention]:
    """Where tokens look in the first and the last layer that shows it."""
    if ours is None:
        return []
    names = [n for n in ours if n.startswith("kq_soft_max-")]
    found = []
    for name in dict.fromkeys([*names[:1], *names[-1:]]):
        x = np.asarray(ours[name], np.float64)
        other = None
        if theirs is not None and name in theirs:
            y = without_empty_cells(theirs)[name]
            other = np.asarray(y, np.float64).reshape(x.shape) if y.size == x.size else None
        found.append(Attention(int(name.rsplit("-", 1)[1]), x, other))
    return found


def shares_of(trace: Trace | None, reference: Reference) -> list[float]:
    """How much each token supplies of the vector; empty where nothing is pooled by a sum."""
    name = reference.model.output
    if trace is None or name not in trace:
        return []
    try:
        return [float(v) for v in contributions(np.asarray(trace[name], np.float64), reference.pooling)]
    except (RefembedError, ValueError):
        return []


def environment_of(verdict: Verdict) -> dict[str, Any]:
    """Builds and options, label -> value."""
    facts = verdict.evidence.facts
    found = {
        "refembed": facts.get("refembed", ""),
        "model": facts.get("model", ""),
        "pooling": facts.get("pooling", ""),
    }
    found |= {"weights": ", ".join(f"{n} {t}" for t, n in facts.get("quant_types", {}).items())}
    found |= {"Python": platform.python_version(), "NumPy": np.__version__, "machine": platform.platform()}
    found |= {f"engine: {k}": v for k, v in facts.get("info", {}).items()}
    found |= {f"noise floor, {k.replace('_', ' ')}": f"{v:.3g}" for k, v in verdict.noise_floor.items()}
    return found
