"""Is this engine right, and if not, why? The questions in order, from the cheap to the dear.

front end   token ids, where the engine tells them; the shape of its vectors
end to end  vectors against the noise floor of these very texts
company     the same texts together, alone, and once more
tensors     where the engine shows them: the first wrong one
cause       hypotheses, until one brings the difference down to the noise floor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F64
from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.normalize import normalize as normalize_rows
from refembed.verify import company as together
from refembed.verify.adapters import with_order_of
from refembed.verify.align import without_lora
from refembed.verify.company import Company
from refembed.verify.compare import Difference, compare
from refembed.verify.diagnose import Diagnosis, diagnose, probe
from refembed.verify.engines.base import Engine
from refembed.verify.floor import LEAST, Floor, distance, floor_of
from refembed.verify.hypotheses import cheap_hypotheses
from refembed.verify.length import Length, length_of
from refembed.verify.local import Comparison, compare_traces, explained_by
from refembed.verify.reference import Item, Reference, Vectors, reference_of
from refembed.verify.shown import verify_shown
from refembed.verify.texts import default_texts, shortest
from refembed.verify.trials import Case, Trial, part
from refembed.verify.verdict import Cause, Evidence, TextRow, Verdict, facts_of, sentence

SMALL, MEDIUM = 30_000_000, 300_000_000  # weights: larger models get shorter texts
LONGEST = {SMALL: 500, MEDIUM: 80}  # tokens of the longest text used unasked
TELLING = 0.1  # of a bound: a difference within rounding that is larger is looked into
TRACED = (5, 64)  # tokens of the text that is traced, where there is one


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
    company: Company | None = None
    traces: Comparison | None = None
    traced: Item = ""
    traced_ids: tuple[int, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether all directions are within rounding."""
        return bool((self.distances <= self.floor.bound).all())

    @property
    def tokens(self) -> list[int]:
        """Tokens of each text."""
        return [len(self.reference.ids_of(i)) for i in self.items]


def verify(
    model: str | Path | Embedder | Reference,
    engine: Engine,
    texts: Sequence[Item] | None = None,
    *,
    pooling: str = "native",
    normalize: int | None = None,
    trace: bool = True,
    progress: Callable[[str], object] = lambda message: None,
) -> Verdict:
    """Compare an engine with the reference.

    model      a GGUF file, a name that `refembed.hub` knows, an Embedder, or what `reference_of` made of one, which
               keeps what it computes for the next engine
    engine     of `refembed.verify.engines.base.open_engine`, or anything with that protocol
    texts      what to embed; None: a recording's own texts, else `default_texts`
    pooling    of the reference, as `Embedder.embed` takes it; a Reference has its own
    normalize  what the engine is to do to lengths: 2 normalise, -1 leave alone; None: either, but a server normalises
    trace      compare tensors too, where the engine shows them
    progress   is told what is going on
    Raises EngineError, RequestError, GGUFError, ModelError.
    """
    if not isinstance(model, Reference):
        embedder = model if isinstance(model, Embedder) else Embedder.load(model, numerics="fast")
        model = reference_of(embedder, pooling)
    about = dict(engine.about)
    if about.get("partial"):
        return verify_shown(model, engine, texts, progress)
    found = findings(model, engine, texts, trace, progress)
    verdict = decide(found, expects(engine, normalize), progress)
    facts = facts_of(found.reference, engine, about, found.tokens)
    return replace(verdict, evidence=replace(verdict.evidence, facts=facts))


