"""Does this engine see images as the reference does, and if not, why? The questions in order.

tensors     where the engine shows those of its tower: the first wrong one
rows        where it shows what its tower hands to the text model: against the noise floor of these very images
vectors     of texts with images, likewise
cause       hypotheses, until one brings the difference down to the noise floor
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from refembed._version import __version__
from refembed.embedder import Embedder
from refembed.errors import EngineError
from refembed.gguf import GGUFFile, open_gguf
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.verify.compare.arrays import compare
from refembed.verify.compare.floor import BUILDS, EVERYWHERE, OTHER_TYPES, Floor, apart, relative_length
from refembed.verify.compare.length import NORM_OF, Length, length_of
from refembed.verify.engines.images import ImageEngine, of_engine
from refembed.verify.images.pictures import ImageItem, items_of
from refembed.verify.images.pixels import BUDGET
from refembed.verify.images.reference import HALF, ImageReference, image_reference
from refembed.verify.images.search import Case, Observation, probe, search
from refembed.verify.images.tensors import Inside, explaining, look_inside
from refembed.verify.remedies import NOTHING
from refembed.verify.verdict import Cause, Evidence, TextRow, Verdict, sentence

LARGE = 3e11  # multiplications of one image through the tower: beyond, float32 alone measures the floor
OTHER = "verify the mmproj file that the engine has"
TENSOR = "compare that operation's code with the tower's file in refembed/model/vision, step by step"


def verify_images(
    embedder: Embedder,
    engine: Any,
    inputs: Sequence[Any] | None = None,
    *,
    pooling: str = "native",
    normalize: int | None = None,
    trace: bool = True,
    budget: float | None = None,
    progress: Callable[[str], object] = lambda message: None,
) -> Verdict:
    """Compare an engine's images with the reference's.

    embedder   with a tower: Embedder.load(model, mmproj=FILE)
    engine     of `open_image_engine` or `open_engine`
    inputs     texts with images, {"text": ..., "image": ...}; None: pictures that are drawn
    others     as `verify` has them
    Raises EngineError, RequestError, ModelError.
    """
    begin = time.monotonic()
    r, asked = image_reference(embedder, pooling), of_engine(engine)
    items = items_of(inputs)
    traced, inside = min(items, key=lambda item: r.tower.n_tokens(item.image)), Inside()
    if trace:
        progress("comparing tensors of the tower")
        inside = look_inside(r, asked, traced.image)
    until = None if budget is None else max(begin + budget, time.monotonic() + budget / 4)
    progress(f"asking {asked.name} for {len(items)} images")
    observations = observe(asked, items)
    if not observations:
        return of_tensors(r, asked, inside, traced, lambda: until is not None and time.monotonic() > until)
    progress("measuring the noise floor")
    floor = floor_of(r, observations)
    distances, nearest = floor.distances([o.theirs for o in observations])
    cost = sorted(range(len(observations)), key=lambda i: (observations[i].what, r.n_tokens(observations[i].item)))
    case = Case(r, observations, floor, distances, until, cost)
    facts, lengths = facts_of(r, asked, items, observations), expected(asked, normalize)
    return verdict_on(case, nearest, inside, traced, facts, lengths, progress)


def verdict_on(
    case: Case, nearest: Sequence[str], inside: Inside, traced: ImageItem, facts: dict[str, Any],
    lengths: Sequence[str], progress: Callable[[str], object],
) -> Verdict:  # fmt: skip
    """The verdict on an engine whose answers are measured.

    nearest  the numerics that each answer is nearest to
    inside   tensors of `traced`, where the engine shows them
    facts    of model, engine and images, for the report
    lengths  ids of lengths that are no finding
    """
    r, observations, floor = case.reference, case.observations, case.floor
    beyond = case.distances > floor.bound
    wrong, rows = bool(beyond.any()), [bad for bad, o in zip(beyond, observations, strict=True) if o.what == "rows"]
    first = inside.first(any(rows) or (wrong and not rows))  # rows that agree are of a sound tower
    remarks, causes, result = [inside.remark] if inside.remark else [], list[Cause](), None
    if wrong:
        progress("looking for the cause")
        result = search(case)
        causes = [Cause(t.hypothesis.id, t.hypothesis.says, t.left, remedy=t.hypothesis.advice) for t in result.found]
        if not causes and first:
            explained, _ = explaining(r, traced.image, inside, case.late)
            causes = [Cause(h.id, h.says, remedy=h.advice) for h in explained]
    elif first is not None:
        remarks.append(f"{first} is wrong although all that was compared agrees")
        remarks += [f"{h.id}: the engine {h.says}" for h in explaining(r, traced.image, inside, case.late)[0]]
    elif (likely := probe(case)) is not None:
        remarks.append(f"within rounding, but {likely.hypothesis.id} leaves {likely.left:.2g} of it: the engine "
                       f"{likely.hypothesis.says}")  # fmt: skip
    changed = result.found[0].hypothesis.change(r) if result and result.found else r
    length = length_found(case, changed, floor)
    if not wrong and length is not None and length.id not in lengths:
        causes = [Cause(length.id, length.says, 0.0, remedy="normalize as the caller expects: --normalize says how")]
    kind = kind_of(wrong, causes, case, length)
    evidence = Evidence(
        texts=tuple(row_of(case, i, nearest[i], length) for i in range(len(observations))),
        tensors=tuple(inside.found.rows) if inside.found else (),
        traced=traced.name if inside.found else "",
        tried=result.tried if result else 0,
        trials=tuple((t.hypothesis.id, t.left) for t in result.best) if result else (),
        length=length.says if length else "",
        remarks=tuple(remarks),
        untried=f"{result.untried} about images" if result and result.untried else "",
        facts=facts,
    )
    spread = floor.spread
    numbers = {
        "spread_median": float(np.median(spread)), "spread_worst": float(spread.max()),
        "bound_median": float(np.median(floor.bound)), "bound_worst": float(floor.bound.max()), "builds": floor.builds,
    }  # fmt: skip
    remedy = causes[0].remedy if causes else remedy_of(kind, first)
    return Verdict(kind, sentence(causes), tuple(causes), first, numbers, evidence, remedy)


# -- asking ----------------------------------------------------------------------------------------------------------


def observe(engine: ImageEngine, items: Sequence[ImageItem]) -> list[Observation]:
    """Rows of each image that is alone in its text, where the engine shows them, and the vectors of all texts."""
    found = []
    for item in items:
        if len(item.given.images) > 1:
            continue
        rows = engine.image_rows(item.image)
        if rows is None:
            break
        found.append(Observation("rows", item, np.asarray(rows, np.float64)))
    vectors = engine.embed_images([item.given for item in items])
    if vectors is not None:
        found += [Observation("vector", i, np.asarray(v, np.float64)) for i, v in zip(items, vectors, strict=True)]
    return found


# -- measuring -------------------------------------------------------------------------------------------------------


def floor_of(r: ImageReference, observations: Sequence[Observation]) -> Floor:
    """What rounding does to each observation. Of a tower too large for `ggml`, what its coarsest roundings do."""
    several = (*EVERYWHERE, "exact") if work_of(r, observations) <= LARGE else ("fast", HALF)
    found = {w: [o.ours(r, w) for o in observations] for w in several}
    pairs = list(combinations(found.values(), 2))
    spread = np.array([max(p) for p in zip(*(apart(a, b) for a, b in pairs), strict=True)])
    of_images = max((s for s, o in zip(spread, observations, strict=True) if o.what == "rows"), default=0.0)
    spread = np.array([max(s, of_images) if o.what == "rows" else s for s, o in zip(spread, observations, strict=True)])
    length = max(relative_length(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))
    return Floor(found, spread, builds_of(r), length)


def work_of(r: ImageReference, observations: Sequence[Observation]) -> float:
    """Multiplications of the largest image in the tower."""
    hp = r.tower.hparams
    N = max(r.tower.n_tokens(o.item.image) for o in observations) * hp.n_merge**2
    layer = 4 * hp.n_embd**2 + 3 * hp.n_embd * hp.n_ff + 2 * N * hp.n_embd
    return float(N) * (hp.n_layer * layer + 3 * hp.patch_size**2 * hp.n_embd)


def builds_of(r: ImageReference) -> float:
    """What llama.cpp's builds differ by with the most sensitive type among the matrices of both files."""
    files: tuple[GGUFFile, ...] = (r.embedder.file, open_gguf(r.tower.path))
    types = {t.type.name for f in files for t in f.tensors.values()} - {"F32"}
    return max((BUILDS.get(name, OTHER_TYPES) for name in types), default=BUILDS["F32"])


