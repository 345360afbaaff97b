"""One function a kind of question: asks the engine, asks llama.cpp, and measures.

Bounds are the noise floor of `refembed.verify.compare.floor`, text by text: twice what float32 by the textbook and
llama.cpp with and without flash attention are apart on this very text, and not less than a tenth of what llama.cpp's
builds differ. A vector may be near either of llama.cpp's two. Tensors likewise, each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from conformance.cases import Case, Test, Text
from conformance.checks import class_of
from conformance.external_cases import Measure
from conformance.external_engine import ExternalEngine, NotAskedError, check_pooling, spoken
from conformance.models import model_path
from conformance.oracle import Live, Recorded, Setting
from conformance.session import ARRANGEMENTS
from refembed import Embedder, Trace
from refembed.arrays import F64
from refembed.errors import EngineError
from refembed.verify.compare import local as tensors
from refembed.verify.compare.align import align, without_empty_cells
from refembed.verify.compare.floor import Floor, build_spread, distance, relative_length
from refembed.verify.engines.http import HttpEngine
from refembed.verify.reference import reference_of, tensor_names

UNIT = 1e-5  # | |v| - 1 |: float32 sums of a few thousand squares stay below 1e-6
STEPS = 1e-6  # max |ours - theirs| / max |theirs| of one vector normalized by both: likewise
GRID = 0.5  # share of numbers that lie on a coarser grid than float32's: by chance below 0.07
LENGTHS = {2: "unit", -1: "raw"}


class Asking:
    """An engine compared with llama.cpp, with what more than one test needs.

    model      a name of models.toml, or a GGUF file
    pooling    what the engine pools with; "native" is the file's own
    normalize  what it is to do to lengths: 2 normalize, -1 leave alone; None: a server normalizes, others may or not
    """

    def __init__(
        self,
        engine: ExternalEngine,
        oracle: Live | Recorded,
        model: str,
        pooling: str = "native",
        normalize: int | None = None,
    ) -> None:
        self.engine, self.oracle, self.model = engine, oracle, model
        self.embedder = Embedder.load(model_path(model), numerics="fast")
        self.reference = reference_of(self.embedder, pooling)
        check_pooling(self.reference.pooling)
        self.asked = "none" if engine.rows else pooling  # what llama.cpp is set to
        self.kind = "none" if engine.rows else self.reference.pooling
        self.length = LENGTHS.get(normalize if normalize is not None else 0, "")
        if normalize is None and isinstance(engine.engine, HttpEngine) and not engine.rows:
            self.length = "unit"
        self.floors: dict[tuple[str, str], Floor] = {}
        self.arranged: dict[tuple[str, str], dict[str, F64] | Exception] = {}

    def floor(self, text: Text, pooling: str | None = None) -> Floor:
        """The noise floor of one text; its numerics are llama.cpp's answers alone. NotAskedError where there are
        none.
        """
        how = self.asked if pooling is None else pooling
        if (text.id, how) not in self.floors:
            self.check_length(text)
            case = Case("", "", "embed", self.model, (), "", {"pooling": how})
            if reason := self.oracle.why_not(case):
                raise NotAskedError(reason)
            kind = self.reference.pooling if how == "native" else how
            item, ours = [spoken(text)], replace(self.reference, pooling=kind)
            settings = {"flash attention off": False}
            if isinstance(self.oracle, Live):
                settings["flash attention on"] = True
            truth = {
                name: np.asarray(self.oracle.vector(Setting(self.model, how, flash), text), np.float64)
                for name, flash in settings.items()
            }
            every = [*truth.values(), ours.vectors(item, "fast")[0]]
            if isinstance(self.oracle, Recorded):
                every += [ours.vectors(item, numerics)[0] for numerics in ("ggml", "ggml, plain")]
            pairs = list(combinations(every, 2))
            spread, length = max(distance(a, b) for a, b in pairs), max(relative_length(a, b) for a, b in pairs)
            builds = build_spread(self.reference)
            self.floors[text.id, how] = Floor({n: [x] for n, x in truth.items()}, np.array([spread]), builds, length)
        return self.floors[text.id, how]

    def check_length(self, text: Text) -> None:
        """NotAskedError for a text that does not fit into the model."""
        spoken(text)
        n, limit = len(self.oracle.tokens(self.model, text, True, True)), self.reference.info.n_ctx
        if n > limit:
            raise NotAskedError(f"{n} tokens, and the model reads {limit}")

    def near(self, found: F64, text: Text, pooling: str | None = None) -> Measure:
        """How far a vector is from the nearer of llama.cpp's."""
        floor = self.floor(text, pooling)
        truths = {name: xs[0] for name, xs in floor.by_numerics.items()}
        shape = next(iter(truths.values())).shape
        if found.shape != shape:
            return Measure("1 - cos", np.inf, float(floor.bound[0]), f"shape {found.shape}, llama.cpp's is {shape}")
        name = min(truths, key=lambda w: distance(found, truths[w]))
        return Measure("1 - cos", distance(found, truths[name]), float(floor.bound[0]), f"nearest: {name}")

    def same(self, a: F64, b: F64, text: Text, where: str) -> Measure:
        """How far two answers to one text are apart."""
        bound = float(self.floor(text).bound[0])
        return Measure("1 - cos", distance(a, b) if a.shape == b.shape else np.inf, bound, where)

    def in_batches(self, case: Case, arrangement: str) -> dict[str, F64]:
        """Vectors of the texts of a case, asked for in requests arranged in this way."""
        key = (case.id, arrangement)
        if key not in self.arranged:
            found: dict[str, F64] = {}
            try:
                for batch in ARRANGEMENTS[arrangement]([t for t in case.texts if self.fits(t)]):
                    found |= dict(zip((t.id for t in batch), self.engine.together(batch), strict=True))
                self.arranged[key] = found
            except (EngineError, NotAskedError) as e:
                self.arranged[key] = e
        kept = self.arranged[key]
        if isinstance(kept, Exception):
            raise kept
        return kept

    def fits(self, text: Text) -> bool:
        """Whether it can be asked at all."""
        try:
            self.check_length(text)
        except NotAskedError:
            return False
        return True


