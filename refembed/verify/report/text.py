"""A verdict as people read it: one sentence, the evidence in sentences and tables, what to do. Plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from refembed.verify.remedies import NOTHING
from refembed.verify.verdict import TextRow, Verdict

WIDTH = 100
MAX_TABLE_ROWS = 24  # of a table; texts that differ come first
AGREEING = 5  # texts that agree, nearest to their bounds, that are listed
DROPPED = (">ulps", ">largest", ">length", "nearest", "operation")  # columns that a narrow terminal does without
LEGENDS = {  # first word of a table's title -> what its columns are
    "texts": "1-cos: how far a vector is from the reference's; bound: how far rounding alone may put it",
    "tensors": "local: what this operation alone is off, on the engine's own inputs; propagated: with all before it",
    "what": "each was put into the reference in turn: what it leaves of the difference, worst text",
}
HELP = {  # of a verdict without a cause: what it means
    "identical": "every vector is the reference's, bit for bit",
    "within rounding": "it is no further from the reference than correct arithmetics are from each other",
    "differs": "it computes something else",
    "unexplained": "it computes something else, and no hypothesis says what",
}
Table = tuple[str, list[str], list[list[str]]]  # title, heads (">" set flush right), rows


def paragraph(v: Verdict) -> str:
    """The verdict: its word, who was compared, and one sentence."""
    facts = v.evidence.facts
    who = f"{facts.get('engine', 'the engine')} on {facts.get('name') or facts.get('model', 'this model')}"
    said = ended(v.cause or HELP[v.kind])
    return f"{v.kind.upper()}: {who}. {said[0].upper()}{said[1:]}"


def ended(said: str) -> str:
    """A sentence with its full stop; a question has its mark."""
    return said if said.endswith("?") else f"{said}."


def numbers(v: Verdict) -> list[str]:
    """What the verdict stands on, a sentence each."""
    e, said = v.evidence, []
    if v.tie:
        said.append(
            "These texts cannot tell the two apart." if len(v.causes) == 2 else "These texts cannot tell them apart."
        )
    left = v.causes[0].left if v.causes else None
    worst = max(e.texts, key=lambda t: t.distance / t.bound, default=None)
    if worst is not None and not v.tells_itself:
        wrong = sum(not t.agrees for t in e.texts)
        n, what = len(e.texts), "input" if e.facts.get("mmproj") else "text"
        many = f"All {n} {what}s agree" if n > 1 else f"The {what} agrees"
        many = f"{wrong} of {n} {what}s differ" if wrong else many
        said.append(
            f"{many}: the {'worst' if wrong else 'furthest'} is {worst.distance:.2g} away (1 - cos), where rounding "
            f"alone may reach {worst.bound:.2g} (its noise floor)."
        )
        if left is not None and wrong and not v.causes[0].by_size:
            said.append(f"With the reference changed in that way, {left:.2g} is left.")
    if v.first_wrong_tensor:
        said.append(f"The first wrong tensor is {v.first_wrong_tensor}.")
    if e.untried:
        said.append(f"Time ran out before these hypotheses were tried: {e.untried}; --budget SECONDS gives more.")
    return said


def tables(v: Verdict) -> Iterator[Table]:
    """The evidence, a table at a time."""
    e = v.evidence
    if e.ids:
        rows = [
            [preview(t), first_apart(ours, theirs)]
            for t, ours, theirs in e.ids[: 3 if v.tells_itself else MAX_TABLE_ROWS]
        ]
        yield "tokens that differ", ["text", "where"], rows
    order = sorted(e.texts, key=lambda t: -t.distance / t.bound)
    if order:
        heads = ["text", ">tokens", ">1-cos", ">bound", ">length", ">ulps", ">largest", "nearest", "verdict"]
        yield "texts", heads, [text_cells(t) for t in listed(order)]
    if e.tensors:
        yield (
            f"tensors of {preview(e.traced)}",
            ["tensor", "operation", ">local", ">bound", ">propagated", "verdict"],
            tensor_rows(v),
        )
    if e.trials:
        rows = [[id, f"{left:.2g}"] for id, left in e.trials]
        yield f"what helped most, of {e.tried} hypotheses and pairs", ["hypothesis", ">1-cos left"], rows


def listed(order: Sequence[TextRow]) -> list[TextRow]:
    """Texts that differ, and the first few that agree; order: the worst first."""
    wrong = [t for t in order if not t.agrees][:MAX_TABLE_ROWS]
    return wrong + [t for t in order if t.agrees][: min(AGREEING, MAX_TABLE_ROWS - len(wrong))]


def legend(v: Verdict, title: str) -> str:
    """What stands below a table's title: what its columns are, and how many texts it leaves out."""
    found, n = LEGENDS.get(title.split(" ")[0], ""), len(v.evidence.texts)
    shown = len(listed(v.evidence.texts)) if title == "texts" else n
    return found + (f"; {shown} of {n} are shown, the others agree (--json has all)" if shown < n else "")


