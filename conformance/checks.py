"""One function a kind of case. A check measures and does not judge: bounds.toml says how large its numbers may be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from conformance.cases import Test
from conformance.oracle import Setting
from conformance.session import Session
from refembed import Trace, normalize
from refembed.verify.compare.align import align
from refembed.verify.compare.arrays import compare
from refembed.verify.compare.replay import ReplayTap

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Measure:
    """One number that a check found."""

    metric: str  # a row of the case's table in bounds.toml
    value: float  # infinite where the numbers are not finite or the shapes differ
    where: str = ""  # tensor, position, arrangement
    exact: bool = False  # must be 0; there is no row


def tokens(s: Session, t: Test) -> Iterator[Measure]:
    """Token ids are llama.cpp's, every one; `different ids` counts those that are not."""
    options = {"add_special": t.case.options["add_special"], "parse_special": t.case.options["parse_special"]}
    ours = s.embedder(t.case.model, t.numerics).tokenize(t.text.data, **options)
    theirs = s.oracle.tokens(t.case.model, t.text, **options)
    wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    count = len(wrong) + abs(len(ours) - len(theirs))
    first = wrong[0] if wrong else min(len(ours), len(theirs))
    where = f"id {first}: {ours[first : first + 1]}, not {theirs[first : first + 1]}" if count else ""
    yield Measure("different ids", count, where, exact=True)
    if t.text.n_tokens is not None and all(options.values()):
        yield Measure("n_tokens of texts.json", abs(len(theirs) - t.text.n_tokens), f"{len(theirs)} tokens", exact=True)


def embed(s: Session, t: Test) -> Iterator[Measure]:
    """Vectors against llama.cpp's: 1 - cos, and max |ours - theirs|, which for raw vectors is over max |theirs|."""
    pooling, p = t.case.options["pooling"], t.case.options["normalize"]
    setting = Setting(t.case.model, pooling, t.case.options["flash_attn"])
    theirs = s.oracle.vector(setting, t.text).astype(np.float64)  # (D) or (T, D)
    ours = s.vector(t.case.model, t.numerics, t.text, pooling, p)
    yield Measure("one_minus_cos", worst_cosine(theirs, ours))
    if p == 2:
        theirs = theirs / np.linalg.norm(theirs, axis=-1, keepdims=True)
        yield largest("max_abs", compare(theirs, ours).max_abs, ours)
    else:
        yield largest("max_rel", compare(theirs, ours).rel_peak, ours)


def distance(s: Session, t: Test) -> Iterator[Measure]:
    """`fast` against `exact`: what float32 alone does to this text."""
    exact, fast = (s.vector(t.case.model, numerics, t.text) for numerics in ("exact", "fast"))
    yield Measure("one_minus_cos", worst_cosine(exact.astype(np.float64), fast))
    yield largest("max_abs", compare(exact, fast).max_abs, fast)


def normalized(s: Session, t: Test) -> Iterator[Measure]:
    """llama.cpp's own vector, normalized by both: bit for bit."""
    p = t.case.options["normalize"]
    x = s.oracle.vector(Setting(t.case.model), t.text)
    theirs, ours = s.oracle.normalize(x, p), normalize(x, p)
    yield Measure("different bits", int((theirs.view(np.int32) != ours.view(np.int32)).sum()), f"p={p}", exact=True)


def batch(s: Session, t: Test) -> Iterator[Measure]:
    """The vector in any batch is the vector alone, bit for bit; `different bits` counts numbers that are not."""
    alone = s.vector(t.case.model, t.numerics, t.text).view(np.int32)
    for arrangement in t.case.options["arrangements"]:
        batched = s.in_batches(t.case, t.numerics, arrangement)[t.text.id].view(np.int32)
        yield Measure("different bits", int((alone != batched).sum()), arrangement, exact=True)


def trace(s: Session, t: Test) -> Iterator[Measure]:
    """The two runs side by side: how far each tensor has drifted, the propagated error."""
    ours, theirs = s.trace(t.case.model, t.numerics, t.text), s.oracle.trace(Setting(t.case.model), t.text)
    alignment = align(ours, theirs)
    unpaired = [ours.tensors[i].name for i in alignment.ours_only] + [
        theirs.tensors[j].name for j in alignment.theirs_only
    ]
    yield Measure("tensors without a partner", len(unpaired), ", ".join(unpaired[:4]), exact=True)
    yield from by_class(
        propagated(p.name, theirs.tensors[p.theirs].array, ours.tensors[p.ours].array) for p in alignment.pairs
    )


def propagated(name: str, theirs: Array, ours: Array) -> Measure:
    """max |ours - theirs| / max |theirs| of one tensor; axes of length 1 may differ."""
    gap = np.abs(ours.reshape(theirs.shape) - theirs)
    at = int(gap.argmax())  # of a NaN, if there is one
    where = f"{name} at {tuple(int(i) for i in np.unravel_index(at, gap.shape))}"
    return Measure(class_of(name), over(float(gap.flat[at]), float(np.abs(theirs).max())), where)


