"""Engines with faults drawn at random, one and two at a time, and healthy ones: does `refembed verify` name them?

    python -m conformance verify-drawn --count 300 --seed 1 --write
    python -m conformance verify-drawn --count 120 --seed 1 --families --write

A fault is a kind of `drawn_faults` with its numbers drawn from ranges; two of different stages may come together. The
engine is NumPy's (`drawn_engine`) behind a wire; with --families it is refembed's own, broken (`drawn_families`).
Whether a fault shows is measured here, against the same engine without it, not taken from the verdict.

    named        the first cause names every fault that shows, or one of at most three that cannot be told apart does
    tied         it is among more than three
    misnamed     another cause is given
    unexplained  none is
    acquitted    the verdict is that the engine is right, though the fault shows
    below        the fault does not show: on every text, the engine with it is as near to the engine without it as the
                 noise floor of that text, by the measure of `verify` (docs/verify.md)
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from conformance.drawn_engine import Array, NumpyModel, Settings
from conformance.drawn_faults import SINGLE, Kind, Piece, Rng, Target
from refembed import Embedder
from refembed.kernels import threads
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.arrays import cosine_distance
from refembed.verify.compare.floor import BOUND, floor_of
from refembed.verify.reference import Reference, reference_of
from refembed.verify.run import verify
from refembed.verify.texts import default_texts
from refembed.verify.verdict import Verdict

LONGEST = 140  # tokens of the longest text
PAIRS = 0.4  # how many engines have two faults
DOC = Path(__file__).parents[1] / "docs" / "verify.md"
MARKS = ("<!-- drawn: begin -->", "<!-- drawn: end -->")
MARKS_OF_FAMILIES = ("<!-- drawn families: begin -->", "<!-- drawn families: end -->")
SHARE = (("minilm", 0.1), ("bert", 0.3), ("qwen3", 0.25), ("qwen3-mean", 0.2), ("bert-cls", 0.15))


def as_it_is(x: Array) -> Array:
    """Over its length."""
    y: Array = x / max(float(np.linalg.norm(x)), 1e-30)
    return y


class DrawnEngine:
    """Texts to vectors, with faults on the way."""

    name = "drawn"
    can_tokenize = can_trace = False
    can_take_ids = True

    def __init__(self, embedder: Embedder, target: Target, pieces: Sequence[Piece], seed: int) -> None:
        self.embedder, self.target, self.pieces = embedder, target, pieces
        self.info: dict[str, Any] = {"engine": "drawn"}
        self.rng = np.random.default_rng(seed)
        settings: dict[str, Any] = {}
        for p in pieces:
            if "edit" in settings and "edit" in p.settings:
                first, second = settings["edit"], p.settings["edit"]
                settings["edit"] = lambda w, f=first, s=second: s(f(w))
            else:
                settings |= p.settings
        self.settings = Settings(**settings)
        self.cache: dict[Any, Array] = {}
        self.last: Array | None = None

    def vector(self, item: Any, settings: Settings | None = None, more: int = 0) -> Array:
        """One text alone. more: tokens of padding that are read, not pooled."""
        for p in self.pieces:
            item = p.text(item) if p.text and isinstance(item, str) else item
        ids = self.embedder.tokenize(item) if isinstance(item, str) else list(item)
        for p in self.pieces:
            ids = p.tokens(ids) if p.tokens else ids
        ids = ids[: self.embedder.info.n_ctx]
        h = self.target.model.hidden([ids + [self.target.pad] * more], settings or self.settings)[0][: len(ids)]
        pool = next((p.pool for p in self.pieces if p.pool), POOL[self.target.pooling])
        x = np.asarray(pool(h, ids), np.float64)
        for p in self.pieces:
            x = p.vector(x / max(float(np.linalg.norm(x)), 1e-30)) if p.vector else x
        finish = next((p.length for p in self.pieces if p.length), as_it_is)
        return np.asarray(finish(x), np.float32)

    def embed(self, items: Sequence[Any]) -> list[Any]:
        """All of them, with what goes wrong in batches."""
        piece = next((p for p in self.pieces if p.batch), None)
        if piece is None:
            return [self.vector(i) for i in items]
        return list(BATCHES[piece.batch](self, list(items), int(piece.amount)))

    def tokenize(self, text: str) -> list[int]:
        raise NotImplementedError

    def trace(self, item: Any) -> Any:
        """Not shown."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


