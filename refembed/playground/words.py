"""The sentences of the page: what came of a text, on what evidence, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from refembed.explain.words import plural, spell_numbers
from refembed.html.page import clipped
from refembed.playground.moved import Moved
from refembed.playground.run import Run
from refembed.playground.switches import Switches, Workbench
from refembed.verify.remedies import remedy_of

STAGES = {  # of a hypothesis -> heading of its group
    "text": "The text", "tokens": "The tokens", "batch": "The batch", "model": "The model", "weights": "The weights",
    "pooling": "Pooling", "vector": "The vector",
}  # fmt: skip
ARITHMETIC = {
    "exact": "float64", "fast": "float32", "ggml": "llama.cpp's roundings", "int8": "float32, activations in 8 bits",
    "bf16": "bfloat16", "cupy": "float32 on a GPU",
}  # fmt: skip
TRY = "Try another text: what a fault does to capitals, accents, numbers or long texts shows in such texts alone."
FIRST = 4  # numbers of a vector


@dataclass(frozen=True)
class Said:
    """A verdict in one sentence, the evidence for it, and what to do."""

    verdict: str
    evidence: tuple[str, ...]
    advice: str
    kind: str = ""  # "good": nothing moved, or as little as rounding moves it; "bad": it moved; "": nothing is switched


def said_of(bench: Workbench, switches: Switches, text: str, run: Run, change: Moved | None, bound: float) -> Said:
    """What to say of a run. change: against the unchanged one; None where nothing is switched."""
    if change is None:
        return unchanged(bench, run)
    evidence = [f"Switched: {'; '.join(switched(bench, switches, text))}."]
    if change.distance == 0 and change.first is None and change.token is None and change.length == 1:
        return Said("Nothing changes: not one number of the run.", tuple(evidence), TRY, "good")
    if change.distance > bound:
        times = spell_times(change.distance / bound)
        verdict, kind = f"The vector moves by 1 − cos = {change.distance:.2g}: {times} what rounding may do.", "bad"
        if run.is_score:
            verdict = f"The score moves: {times} what rounding may do to it."
    else:
        verdict, kind = "The vector moves no further than rounding may move it.", "good"
    evidence.append(
        f"On this text rounding alone may reach 1 − cos = {bound:.2g}; the change makes {change.distance:.2g}."
    )
    evidence.append(where(change))
    if abs(change.length - 1) > 1e-3:
        evidence.append(f"Before it is normalized the vector is {change.length:.4g} times as long.")
    return Said(verdict, tuple(evidence), advice(bench, switches, text, kind), kind)


def unchanged(bench: Workbench, run: Run) -> Said:
    """Nothing is switched."""
    r, n = bench.reference, len(run.ids)
    size = len(run.vector)
    what = plural(size, "score") if run.is_score else f"a vector of {plural(size, 'number')}"
    arithmetic = ARITHMETIC.get(bench.numerics, bench.numerics)
    evidence = [
        f"{plural(r.info.n_layer, 'layer')} and pooling “{r.pooling}”, computed in {arithmetic}.",
        f"It begins {spell_numbers(run.vector[:FIRST])}" + (" ..." if size > FIRST else "."),
        *([bench.note] if bench.note else []),
    ]
    verdict = f"{plural(n, 'token')} become{'s' * (n == 1)} {what}."
    return Said(verdict, tuple(evidence), "Switch something above: see how far the vector moves, and where it begins.")


def switched(bench: Workbench, switches: Switches, text: str) -> list[str]:
    """What is switched, each in a few words."""
    found = []
    if switches.pooling:
        found.append(f"pooling “{switches.pooling}” in the place of “{bench.reference.pooling}”")
    if switches.weights:
        found.append(f"weights as {switches.weights}, quantized in memory")
    if switches.fault:
        found.append(f"the engine {bench.fault(switches.fault, text).says}")
    return found


def where(change: Moved) -> str:
    """Where the difference begins."""
    if change.token is not None and not change.tensors:
        return f"The tokens differ from place {change.token} on, and so does every tensor behind them."
    if change.token is not None:
        return f"The tokens differ at place {change.token} first, and so do the tensors behind it."
    first = change.first
    if first is None:
        return "Every tensor of the run is the same to the bit: the difference is made behind the last one."
    layer = "" if first.layer is None else f", in layer {first.layer}"
    if first.relative is None:
        return f"The first tensor that differs is `{first.name}`{layer}: the changed run does not compute it."
    found = f"The first tensor that differs is `{first.name}`{layer}, by {first.relative:.2g} of its size"
    return f"{found}; all before it are the same to the bit."


def advice(bench: Workbench, switches: Switches, text: str, kind: str) -> str:
    """What to do where an engine does this, or where it is meant."""
    if switches.fault:
        h = bench.fault(switches.fault, text)
        if kind == "good":
            return "This text does not show it. `refembed verify` compares several texts, and tensors where it can."
        mend = h.advice or remedy_of(h.id, bench.reference, {}, h.stage)
        found = f"`refembed verify MODEL --against ENGINE` finds an engine that does this, and calls it `{h.id}`"
        return f"{found}. To mend it: {mend}."
    if switches.weights:
        name = clipped(switches.weights, 20)
        return (
            f"`refembed quantize MODEL OUT.gguf {name}` writes such a file; `refembed evaluate --weights {name}` "
            "measures what it does to search."
        )
    return f"`--pooling {switches.pooling}` does this in every command; vectors of two poolings cannot be compared."


def spell_times(x: float) -> str:
    """How many times: "24 times"."""
    return f"{x:,.0f} times" if 2 <= x < 1e6 else f"{x:.1e} times" if x >= 1e6 else f"{x:.2g} times"