def tokens(s: Asking, t: Test) -> Iterator[Measure]:
    """Token ids are llama.cpp's, every one."""
    options = {"add_special": t.case.options["add_special"], "parse_special": t.case.options["parse_special"]}
    ours = s.engine.tokens(t.text, **options)
    yield ids_apart(ours, s.oracle.tokens(s.model, t.text, **options))


def ids_apart(ours: list[int], theirs: list[int]) -> Measure:
    """How many ids differ, and the first that does."""
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    count, first = len(wrong) + abs(len(ours) - len(theirs)), wrong[0] if wrong else min(len(ours), len(theirs))
    where = f"id {first}: {ours[first : first + 1]}, not {theirs[first : first + 1]}" if count else ""
    return Measure("different ids", count, 0.0, where)


def embed(s: Asking, t: Test) -> Iterator[Measure]:
    """The vector is near llama.cpp's. With a pooling of the case's own, the engine is asked to pool so."""
    kind = t.case.options["pooling"]
    if kind != "native":
        s.check_length(t.text)
        if reason := s.oracle.why_not(replace(t.case, model=s.model)):
            raise NotAskedError(reason)
        yield s.near(s.engine.pooled(t.text, kind, s.kind), t.text, kind)
    elif s.engine.rows:
        raise NotAskedError("it gives a vector for each token")
    else:
        s.check_length(t.text)
        yield s.near(s.engine.vector(t.text), t.text)


def length(s: Asking, t: Test) -> Iterator[Measure]:
    """All vectors have length 1, or all llama.cpp's length, whichever the engine is to do."""
    floor = s.floor(t.text)
    v = s.engine.vector(t.text)
    unit = float(np.abs(np.linalg.norm(v, axis=-1) - 1).max())
    raw = min(relative_length(v, xs[0]) for xs in floor.by_numerics.values())
    if not s.length:
        s.length = "unit" if unit < raw else "raw"
    if s.length == "unit":
        yield Measure("||v| - 1|", unit, UNIT, "length 1 is meant")
    else:
        yield Measure("||v| / |llama.cpp's| - 1|", raw, floor.length_bound, "llama.cpp's length is meant")