def local(s: Session, t: Test) -> Iterator[Measure]:
    """Every operation on llama.cpp's own inputs: the error it adds itself."""
    ours, theirs = s.trace(t.case.model, t.numerics, t.text), s.oracle.trace(Setting(t.case.model), t.text)
    alignment = align(ours, theirs)
    tap = ReplayTap(ours, theirs, alignment)
    embedder = s.embedder(t.case.model, t.numerics)
    embedder.trace(t.text.data, tap=tap)
    if len(tap.differences) != len(alignment.pairs):
        raise AssertionError("the replayed run shows other tensors than the recorded one")
    found = []
    for pair, replayed in zip(alignment.pairs, tap.differences, strict=True):
        d, peak = replayed.difference, float(np.abs(theirs.tensors[pair.theirs].array).max())
        value = math.inf if d.nonfinite_a or d.nonfinite_b else over(d.max_abs, peak)
        found.append(Measure(class_of(pair.name), value, f"{pair.name} at {d.worst}" if d.worst else pair.name))
    yield from by_class(found)
    yield from by_class(gelu_table(embedder.ops.gelu, theirs))


def switches(t: Test) -> dict[str, bool]:
    """Which of llama.cpp's own switches a case turns on."""
    return {name: bool(t.case.options.get(name)) for name in ("flash_attn", "repack")}


def setting_of(t: Test) -> Setting:
    """llama.cpp with the same switches."""
    on = switches(t)
    return Setting(t.case.model, t.case.options.get("pooling", "native"), on["flash_attn"], on["repack"])


def bits(s: Session, t: Test) -> Iterator[Measure]:
    """The vector is llama.cpp's, bit for bit; `different bits` counts numbers that are not."""
    theirs = s.oracle.vector(setting_of(t), t.text)
    embedder, pooling = s.embedder(t.case.model, t.numerics, **switches(t)), t.case.options.get("pooling", "native")
    ours = embedder.embed(t.text.data, pooling=pooling, normalize=-1)
    yield Measure("different bits", int((np.asarray(ours).view(np.int32) != theirs.view(np.int32)).sum()), exact=True)


def operations(s: Session, t: Test) -> Iterator[Measure]:
    """Every operation on llama.cpp's own inputs, in units in the last place: 0 is asked of each."""
    options, pooling = switches(t), t.case.options.get("pooling", "native")
    ours = s.trace(t.case.model, t.numerics, t.text, pooling, **options)
    theirs = s.oracle.trace(setting_of(t), t.text)
    alignment = align(ours, theirs)
    unpaired = [ours.tensors[i].name for i in alignment.ours_only] + [
        theirs.tensors[j].name for j in alignment.theirs_only
    ]
    yield Measure("tensors without a partner", len(unpaired), ", ".join(unpaired[:4]), exact=True)
    tap = ReplayTap(ours, theirs, alignment)
    s.embedder(t.case.model, t.numerics, **options).trace(t.text.data, pooling=pooling, tap=tap)
    yield from by_class(
        Measure(class_of(d.name), d.difference.max_ulps, f"{d.name} at {d.difference.worst}", exact=True)
        for d in tap.differences
    )


def gelu_table(gelu: Callable[[Array], Array], theirs: Trace) -> Iterator[Measure]:
    """llama.cpp's GELU is T[float16(x)], with T[h] = float16(gelu(h)): held to that, not to its distance from gelu(x).

    The unit is what rounding leaves open: half a float16 step at T[h], and half a float32 step of the tanh in
    x/2 (1 + tanh ...), which cancels where x is far below 0. A value above 1 is another function.
    """
    for i, tap in enumerate(theirs.tensors):
        if tap.op != "GELU":
            continue
        x = theirs.tensors[theirs.meta["nodes"][i]["sources"][0]].array
        h = np.where(np.abs(x) < 10, x.astype(np.float16).astype(x.dtype), x)  # outside, T is not asked: 0 or x
        allowed = np.spacing(np.abs(tap.array).astype(np.float16)).astype(np.float64) / 2 + np.abs(h) * 2.0**-25
        gap = np.abs(np.asarray(gelu(h), np.float64) - tap.array) / allowed
        at = np.unravel_index(int(gap.argmax()), gap.shape)
        yield Measure("ffn_gelu table", finite(float(gap.max())), f"{tap.name} at x = {x[at]:.4g}")


KINDS: dict[str, Callable[[Session, Test], Iterable[Measure]]] = {
    "tokens": tokens,
    "embed": embed,
    "distance": distance,
    "normalize": normalized,
    "batch": batch,
    "trace": trace,
    "local": local,
    "bits": bits,
    "operations": operations,
}


def by_class(found: Iterable[Measure]) -> Iterator[Measure]:
    """The largest value of each class of tensors: those of one name, all layers together."""
    worst: dict[str, Measure] = {}
    for m in found:
        if m.metric not in worst or m.value > worst[m.metric].value:
            worst[m.metric] = m
    yield from worst.values()


def class_of(name: str) -> str:
    """`kq_soft_max-3` is of the class `kq_soft_max`."""
    return re.sub(r"-\d+$", "", name)


def worst_cosine(a: Array, b: Array) -> float:
    """The largest 1 - cos of a row of a with the same row of b, as |a/|a| - b/|b||^2 / 2, which does not cancel."""
    if a.shape != b.shape:
        return math.inf
    x, y = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=-1, keepdims=True) for v in (a, b))
    return finite(float((0.5 * np.square(x - y).sum(axis=-1)).max()))


def largest(metric: str, value: float, ours: Array) -> Measure:
    """A measure that is infinite if any of our numbers is not finite."""
    return Measure(metric, finite(value) if np.isfinite(ours).all() else math.inf)


def over(part: float, whole: float) -> float:
    """part / whole; 0/0 is 0, and what is not finite is infinite."""
    return 0.0 if part == 0 else finite(part / whole) if whole else math.inf


def finite(x: float) -> float:
    """x, or infinity for NaN."""
    return math.inf if math.isnan(x) else x
