"""What was asked of `fast`, what was measured, and whether that is enough: from a file of results alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.peers import GGML, OURS
from benchmarks.rounds import Ratio, quickest, ratio

MINILM = ("minilm-f32", "minilm-f16", "minilm-q8_0", "minilm-q4_0")
GEMMA = "gemma-3-270m-q4_k_m"
Results = dict[str, Any]


class Line(NamedTuple):
    """met: None where it was not measured."""

    asked: str
    measured: str
    met: bool | None


def against_best(row: Results) -> tuple[str, Ratio] | None:
    """The fastest peer of a row, and refembed's speed over its own, round by round; None without a peer."""
    seconds = {n: e["seconds"] for n, e in row["engines"].items()}
    best = quickest(seconds, but=(OURS, GGML))
    return None if best is None or OURS not in seconds else (best, ratio(seconds[best], seconds[OURS]))


def at_least(asked: str, least: float, found: dict[str, Results | None]) -> Line:
    """The ratio to the best peer in each of some rows."""
    said, met, missing = [], True, False
    for name, row in found.items():
        best = against_best(row) if row else None
        if best is None:
            said.append(f"{name} not measured")
            missing = True
            continue
        peer, r = best
        said.append(f"{name} {r.median:.2f} ({peer})")
        met = met and r.median >= least
    return Line(asked, ", ".join(said), None if missing and met else met)


def throughput(results: Results) -> list[Line]:
    """Ratios of rows."""
    rows = results.get("rows", {})

    def some(row: str) -> dict[str, Results | None]:
        return {name.removeprefix("minilm-").upper(): rows.get(f"{name}/{row}") for name in MINILM}

    return [
        at_least("MiniLM, 256 texts of 32: 1.1 x the best peer", 1.1, some("256x32")),
        at_least("MiniLM, 48 texts of 256: 1.1 x", 1.1, some("48x256")),
        at_least("MiniLM, one text of 512: 1.1 x", 1.1, some("1x512")),
        at_least("MiniLM, mixed lengths: 1.25 x", 1.25, some("mixed")),
        at_least("MiniLM, one text of 8: no slower", 1.0, some("1x8")),
        at_least("Gemma-3-270M Q4_K_M: 1.0 x", 1.0, {r: rows.get(f"{GEMMA}/{r}") for r in ("32x64", "1x512")}),
    ]


def below(asked: str, value: float | None, most: float, shown: Callable[[float], str]) -> Line:
    """One number that may be at most so large."""
    return Line(asked, "not measured" if value is None else shown(value), None if value is None else value <= most)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2f} ms"


def starts(results: Results) -> list[Line]:
    """Loading and cold processes."""
    loading, cold = results.get("loading", {}), results.get("cold", {})

    def ready(name: str) -> float | None:
        return loading[name]["ready"] if name in loading else None

    def process(name: str) -> float | None:
        return statistics.median(cold[name]) if name in cold else None

    return [
        below("`import refembed`: 0.15 s", process("import refembed"), 0.15, milliseconds),
        below("`refembed embed hi`, cold process: 0.8 s", process("refembed embed hi"), 0.8, milliseconds),
        below("MiniLM ready: 60 ms", ready(MINILM[0]), 0.06, milliseconds),
        below("Gemma-3-270M ready: 0.6 s", ready(GEMMA), 0.6, milliseconds),
    ]


def peak(results: Results, name: str) -> float | None:
    """Peak memory with mapped weights over llama.cpp's."""
    found = results.get("memory", {}).get(name)
    return None if found is None else found["fast, budget 0"]["peak"] / found["llama.cpp"]["peak"]


def rate_of(one: Results) -> Ratio:
    """refembed's GFLOP/s over sgemm's, round by round."""
    return ratio(one["gflops"]["refembed"], one["gflops"]["sgemm"])


def linear_layers(results: Results) -> Line:
    """The slowest shape."""
    found = [rate_of(one).median for shapes in results.get("sgemm", {}).values() for one in shapes]
    asked = "Linear layers: 90% of sgemm's rate"
    if not found:
        return Line(asked, "not measured", None)
    return Line(asked, f"{100 * min(found):.0f}% to {100 * max(found):.0f}%, by shape", min(found) >= 0.9)


def grown(results: Results) -> list[Line]:
    """Of endless input: the last tenth's speed and memory over the first's."""
    found = results.get("growth")
    asked = ("Speed of the last tenth of many texts within 10% of the first", "Memory flat")
    if not found:
        return [Line(a, "not measured", None) for a in asked]
    speed = found["tokens_a_second"][-1] / found["tokens_a_second"][0]
    more = (found["resident"][-1] - found["resident"][0]) / 2**20
    of = f"of {found['texts']:,} texts"
    return [
        Line(asked[0], f"{100 * (speed - 1):+.1f}%, {of}", abs(speed - 1) <= 0.1),
        Line(asked[1], f"{more:+.1f} MiB from the first tenth to the last, {of}", more <= 16),
    ]


def lines(results: Results) -> list[Line]:
    def times(value: float) -> str:
        return f"{value:.2f} x"

    return [
        *throughput(results),
        linear_layers(results),
        *starts(results),
        below("Peak memory, MiniLM Q8_0, weights mapped: 1.3 x llama.cpp's", peak(results, MINILM[2]), 1.3, times),
        below("Peak memory, Gemma-3-270M, likewise: 1.3 x", peak(results, GEMMA), 1.3, times),
        *grown(results),
    ]
