"""Does a text's vector depend on its batch: on the texts computed with it, or on those before it?

The engine is asked for a few short texts together, each alone, and the first once more behind another (A, B, C, D, B,
A). Vectors that are those of other texts are order or a stale answer; vectors that belong to no tensor are a leak, and
hypotheses about batches are tried on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np

from refembed.arrays import F64, I64, Float
from refembed.errors import EngineError
from refembed.kernels.ops import AttentionSpec, Ops
from refembed.kernels.wrapper import PatchedOps
from refembed.model.batch import Batch
from refembed.verify.compare.floor import LEAST, Floor, distance
from refembed.verify.engines.base import Engine
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.reference import Item, Reference, Vectors, tensor_names

KEEPS_STATE = re.compile(r"(^|\.)(shortconv|ssm|time_mix)_")  # tensors of layers that keep a state
SHORT = 4  # texts that are asked for in a batch and alone
SAME = 1e-9  # 1 - cos of two answers that are the same but for the order of sums


@dataclass(frozen=True)
class BatchEffects:
    """What the engine answered to a few texts: together, alone, and the first of them again."""

    places: tuple[int, ...]  # which texts
    together: Vectors
    alone: Vectors
    again: F64
    equal_places: tuple[int, ...] = ()  # texts of one length, which were asked for together
    equal: Vectors = field(default_factory=list)

    def apart(self) -> F64:
        """1 - cos between together and alone, for each."""
        return np.array([distance(a, b) for a, b in zip(self.together, self.alone, strict=True)])

    def changed(self) -> float:
        """1 - cos between the first answer to the first text and the second."""
        return distance(self.again, self.alone[0])


def ask(engine: Engine, items: Sequence[Item], places: Sequence[int], equal: Sequence[int] = ()) -> BatchEffects:
    """Put the questions. equal: texts that have the same number of tokens, for a batch that needs no padding."""
    chosen = [items[i] for i in places]
    together = doubles(in_one_request(engine, chosen))
    alone = [doubles(engine.embed([item]))[0] for item in chosen]
    engine.embed(chosen[1:2])  # so that the first text comes behind another one than before
    again = doubles(engine.embed(chosen[:1]))[0]
    same = doubles(engine.embed([items[i] for i in equal])) if equal else []
    return BatchEffects(tuple(places), together, alone, again, tuple(equal), same)


def equal_lengths(items: Sequence[Item], tokens: Sequence[int], n: int = SHORT) -> list[int]:
    """Places of up to n texts with the same number of tokens: different texts where there are such, else one, thrice.

    Engines take another path where nothing has to be padded: no attention mask is built, and a causal mask is lost
    with it.
    """
    groups: dict[int, list[int]] = {}
    for i, item in enumerate(items):
        fresh = all(items[j] != item for j in groups.get(tokens[i], []))
        if 4 <= tokens[i] <= 64 and fresh:
            groups.setdefault(tokens[i], []).append(i)
    best = max(groups.values(), key=lambda g: (min(len(g), n), -tokens[g[0]]), default=[0])
    return best[:n] if len(best) > 1 else best * 3


KEYS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("lower-case", "lower case", str.lower),
    ("white-space", "what is left without white space at its ends", str.strip),
    ("words", "its words, however they are spaced", lambda t: tuple(t.split())),
    ("letters", "its letters and digits", lambda t: "".join(c for c in t.lower() if c.isalnum())),
    ("length", "its length", lambda t: len(t)),
)  # fmt: skip


def cached_of(owners: Sequence[set[int]], items: Sequence[Item]) -> tuple[str, str] | None:
    """(id, what the engine does) where the texts that get an earlier one's vector share a key with it."""
    wrong = {i: owners[i] for i in range(len(owners)) if i not in owners[i]}
    texts = [str(item) for item in items]
    firsts: list[tuple[str, str, Callable[[str], Any]]] = [
        (f"first-{n}-characters", f"its first {n} characters", partial(first_of, n)) for n in range(1, 257)
    ]
    for id, says, key in (*KEYS, *firsts):
        earlier = [next(j for j in range(i + 1) if key(texts[j]) == key(texts[i])) for i in range(len(texts))]
        if wrong and all(earlier[i] in fits for i, fits in enumerate(owners)):
            return f"cache-key-{id}", f"answers from a cache that knows a text by {says} alone"
    return None


def first_of(n: int, text: str) -> str:
    """The first n characters."""
    return text[:n]


