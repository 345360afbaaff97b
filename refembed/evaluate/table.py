"""The table in words: columns for what the lines differ in, for quality, and for what it costs."""

from __future__ import annotations

from refembed.evaluate.bootstrap import Interval
from refembed.evaluate.compare import Line, Report

ALWAYS = ("model", "vectors")
FIELDS = ("model", "weights", "numerics", "pooling", "prompts", "dimensions", "vectors")


def shown_fields(report: Report) -> list[str]:
    """What a line is, as far as lines differ in it; model and vectors in any case."""
    return [f for f in FIELDS if f in ALWAYS or len({field(line, f) for line in report.lines}) > 1]


def field(line: Line, name: str) -> str:
    """A field of the setting as text."""
    return str(line.dimensions if name == "dimensions" else getattr(line.setting, name))


def heads(report: Report, fields: list[str]) -> list[str]:
    """Heads of the columns; `>` in front of numbers."""
    first, *rest = report.measures
    return [
        *(f">{f}" if f == "dimensions" else f for f in fields), f">{first}", ">95%", ">Δ 95%",
        *(f">{name}" for name in rest), ">bytes", ">file MiB", ">tokens/s", *([">memory MiB"] if report.memory else []),
    ]  # fmt: skip


def cells(report: Report, line: Line, fields: list[str]) -> list[str]:
    """One line's."""
    first, *rest = report.measures
    cost = line.cost
    return [
        *(field(line, f) for f in fields), f"{line.values[first]:.4f}", spell(line.interval),
        spell(line.difference, sign=True), *(f"{line.values[name]:.4f}" for name in rest),
        f"{line.bytes}+{line.more_bytes}" if line.more_bytes else str(line.bytes), f"{cost.file_bytes / 2**20:.1f}",
        f"{cost.tokens_per_second:,.0f}",
        *([f"{(cost.peak_bytes or 0) / 2**20:,.0f}"] if report.memory else []),
    ]  # fmt: skip


def spell(interval: Interval | None, *, sign: bool = False) -> str:
    """From, to."""
    if interval is None:
        return "-"
    return f"{interval.low:+.3f} {interval.high:+.3f}" if sign else f"{interval.low:.3f} {interval.high:.3f}"


def weights_and_model(report: Report, line: Line) -> str:
    """What decides a line's vectors, in a few words: model, weight type, and whatever else the lines differ in."""
    names = [f for f in shown_fields(report) if f not in ("vectors", "dimensions")]
    return " ".join(filter(None, (field(line, f) for f in names)))
