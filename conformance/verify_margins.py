"""How far each hand-chosen number of `refembed verify` may be moved before a verdict changes.

    python -m conformance verify-margins --write

Every planted fault (`verify_faults`) and a few healthy engines (`false_alarms.SAMPLE`) are asked once; then the verdict
is made again and again from the same findings, with one number changed: a hundred times smaller and larger, and where
that changes a verdict 30, 10, 5, 3, 2 and 1.5 times. A verdict changes where a fault is named no longer, or only now,
the first wrong tensor likewise, or its word is another. The range of a number is where no verdict at all changes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from conformance import false_alarms
from conformance.verify_models import models
from conformance.verify_mutants import LONGEST, Outcome, Wired
from refembed import Embedder
from refembed.verify import diagnose, run, trials
from refembed.verify.compare import floor, local
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.findings import Findings
from refembed.verify.reference import Reference, reference_of
from refembed.verify.run import decide, expects, findings
from refembed.verify.texts import default_texts

FACTORS = (100, 30, 10, 5, 3, 2, 1.5)  # the widest first: where it changes nothing, nothing nearer is tried
DOC = false_alarms.DOC
BEGIN, END = "<!-- margins: begin -->", "<!-- margins: end -->"
Signature = tuple[Any, ...]


@dataclass(frozen=True)
class Number:
    """A number that was chosen by hand."""

    module: ModuleType
    name: str
    about: str
    least: float = 0.0  # smaller values mean nothing

    @property
    def value(self) -> float:
        return float(getattr(self.module, self.name))

    @property
    def id(self) -> str:
        """`floor.BOUND`."""
        return f"{self.module.__name__.rsplit('.', 1)[-1]}.{self.name}"

    def times(self, factor: float) -> float:
        """Another value; whole numbers stay whole."""
        found = max(self.value * factor, self.least)
        return float(round(found)) if isinstance(getattr(self.module, self.name), int) else found


NUMBERS = (
    Number(floor, "BOUND", "times the noise floor that a vector may be away"),
    Number(local, "BOUND", "times its floor that a tensor may be off"),
    Number(local, "LEAST", "of a tensor: what float32 sums in any order stay below"),
    Number(run, "TELLING", "of the bound: a smaller difference is not looked into"),
    Number(trials, "SHORTLIST", "hypotheses held against all texts", least=1),
    Number(diagnose, "PAIRED", "that a second cause is looked for under", least=1),
    Number(diagnose, "HELPFUL", "of what a first cause leaves: a second that leaves less is looked at by itself"),
    Number(trials, "EARNED", "times: what a second cause brings the rest down by", least=1),
    Number(trials, "CLEAR", "of the difference: what leaves less is no coincidence"),
    Number(trials, "TIE", "times the smallest rest: as good", least=1),
    Number(trials, "CLEARLY", "of a difference within rounding: what leaves less is reported"),
)


@dataclass(frozen=True)
class Asked:
    """An engine's answers, and what a verdict on them is held against."""

    id: str
    found: Findings
    fine: tuple[str, ...]
    signature: Callable[[Any], Signature]


@dataclass
class Margin:
    """The range of one number."""

    number: Number
    low: float
    high: float
    low_by: str = ""  # whose verdict changes beyond; empty where nothing does, a hundred times away
    high_by: str = ""