def fitted(heads: list[str], rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The columns that there is room for: those of DROPPED go, one by one, until the rest fits."""
    for name in DROPPED:
        if sum(max(map(len, column)) + 2 for column in zip(heads, *rows, strict=True)) <= width:
            break
        if name in heads:
            at = heads.index(name)
            heads, rows = heads[:at] + heads[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    return heads, rows


def text_cells(t: TextRow) -> list[str]:
    d = t.difference
    ulps, largest = (str(d.max_ulps), f"{d.max_abs:.2g}") if d else ("-", "-")
    return [
        preview(t.text), str(t.tokens), f"{t.distance:.2g}", f"{t.bound:.2g}", f"{t.length:.4g}", ulps, largest,
        t.nearest, "" if t.agrees else "beyond",
    ]  # fmt: skip


def tensor_rows(v: Verdict) -> list[list[str]]:
    """The tensors around the first wrong one, or the nearest to their bounds."""
    rows = list(v.evidence.tensors)
    at = next((i for i, r in enumerate(rows) if str(r) == v.first_wrong_tensor), None)
    worst = sorted(rows, key=lambda r: -r.local / r.bound)[:8]
    chosen = rows[max(0, at - 3) : at + 6] if at is not None else [r for r in rows if any(r is w for w in worst)]
    return [
        [str(r), r.op or "-", f"{r.local:.2g}", f"{r.bound:.2g}", f"{r.propagated:.2g}",
         "first wrong" if str(r) == v.first_wrong_tensor else "beyond" if r.wrong else ""]
        for r in chosen
    ]  # fmt: skip


def first_apart(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Where two lists of ids part."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    mine, other = (" ".join(map(str, ids[at : at + 4])) or "(end)" for ids in (ours, theirs))
    return f"token {at}: ours {mine}, theirs {other} ({len(ours)} and {len(theirs)} in all)"


def preview(text: str, limit: int = 34) -> str:
    """A text on one line, cut short."""
    flat = "".join(c if c.isprintable() else " " for c in text)
    return repr(flat if len(flat) <= limit else flat[: limit - 3] + "...")


def where(v: Verdict) -> list[str]:
    """Which tokens and heads of the first wrong tensor hold the difference."""
    row = next((r for r in v.evidence.tensors if str(r) == v.first_wrong_tensor), None)
    found = []
    for title, shares in (("tokens", row.worst_tokens), ("heads", row.worst_heads)) if row else ():
        if shares:
            spelled = ", ".join(f"{s.index} ({100 * s.share:.0f} %)" for s in shares)
            found.append(f"worst {title} of {row}: {spelled} of the squared difference")
    return found + ([f"{row}: {row.difference}"] if row and row.difference else [])


def footer(v: Verdict) -> list[str]:
    """What was compared, how bounds came about, and remarks."""
    facts, f = v.evidence.facts, v.noise_floor
    lines = [f"note: {r}" for r in v.evidence.remarks] + where(v)
    if v.evidence.length:
        lines.append(f"lengths: the engine {v.evidence.length}")
    if not f:
        lines.append("no vector was compared: what the engine says of itself settles it")
    elif not v.evidence.texts:
        lines.append(
            "noise floor: how far exact, fast and ggml arithmetic are apart, tensor by tensor; bounds are of it"
        )
    else:
        lines.append(floor_line(f, v.evidence.precision))
    if facts:
        types = ", ".join(f"{n} {t}" for t, n in facts["quant_types"].items())
        lines.append(f"model: {facts['model']} ({facts['architecture']}; {types}); pooling {facts['pooling']}")
        if facts.get("mmproj"):
            lines.append(f"tower: {facts['mmproj']} ({facts['projector']})")
        count = (
            f", {facts['texts']} text{'s' * (facts['texts'] != 1)}, {facts['tokens']} tokens" if facts["texts"] else ""
        )
        lines.append(f"refembed {facts['refembed']}{count}")
    return lines


def floor_line(f: dict[str, float], precision: str = "") -> str:
    """The noise floor of the texts. precision: of fewer bits than float32."""
    if precision:
        return (
            f"noise floor: two runs in {precision} that add in another order are up to {f['spread_median']:.2g} apart "
            f"(1 - cos) on the median text, {f['spread_worst']:.2g} on the worst"
        )
    return (
        f"noise floor: exact, fast and ggml arithmetic are {f['spread_median']:.2g} apart (1 - cos) on the median "
        f"text, {f['spread_worst']:.2g} on the worst; llama.cpp's builds differ by up to {f['builds']:.2g} with such "
        "weights"
    )


def text_report(v: Verdict) -> str:
    """All of it as plain text."""
    parts = [textwrap.fill(text, WIDTH) for text in (paragraph(v), " ".join(numbers(v))) if text]
    for title, heads, rows in tables(v):
        about = legend(v, title)
        parts.append("\n".join([title, *textwrap.wrap(f"({about})" if about else "", WIDTH), *aligned(heads, rows)]))
    parts.append(
        "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False) for line in footer(v))
    )
    parts.append(textwrap.fill(to_do(v), WIDTH, subsequent_indent="  ", break_long_words=False))
    return "\n\n".join(parts)


def to_do(v: Verdict) -> str:
    """The last line of every report."""
    return v.remedy if v.remedy.startswith(NOTHING) else f"what to do: {v.remedy}"


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart."""
    right, heads = [h.startswith(">") for h in heads], [h.removeprefix(">") for h in heads]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for row in (heads, *rows):
        cells = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