def length_found(case: Case, changed: ImageReference, floor: Floor) -> Length | None:
    """What the engine does to lengths of vectors, under the changes that explain their directions."""
    places = [i for i, o in enumerate(case.observations) if o.what == "vector"]
    if not places:
        return None
    theirs = [case.observations[i].theirs for i in places]
    ours = [case.observations[i].ours(changed, "fast") for i in places]
    tokens = [case.reference.n_tokens(case.observations[i].item) for i in places]
    if any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return None
    return length_of(theirs, ours, tokens, floor.length_bound)


def expected(engine: ImageEngine, normalize: int | None) -> tuple[str, ...]:
    """Ids of lengths that are no finding."""
    if normalize is not None:
        return tuple(id for id, norm in NORM_OF.items() if norm == normalize)
    return tuple(NORM_OF) if engine.info.get("server") == "llama-server" else ("raw", "unit")


# -- the verdict -----------------------------------------------------------------------------------------------------


def kind_of(wrong: bool, causes: Sequence[Cause], case: Case, length: Length | None) -> Any:
    """One of the four words."""
    if wrong or causes:
        return "differs" if causes else "unexplained"
    theirs = [o.theirs for o in case.observations]
    for ours in case.floor.by_numerics.values():
        if all(same(y, x, o.what, length) for x, y, o in zip(ours, theirs, case.observations, strict=True)):
            return "identical"
    return "within rounding"