def digits(s: Asking, t: Test) -> Iterator[Measure]:
    """How many of the numbers lie on a grid that is coarser than float32's."""
    s.check_length(t.text)
    x = s.engine.vector(t.text).astype(np.float32).ravel()
    x = x[x != 0]
    if not x.size:
        raise NotAskedError("all numbers are 0")
    wide, bits = x.astype(np.float64), x.view(np.uint32)
    with np.errstate(over="ignore"):
        scale = 10.0 ** (4 - np.floor(np.log10(np.abs(wide))))
        shares = {
            "float16": np.mean(x.astype(np.float16).astype(np.float32) == x),
            "bfloat16": np.mean(bits & 0xFFFF == 0),
            "five digits": np.mean((np.round(wide * scale) / scale).astype(np.float32) == x),
        }
    if np.abs(wide).max() <= 1:
        shares["six decimals"] = np.mean(np.round(wide, 6).astype(np.float32) == x)
    name = max(shares, key=lambda n: shares[n])
    yield Measure("share of rounded numbers", float(shares[name]), GRID, f"rounded to {name}")


def normalized(s: Asking, t: Test) -> Iterator[Measure]:
    """The engine's own vector, normalized by it and by common_embd_normalize."""
    if isinstance(s.oracle, Recorded):
        raise NotAskedError("common_embd_normalize is not on record")
    p = t.case.options["normalize"]
    raw = s.engine.normalized(t.text, -1)
    floor = s.floor(t.text)
    if p == -1:
        apart = min(relative_length(raw, xs[0]) for xs in floor.by_numerics.values())
        yield Measure("||v| / |llama.cpp's| - 1|", apart, floor.length_bound)
        return
    theirs, ours = s.oracle.normalize(raw.astype(np.float32), p), s.engine.normalized(t.text, p)
    if ours.shape != theirs.shape:
        yield Measure("max_rel", np.inf, STEPS, f"shape {ours.shape}, not {theirs.shape}")
        return
    yield Measure("max_rel", float(np.abs(ours - theirs).max() / np.abs(theirs).max()), STEPS, f"p={p}")


def batch(s: Asking, t: Test) -> Iterator[Measure]:
    """The vector in any batch is the vector alone, within the noise floor."""
    s.check_length(t.text)
    alone = s.engine.vector(t.text)
    for arrangement in t.case.options["arrangements"]:
        yield s.same(alone, s.in_batches(t.case, arrangement)[t.text.id], t.text, arrangement)


def order(s: Asking, t: Test) -> Iterator[Measure]:
    """Of several texts in one request, each gets the vector that is nearest to its own when it is alone."""
    s.check_length(t.text)
    found, bound = s.in_batches(t.case, "together")[t.text.id], float(s.floor(t.text).bound[0])
    others = [o for o in t.case.texts if s.fits(o)]
    apart = {o.id: distance(found, s.engine.vector(o)) for o in others}
    nearest = min(others, key=lambda o: apart[o.id])
    wrong = apart[nearest.id] + bound < apart[t.text.id]
    yield Measure("vectors of another text", int(wrong), 0.0, f"it is that of {nearest.id!r}" if wrong else "")


def again(s: Asking, t: Test) -> Iterator[Measure]:
    """A, B, A: the second A is the first."""
    s.check_length(t.text)
    texts = [x for x in t.case.texts if s.fits(x)]
    other = texts[(texts.index(t.text) + 1) % len(texts)]
    first = s.engine.ask(spoken(t.text))
    s.engine.ask(spoken(other))
    yield s.same(first, s.engine.ask(spoken(t.text)), t.text, f"asked again behind {other.id!r}")


def ids(s: Asking, t: Test) -> Iterator[Measure]:
    """llama.cpp's token ids in place of the text."""
    s.check_length(t.text)
    yield s.near(s.engine.of_ids(s.oracle.tokens(s.model, t.text, True, True)), t.text)


def bad(s: Asking, t: Test) -> Iterator[Measure]:
    """Bad input is an error, and the next text has its vector."""
    before = s.engine.ask("hello")
    wrong = too_long(s) if t.text.id == "too-long" else s.engine.provoke(t.text.id)
    yield Measure("accepted", int(bool(wrong)), 0.0, wrong)
    after = s.engine.ask("hello")
    apart = distance(before, after) if before.shape == after.shape else np.inf
    yield Measure("1 - cos of the next text", apart, 1e-6, "'hello' before and after")


