"""Results for people (tables) and for programs (JSON). Numbers, no adjectives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from conformance.bounds import Bounds
from conformance.cases import Test
from conformance.environment import measured_elsewhere
from conformance.runner import Result
from conformance.toml import write_whole

Row = dict[str, Any]


def as_json(results: Sequence[Result], environment: dict[str, str], bounds: Bounds) -> Row:
    """Everything, as plain data."""
    rows = []
    for r in results:
        measures = [
            {
                "metric": m.metric,
                "value": m.value if m.value < float("inf") else None,
                "bound": 0.0 if m.exact or r.status == "error" else bounds.find(r.test.bounds, m.metric).bound,
                "where": m.where,
            }
            for m in r.measures
        ]
        about = {"id": r.test.id, "numerics": r.test.numerics, "kind": r.test.case.kind, "model": r.test.case.model}
        rows.append(about | {"status": r.status, "note": r.note, "seconds": round(r.seconds, 4), "measures": measures})
    origin = {"environment": environment, "bounds": bounds.measured}
    return {"format": "refembed-conformance-1", **origin, "results": rows}


def save(path: Path, data: Row) -> None:
    """Write the JSON."""
    write_whole(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def show(data: Row, console: Console) -> None:
    """Print the tables: tensors, vectors, and what failed."""
    results = data["results"]
    for table in (tensors(results), vectors(results)):
        if table.rows:
            console.print(table)
    failures = [r for r in results if r["status"] in ("differs", "error", "passes unexpectedly")]
    for r in failures[:50]:
        console.print(f"{r['status']:8} {r['numerics']:5} {r['id']}  {explain(r)}", markup=False, highlight=False)
    if len(failures) > 50:
        console.print(f"... and {len(failures) - 50} more")
    if failures and (where := measured_elsewhere(data.get("bounds", {}))):
        console.print(f"bounds were {where}", markup=False, highlight=False)
    counts = Counter(r["status"] for r in results)
    numbers = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    console.print(f"{len(results)} tests: {numbers or 'none'}", markup=False, highlight=False)


def explain(r: Row) -> str:
    """What is wrong with a failed test, on one line."""
    over = [m for m in r["measures"] if m["value"] is None or m["value"] > m["bound"]]
    parts = [f"{m['metric']} {text_of(m['value'])}, bound {m['bound']:.3g} ({m['where']})" for m in over[:3]]
    parts += [f"and {len(over) - 3} more"] if len(over) > 3 else []
    return "; ".join([*parts, *filter(None, [r["note"]])])


def worst(rows: Iterable[tuple[Row, Row]]) -> tuple[Row, Row]:
    """The (result, measure) with the largest value."""
    return max(rows, key=lambda pair: float("inf") if pair[1]["value"] is None else pair[1]["value"])


def measures_of(results: Sequence[Row], wanted: Callable[[Row], bool]) -> Iterator[tuple[Row, Row]]:
    """(result, measure) of the results that are wanted."""
    return ((r, m) for r in results if wanted(r) for m in r["measures"])


def tensors(results: Sequence[Row]) -> Table:
    """One row a model, numerics and class of tensors: the worst local and the worst propagated error."""
    heads = ("model", "numerics", "tensor", "texts", "local", "bound", "worst on", "propagated", "bound", "worst on")
    table = made("tensors of llama.cpp's graph: max |ours - theirs| / max |theirs|", heads)
    found: dict[tuple[str, str, str], dict[str, list[tuple[Row, Row]]]] = {}
    for r, m in measures_of(results, lambda r: r["kind"] in ("local", "trace")):
        if m["metric"] != "tensors without a partner":
            found.setdefault((r["model"], r["numerics"], m["metric"]), {}).setdefault(r["kind"], []).append((r, m))
    last = None
    for (model, numerics, metric), kinds in found.items():
        if last not in (None, (model, numerics)):
            table.add_section()
        head = (model, numerics) if last != (model, numerics) else ("", "")
        last = (model, numerics)
        cells: list[str] = []
        for kind in ("local", "trace"):
            cells += numbers_of(worst(kinds[kind])) if kind in kinds else ["", "", ""]
        texts = max(len({r["id"] for r, _ in pairs}) for pairs in kinds.values())
        table.add_row(*head, metric, str(texts), *cells)
    return table


def vectors(results: Sequence[Row]) -> Table:
    """One row a case and numerics of the other kinds: the worst of each metric."""
    table = made("vectors and token ids", ("case", "numerics", "metric", "texts", "worst", "bound", "worst on"))
    found: dict[tuple[str, str, str], list[tuple[Row, Row]]] = {}
    for r, m in measures_of(results, lambda r: r["kind"] not in ("local", "trace")):
        found.setdefault((r["id"].split("::")[0], r["numerics"], m["metric"]), []).append((r, m))
    last = ""
    for (case, numerics, metric), pairs in found.items():
        texts = str(len({r["id"] for r, _ in pairs}))
        table.add_row(case if case != last else "", numerics, metric, texts, *numbers_of(worst(pairs)))
        last = case
    return table


def made(title: str, heads: Sequence[str]) -> Table:
    """An empty table: numbers to the right, nothing cut off."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in heads:
        numeric = name in ("texts", "local", "propagated", "worst", "bound")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    return table


def numbers_of(pair: tuple[Row, Row]) -> list[str]:
    """Value, bound, and the text it was on."""
    r, m = pair
    return [
        text_of(m["value"]),
        f"{m['bound']:.1e}" if m["bound"] else "0",
        r["id"].split("::")[1] if m["value"] else "",
    ]


def text_of(value: float | None) -> str:
    """A number for a table; JSON has no infinity."""
    return "infinite" if value is None else f"{value:.2e}" if value else "0"


class CaseLines:
    """Prints a line for each case in one numerics as soon as its last test is done."""

    def __init__(self, tests: Sequence[Test], console: Console, verbose: bool) -> None:
        self.console, self.verbose = console, verbose
        self.left = Counter((t.case.id, t.numerics) for t in tests)
        self.done: dict[tuple[str, str], list[Result]] = {}

    def __call__(self, result: Result) -> None:
        """One more result."""
        key = (result.test.case.id, result.test.numerics)
        self.done.setdefault(key, []).append(result)
        if self.verbose or result.failed:
            self.print(f"  {result.test.numerics:5} {result.test.id}  {result.explain()}")
        self.left[key] -= 1
        if not self.left[key]:
            counts = Counter(r.status for r in self.done[key])
            seconds = sum(r.seconds for r in self.done[key])
            numbers = ", ".join(f"{n} {status}" for status, n in counts.most_common())
            self.print(f"{key[0]:32} {key[1]:5}  {numbers}  {seconds:.1f} s")

    def print(self, line: str) -> None:
        """Print it as it is."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