def same(y: Any, x: Any, what: str, length: Length | None) -> bool:
    """Whether two are the same float32 numbers."""
    own = x.astype(np.float32)
    if what == "vector" and length is not None and length.kind == "normalized":
        own = normalize_rows(own, 2)
    return y.shape == own.shape and np.array_equal(own, y.astype(np.float32))


def remedy_of(kind: str, first: str | None) -> str:
    """What to do where no cause is named."""
    if kind != "unexplained":
        return NOTHING
    return f"{first}: {TENSOR}" if first else "show the tower's tensors (refembed.verify.engines.images), or its rows"


def row_of(case: Case, i: int, nearest: str, length: Length | None) -> TextRow:
    """One observation."""
    o, x = case.observations[i], case.floor.by_numerics[nearest][i]
    size = float(np.linalg.norm(x))
    ratio = float(np.linalg.norm(o.theirs)) / size if size else 0.0
    raw = o.what == "rows" or length is None or length.kind == "raw"
    a, b = (np.asarray(v, np.float32) if raw else normalize_rows(v.astype(np.float32), 2) for v in (x, o.theirs))
    name = f"rows of {o.item.name}" if o.what == "rows" else f"{o.item.name}: {o.item.given.text}"
    difference = compare(a, b) if a.shape == b.shape else None
    tokens = len(o.theirs) if o.what == "rows" else case.reference.n_tokens(o.item)
    return TextRow(name, tokens, float(case.distances[i]), float(case.floor.bound[i]), nearest, ratio, difference)


def facts_of(
    r: ImageReference, engine: ImageEngine, items: Sequence[ImageItem], observations: Sequence[Observation]
) -> dict[str, Any]:
    """Who was compared with whom, on what."""
    info = r.embedder.info
    return {
        "refembed": __version__, "model": str(info.path), "name": info.name, "architecture": info.architecture,
        "mmproj": r.tower.path, "projector": r.tower.hparams.projector, "quant_types": info.quant_types,
        "pooling": r.pooling, "engine": engine.name, "info": dict(engine.info), "texts": len(items),
        "tokens": sum(r.n_tokens(item) for item in items),
        "compared": sorted({o.what for o in observations}),
    }  # fmt: skip


def of_tensors(
    r: ImageReference, engine: ImageEngine, inside: Inside, traced: ImageItem, late: Callable[[], bool]
) -> Verdict:
    """The verdict on an engine that shows its tower's tensors alone."""
    if inside.theirs is None:
        hint = inside.remark or "it shows neither rows of an image, nor vectors, nor tensors of a vision tower"
        raise EngineError(f"{engine.name}: nothing to compare", hint=hint)
    first, tried = inside.first(wrong=False), 0
    causes: tuple[Cause, ...] = ()
    kind: Any = "unexplained" if first else "within rounding"
    if first:
        explained, tried = explaining(r, traced.image, inside, late)
        causes = tuple(Cause(h.id, h.says, remedy=h.advice) for h in explained)
        kind = "differs" if causes or inside.size else kind
        says = inside.size or f"computes {first} otherwise, and no hypothesis says how"
        causes = causes or (Cause("size" if inside.size else "tensor", says, remedy=BUDGET if inside.size else TENSOR),)
    if not first and not (inside.found and inside.found.rows):
        causes, kind = (Cause("architecture", "shows no tensor of such a tower", remedy=OTHER),), "differs"
    evidence = Evidence(
        tensors=tuple(inside.found.rows) if inside.found else (), traced=traced.name, tried=tried,
        remarks=(inside.remark,) if inside.remark else (), facts=facts_of(r, engine, [traced], []),
    )  # fmt: skip
    bounds = [row.bound for row in inside.found.rows] if inside.found and inside.found.rows else [0.0]
    numbers = {
        "spread_median": 0.0, "spread_worst": 0.0, "bound_median": float(np.median(bounds)),
        "bound_worst": max(bounds), "builds": builds_of(r),
    }  # fmt: skip
    remedy = causes[0].remedy if causes else NOTHING
    return Verdict(kind, sentence(causes), causes, first, numbers, evidence, remedy)