def findings(
    reference: Reference,
    engine: Engine,
    texts: Sequence[Item] | None,
    trace: bool,
    progress: Callable[[str], object],
) -> Findings:
    """Ask the engine everything, and measure it; what it means is for `decide`."""
    about = dict(engine.about)
    items = items_of(reference, about, texts)
    progress(f"asking {engine.name} for {len(items)} texts")
    vectors = together.doubles(engine.embed(items))
    reference, remarks = with_order_of(reference, about, items, vectors)
    found = measure(reference, items, vectors, progress)
    found.remarks += remarks
    found.ids += token_differences(engine, found)
    if len(items) > 1 and engine.name != "recorded":
        progress("asking once more, alone and together")
        equal = together.equal_lengths(items, found.tokens)
        found.company = together.ask(engine, items, shortest(items, found.tokens, together.SHORT), equal)
    if trace and engine.can_trace:
        look_inside(engine, found, progress)
    return found


def items_of(reference: Reference, about: dict[str, Any], texts: Sequence[Item] | None) -> list[Item]:
    """The texts to compare on. RequestError where there are none."""
    if texts is not None:
        if not texts:
            raise RequestError("there are no texts to compare on", hint="one text a line in --texts FILE")
        return list(texts)
    if about.get("texts"):
        return list(about["texts"])
    size = reference.info.n_params - reference.info.n_vocab * reference.info.n_embd
    most = next((n for limit, n in LONGEST.items() if size <= limit), 48)
    return list(default_texts(lambda t: len(reference.encode(reference.tokenizer, t)), reference.info.n_ctx, most))


def measure(reference: Reference, items: list[Item], vectors: Vectors, progress: Callable[[str], object]) -> Findings:
    """Vectors against the noise floor. An engine that does not pool is compared row by row."""
    remarks = []
    if all(v.ndim == 2 for v in vectors) and reference.pooling != "none":
        reference = replace(reference, pooling="none")
        remarks.append("the engine gives a vector for each token: compared row by row, without pooling")
    progress("measuring the noise floor")
    floor = floor_of(reference, items, sample=True)
    distances, nearest = floor.distances(vectors)
    return Findings(reference, items, vectors, floor, distances, nearest, remarks, [])


def token_differences(engine: Engine, found: Findings) -> list[tuple[str, list[int], list[int]]]:
    """Texts whose tokens the engine has otherwise."""
    if not engine.can_tokenize:
        return []
    texts = [i for i in found.items if isinstance(i, str)]
    both = [(t, found.reference.ids_of(t), [int(i) for i in engine.tokenize(t)]) for t in texts]
    return [row for row in both if row[1] != row[2]]


def expects(engine: Engine, normalize: int | None) -> tuple[str, ...]:
    """Kinds of length (`length.Kind`) that are no finding."""
    if normalize is not None:
        return ("raw",) if normalize == -1 else ("normalised",)
    return ("normalised",) if engine.name.startswith("http") else ("raw", "normalised")


def look_inside(engine: Engine, found: Findings, progress: Callable[[str], object]) -> None:
    """Compare tensors on one text: one that differs, if any does, and neither the shortest nor a long one."""
    fits = [TRACED[0] <= n <= TRACED[1] for n in found.tokens]
    right = found.distances <= found.floor.bound
    found.traced = found.items[min(range(len(found.items)), key=lambda i: (right[i], not fits[i], found.tokens[i]))]
    progress("comparing tensors")
    theirs = without_lora(engine.trace(found.traced))
    told = theirs.meta.get("tokens")
    ids = found.reference.ids_of(found.traced)
    if told is not None and list(told) != ids:
        found.remarks.append(f"the engine's tokens of the traced text differ: {list(told)[:12]}, ours {ids[:12]}")
        found.ids.append((str(found.traced), ids, [int(i) for i in told]))
        ids = [int(i) for i in told]
        if max(ids, default=0) >= found.reference.info.n_vocab:
            found.remarks.append("tensors are not compared: the vocabulary has no such tokens")
            return
    found.traced_ids = tuple(ids)
    found.traces = compare_traces(found.reference, ids, theirs)
    first = found.traces.first_wrong
    if first is not None and found.agree and not found.ids:
        found.remarks.append(f"{first} is wrong although the vectors agree")
        candidates = [h for h in cheap_hypotheses(found.reference, found.items) if h.stage == "model"]
        names = explained_by(found.reference, ids, theirs, found.traces.rows, candidates)
        found.remarks += [f"tensors: {h.id}: {h.says}" for h in names]