@contextlib.contextmanager
def at(number: Number, value: float) -> Iterator[None]:
    """The number is another."""
    before = getattr(number.module, number.name)
    setattr(number.module, number.name, type(before)(value))
    try:
        yield
    finally:
        setattr(number.module, number.name, before)


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Hypotheses are made once, so that the reference finds again what it computed under them."""
    kept: dict[Any, Any] = {}
    names = ("cheap_hypotheses", "part_hypotheses", "weight_hypotheses", "joined")
    before = {name: getattr(diagnose, name) for name in names}

    def once(name: str) -> Callable[..., Any]:
        def made(*args: Any) -> Any:
            key = (name, *((a.id, id(a)) if hasattr(a, "id") else repr(a)[:2000] if isinstance(a, list) else id(a)
                           for a in args if not isinstance(a, dict)))  # fmt: skip
            if key not in kept:
                kept[key] = args, before[name](*args)
            return kept[key][1]

        return made

    for name in names:
        setattr(diagnose, name, once(name))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(diagnose, name, function)


def verdict_at(asked: Asked, number: Number | None = None, value: float = 0.0) -> Signature:
    """What the verdict comes to."""
    found = replace(asked.found, remarks=list(asked.found.remarks), ids=list(asked.found.ids))
    if number is None:
        return asked.signature(decide(found, asked.fine, lambda message: None))
    with at(number, value):
        if found.traces is not None and number.module is local:
            found.traces = replace(found.traces, rows=[rebound(row) for row in found.traces.rows])
        return asked.signature(decide(found, asked.fine, lambda message: None))


def rebound(row: local.Row) -> local.Row:
    """A tensor held to the bounds of the numbers as they are now."""
    bound = max(local.BOUND * row.spread, local.LEAST)
    tight = 10 * local.LEAST if local.ELEMENTWISE.match(row.name) else bound
    return replace(row, bound=bound, tight=min(tight, bound))


def reach(asked: Asked, number: Number, base: Signature, up: bool) -> tuple[float, bool]:
    """The furthest value at which this verdict is as it was, and whether a further one changes it."""
    changed = False
    for factor in FACTORS:
        value = number.times(factor if up else 1 / factor)
        if value == number.value or verdict_at(asked, number, value) == base:
            return value, changed
        changed = True
    return number.value, True


def narrow(margins: Sequence[Margin], asked: Asked) -> None:
    """Take one more verdict into account."""
    with remembering():
        base = verdict_at(asked)
        for m in margins:
            low, low_ends = reach(asked, m.number, base, up=False)
            high, high_ends = reach(asked, m.number, base, up=True)
            if low_ends and (low > m.low or not m.low_by):
                m.low, m.low_by = max(low, m.low), asked.id
            if high_ends and (high < m.high or not m.high_by):
                m.high, m.high_by = min(high, m.high), asked.id


def findings_of(reference: Reference, engine: Engine, texts: Sequence[str] | None) -> Findings:
    """Everything but the verdict."""
    return findings(reference, engine, texts, True, lambda message: None)


def faults(names: Sequence[str] = (), longest: int = LONGEST) -> Iterator[Asked]:
    """Every planted fault, or those named."""
    from conformance.verify_faults import FAULTS

    with tempfile.TemporaryDirectory() as folder:
        known = models(Path(folder))
        for fault in FAULTS:
            if names and fault.id not in names:
                continue
            e: Embedder = known[fault.model]
            texts = default_texts(lambda t, e=e: len(e.tokenize(t)), e.info.n_ctx, longest)  # type: ignore[misc]
            engine = Wired(e, fault)
            found = findings_of(reference_of(e), engine, texts)

            def signature(v: Any, fault: Any = fault) -> Signature:
                o = Outcome(fault, v, 0.0)
                return v.kind, o.named, o.tensor_named

            yield Asked(fault.id, found, expects(engine, None if fault.id == "summed" else 2), signature)


def healthy(names: Sequence[str] = false_alarms.SAMPLE) -> Iterator[Asked]:
    """Live llama.cpp, which is right, in the two settings that are furthest apart."""
    for subject in false_alarms.subjects(patterns=names):
        with tempfile.TemporaryDirectory() as folder:
            path = subject.make(Path(folder))
            reference = reference_of(Embedder.load(path, numerics="fast"), subject.pooling)
            for s in false_alarms.two_settings(subject):
                options: dict[str, Any] = {"flash_attn": s.flash_attn, "threads": s.threads, "batched": s.batched}
                with open_engine("llamacpp", path, pooling=subject.pooling, **options) as engine:  # type: ignore[attr-defined]
                    found = findings_of(reference, engine, None)
                    fine = expects(engine, None)
                yield Asked(
                    f"{subject.id}, {s}", found, fine, lambda v: (v.exit_code, v.first_wrong_tensor, len(v.causes))
                )


def measure(
    asked: Iterator[Asked], report: Callable[[str], object] = lambda message: None, numbers: Sequence[Number] = NUMBERS
) -> tuple[list[Margin], int]:
    """The ranges over all these verdicts, and how many they are."""
    margins, count = [Margin(n, n.times(1 / FACTORS[0]), n.times(FACTORS[0])) for n in numbers], 0
    for a in asked:
        narrow(margins, a)
        count += 1
        report(
            f"{a.id}: "
            + ", ".join(f"{m.number.id} {m.low:.2g}..{m.high:.2g}" for m in margins if m.low_by or m.high_by)
        )
    return margins, count


def markdown(margins: Sequence[Margin], count: int) -> str:
    """The table of docs/verify.md."""
    rows = [f"{count} verdicts, each made anew with one number changed.", ""]
    rows += [
        "| number | what it is | value | no verdict changes from | to | beyond, first |",
        "|---|---|---:|---:|---:|---|",
    ]
    for m in margins:
        ends = [
            f"{m.low:.3g}" if m.low_by else f"{m.low:.3g} or less",
            f"{m.high:.3g}" if m.high_by else f"{m.high:.3g} or more",
        ]
        by = ", ".join(dict.fromkeys(x for x in (m.low_by, m.high_by) if x)) or "-"
        rows.append(f"| `{m.number.id}` | {m.number.about} | {m.number.value:g} | {' | '.join(ends)} | {by} |")
    return "\n".join(rows)


def command(names: Sequence[str], write: bool, echo: Callable[[str], object]) -> int:
    """`python -m conformance verify-margins`: print and write; returns how many numbers sit within 1.5 of an edge."""

    def everything() -> Iterator[Asked]:
        yield from faults(names)
        if not names:
            yield from healthy()

    margins, count = measure(everything(), echo)
    table = markdown(margins, count)
    echo(table)
    if write and not names:
        text = DOC.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        DOC.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    near = [m for m in margins if m.number.value in (m.low, m.high) and (m.low_by or m.high_by)]
    return len(near)