def in_one_request(engine: Engine, items: Sequence[Item]) -> Sequence[Any]:
    """Vectors of texts that reach the engine together; one by one where it refuses that."""
    ask_together = getattr(engine, "embed_together", engine.embed)
    try:
        found: Sequence[Any] = ask_together(items)
    except EngineError:
        return engine.embed(items)
    return found


def doubles(vectors: Sequence[Any]) -> Vectors:
    """An engine's vectors in float64."""
    with np.errstate(invalid="ignore"):  # a signaling NaN
        return [np.asarray(v, np.float64) for v in vectors]


def whose(vectors: Vectors, floor: Floor) -> list[set[int]]:
    """For each vector the texts whose vector it is, by the reference: none, one, or several that have the same."""
    owners = []
    for y in vectors:
        near = [min(distance(y, xs[j]) for xs in floor.by_numerics.values()) for j in range(len(floor.bound))]
        owners.append({j for j in range(len(near)) if near[j] <= floor.bound[j]})
    return owners


def order_of(owners: Sequence[set[int]], lengths: Sequence[Sequence[Any]]) -> tuple[str, str] | None:
    """(id, what the engine does) where every vector is some text's, but not all their own; None otherwise.

    owners   for each vector the texts whose it is (`whose`)
    lengths  what texts may have been sorted by: their tokens, their characters
    """
    n = len(owners)
    if n < 2 or not all(owners) or all(i in owners[i] for i in range(n)):
        return None
    orders = [("order-reversed", "gives the vectors in reverse order", list(range(n))[::-1])]
    orders.append(("order-ahead", "gives each text the vector of the one behind it", [*range(1, n), 0]))
    for keys in lengths:
        up, down = (sorted(range(n), key=lambda i, k=keys, s=s: s * k[i]) for s in (1, -1))  # type: ignore[misc]
        says = "gives the vectors sorted by the lengths of the texts"
        orders += [("order-by-length", says, up), ("order-by-length", f"{says}, long ones first", down)]
    for id, says, order in orders:
        if all(j in fits for j, fits in zip(order, owners, strict=True)):
            return id, says
    if all(i - 1 in owners[i] for i in range(1, n)):
        return "stale", "gives each text the vector of the one before it (a stale answer)"
    common = set.intersection(*owners)
    if common:
        return "order-same", f"gives every text the vector of text {min(common)}"
    wrong = sum(i not in fits for i, fits in enumerate(owners))
    if len({min(fits) for fits in owners}) == len({min(same_as(owners, i), default=i) for i in range(n)}):
        return (
            "order-shuffled",
            f"gives the vectors in another order than the texts: {wrong} of {n} are not their text's",
        )
    if all(min(fits) <= i for i, fits in enumerate(owners)):
        return "stale", f"gives {wrong} of {n} texts the vector of an earlier one (a stale answer)"
    return "order-mixed", f"gives {wrong} of {n} texts the vectors of others"


def same_as(owners: Sequence[set[int]], i: int) -> set[int]:
    """Texts that cannot be distinguished from text i, as far as any vector shows."""
    return next((fits for fits in owners if i in fits), set())


def batch_hypotheses(reference: Reference) -> list[Hypothesis]:
    """What an engine may do wrong with several texts at a time."""
    pad = reference.tokenizer.vocab.pad or 0
    rows: list[tuple[str, str, Callable[[Reference], Reference]]] = [
        ("across-texts", "lets tokens see the other texts of a batch", all_as_one),
        ("positions-in-batch", "counts positions through the batch",
         lambda r: replace(r.add(batch=counted_through), together=list)),
        ("padding-attended", "attends to the padding of a batch", lambda r: replace(r, together=right_padded(pad))),
        ("padding-pooled", "attends to the padding of a batch and pools it",
         lambda r: replace(r, together=right_padded(pad), pooler=pool_everything(r))),
        ("padding-left", "pads a batch on the left and lets tokens see it", lambda r: left_padded(r, pad)),
        ("padding-zeros", "attends to zeros where a batch is padded", lambda r: zeros_attended(r)),
        ("batch-cut", "cuts all texts of a batch to its shortest", lambda r: replace(r, together=cut_to_shortest)),
    ]  # fmt: skip
    if any(KEEPS_STATE.search(name) for name in tensor_names(reference)):
        says = "lets a text begin with the state that the one before it in a batch ended with"
        rows.append(("states-carried", says, states_carried))
    return [Hypothesis(id, "batch", says, change, "batch") for id, says, change in rows]


