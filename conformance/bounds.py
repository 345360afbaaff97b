"""How far refembed may be from llama.cpp: measured, and kept in bounds.toml with the build that gave the numbers.

    bound = FACTOR x the worst value measured, rounded up to two digits, and never above what limits.toml demands

The factor leaves room for another machine's BLAS and for texts not measured; it is small enough that every fault of
mutants.py still stands out. A bound that does not hold is a finding: it is explained, never raised to pass.
"""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from conformance import FOLDER
from conformance.toml import read_toml, write_whole
from refembed.errors import RequestError

FACTOR = 2
RULE = f"bound = {FACTOR} x worst, rounded up to two digits; not above limits.toml"
PATH = FOLDER / "bounds.toml"

HEADER = """\
# Written by `python -m conformance measure`. A table is <bounds of the case>.<numerics>. A row is a metric or, for
# `trace` and `local`, a tensor of llama.cpp's graph in all layers: max |ours - theirs| / max |theirs|.
#   bound  what a run is held to          worst, at  the largest value measured, and on which text
#                                         least      the smallest
"""


@dataclass(frozen=True)
class Bound:
    """One row."""

    bound: float
    worst: float
    least: float
    at: str  # id of the text that gave `worst`


@dataclass(frozen=True)
class Limit:
    """What must hold whatever is measured."""

    table: str  # with * and ?
    metric: str
    unless: tuple[str, ...]  # metrics it does not concern
    limit: float

    def concerns(self, table: str, metric: str) -> bool:
        """Whether this row of bounds.toml is held by the limit."""
        fits = fnmatch.fnmatchcase(table, self.table) and fnmatch.fnmatchcase(metric, self.metric)
        return fits and metric not in self.unless


@dataclass(frozen=True)
class Bounds:
    measured: dict[str, Any]  # when, with what, against which build
    tables: dict[str, dict[str, Bound]]

    def find(self, table: str, metric: str) -> Bound:
        """The row. RequestError where there is none."""
        try:
            return self.tables[table][metric]
        except KeyError:
            hint = "`python -m conformance measure` adds what is missing"
            raise RequestError(f"bounds.toml has no row {metric!r} in [{table}]", hint=hint) from None


@cache
def load_limits() -> tuple[Limit, ...]:
    """limits.toml."""
    rows = read_toml(FOLDER / "limits.toml")["limit"]
    return tuple(Limit(r["table"], r["metric"], tuple(r.get("unless", ())), float(r["limit"])) for r in rows)


def limit_of(table: str, metric: str) -> float:
    """The tightest limit on a row; infinite where there is none."""
    return min((x.limit for x in load_limits() if x.concerns(table, metric)), default=math.inf)


def load_bounds(path: Path = PATH) -> Bounds:
    """bounds.toml; empty where there is no file yet."""
    if not path.exists():
        return Bounds({}, {})
    data = read_toml(path)
    return Bounds(data.pop("measured", {}), dict(tables(data)))


def tables(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Bound]]]:
    """Tables that hold rows, by dotted name."""
    rows = {k: Bound(**v) for k, v in data.items() if isinstance(v, dict) and "bound" in v}
    if rows:
        yield prefix, rows
    for key, value in data.items():
        if key not in rows and isinstance(value, dict):
            yield from tables(value, f"{prefix}.{key}" if prefix else key)


def bound_for(table: str, metric: str, worst: float) -> float:
    return min(round_up(FACTOR * worst), limit_of(table, metric))


def round_up(x: float, digits: int = 2) -> float:
    """x rounded up to so many digits: 1.234e-7 is 1.3e-7. Zero and infinity stay."""
    if x == 0 or not math.isfinite(x):
        return x
    rounded = float(f"{x:.{digits - 1}e}")
    if rounded >= x:
        return rounded
    exponent = math.floor(math.log10(abs(x)))
    return float(f"{rounded + 10.0 ** (exponent - digits + 1):.{digits - 1}e}")


def write_bounds(bounds: Bounds, path: Path = PATH) -> None:
    lines = [HEADER, "[measured]", f"rule = {json.dumps(RULE)}"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in bounds.measured.items() if k != "rule"]
    for name, rows in sorted(bounds.tables.items()):
        width = max(len(key(m)) for m in rows)
        lines += ["", f"[{name}]"]
        lines += [
            f"{key(m):{width}} = {{bound = {number(r.bound)}, worst = {number(r.worst)}, least = {number(r.least)}, "
            f"at = {json.dumps(r.at)}}}"
            for m, r in rows.items()
        ]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def key(name: str) -> str:
    """A TOML key, quoted where it must be."""
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def number(x: float) -> str:
    """Three digits: a float in TOML has a point."""
    text = f"{x:.2e}" if x else "0.0"
    return text.replace("e-0", "e-").replace("e+0", "e+")
