"""Finds the bounds: runs the tests, keeps the worst value of every metric, and writes bounds.toml by its rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.bounds import Bound, Bounds, bound_for, limit_of, round_up
from conformance.runner import Result


@dataclass
class Outcome:
    """What `measure` found, and what stood in the file."""

    bounds: Bounds
    raised: list[str] = field(default_factory=list)  # rows whose bound would be looser than before
    above: list[str] = field(default_factory=list)  # values above limits.toml: faults, whatever the bounds
    errors: list[str] = field(default_factory=list)  # tests that gave no number


def collect(results: Iterable[Result]) -> dict[str, dict[str, list[tuple[float, str]]]]:
    """Table -> metric -> (value, text) of every measure that has a row."""
    found: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for r in results:
        for m in r.measures:
            if not m.exact:
                found.setdefault(r.test.bounds, {}).setdefault(m.metric, []).append((m.value, r.test.text.id))
    return found


def measure(
    results: Sequence[Result], old: Bounds, environment: dict[str, str], date: str, add: bool = False
) -> Outcome:
    """Make new bounds of the results. Tables that no result belongs to stay as they are.

    add  the results are of one more machine: each row keeps what is worse, and provenance names both
    """
    tables = {name: dict(rows) for name, rows in old.tables.items()}
    outcome = Outcome(Bounds(provenance(old, {"date": date, **environment}, add), tables))
    for r in results:
        if r.status == "error":
            outcome.errors.append(f"{r.test.numerics} {r.test.id}: {r.note}")
        outcome.errors += [
            f"{r.test.numerics} {r.test.id}: {m.metric} {m.value:g} ({m.where})"
            for m in r.measures
            if m.exact and m.value
        ]
    for table, metrics in collect(results).items():
        tables[table] = {}
        for metric, values in metrics.items():
            before = old.tables.get(table, {}).get(metric)
            if add and before:
                values += [(before.worst, before.at), (before.least, before.at)]
            worst, at = max(values)
            kept = round_up(worst, 3)  # as it is written
            row = Bound(bound_for(table, metric, kept), kept, min(values)[0], at)
            tables[table][metric] = row
            if before and row.bound > before.bound:
                outcome.raised.append(f"[{table}] {metric}: {before.bound:.2g} -> {row.bound:.2g}, on {at}")
            if worst > limit_of(table, metric):
                outcome.above.append(f"[{table}] {metric}: {worst:.3g} on {at}, limit {limit_of(table, metric):.2g}")
    return outcome


def provenance(old: Bounds, new: dict[str, str], add: bool) -> dict[str, Any]:
    """When, with what, against which build; further machines under `also`."""
    if not add:
        return dict(new)
    differs = ", ".join(v for k, v in new.items() if k in ("blas", "cpu") and v != old.measured.get(k))
    also = [*old.measured.get("also", []), *([f"{new['date']}: {differs}"] if differs else [])]
    return {**old.measured, "also": list(dict.fromkeys(also))}
