"""A printed run (llama.cpp's eval-callback) against the reference: the first tensor that is wrong where it was printed.

Six numbers of an axis with four decimals cannot be run on, so nothing is local here: our run and theirs lie side by
side. Each tensor of ours is computed in several arithmetics; what these differ by, over the whole tensor, is its floor.
A printed number may be half its last digit and BOUND floors away from the nearest; the printed sum, which is of all
elements, likewise. The first tensor beyond that, in the order of our run, is the culprit: all before it are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from refembed.arrays import F64
from refembed.errors import EngineError, RefembedError, RequestError
from refembed.model.trace import Recorder, Trace
from refembed.verify.compare.floor import build_spread
from refembed.verify.compare.local import BOUND, Row
from refembed.verify.engines.base import Engine
from refembed.verify.engines.dump import HALF, ShownDifference, compare_shown
from refembed.verify.hypotheses import cheap_hypotheses
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.reference import Item, Reference
from refembed.verify.verdict import Cause, Evidence, Verdict, facts_of, sentence

NUMERICS = ("exact", "fast", "ggml, plain", "ggml")
TRIED = ("exact", "ggml, plain")  # arithmetics for hypotheses: textbook activations, and llama.cpp's table
LEAST = 1e-5  # of a tensor's largest number: float32 sums in any order
SUMS = 1e-6  # of the sum of magnitudes: what elements that are the same but for their last bits add up to
LARGEST = 100_000_000  # weights besides embeddings: of larger models no hypothesis is run
RUN = ("batch", "model")  # stages of hypotheses that change what a run of given ids prints

Key = tuple[str, int]  # a tensor's name, and the occurrence index of the of it


@dataclass(frozen=True)
class Tolerance:
    """How far a tensor of ours may be from a printed one."""

    peak: float  # largest magnitude
    element: float  # of a printed number
    total: float  # of the sum


def verify_shown(
    reference: Reference, engine: Engine, texts: Sequence[Item] | None, progress: Callable[[str], object]
) -> Verdict:
    """The verdict on an engine whose traces are `partial`: never `identical`, for most was not printed.

    texts  the one text, or ids, that were run; None: what the recording says
    RequestError where the text is not given, or there are several; EngineError where it is a run of another text, or
    is cut short and agrees as far as it goes.
    """
    info = dict(engine.info)
    where = str(info.get("file", engine.name))
    item = the_text(texts, info, where)
    theirs = engine.trace(item)
    ids, their_ids = reference.ids_of(item), theirs.meta.get("tokens")
    differing = (
        [(str(item), ids, [int(i) for i in their_ids])] if their_ids is not None and list(their_ids) != ids else []
    )
    ids = differing[0][2] if differing else ids
    progress("comparing printed tensors")
    strange = unknown_id(reference, ids)
    ours = {} if strange else traces_of(reference, ids, NUMERICS)
    strange = strange or other_model(ours["exact"], theirs, len(ids), where)
    rooms = {} if strange else rooms_of(ours)
    rows = [] if strange else rows_of(ours, theirs, rooms)
    first = next((r for r in rows if r.wrong), None)
    cut = theirs.meta.get("cut")
    if cut and first is None and not strange and not differing:
        raise EngineError(
            f"{where} ends in the middle of {cut[0]} (line {cut[1]}): the {len(rows)} tensors before it agree, "
            "of the rest nothing can be said", hint="print the whole run into a file",
        )  # fmt: skip
    causes, tried = ([strange], 0) if strange else ([], 0)
    if differing and not strange:
        causes = [Cause("tokens", "has other tokens; the tensors are compared on its own")]
    elif first is not None:
        progress("looking for the cause")
        causes, tried = causes_of(reference, ids, theirs, rooms, first)
    kind = "within rounding" if not causes else "unexplained" if causes[0].id == "tensor" else "differs"
    evidence = Evidence(
        tensors=tuple(rows), traced=str(item), traced_ids=tuple(ids), ids=tuple(differing), tried=tried,
        remarks=() if strange else tuple(remarks(theirs, ours["exact"], rows, cut)),
        facts=facts_of(reference, engine, info, [len(ids)]),
    )  # fmt: skip
    name = "inp_tokens" if differing and not strange else str(first) if first else None
    return Verdict(kind, sentence(causes), tuple(causes), name, floor_numbers(reference, rows), evidence)  # type: ignore[arg-type]


def the_text(texts: Sequence[Item] | None, info: dict[str, object], where: str) -> Item:
    known = list(texts) if texts is not None else list(info.get("texts") or ())  # type: ignore[call-overload]
    if not known:
        hint = "--texts FILE, with the one text that was run"
        raise RequestError(f"{where} names neither its text nor its token ids", hint=hint)
    if len(known) > 1:
        raise RequestError(f"{where} is a run of one text, {len(known)} were given")
    found: Item = known[0]
    return found


def traces_of(reference: Reference, ids: list[int], several_numerics: Sequence[str]) -> dict[str, Trace]:
    """Our run in each arithmetic."""
    found = {}
    for numerics in several_numerics:
        recorder = Recorder()
        with np.errstate(all="ignore"):
            reference.show(ids, numerics, recorder)
        found[numerics] = recorder.trace
    return found


def unknown_id(reference: Reference, ids: list[int]) -> Cause | None:
    """A finding where the run has a token that the reference's vocabulary does not."""
    worst, known = max(ids, default=0), reference.info.n_vocab
    says = f"has token {worst}, where the reference's vocabulary ends at {known - 1}: another model"
    return Cause("vocabulary", says) if worst >= known else None