# -- the verdict -----------------------------------------------------------------------------------------------------


def decide(found: Findings, fine: Sequence[str], progress: Callable[[str], object]) -> Verdict:
    """From what was measured to a word and a cause."""
    if found.reference.info.n_embd_out != found.vectors[0].shape[-1] and found.reference.pooling != "rank":
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
    company = company_cause(found)
    if company:
        return verdict_of(found, "differs" if company[0].id else "unexplained", company, None)
    if found.agree:
        return agreeing(found, fine, progress)
    progress("looking for the cause")
    case = case_of(found, progress)
    diagnosis = diagnose(case)
    return explained(found, diagnosis, fine)


def scrambled_cause(found: Findings) -> Cause | None:
    """Numbers that are not finite, or that are the reference's once their bytes are read the other way round."""
    if found.agree:
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN
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
    """Whether the texts' own vectors are the same, so that nobody can tell whose is whose."""
    ours = next(iter(found.floor.worlds.values()))
    return all(distance(x, ours[0]) <= LEAST for x in ours)


def case_of(found: Findings, progress: Callable[[str], object]) -> Case:
    """What `diagnose` needs."""
    return Case(found.reference, found.items, found.vectors, found.floor, found.distances, progress)


def width_verdict(found: Findings, progress: Callable[[str], object]) -> Verdict:
    """Vectors of another length: a cut, or another model."""
    theirs, ours = found.vectors[0].shape[-1], found.reference.info.n_embd_out
    if theirs < ours and found.agree:
        length = length_now(found, list(found.floor.worlds[found.nearest[0]]))
        how = "after normalising, so that lengths are below 1" if length.id == "unit-first" else "and then normalises" \
            if length.kind == "normalised" else "of a vector that is not normalised"  # fmt: skip
        cause = Cause(
            "dimension-cut", f"keeps the first {theirs} of {ours} numbers {how}", float(found.distances.max())
        )
        return verdict_of(found, "differs", [cause], length)
    says = f"gives vectors of {theirs} numbers, the reference {ours}"
    if theirs < ours:
        diagnosis = diagnose(case_of(found, progress))
        if diagnosis.explained:
            causes = [
                Cause(f"dimension-cut + {t.id}", f"{says} (the first ones), and {t.says}", t.left)
                for t in diagnosis.explained
            ]
            return verdict_of(found, "differs", causes, None, diagnosis)
    if theirs % ours == 0:
        says += f": {theirs // ours} times as many, as when bytes are read as numbers, or token vectors run together"
    return verdict_of(
        found, "differs", [Cause("dimension", f"{says}: another model, or a dense layer more or less")], None
    )


def company_cause(found: Findings) -> list[Cause]:
    """What depends on the texts beside or before a text. Empty where nothing does."""
    c = found.company
    if c is None:
        return []
    bound = found.floor.bound[list(c.places)]
    if c.changed() > bound[0] and found_in(c.again, c.alone) is not None:
        return [Cause("stale", "answers with the vector of an earlier text (state is kept between requests)", 0.0)]
    if c.changed() > max(bound[0], together.SAME):
        says = "gives another vector when it is asked for the same text again (state is kept, or numbers are random)"
        return [Cause("state", says, c.changed())]
    if not (c.apart() > np.maximum(bound, together.SAME)).any():
        return equal_lengths_cause(found, c)
    alone = distances_of(found, c.alone, c.places)
    batch = distances_of(found, c.together, c.places)
    if (alone <= bound).all():
        leaks = together.leak_of(found.reference, c, found.items, found.floor)
        causes = [Cause(h.id, f"{h.says}; alone every text is right", 0.0) for h in leaks]
        says = "gives other vectors to texts in company than alone, where they are right"
        return causes or [Cause("batch-dependent", says)]
    if (batch <= bound).all():
        causes = diagnosed(found, c.alone, c.places, "alone-wrong", "asked for one text alone")
        return causes or [Cause("alone-wrong", "is right when asked for several texts, wrong when asked for one")]
    return []


