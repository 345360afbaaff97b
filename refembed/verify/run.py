"""Is this engine right, and if not, why? The questions in order, from the cheap to the dear.

identity    what the engine says of its model: another one is no matter of arithmetic
front end   token ids, where the engine shows them; one answer for every text; every pooling
end to end  vectors against the noise floor of these very texts
batches     the same texts together, alone, and once more
tensors     where the engine shows them: the first wrong one
cause       hypotheses, until one brings the difference down to the noise floor
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refembed.embedder import Embedder
from refembed.errors import EngineError, RequestError
from refembed.pipeline.inputs import has_image
from refembed.pooling.heads import width
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.verify import early, identity
from refembed.verify.asking import ask_all, left_out_remark
from refembed.verify.batch_causes import batch_effects_cause, case_of
from refembed.verify.compare.align import without_lora
from refembed.verify.compare.floor import EVERYWHERE, LEAST, SCREEN, Floor, distance, floor_of
from refembed.verify.compare.length import NORM_OF, Length, length_of
from refembed.verify.compare.local import compare_traces, explained_by
from refembed.verify.compare.runtimes import rounding_of
from refembed.verify.diagnose import Diagnosis, diagnose, probe
from refembed.verify.engines.base import Engine
from refembed.verify.findings import Findings, verdict_of
from refembed.verify.hypotheses import batch_effects as together
from refembed.verify.hypotheses import cheap_hypotheses
from refembed.verify.hypotheses.adapters import with_order_of
from refembed.verify.hypotheses.back import pooling_hypotheses
from refembed.verify.measure import measure, without_vectors
from refembed.verify.precision import with_its_rounding
from refembed.verify.precision_causes import causes_beyond, in_its_precision, precision_cause
from refembed.verify.printed import verify_shown
from refembed.verify.reference import Item, Reference, Vectors, reference_of
from refembed.verify.remedies import with_remedies
from refembed.verify.texts import default_texts, shortest
from refembed.verify.trials import Trial, trial
from refembed.verify.verdict import Cause, Verdict, facts_of, sentence

SMALL, MEDIUM = 30_000_000, 300_000_000  # weights: larger models get shorter texts
LONGEST = {SMALL: 500, MEDIUM: 80}  # tokens of the longest text used unasked
TELLING = 0.1  # of a bound: a difference within rounding that is larger is looked into
UNRELATED = 0.1  # 1 - cos of the median text: no fault of the arithmetic makes that of a model with other parameters
TRACED = (5, 64)  # tokens of the text that is traced, where there is one


def verify(
    model: str | Path | Embedder | Reference,
    engine: Engine,
    texts: Sequence[Any] | None = None,
    *,
    pooling: str = "native",
    normalize: int | None = None,
    prefix: str = "",
    trace: bool = True,
    budget: float | None = None,
    progress: Callable[[str], object] = lambda message: None,
) -> Verdict:
    """Compare an engine with the reference.

    model      a GGUF file, a name that `refembed.hub` knows, an Embedder, or what `reference_of` made of one, which
               keeps what it computes for the next engine
    engine     of `refembed.verify.engines.base.open_engine`, or anything with that protocol
    texts      what to embed; None: a recording's own texts, else `default_texts`. Or texts with images, {"text": ...,
               "image": ...}, for an Embedder that has a tower (`refembed.verify.images`)
    pooling    of the reference, as `Embedder.embed` takes it; a Reference has its own
    normalize  what the engine is to do to lengths, as embd_normalize counts: 2 normalize, -1 leave alone, 0, 1, p;
               None: any of these, but a server that is not llama-server normalizes
    prefix     what the engine is meant to put in front of each text: the reference puts it there too
    trace      compare tensors too, where the engine shows them
    budget     seconds for the whole; the search for a cause is cut there, the likeliest first; None: no limit
    progress   is called with what is going on
    Raises EngineError, RequestError, GGUFError, ModelError.

        verdict = verify("minilm", open_engine("http://localhost:8080", Path("model.gguf")))
        verdict.kind, verdict.cause, verdict.remedy

    >>> from refembed import Embedder
    >>> from refembed.verify.engines.callables import CallableEngine
    >>> e = Embedder.load("minilm")
    >>> def unpooled(texts):  # an engine that takes [CLS] where this model wants the mean
    ...     return e.embed(texts, pooling="cls")
    >>> verdict = verify("minilm", CallableEngine(unpooled), ["a cat sat on the mat", "Hello, world!"])
    >>> verdict.kind, verdict.cause
    ('differs', 'the engine pools the first token')
    """
    begin = time.monotonic()
    if texts is not None and any(map(has_image, texts)):
        if isinstance(model, Reference) or prefix or not all(map(has_image, texts)):
            raise RequestError("images are compared apart from texts", hint="inputs with images alone, and an Embedder")
        more: dict[str, Any] = {"pooling": pooling, "normalize": normalize, "trace": trace, "budget": budget}
        return of_images(model, engine, texts, more | {"progress": progress})
    if not isinstance(model, Reference):
        embedder = model if isinstance(model, Embedder) else Embedder.load(model, numerics="fast")
        model = reference_of(embedder, pooling)
    if prefix:
        model = model.add(text=partial(str.__add__, prefix))
    info = dict(engine.info)
    if info.get("partial"):
        return with_remedies(verify_shown(model, engine, texts, progress), model, info)
    found = findings(model, engine, texts, trace, progress, asked_for=pooling != "native")
    if budget is not None:
        found.budget.until = max(begin + budget, time.monotonic() + budget / 4)
    verdict = decide(found, expects(engine, normalize), progress)
    facts = facts_of(found.reference, engine, info, found.tokens)
    remarks = (*verdict.evidence.remarks, *of_its_own(engine, verdict))
    verdict = replace(verdict, evidence=replace(verdict.evidence, facts=facts, remarks=remarks))
    return with_remedies(verdict, model, info)


def of_images(model: str | Path | Embedder, engine: Engine, inputs: Sequence[Any], more: dict[str, Any]) -> Verdict:
    """The verdict on texts with images; more: arguments of `verify`."""
    from refembed.verify.images.run import verify_images

    own = model if isinstance(model, Embedder) else Embedder.load(model, numerics="fast")
    return verify_images(own, engine, inputs, **more)


def of_its_own(engine: Engine, verdict: Verdict) -> list[str]:
    """A remark where what a cause leaves is the runtime's own rounding."""
    left = verdict.causes[0].left if verdict.causes and verdict.kind == "differs" else None
    said = "" if left is None else rounding_of(engine.name, left)
    return [said] if said else []