def other_model(ours: Trace, theirs: Trace, tokens: int, where: str) -> Cause | None:
    """A finding where the two are no runs of one model; EngineError where they are runs of different texts."""
    name = next((n for n in ("embd", "inp_embd") if n in theirs and n in ours), None)
    if name is not None:
        (shown, width), own = theirs[name].shape[-2:], ours[name].shape[-1]
        if width != own:
            return Cause(
                "dimension", f"shows {name} with {width} channels, where the reference has {own}: another model"
            )
        if shown != tokens:
            hint = "--texts FILE says which text was run"
            found = f"{where} is a run of {shown} tokens, the text has {tokens}: another text, or another tokenizer"
            raise EngineError(found, hint=hint)
    if not compare_shown(ours, theirs):
        return Cause("architecture", f"shows {len(theirs)} tensors, none of them one of the reference's: another model")
    return None


def arrays_of(ours: dict[str, Trace]) -> dict[Key, list[F64]]:
    """Each tensor in every arithmetic that has it."""
    found: dict[Key, list[F64]] = {}
    for trace in ours.values():
        seen: dict[str, int] = {}
        for tap in trace.tensors:
            k = seen[tap.name] = seen.get(tap.name, -1) + 1
            arrays = found.setdefault((tap.name, k), [])
            x = np.asarray(tap.array, np.float64)
            if not arrays or arrays[0].shape == x.shape:
                arrays.append(x)
    return found


def rooms_of(ours: dict[str, Trace]) -> dict[Key, Tolerance]:
    """How far each tensor may be off, from how far the arithmetics are apart."""
    return {key: room_of(arrays) for key, arrays in arrays_of(ours).items()}


def room_of(arrays: list[F64]) -> Tolerance:
    """One tensor. The sum of n numbers wanders by sqrt(n) roundings, and by what its elements may be off."""
    x = arrays[0]
    fine = np.where(np.isfinite(x), x, 0.0)
    peak = float(np.abs(fine).max(initial=0))
    apart = [np.nan_to_num(np.abs(a - b), posinf=0.0) for a, b in combinations(arrays, 2)] or [np.zeros_like(x)]
    spread = max(float(d.max(initial=0)) for d in apart)
    drift = max(float(np.sqrt((d**2).sum())) for d in apart)
    sums = max((abs(float(np.nansum(a) - np.nansum(b))) for a, b in combinations(arrays, 2)), default=0.0)
    path = float(np.abs(np.cumsum(fine)).max(initial=0))
    rounding = 4 * 2.0**-24 * np.sqrt(x.size) * path + SUMS * float(np.abs(fine).sum()) + 1e-6
    return Tolerance(peak, HALF + BOUND * spread + LEAST * peak, BOUND * (sums + drift) + rounding)