def attention_over(reference: Reference, other: Callable[..., Float]) -> Reference:
    """All texts in one run, their attention replaced."""

    def change(ops: Ops) -> Ops:
        return PatchedOps(ops, {"attention": other})

    return replace(reference.add(ops=change), together=list)


def all_as_one(reference: Reference) -> Reference:
    """No walls between texts."""

    def attention(
        true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
    ) -> Float:
        return true.attention(q, k, v, spec, offsets[[0, -1]], *rest, **more)

    return attention_over(reference, attention)


def states_carried(reference: Reference) -> Reference:
    """Layers that keep a state do not begin anew with each text; attention does."""
    one_text = {name: partial(carried, name) for name in ("short_conv", "gated_delta_rule", "selective_scan", "wkv7")}

    def change(ops: Ops) -> Ops:
        return PatchedOps(ops, one_text)

    return replace(reference.add(ops=change), together=list)


def carried(name: str, true: Ops, *given: Any) -> Float:
    """An operation along texts, all of them as one: offsets are its only array of whole numbers."""
    whole = [x[[0, -1]] if isinstance(x, np.ndarray) and x.dtype.kind == "i" else x for x in given]
    return cast(Float, getattr(true, name)(*whole))


def zeros_attended(reference: Reference) -> Reference:
    """Keys and values of zero behind each shorter text."""

    def attention(
        true: Any, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, *rest: Any, **more: Any
    ) -> Float:
        lengths = np.diff(offsets)
        own = (np.arange(lengths.max()) < lengths[:, None]).ravel()
        wide = [np.zeros((len(own), x.shape[1]), x.dtype) for x in (q, k, v)]
        for full, x in zip(wide, (q, k, v), strict=True):
            full[own] = x
        ends = np.arange(len(offsets)) * int(lengths.max())
        return np.ascontiguousarray(true.attention(*wide, spec, ends, *rest, **more)[own])

    return attention_over(reference, attention)


def counted_through(b: Batch) -> Batch:
    """Positions from the batch's beginning."""
    return replace(b, pos=np.arange(len(b.ids)))


def right_padded(pad: int) -> Callable[[list[list[int]]], list[list[int]]]:
    """Every text filled up to the longest."""
    return lambda texts: [ids + [pad] * (max(map(len, texts)) - len(ids)) for ids in texts]


def cut_to_shortest(texts: list[list[int]]) -> list[list[int]]:
    """Every text cut."""
    return [ids[: min(map(len, texts))] for ids in texts]


def pool_everything(reference: Reference) -> Callable[[Float, list[int]], Any]:
    """Pooling that takes the padding for text."""
    from refembed.pooling.poolers import POOLERS

    return lambda hidden, ids: POOLERS[reference.pooling](hidden)


def left_padded(reference: Reference, pad: int) -> Reference:
    """Padding in front of each shorter text, seen, with positions counted from it; its states are not pooled."""
    from refembed.pooling.poolers import POOLERS

    fill = lambda texts: [[pad] * (max(map(len, texts)) - len(ids)) + ids for ids in texts]  # noqa: E731
    pooler = lambda hidden, ids: POOLERS[reference.pooling](hidden[-len(ids) :])  # noqa: E731
    return replace(reference, together=fill, pooler=pooler)


def leak_of(reference: Reference, batch_effects: BatchEffects, items: Sequence[Item], floor: Floor) -> list[Hypothesis]:
    """Which hypotheses about batches explain what the engine answered together. Best first; equals are all there."""
    chosen = [items[i] for i in batch_effects.places]
    bound = floor.bound[list(batch_effects.places)]
    found: list[tuple[float, Hypothesis]] = []
    for h in batch_hypotheses(reference):
        best = np.inf
        for numerics in floor.by_numerics:
            try:
                mine = h.change(reference).vectors(chosen, numerics)
            except (ValueError, IndexError, TypeError):
                continue
            d = np.array([distance(y, x) for y, x in zip(batch_effects.together, mine, strict=True)])
            if (d <= bound).all():
                best = min(best, float(d.max(initial=0)))
        if np.isfinite(best):
            found.append((best, h))
    least = min((d for d, _ in found), default=0.0)
    return [h for d, h in sorted(found, key=lambda f: f[0]) if d <= 2 * least + LEAST]