def findings(
    reference: Reference,
    engine: Engine,
    texts: Sequence[Item] | None,
    trace: bool,
    progress: Callable[[str], object],
    asked_for: bool = False,
) -> Findings:
    """Ask the engine everything, and measure it; what it means is for `decide`.

    asked_for  the reference's pooling is what the user named, not what the file says
    """
    info = dict(engine.info)
    items = items_of(reference, info, texts)
    ids = token_differences(reference, engine, items)
    other = identity.other_model(reference, engine, info, ids)
    if other is not None:
        return without_vectors(reference, info, other, ids, engine)
    progress(f"asking {engine.name} for {len(items)} texts")
    scores = early.scores_in_front(reference, engine, items)
    engine = scores or engine
    try:
        asked = ask_all(engine, items)
    except EngineError as e:
        if "not finite" not in str(e) or not early.ranks(reference, engine, items):
            raise
        return without_vectors(reference, info, early.rank_cause(reference, asked_for), ids, engine)
    server = hasattr(engine, "embed_raw") or (engine.name == "recorded" and early.mostly_empty(asked.vectors))
    if server and early.ranks(reference, engine, asked.items, asked.vectors):
        return without_vectors(reference, info, early.rank_cause(reference, asked_for), ids, engine)
    remarks = [f"the address has no scheme: {info['url']} was asked"] if "scheme assumed" in info else []
    if asked.left_out:
        remarks.append(left_out_remark(asked, [len(reference.ids_of(i)) for i in asked.left_out]))
    if scores is not None:
        remarks.append("the server's vectors begin with the model's scores: these are compared")
    items, vectors = asked.items, asked.vectors
    reference, said = with_order_of(reference, info, items, vectors)
    remarks += said
    ids = [row for row in ids if row[0] in items]
    same = early.constant_cause(reference, items, vectors)
    if same is not None:
        floor = floor_of(reference, items, (SCREEN,))
        return Findings(reference, items, vectors, floor, *floor.distances(vectors), remarks, ids, info, early=same)
    found = measure(reference, engine, items, vectors, progress, asked_for)
    found.remarks[:0], found.ids, found.info = remarks, ids, info
    found.pieces = identity.pieces_by_id(engine, ids)
    if found.early is not None:
        return found
    if len(items) > 1 and engine.name != "recorded":
        progress("asking once more, alone and together")
        equal = together.equal_lengths(items, found.tokens)
        found.batch_effects = together.ask(engine, items, shortest(items, found.tokens, together.SHORT), equal)
    if trace and engine.can_trace:
        look_inside(engine, found, progress)
    return found