def rows_of(ours: dict[str, Trace], theirs: Trace, rooms: dict[Key, Tolerance]) -> list[Row]:
    """Every tensor that both have, and the arithmetic that is nearest; errors over the tensor's largest number."""
    found = {numerics: {(d.name, d.k): d for d in compare_shown(trace, theirs)} for numerics, trace in ours.items()}
    order = max(found.values(), key=len)
    rows = []
    for key in order:
        each = [ds[key] for ds in found.values() if key in ds]
        room = rooms[key]
        ratio, nearest = min(((over(d, room), d) for d in each), key=lambda pair: pair[0])
        bound = room.element / (room.peak or 1.0)
        bad = int(not np.isfinite(nearest.max_abs))
        shape = next(t for t in ours.values() if key[0] in t)[key].shape
        local = ratio * bound if np.isfinite(ratio) else np.inf
        rows.append(Row(*key, nearest.theirs, nearest.op, shape, bad, local, bound, local, bound))
    return rows


def over(d: ShownDifference, room: Tolerance) -> float:
    """How far the numbers or the sum are off, over what they may."""
    if not (np.isfinite(d.sum_ours) and np.isfinite(d.sum_theirs)):
        total = 0.0 if d.sums_agree else np.inf
    else:
        total = abs(d.sum_ours - d.sum_theirs) / room.total
    return float(max(d.max_abs / room.element, total))


def causes_of(
    reference: Reference, ids: list[int], theirs: Trace, rooms: dict[Key, Tolerance], first: Row
) -> tuple[list[Cause], int]:
    """Changes of the reference under which no tensor is wrong any more, and how many were tried."""
    says = f"computes {first} otherwise, and no hypothesis says how"
    if first.name == "embd":
        says = "has other token embeddings (embd): another model, weights of another type, or another text"
    unnamed = [Cause("tensor", says)]
    size = reference.info.n_params - reference.info.n_vocab * reference.info.n_embd
    if size > LARGEST:
        return unnamed, 0
    hypotheses = [h for h in cheap_hypotheses(reference, [ids]) if h.stage in RUN]
    good = [h for h in hypotheses if fits(h, reference, ids, theirs, rooms)]
    return [Cause(h.id, h.says) for h in good] or unnamed, len(hypotheses)


def fits(h: Hypothesis, reference: Reference, ids: list[int], theirs: Trace, rooms: dict[Key, Tolerance]) -> bool:
    """Whether the reference, changed, prints what was printed."""
    try:
        changed = h.change(reference)
        ours = traces_of(changed, changed.ids_of(ids), TRIED)
        rows = rows_of(ours, theirs, rooms)
    except (RefembedError, IndexError, KeyError, ValueError, AttributeError, TypeError):
        return False  # a change that this model cannot take
    return len(rows) > 0 and not any(r.wrong for r in rows)


def remarks(theirs: Trace, ours: Trace, rows: list[Row], cut: tuple[str, int] | None) -> list[str]:
    """What the reader of a verdict on six numbers a row has to know."""
    names = {tap.name for tap in ours.tensors}
    said = [f"the engine prints some numbers of each tensor, to {HALF:g}: compared there, and by the printed sums"]
    left = len(names - {r.name for r in rows})
    if left:
        said.append(f"of the reference's {len(names)} tensors {left} are not in it")
    if cut:
        said.append(f"it ends in the middle of {cut[0]} (line {cut[1]})")
    if rows and not any(n.startswith("result_") for n in theirs):
        said.append(f"it shows no result: the last tensor compared is {rows[-1]}")
    return said


def floor_numbers(reference: Reference, rows: list[Row]) -> dict[str, float]:
    """The keys of `Verdict.noise_floor`; there is no vector to have a distance."""
    bounds = [r.bound for r in rows] or [0.0]
    median, worst = float(np.median(bounds)), float(max(bounds))
    return {
        "spread_median": 0.0, "spread_worst": 0.0, "bound_median": median, "bound_worst": worst,
        "builds": build_spread(reference),
    }  # fmt: skip