POOL: dict[str, Callable[[Array, list[int]], Array]] = {
    "mean": lambda h, i: h.mean(0), "cls": lambda h, i: h[0], "last": lambda h, i: h[-1],
}  # fmt: skip


def in_order(order: Callable[[DrawnEngine, list[Any], int], Sequence[int]]) -> Any:
    """Answers in another order."""

    def batch(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
        found = [e.vector(i) for i in items]
        return [found[i] for i in order(e, items, n)]

    return batch


def one_behind(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
    """The answer before."""
    found = [e.vector(i) for i in items]
    before = found[0] if e.last is None else e.last
    e.last = found[-1]
    return [before, *found[:-1]]


def constant(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
    """The first for ever."""
    e.last = e.vector(items[0]) if e.last is None else e.last
    return [e.last] * len(items)


def noise(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
    """Random numbers added."""
    return [v + e.rng.normal(0, 0.002 * n, len(v)).astype(np.float32) for v in map(e.vector, items)]


def padded(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
    """Filled up to the longest, and read."""
    longest = max(len(e.embedder.tokenize(i) if isinstance(i, str) else i) for i in items)
    return [e.vector(i, more=longest - len(e.embedder.tokenize(i) if isinstance(i, str) else i)) for i in items]


def cached_by(key: Callable[[str, int], Any]) -> Any:
    """A cache whose key leaves something out."""

    def batch(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
        return [e.cache.setdefault(key(str(i), n), e.vector(i)) for i in items]

    return batch


def equal_lengths(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
    """No attention mask is built where none of several texts needs padding."""
    lengths = {len(e.embedder.tokenize(i) if isinstance(i, str) else i) for i in items}
    other = replace(e.settings, causal=e.target.model.arch == "bert")
    return [e.vector(i, other if len(items) > 1 and len(lengths) == 1 else None) for i in items]


def alone_wrong(e: DrawnEngine, items: list[Any], n: int) -> list[Array]:
    """One text alone takes another path."""
    other = replace(e.settings, causal=e.target.model.arch == "bert")
    return [e.vector(i, other if len(items) == 1 else None) for i in items]


BATCHES: dict[str, Any] = {
    "reversed": in_order(lambda e, items, n: range(len(items))[::-1]),
    "by length": in_order(lambda e, items, n: sorted(range(len(items)), key=lambda i: len(str(items[i])))),
    "rotated": in_order(lambda e, items, n: [(i + n) % len(items) for i in range(len(items))]),
    "shuffled": in_order(lambda e, items, n: np.random.default_rng(n).permutation(len(items)).tolist()),
    "chunks reversed": in_order(lambda e, items, n: [i for k in range(0, len(items), n)
                                                     for i in reversed(range(k, min(k + n, len(items))))]),
    "neighbors swapped": in_order(lambda e, items, n: [min(i ^ 1, len(items) - 1) for i in range(len(items))]),
    "one behind": one_behind, "constant": constant, "noise": noise, "padding attended": padded,
    "cached by first characters": cached_by(lambda t, n: t[: 3 * n]),
    "cached by lower case": cached_by(lambda t, n: t.lower()),
    "causal mask turned where lengths are equal": equal_lengths, "first alone wrong": alone_wrong,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One engine, and what `verify` said."""

    number: int
    model: str
    pieces: tuple[Piece, ...]
    shows: tuple[bool, ...]  # of each piece: whether it changes anything in addition to the others
    verdict: Verdict
    seconds: float  # of processor time

    @property
    def grade(self) -> str:
        """One of the words at the head of this file."""
        wrong = self.verdict.exit_code != 0
        if not self.pieces:
            return "false alarm" if wrong else "healthy"
        shown = [p for p, s in zip(self.pieces, self.shows, strict=True) if s]
        if not shown:
            return "below"
        if not wrong:
            return "acquitted"
        hits = [all(p.named_by(c.id) for p in shown) for c in self.verdict.causes]
        if any(hits):
            return "named" if len(hits) <= 3 else "tied"
        return "unexplained" if self.verdict.kind == "unexplained" else "misnamed"

    def line(self) -> str:
        about = " AND ".join(p.about for p in self.pieces) or "healthy"
        causes = " | ".join(c.id for c in self.verdict.causes) or self.verdict.kind
        hidden = "" if all(self.shows) else f" (shows: {', '.join(map(str, self.shows))})"
        return f"{self.grade:11} {self.number:4} {self.model:10} {about}{hidden}: {causes[:150]} {self.seconds:.1f} s"


def targets(folder: Path) -> dict[str, tuple[Embedder, Target]]:
    """Models to break: MiniLM where it is there, and small ones with random weights."""
    from conformance.verify_models import cased
    from refembed.errors import RefembedError

    biases = {f"{n}.bias" for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")}
    size: dict[str, Any] = {"P": 160, "V": 300, "optional": biases, "n_layer": 4}
    paths: dict[str, tuple[Any, str]] = {
        "bert": (synthetic(folder / "bert.gguf", "bert", pooling=1, **size), "mean"),
        "bert-cls": (synthetic(folder / "bert-cls.gguf", "bert", pooling=2, seed=5, **size), "cls"),
    }
    for name, number, pooling in (("qwen3", 3, "last"), ("qwen3-mean", 1, "mean")):
        plain = synthetic(folder / f"{name}-u.gguf", "qwen3", K=2, P=160, V=300, pooling=number, seed=number)
        paths[name] = cased(plain, folder / f"{name}.gguf"), pooling
    found = {name: target_of(name, Embedder.load(path, numerics="fast"), how) for name, (path, how) in paths.items()}
    with contextlib.suppress(RefembedError, OSError):
        found["minilm"] = target_of("minilm", Embedder.load("minilm", numerics="fast"), "mean")
    return found


def target_of(name: str, e: Embedder, pooling: str, model: Any = None) -> tuple[Embedder, Target]:
    """What faults need to know of a model. model: None: NumPy's."""
    vocab = e.tokenizer.vocab
    ids = e.tokenize("the cat")
    end = ids[-1] if ids[-1:] in ([vocab.sep], [vocab.eos]) else None
    front = tuple(ids[:1]) if ids[0] == vocab.bos or end is not None else ()
    special = frozenset(i for i in (*front, end) if i is not None)
    target = Target(name, model or NumpyModel(e.info.path), front, end, vocab.pad or 0, vocab.unk or 0,
                    model is not None or name.startswith("qwen3"), pooling, special)  # fmt: skip
    return e, target


def draw(rng: Rng, target: Target, kinds: Sequence[Kind] = SINGLE) -> tuple[Piece, ...]:
    """One fault, or two of different stages (or both in the model)."""
    while True:
        first = kinds[int(rng.integers(len(kinds)))](rng, target)
        if first is not None:
            break
    if rng.random() > PAIRS or first.stage == "batch":
        return (first,)
    while True:
        second = kinds[int(rng.integers(len(kinds)))](rng, target)
        if second is None or second.stage == "batch" or (second.stage == first.stage and second.stage != "model"):
            continue
        if set(second.settings) & set(first.settings) or {first.stage, second.stage} == {"vector", "length"}:
            continue
        return tuple(
            sorted(
                (first, second), key=lambda p: ("text", "tokens", "model", "pooling", "vector", "length").index(p.stage)
            )
        )


def shows(
    e: Embedder, target: Target, pieces: Sequence[Piece], texts: Sequence[str], seed: int, floor: Array
) -> tuple[bool, ...]:
    """Of each piece: whether the engine without it gives vectors beyond the noise floor. A batch fault too.

    floor  1 - cos that is within rounding of each text, of the model without faults. A fault next to another is held
           against the floor of the engine with that other fault: BOUND times what float16 in attention does to it.
    """
    groups = [list(range(len(texts))), *([k] for k in range(min(3, len(texts)))), [2] * 3]
    bound = np.concatenate([floor[group] for group in groups])

    def answers(some: Sequence[Piece], half: bool = False) -> list[Array]:
        engine = DrawnEngine(e, target, some, seed)
        engine.settings = replace(engine.settings, half=half)
        return [v for group in groups for v in engine.embed([texts[k] for k in group])]

    with np.errstate(all="ignore"):
        full = answers(pieces) if pieces else []
        seen = []
        for p in pieces:
            others = [q for q in pieces if q is not p]
            plain, half = answers(others), answers(others, half=True)
            noise = np.array(
                [cosine_distance(a.astype(float), b.astype(float)) for a, b in zip(plain, half, strict=True)]
            )
            wide = np.maximum(bound, BOUND * noise) if others else bound
            seen.append(apart(full, plain, wide) and apart(full, half, wide))
        return tuple(seen)


def apart(xs: Sequence[Array], ys: Sequence[Array], bound: Array) -> bool:
    """Whether any two vectors differ beyond rounding, in direction, length or number."""
    for x, y, limit in zip(xs, ys, bound, strict=True):
        if x.shape != y.shape or not np.isfinite(x).all():
            return True
        a, b = x.astype(np.float64), y.astype(np.float64)
        if cosine_distance(a, b) > limit or abs(np.linalg.norm(a) / max(float(np.linalg.norm(b)), 1e-30) - 1) > 1e-3:
            return True
    return False


def run(
    count: int, seed: int, healthy: int = 0, only: Sequence[int] = (), *, families: bool = False
) -> Iterator[Outcome]:
    """Draw engines and ask about each, on one thread: the models are small.

    only      these numbers alone
    families  of the models of drawn_families.py, each as often
    """
    from conformance import drawn_families

    threads.use(1)
    with tempfile.TemporaryDirectory() as folder:
        if families:
            found = drawn_families.targets(Path(folder))
            known = {name: target_of(name, e, "last", model) for name, (e, model) in found.items()}
            share: Sequence[tuple[str, float]] = [(name, 1.0) for name in known]
        else:
            known, share = targets(Path(folder)), SHARE
        kinds = drawn_families.KINDS if families else SINGLE
        references: dict[str, Reference] = {}
        floors: dict[str, Array] = {}
        texts = {n: texts_of(e) for n, (e, _) in known.items()}
        names = [n for n, _ in share if n in known]
        shares = np.array([s for n, s in share if n in known])
        for number in range(count + healthy):
            rng = np.random.default_rng([seed, number])
            name = str(rng.choice(names, p=shares / shares.sum()))
            e, target = known[name]
            if only and number not in only:
                continue
            if name not in references:
                references[name] = reference_of(e)
                floors[name] = floor_of(references[name], texts[name], sample=True).bound
            pieces = draw(rng, target, kinds) if number < count else ()
            visible = shows(e, target, pieces, texts[name], number, floors[name])
            reference = references[name]
            engine: Any = DrawnEngine(e, target, pieces, number) if pieces else Healthy(e, target, rng)
            begin = time.process_time()
            with np.errstate(all="ignore"):
                verdict = verify(reference, engine, texts[name], normalize=2 if pieces else None)
            yield Outcome(number, name, pieces, visible, verdict, time.process_time() - begin)
            forget(reference)


def texts_of(e: Embedder) -> list[str]:
    """The built-in texts, for this tokenizer."""
    return default_texts(lambda t: len(e.tokenize(t)), e.info.n_ctx, LONGEST)


def forget(reference: Reference) -> None:
    """Keep what was computed of the model as it is, for the next engine; drop what was computed under hypotheses."""
    kept = reference.by_numerics.hidden
    for key in list(kept):
        model, ops, batch = key[0][:3] if isinstance(key[0], tuple) else key[:3]
        if ops or batch or model != id(reference.model):
            del kept[key]


class Healthy(DrawnEngine):
    """An engine that is right, in a way of its own: another order of sums, batches, lengths, float32."""

    def __init__(self, e: Embedder, target: Target, rng: Rng) -> None:
        super().__init__(e, target, (), 0)
        self.unit, self.size, self.own = bool(rng.integers(2)), int(rng.integers(1, 20)), bool(rng.integers(2))

    def embed(self, items: Sequence[Any]) -> list[Any]:
        """NumPy in float64, or refembed in batches of some size; raw or normalized."""
        if self.own:
            found = [self.vector(i) for i in items]
            return found
        norm = 2 if self.unit else -1
        parts = [items[i : i + self.size] for i in range(0, len(items), self.size)]
        return [v for part in parts for v in self.embedder.embed(list(part), normalize=norm, truncate=True)]


# -- the table -------------------------------------------------------------------------------------------------------

GRADES = ("named", "tied", "misnamed", "unexplained", "acquitted", "below")


def summary(outcomes: Sequence[Outcome], seed: int) -> str:
    """The numbers in a sentence."""
    faults = [o for o in outcomes if o.pieces]
    grades = Counter(o.grade for o in faults)
    visible = len(faults) - grades["below"]
    right = [o for o in outcomes if not o.pieces]
    seconds = sorted(o.seconds for o in faults) or [0.0]
    return (
        f"{len(faults)} engines with faults drawn with seed {seed}, {sum(len(o.pieces) > 1 for o in faults)} of them "
        f"with two; {visible} show beyond the noise floor. Of these {grades['named']} are named "
        f"({100 * grades['named'] / max(visible, 1):.1f} %), {grades['tied']} tied, {grades['misnamed']} misnamed, "
        f"{grades['unexplained']} unexplained, {grades['acquitted']} falsely acquitted. {len(right)} healthy engines: "
        f"{sum(o.grade == 'false alarm' for o in right)} false alarms. Processor time of a verdict: median "
        f"{seconds[len(seconds) // 2]:.1f} s, longest {seconds[-1]:.1f} s."
    )


def markdown(outcomes: Sequence[Outcome], seed: int) -> str:
    """The table of docs/verify.md: by stages, one row each, and what was missed."""
    rows = [
        summary(outcomes, seed),
        "",
        f"| faults in | engines | {' | '.join(GRADES)} |",
        "|---|---:|" + "---:|" * len(GRADES),
    ]
    by: dict[str, list[Outcome]] = {}
    for o in outcomes:
        if o.pieces:
            by.setdefault(" and ".join(p.stage for p in o.pieces), []).append(o)
    for stages in sorted(by, key=lambda s: (" and " in s, s)):
        grades = Counter(o.grade for o in by[stages])
        rows.append(f"| {stages} | {len(by[stages])} | {' | '.join(str(grades[g]) for g in GRADES)} |")
    missed = [o for o in outcomes if o.grade not in ("named", "below", "healthy")]
    if missed:
        rows += ["", "Not named:", "", "| no. | model | fault | grade | causes given |", "|---:|---|---|---|---|"]
        for o in missed:
            causes = ", ".join(f"`{c.id}`" for c in o.verdict.causes[:3]) or "-"
            rows.append(
                f"| {o.number} | {o.model} | {' and '.join(p.about for p in o.pieces)} | {o.grade} | {causes} |"
            )
    return "\n".join(rows)


def good(outcomes: Sequence[Outcome]) -> bool:
    """95 % of what shows is named, nothing acquitted, no false alarm."""
    grades = Counter(o.grade for o in outcomes)
    visible = sum(grades[g] for g in GRADES if g != "below")
    return grades["named"] >= 0.95 * visible and not grades["acquitted"] and not grades["false alarm"]


def write(outcomes: Sequence[Outcome], seed: int, marks: tuple[str, str] = MARKS) -> None:
    """Put the table into docs/verify.md, between its two marks."""
    text = DOC.read_text(encoding="utf-8")
    head, rest = text.split(marks[0])
    table = f"{marks[0]}\n{markdown(outcomes, seed)}\n{marks[1]}"
    DOC.write_text(f"{head}{table}{rest.split(marks[1])[1]}", encoding="utf-8")