def items_of(reference: Reference, info: dict[str, Any], texts: Sequence[Item] | None) -> list[Item]:
    """The texts to compare on. RequestError where there are none."""
    if texts is not None:
        if not texts:
            raise RequestError("there are no texts to compare on", hint="one text a line in --texts FILE")
        return list(texts)
    if info.get("texts"):
        return list(info["texts"])
    size = reference.info.n_params - reference.info.n_vocab * reference.info.n_embd
    most = next((n for limit, n in LONGEST.items() if size <= limit), 48)
    return list(default_texts(lambda t: len(reference.encode(reference.tokenizer, t)), reference.info.n_ctx, most))


def token_differences(
    reference: Reference, engine: Engine, items: Sequence[Item]
) -> list[tuple[str, list[int], list[int]]]:
    """Texts whose tokens the engine has otherwise."""
    if not engine.can_tokenize:
        return []
    texts = [i for i in items if isinstance(i, str)]
    both = [(t, reference.ids_of(t), [int(i) for i in engine.tokenize(t)]) for t in texts]
    return [row for row in both if row[1] != row[2]]


def expects(engine: Engine, normalize: int | None) -> tuple[str, ...]:
    """Ids of lengths (`length.Length`) that are no finding.

    normalize  what the user asks for; None: what the engine was opened with, else whatever llama-server can be
               started with; another server's vectors are to have length 1, other engines may leave lengths alone
    """
    wanted = getattr(engine, "normalize", None) if normalize is None else normalize
    if wanted is not None:
        number = {True: 2, False: -1}[wanted] if isinstance(wanted, bool) else int(wanted)
        return tuple(id for id, norm in NORM_OF.items() if norm == number)
    if engine.info.get("server") == "llama-server":
        return tuple(NORM_OF)
    return ("unit",) if engine.name.startswith("http") else ("raw", "unit")


def look_inside(engine: Engine, found: Findings, progress: Callable[[str], object]) -> None:
    """Compare tensors on one text: one that differs, if any does, and neither the shortest nor a long one."""
    fits = [TRACED[0] <= n <= TRACED[1] for n in found.tokens]
    right = found.distances <= found.floor.bound
    found.traced = found.items[min(range(len(found.items)), key=lambda i: (right[i], not fits[i], found.tokens[i]))]
    progress("comparing tensors")
    theirs = without_lora(engine.trace(found.traced))
    their_ids = theirs.meta.get("tokens")
    ids = found.reference.ids_of(found.traced)
    if their_ids is not None and list(their_ids) != ids:
        found.remarks.append(f"the engine's tokens of the traced text differ: {list(their_ids)[:12]}, ours {ids[:12]}")
        found.ids.append((str(found.traced), ids, [int(i) for i in their_ids]))
        ids = [int(i) for i in their_ids]
        if max(ids, default=0) >= found.reference.info.n_vocab:
            found.remarks.append("tensors are not compared: the vocabulary has no such tokens")
            return
    found.traced_ids = tuple(ids)
    found.shown, found.traces = theirs, compare_traces(found.reference, ids, theirs)
    first = found.traces.first_wrong
    if first is not None and found.agree and not found.ids:
        found.remarks.append(f"{first} is wrong although the vectors agree")
        candidates = [h for h in cheap_hypotheses(found.reference, found.items) if h.stage == "model"]
        names = explained_by(found.reference, ids, theirs, found.traces.rows, candidates)
        found.remarks += [f"tensors: {h.id}: {h.says}" for h in names]


