"""The table as a page: what each thing saved costs in quality, drawn, and all numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from refembed.evaluate.compare import Line, Report
from refembed.evaluate.table import cells, heads, shown_fields, weights_and_model
from refembed.html.page import Section, esc, figure, page, table
from refembed.html.scatter import Point, scatter

LEAD = (
    "Each line of the table is a model, the type its weights are stored in, and the code its vectors are stored in, "
    "measured on {on}. Bars are 95% intervals."
)
HOW = (
    "{first} is the mean over the queries; its interval is the middle 95% of the means of {resamples:,} draws of the "
    "same number of queries with replacement (paired bootstrap, seed {seed}). Δ is the difference to line 1 over the "
    "same draws: where its interval lies on one side of 0, the difference is not chance. Tokens a second are of this "
    "machine, with whatever else it did."
)
HOW_MEMORY = "Memory is the most that a process had that loaded this model, embedded all texts, and did nothing else."
HOW_STS = "Of pairs of sentences the statistic is the correlation itself, of pairs drawn with replacement."

Cost = Callable[[Line], float]


def evaluation_page(report: Report) -> str:
    """The page as HTML."""
    sections = [Section(f"plot-{i}", heading, body) for i, (heading, body) in enumerate(plots(report), 1)]
    sections.append(Section("table", "All numbers", numbers(report)))
    first = report.measures[0]
    how = HOW.format(first=first, resamples=report.resamples, seed=report.seed)
    words = [how, *([HOW_STS] if first == "Spearman" else []), *([HOW_MEMORY] if report.memory else [])]
    body = "".join(f"<p>{esc(text)}</p>" for text in (*words, *report.notes))
    sections.append(Section("how", "How it was measured", body))
    return page("What smaller costs", esc(LEAD.format(on=report.measured_on)), sections)


def plots(report: Report) -> Iterator[tuple[str, str]]:
    """Quality over each cost in which the lines differ."""
    every = list(range(len(report.lines)))
    one_code = [i for i in every if coded(report.lines[i]) == coded(report.lines[0])]
    first = report.measures[0]
    for heading, x_name, cost, which, less_is_better in (
        ("Bytes of a vector", "bytes a vector (logarithmic)", vector_bytes, every, True),
        ("Size of the model", "MiB of the model's file", file_size, one_code, True),
        ("Speed", "tokens a second", speed, one_code, False),
    ):
        if len({cost(report.lines[i]) for i in which}) > 1:
            yield f"{heading} and {first}", one_plot(report, which, x_name, cost, less_is_better)


def coded(line: Line) -> tuple[int, str]:
    """How a line's vectors are stored."""
    return line.dimensions, line.setting.vectors


def vector_bytes(line: Line) -> float:
    """All that is stored of a vector."""
    return line.bytes + line.more_bytes


def file_size(line: Line) -> float:
    """MiB of the model."""
    return line.cost.file_bytes / 2**20


def speed(line: Line) -> float:
    """Tokens a second."""
    return line.cost.tokens_per_second


def one_plot(report: Report, which: Sequence[int], x_name: str, cost: Cost, less_is_better: bool) -> str:
    """A plot of some of the lines with what it shows in words."""
    first, lines = report.measures[0], report.lines
    names = list(dict.fromkeys(weights_and_model(report, lines[i]) for i in which))
    best = {which[i] for i in front([lines[i] for i in which], first, cost, less_is_better)}
    points = [
        Point(
            cost(line), line.values[first], line.interval.low, line.interval.high,
            names.index(weights_and_model(report, line)), str(i + 1),
            f"line {i + 1}: {weights_and_model(report, line)}, {line.setting.vectors}, {first} "
            f"{line.values[first]:.4f}, {cost(line):,.4g} {x_name}",
            i in best,
        )
        for i, line in ((i, lines[i]) for i in which)
    ]  # fmt: skip
    dear = {i: cost(lines[i]) if less_is_better else -cost(lines[i]) for i in which}
    top = max(which, key=lambda i: (lines[i].values[first], -dear[i]))  # of equal ones that which costs least
    cheap = min(which, key=lambda i: (dear[i], -lines[i].values[first]))
    name = "smallest" if less_is_better else "fastest"
    ends = [(top, "the best"), (cheap, f"the {name}")] if top != cheap else [(top, f"the best and {name}")]
    words = f"{first} of {len(which)} lines over {x_name}: " + "; ".join(
        f"line {i + 1}, {what}, has {lines[i].values[first]:.3f} at {cost(lines[i]):,.4g}" for i, what in ends
    )
    listed = ", ".join(str(i + 1) for i in sorted(best))
    rest = "" if len(which) == len(lines) else " Lines whose vectors are stored as those of line 1."
    caption = (
        f"{esc(words)}.{rest} Numbers are the lines of the table. Filled marks, {listed}: no other line is better and "
        "costs as little. The axis on the left does not begin at 0."
    )
    shared = cost is vector_bytes and len(names) > 1
    drawn = scatter(points, names, words, x_name=x_name, y_name=first, log=cost is vector_bytes, apart=shared)
    return figure(drawn, caption)


def front(lines: Sequence[Line], first: str, cost: Cost, less_is_better: bool) -> set[int]:
    """The lines that no other beats: at least as good, at most as dear, and one of the two better."""
    sign = 1 if less_is_better else -1
    at = [(line.values[first], -sign * cost(line)) for line in lines]
    return {
        i for i, (q, c) in enumerate(at) if not any(q2 >= q and c2 >= c and (q2 > q or c2 > c) for q2, c2 in at)
    }  # fmt: skip


def numbers(report: Report) -> str:
    """The table."""
    fields = shown_fields(report)
    rows = [[str(i + 1), *map(esc, cells(report, line, fields))] for i, line in enumerate(report.lines)]
    return table([">line", *heads(report, fields)], rows, caption=f"Lines measured on {report.measured_on}")
