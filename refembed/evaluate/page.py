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
    costs: Sequence[tuple[str, str, Cost, bool, bool]] = (
        ("Bytes of a vector", "bytes a vector (logarithmic)", lambda line: line.bytes + line.more_bytes, True, True),
        ("Size of the model", "MiB of the model's file", lambda line: line.cost.file_bytes / 2**20, False, True),
        ("Speed", "tokens a second", lambda line: line.cost.tokens_per_second, False, False),
    )
    first = report.measures[0]
    for heading, x_name, cost, log, less_is_better in costs:
        if len({cost(line) for line in report.lines}) < 2:
            continue
        yield f"{heading} and {first}", one_plot(report, x_name, cost, log, less_is_better)


def one_plot(report: Report, x_name: str, cost: Cost, log: bool, less_is_better: bool) -> str:
    """A plot with what it shows in words."""
    first, lines = report.measures[0], report.lines
    names = list(dict.fromkeys(weights_and_model(report, line) for line in lines))
    best = front(lines, first, cost, less_is_better)
    points = [
        Point(
            cost(line), line.values[first], line.interval.low, line.interval.high,
            names.index(weights_and_model(report, line)), str(i + 1),
            f"line {i + 1}: {weights_and_model(report, line)}, {line.setting.vectors}, {first} "
            f"{line.values[first]:.4f}, {cost(line):,.4g} {x_name}",
            i in best,
        )
        for i, line in enumerate(lines)
    ]  # fmt: skip
    top = max(range(len(lines)), key=lambda i: lines[i].values[first])
    cheap = (min if less_is_better else max)(range(len(lines)), key=lambda i: cost(lines[i]))
    words = (
        f"{first} of {len(lines)} lines over {x_name}. The best is line {top + 1} with {lines[top].values[first]:.3f} "
        f"at {cost(lines[top]):,.4g}; line {cheap + 1} has {lines[cheap].values[first]:.3f} "
        f"at {cost(lines[cheap]):,.4g}"
    )
    listed = ", ".join(str(i + 1) for i in sorted(best))
    caption = (
        f"{esc(words)}. Numbers are the lines of the table. Filled marks, {listed}: no other line is better and costs "
        "as little. The axis on the left does not begin at 0."
    )
    return figure(scatter(points, names, words, x_name=x_name, y_name=first, log=log), caption)


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