# -- the verdict -----------------------------------------------------------------------------------------------------


def decide(found: Findings, fine: Sequence[str], progress: Callable[[str], object]) -> Verdict:
    """From what was measured to a word and a cause."""
    if found.early is not None:
        return verdict_of(found, "differs", [found.early], None)
    verdict = decide_by_vectors(found, fine, progress)
    if found.in_addition is None or verdict.kind != "differs":
        return verdict
    one = found.in_addition
    causes = tuple(replace(c, id=f"{one.id} + {c.id}", says=f"{one.says}, and {c.says}") for c in verdict.causes)
    return replace(verdict, causes=causes, cause=sentence(causes))


def decide_by_vectors(found: Findings, fine: Sequence[str], progress: Callable[[str], object]) -> Verdict:
    """The same, of what the vectors show."""
    if width(found.reference.model.hparams, found.reference.pooling) != found.vectors[0].shape[-1]:
        return width_verdict(found, progress)
    scrambled = scrambled_cause(found)
    if scrambled:
        return verdict_of(found, "differs", [scrambled], None)
    owners = [] if found.agree else together.whose(found.vectors, found.floor)
    cached = together.cached_of(owners, found.items) if all(owners) and owners else None
    if cached is not None and not same_vectors(found):
        return verdict_of(found, "differs", [Cause(*cached, left=0.0)], None)
    order = together.order_of(owners, [found.tokens, [len(str(i)) for i in found.items]])
    if order is not None and len(set(found.items)) > 1 and not same_vectors(found):
        return verdict_of(found, "differs", [Cause(*order, left=0.0)], None)
    held = None if within_a_part(found) else in_its_precision(found, progress)
    batch_effects = batch_effects_cause(held or found)
    if batch_effects:
        return verdict_of(found, "differs" if batch_effects[0].id else "unexplained", batch_effects, None)
    if held is not None and held.beyond:
        said = replace(found, remarks=held.remarks)
        return verdict_of(said, "within rounding" if found.agree else "differs", causes_beyond(held), None)
    if held is not None:
        return agreeing(held, fine, progress)
    if found.agree:
        return agreeing(found, fine, progress)
    quick = pooling_diagnosis(found, progress)
    if quick is not None:
        return explained(found, quick, fine)
    other = identity.other_size(found.reference, found.info)
    if other is not None and float(np.median(found.distances)) > UNRELATED:
        return verdict_of(found, "differs", [other], None)
    progress("looking for the cause")
    diagnosis = diagnose(with_its_rounding(case_of(found, progress)))
    return explained(found, diagnosis, fine)


def pooling_diagnosis(found: Findings, progress: Callable[[str], object]) -> Diagnosis | None:
    """Whether one of the usual poolings explains the vectors: tried on hidden states that are there already."""
    usual = {f"pooling-{how}" for how in early.POOLINGS}
    case = case_of(found, progress)
    tried = [trial(case, (h,), EVERYWHERE) for h in pooling_hypotheses(found.reference) if h.id in usual]
    good = sorted((t for t in tried if t.over <= 1), key=lambda t: t.left)[:1]
    return Diagnosis(tuple(good), len(tried), tuple(good)) if good else None


def scrambled_cause(found: Findings) -> Cause | None:
    """Numbers that are not finite, or that are the reference's once their bytes are read the other way round."""
    if found.agree:
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # a signaling NaN
        swapped = [v.astype(np.float32).byteswap().astype(np.float64) for v in found.vectors]
    if (found.floor.distances(swapped)[0] <= found.floor.bound).all():
        return Cause("vector-byte-order", "gives numbers with their bytes the wrong way round", 0.0)
    bad = [i for i, v in enumerate(found.vectors) if not np.isfinite(v).all()]
    if bad:
        return Cause(
            "not-finite", f"gives NaN or infinity for {len(bad)} of {len(found.vectors)} texts, first {bad[0]}"
        )
    return None