def equal_lengths_cause(found: Findings, c: Company) -> list[Cause]:
    """What goes wrong in a batch whose texts have one length, and nowhere else."""
    if not c.equal_places:
        return []
    places = list(c.equal_places)
    bound = found.floor.bound[places]
    elsewhere = [found.vectors[i] for i in places]
    right = (found.distances[places] <= bound).all() and len(c.equal) == len(places)
    apart = [distance(a, b) for a, b in zip(c.equal, elsewhere, strict=False)]
    if not right or not (np.array(apart) > np.maximum(bound, together.SAME)).any():
        return []
    causes = diagnosed(found, c.equal, places, "equal-lengths", "asked for several texts of equal length")
    says = "gives other vectors to several texts of equal length, asked for together, than in other company"
    return causes or [Cause("equal-lengths", says)]


def diagnosed(found: Findings, vectors: Vectors, places: Sequence[int], id: str, when: str) -> list[Cause]:
    """Why these answers differ, where others to the same texts are right."""
    case = replace(part(case_of(found, lambda message: None), list(places)), vectors=vectors)
    case.distances = case.floor.distances(vectors)[0]
    if not any(case.differs):
        return []
    trials = diagnose(case).explained
    return [Cause(f"{id} + {t.id}", f"{t.says}, when it is {when}; else it is right", t.left) for t in trials]


def found_in(vector: F64, others: Vectors) -> int | None:
    """Which other text's answer this is: any but the first."""
    near = [i for i, other in enumerate(others) if i and distance(vector, other) <= LEAST]
    return near[0] if near else None


def distances_of(found: Findings, vectors: Vectors, places: Sequence[int]) -> F64:
    """1 - cos to the nearest arithmetic, for some of the texts."""
    return part(case_of(found, print), list(places)).floor.distances(vectors)[0]


def agreeing(found: Findings, fine: Sequence[str], progress: Callable[[str], object]) -> Verdict:
    """Directions agree: what about lengths, tensors, and the last bit?"""
    ours = [found.floor.worlds[w][i] for i, w in enumerate(found.nearest)]
    length = length_now(found, ours)
    if length.kind not in fine and not scores(found):
        return verdict_of(found, "differs", [scale_cause(length)], length)
    first = found.traces.first_wrong if found.traces else None
    if first is not None and not found.ids:
        named = [r.removeprefix("tensors: ").split(": ", 1) for r in found.remarks if r.startswith("tensors: ")]
        hidden = "which the vectors do not show"
        causes = [Cause(id, f"{says}, {hidden}") for id, says in named]
        return verdict_of(
            found, "differs" if causes else "unexplained",
            causes or [Cause("tensor", f"computes {first} otherwise, {hidden}")], length,
        )  # fmt: skip
    if identical(found):
        return verdict_of(found, "identical", [], length)
    if (found.distances <= np.maximum(TELLING * found.floor.bound, LEAST)).all() or not floats(found):
        return verdict_of(found, "within rounding", [], length)
    diagnosis = probe(case_of(found, progress))
    near = [Cause(t.id, t.says, t.left) for t in diagnosis.explained]
    if len(near) == 1:
        found.remarks.append(f"all of it is within rounding, but not rounding: the engine {near[0].says}")
    return verdict_of(found, "within rounding", near if len(near) == 1 else [], length, diagnosis)


def floats(found: Findings) -> bool:
    """Whether no weight is quantised; where one is, a last bit flips codes, and small differences say nothing."""
    return set(found.reference.info.quant_types) <= {"F32", "F16", "BF16"}


def scores(found: Findings) -> bool:
    """Whether these are a reranker's outputs, which have no direction."""
    return found.vectors[0].shape[-1] == 1