def too_long(s: Asking) -> str:
    """A text that is longer than the model's table of positions. "" where it is refused."""
    if not any(name.startswith("position_embd") for name in tensor_names(s.reference)):
        raise NotAskedError("this model has no table of positions that would end")
    n = s.reference.info.n_ctx
    try:
        s.engine.ask("a " * (n + 8))
    except EngineError:
        return ""
    return f"gave a vector for a text of more than {n + 8} tokens, of which the model reads {n}"


def operations(s: Asking, t: Test) -> Iterator[Measure]:
    """Each operation on the engine's own inputs: roots of NMSE to the nearest of three arithmetics."""
    theirs, ids_ = traced(s, t.text)
    ours = replace(s.reference, pooling=s.kind)
    found = tensors.compare_traces(ours, ids_, theirs)
    if not found.rows:
        raise NotAskedError("none of its tensors has a name of llama.cpp's graph")
    sharp = float(np.median([row.local for row in found.rows])) < tensors.LEAST  # as Comparison.first_odd
    yield from by_class(
        Measure(class_of(r.name), np.inf if r.nonfinite else r.local, r.tight if sharp else r.bound, str(r))
        for r in found.rows
    )


def drift(s: Asking, t: Test) -> Iterator[Measure]:
    """Tensor by tensor against llama.cpp's two runs: what has gathered up to there, in roots of NMSE."""
    if not isinstance(s.oracle, Live):
        raise NotAskedError("tensors are not on record")
    theirs, ids = traced(s, t.text)
    tokens_apart = ids_apart(ids, s.oracle.tokens(s.model, t.text, True, True))
    yield tokens_apart
    if tokens_apart.value:
        return
    runs = [s.oracle.trace(Setting(s.model, s.asked, flash), t.text) for flash in (False, True)]
    base = without_empty_cells(runs[0])
    own = s.embedder.trace(spoken(t.text), pooling=s.kind)
    engine, flash, ours = (difference(x, runs[0]) for x in (theirs, runs[1], own))
    if not engine:
        raise NotAskedError("none of its tensors has a name of llama.cpp's graph")
    yield from by_class(measure_of(base, j, y, flash.get(j), ours.get(j)) for j, y in engine.items())


def traced(s: Asking, text: Text) -> tuple[Trace, list[int]]:
    """The engine's trace of a text, and the ids it is of."""
    s.check_length(text)
    theirs = s.engine.trace(text)
    ids = theirs.meta.get("tokens")
    return theirs, [int(i) for i in ids] if ids is not None else s.oracle.tokens(s.model, text, True, True)


def difference(x: Trace, base: Trace) -> dict[int, Any]:
    """Tensors of one run by the place of their partners in the other."""
    cut = without_empty_cells(x)
    return {p.theirs: cut.tensors[p.ours].array for p in align(x, base).pairs}


def measure_of(base: Trace, j: int, found: Any, *others: Any) -> Measure:
    """One tensor, to the nearest of llama.cpp's; bound by how far sound runs are from each other."""
    tap = base.tensors[j]
    sound = [x.reshape(tap.array.shape) for x in (tap.array, *others) if x is not None and x.size == tap.array.size]
    llama = sound[: 1 + (others[0] is not None and others[0].size == tap.array.size)]
    y = found.reshape(tap.array.shape)
    gap = min(tensors.error(a, y) for a in llama)
    floor = max((tensors.error(a, b) for a, b in combinations(sound, 2)), default=0.0)
    bad = (~np.isfinite(y) & np.isfinite(tap.array)).any()
    return Measure(class_of(tap.name), np.inf if bad else gap, max(tensors.BOUND * floor, tensors.LEAST), tap.name)


def by_class(found: Iterable[Measure]) -> Iterator[Measure]:
    """Of each class of tensors the one that is worst against its bound."""
    worst: dict[str, Measure] = {}
    for m in found:
        if m.metric not in worst or m.over > worst[m.metric].over:
            worst[m.metric] = m
    yield from worst.values()


KINDS: dict[str, Callable[[Asking, Test], Iterable[Measure]]] = {
    "tokens": tokens,
    "embed": embed,
    "length": length,
    "digits": digits,
    "normalize": normalized,
    "batch": batch,
    "order": order,
    "again": again,
    "ids": ids,
    "input": bad,
    "local": operations,
    "trace": drift,
}