def same_vectors(found: Findings) -> bool:
    """Whether the texts' own vectors are the same, so that they cannot be told apart."""
    ours = next(iter(found.floor.by_numerics.values()))
    return all(distance(x, ours[0]) <= LEAST for x in ours)


def width_verdict(found: Findings, progress: Callable[[str], object]) -> Verdict:
    """Vectors of another length than any pooling of the model gives: a cut, or another model."""
    theirs, ours = found.vectors[0].shape[-1], width(found.reference.model.hparams, found.reference.pooling)
    if theirs < ours and found.agree:
        length = length_now(found, list(found.floor.by_numerics[found.nearest[0]]))
        how = "after normalizing, so that lengths are below 1" if length.id == "unit-first" else "and then normalizes" \
            if length.kind == "normalized" else "of a vector that is not normalized"  # fmt: skip
        cause = Cause(
            "dimension-cut", f"keeps the first {theirs} of {ours} numbers {how}", float(found.distances.max())
        )
        return verdict_of(found, "differs", [cause], length)
    near = float(np.median(found.distances)) < UNRELATED
    if theirs < ours and (near or not identity.is_named(found.info)):  # first numbers, of a vector that differs too
        diagnosis = diagnose(case_of(found, progress))
        says = f"gives vectors of {theirs} numbers, the reference {ours} (the first ones)"
        causes = [Cause(f"dimension-cut + {t.id}", f"{says}, and {t.says}", t.left) for t in diagnosis.explained]
        if causes:
            return verdict_of(found, "differs", causes, None, diagnosis)
    if theirs % ours == 0:
        says = f"gives vectors of {theirs} numbers, the reference {ours}: {theirs // ours} times as many, as when " \
            "bytes are read as numbers, or token vectors run together"  # fmt: skip
        cause = Cause("dimension", f"{says}: another model, or a dense layer more or less")
    else:
        cause = identity.other_width(found.reference, found.info, theirs)
    return verdict_of(without_distances(found), "differs", [cause], None)


def without_distances(found: Findings) -> Findings:
    """The same findings less the texts: vectors of unequal length have no distance."""
    nothing = np.zeros(0)
    return replace(found, items=[], vectors=[], distances=nothing, floor=Floor({}, nothing, 0.0, 0.0), nearest=[])


def agreeing(found: Findings, fine: Sequence[str], progress: Callable[[str], object]) -> Verdict:
    """Directions agree: what about lengths, tensors, and the last bit?"""
    ours = [found.floor.by_numerics[w][i] for i, w in enumerate(found.nearest)]
    length = length_now(found, ours)
    if length.id not in fine and not scores(found) and not (length.id == "raw" and found.vectors[0].ndim == 2):
        return verdict_of(found, "differs", [scale_cause(length)], length)
    if length.id != "unit" and "raw" in fine and "unit" in fine and found.info.get("server") == "llama-server" \
            and found.vectors[0].ndim == 1 and not scores(found):  # fmt: skip
        found.remarks.append(f"a setting, not a fault: the engine {length.says}; cosine similarity is the same")
    first = found.traces.first_wrong if found.traces else None
    if first is not None and not found.ids:
        named = [r.removeprefix("tensors: ").split(": ", 1) for r in found.remarks if r.startswith("tensors: ")]
        hidden = "which the vectors do not show"
        causes = [Cause(id, f"{says}, {hidden}") for id, says in named]
        return verdict_of(
            found, "differs" if causes else "unexplained",
            causes or [Cause("tensor", f"computes {first} otherwise, {hidden}")], length,
        )  # fmt: skip
    if identical(found, NORM_OF.get(length.id, 2)):
        return verdict_of(found, "identical", [], length)
    if found.precision is not None:
        return verdict_of(found, "within rounding", [precision_cause(found.precision)], length)
    if within_a_part(found) or not floats(found):
        return verdict_of(found, "within rounding", [], length)
    diagnosis = probe(case_of(found, progress))
    near = [Cause(t.id, t.says, t.left) for t in diagnosis.explained]
    if len(near) == 1:
        found.remarks.append(f"all of it is within rounding, but not rounding: the engine {near[0].says}")
    return verdict_of(found, "within rounding", near if len(near) == 1 else [], length, diagnosis)