def scale_cause(length: Length) -> Cause:
    """A length that is not as it is to be."""
    says = {"raw": "does not normalise", "normalised": "normalises to length 1, where lengths were to stay"}
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
            says += "; its vectors have nothing to do with the reference's: another model?"
        elif best is not None and best.left < 0.5 * float(found.distances.max()):
            was = float(found.distances.max())
            says += f"; nearest comes that it {best.says}, which leaves 1-cos {best.left:.2g} of {was:.2g}"
        return verdict_of(found, "unexplained", [Cause("unexplained", says)], None, diagnosis)
    length = length_under(found, diagnosis.explained[0])
    by_itself = any(h.stage == "vector" for h in diagnosis.explained[0].hypotheses)  # its own length goes with it
    odd = length.kind not in fine and not scores(found) and not diagnosis.by_size and length.id != "scaled-unevenly"
    odd = odd and not (by_itself and length.kind == "raw")
    causes = []
    for t in told_apart(found, diagnosis.explained):
        id, says = (f"{t.id} + {length.id}", f"{t.says}, and {length.says}") if odd else (t.id, t.says)
        causes.append(Cause(id, says, t.left, diagnosis.by_size))
    return verdict_of(found, "differs", causes, length, diagnosis)


def told_apart(found: Findings, trials: Sequence[Trial]) -> Sequence[Trial]:
    """Of hypotheses that leave the same vectors, those that fit the tokens the engine tells."""
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
    """What the engine does to lengths, beside these vectors."""
    return length_of(found.vectors, ours, found.tokens, found.floor.length_bound)


def length_under(found: Findings, t: Trial) -> Length:
    """What it does to lengths beside the reference with these changes."""
    changed = found.reference
    for h in t.hypotheses:
        changed = h.change(changed)
    floor = floor_of(changed, found.items, ("fast", "ggml"))
    _, nearest = floor.distances(found.vectors)
    ours = [floor.worlds[w][i] for i, w in enumerate(nearest)]
    tokens = [len(changed.ids_of(i)) for i in found.items]
    return length_of(found.vectors, ours, tokens, max(floor.length_bound, found.floor.length_bound))


def identical(found: Findings) -> bool:
    """Whether all vectors are, bit for bit, those of one arithmetic, raw or normalised."""
    for xs in found.floor.worlds.values():
        for norm in (-1, 2):
            pairs = zip(found.vectors, xs, strict=True)
            if all(np.array_equal(y, normalize_rows(x.astype(np.float32), norm)) for y, x in pairs):
                return True
    return False


# -- putting it down -------------------------------------------------------------------------------------------------


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
    )
    spread, bound = found.floor.spread, found.floor.bound
    floor = {
        "spread_median": float(np.median(spread)), "spread_worst": float(spread.max()),
        "bound_median": float(np.median(bound)), "bound_worst": float(bound.max()), "builds": found.floor.builds,
    }  # fmt: skip
    return Verdict(kind, sentence(causes), tuple(causes), name, floor, evidence)


def text_row(found: Findings, i: int, length: Length | None) -> TextRow:
    """One text."""
    x, y = found.floor.worlds[found.nearest[i]][i], found.vectors[i]
    difference: Difference | None = None
    if x.shape == y.shape and np.isfinite(y).all():
        a = normalize_rows(x.astype(np.float32), 2) if length is None or length.kind != "raw" else x.astype(np.float32)
        b = (
            y.astype(np.float32)
            if length and length.kind in ("raw", "normalised")
            else normalize_rows(y.astype(np.float32), 2)
        )
        difference = compare(a, b)
    size = float(np.linalg.norm(x))
    ratio = float(np.linalg.norm(y)) / size if size else 0.0
    return TextRow(
        str(found.items[i]), found.tokens[i], float(found.distances[i]), float(found.floor.bound[i]), found.nearest[i],
        ratio, difference,
    )  # fmt: skip