def within_a_part(found: Findings) -> bool:
    """Whether all distances are so small a part of their bounds that nothing is to be learned from them."""
    return bool((found.distances <= np.maximum(TELLING * found.floor.bound, LEAST)).all())


def floats(found: Findings) -> bool:
    """Whether no weight is quantized; where one is, a last bit flips codes, and small differences say nothing."""
    return set(found.reference.info.quant_types) <= {"F32", "F16", "BF16"}


def scores(found: Findings) -> bool:
    """Whether these are a reranker's outputs, which have no direction."""
    return found.vectors[0].shape[-1] == 1


def scale_cause(length: Length) -> Cause:
    """A length that is not as it is to be."""
    says = {"raw": "does not normalize", "normalized": "normalizes to length 1, where lengths were to stay"}
    return Cause(
        length.id, f"{says.get(length.kind, length.says)}; directions agree, so cosine similarity does too", 0.0
    )


def explained(found: Findings, diagnosis: Diagnosis, fine: Sequence[str]) -> Verdict:
    """Directions differ."""
    if not diagnosis.explained:
        best = diagnosis.best[0] if diagnosis.best else None
        far = float(np.median(found.distances))
        says = "computes something that no hypothesis explains"
        if far > 0.5:
            named = identity.served(found.info) if identity.is_named(found.info) else ""
            says += "; its vectors have nothing to do with the reference's: another model?"
            says += f" ({named}; {identity.this(found.reference)})" if named else ""
        elif best is not None and best.left < 0.5 * float(found.distances.max()):
            was = float(found.distances.max())
            says += f"; nearest comes that it {best.says}, which leaves 1-cos {best.left:.2g} of {was:.2g}"
        return verdict_of(found, "unexplained", [Cause("unexplained", says)], None, diagnosis)
    length = length_under(found, diagnosis.explained[0])
    by_itself = any(h.stage == "vector" for h in diagnosis.explained[0].hypotheses)  # its own length goes with it
    odd = length.id not in fine and not scores(found) and length.id != "scaled-unevenly"
    odd = odd and not (by_itself and length.kind == "raw")
    causes = []
    for t in told_apart(found, diagnosis.explained):
        id, says = (f"{t.id} + {length.id}", f"{t.says}, and {length.says}") if odd else (t.id, t.says)
        causes.append(Cause(id, says, t.left))
    return verdict_of(found, "differs", causes, length, diagnosis)


def told_apart(found: Findings, trials: Sequence[Trial]) -> Sequence[Trial]:
    """Of hypotheses that leave the same vectors, those that fit the tokens the engine reports."""
    if len(trials) < 2 or not found.ids:
        return trials
    fits = []
    for t in trials:
        changed = found.reference
        for h in t.hypotheses:
            changed = h.change(changed)
        if all(changed.ids_of(text) == theirs for text, _, theirs in found.ids if text in found.items):
            fits.append(t)
    return fits or trials


def length_now(found: Findings, ours: Vectors) -> Length:
    """What the engine does to lengths, compared with these vectors."""
    return length_of(found.vectors, ours, found.tokens, found.floor.length_bound)


def length_under(found: Findings, t: Trial) -> Length:
    """What it does to lengths compared with the reference with these changes."""
    changed = found.reference
    for h in t.hypotheses:
        changed = h.change(changed)
    floor = floor_of(changed, found.items, ("fast", "ggml"))
    _, nearest = floor.distances(found.vectors)
    ours = [floor.by_numerics[w][i] for i, w in enumerate(nearest)]
    tokens = [len(changed.ids_of(i)) for i in found.items]
    return length_of(found.vectors, ours, tokens, max(floor.length_bound, found.floor.length_bound))


def identical(found: Findings, norm: int) -> bool:
    """Whether all vectors are, bit for bit, those of one arithmetic, raw or normalized as embd_normalize says."""
    for xs in found.floor.by_numerics.values():
        for how in {norm, -1, 2}:
            pairs = zip(found.vectors, xs, strict=True)
            if all(np.array_equal(y, normalize_rows(x.astype(np.float32), how)) for y, x in pairs):
                return True
    return False
