"""The page of a verification: verdict, end to end, error by layer, the worst tensor, tokens, attention, environment."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.html.attention import attention_map
from refembed.html.charts import Line, plot, strip
from refembed.html.page import Section, clipped, esc, figure, page, table, write_page
from refembed.html.picture import heat
from refembed.verify.remedies import NOTHING
from refembed.verify.report.data import Array, BothTokens, ReportData, TensorError, WorstTensor
from refembed.verify.report.pictures import pictures_of
from refembed.verify.report.text import HELP, ended

MARKS = {"identical": "✓", "within rounding": "✓", "differs": "✗", "unexplained": "✗"}
SHOWN_TEXTS, FEW_TEXTS, SHOWN_TENSORS = 500, 12, 16


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the page of a report. RequestError where the file cannot be written."""
    return write_page(path, report_page(data))


def report_page(data: ReportData) -> str:
    """The page as HTML; sections without data are left out."""
    builders: Sequence[tuple[str, str, Callable[[ReportData], str]]] = (
        ("verdict", "Verdict", verdict),
        ("pictures", "What the tower reads", pictures),
        ("texts", "End to end", texts),
        ("tokens", "Tokens side by side", tokens),
        ("layers", "Error by layer", layers),
        ("worst", "The worst tensor", worst),
        ("attention", "Attention", attention),
        ("contributions", "What each token contributes", shares),
        ("hypotheses", "What was tried", hypotheses),
        ("environment", "Environment", environment),
    )
    built = ((id, heading, build(data)) for id, heading, build in builders)
    sections = [Section(id, heading, body) for id, heading, body in built if body]
    lead = f"Compared with the reference <b>{esc(data.model)}</b>."
    return page(f"Verification of {data.engine}", lead, sections)


def verdict(data: ReportData) -> str:
    """The sentence that matters."""
    good = data.verdict in ("identical", "within rounding")
    said = f"{MARKS.get(data.verdict, '?')} {data.verdict}: {ended(data.cause or HELP[data.verdict])}"
    parts = [f"<p><strong>{esc(said)}</strong></p>"]
    if data.first_wrong_tensor:
        parts.append(f"<p>The first tensor that is wrong: <code>{esc(data.first_wrong_tensor)}</code></p>")
    evidence = "".join(f"<li>{esc(line)}</li>" for line in data.evidence)
    parts += [f"<ul>{evidence}</ul>"] if evidence else []
    advice = data.advice.replace(NOTHING, "nothing", 1) if data.advice.startswith(NOTHING) else data.advice
    parts += [f"<p><b>What to do:</b> {commands(advice)}.</p>"] if advice else []
    return f'<div class="verdict {"good" if good else "bad"}">{"".join(parts)}</div>'


def pictures(data: ReportData) -> str:
    """Images as the towers read them, cut into patches."""
    return "".join(map(pictures_of, data.pictures))


def texts(data: ReportData) -> str:
    """Distance of each text, and what rounding can do to it."""
    if not data.texts:
        return ""
    numbers = [str(i + 1) for i in range(len(data.texts))]
    lines = [
        Line("distance", [t.distance for t in data.texts], joined=False),
        Line("bound", [t.bound for t in data.texts]),
    ]
    wrong = [t for t in data.texts if not t.agrees]
    alt = f"Distance of {len(data.texts)} {data.unit}s; {len(wrong)} are beyond what rounding can do to them."
    drawn = plot(
        lines,
        alt,
        x_labels=numbers,
        y_name="1 - cos",
        x_name=data.unit,
        log=True,
        titles=[f"{data.unit} {n}" for n in numbers],
    )
    order = sorted(range(len(data.texts)), key=lambda i: (data.texts[i].agrees, i))[:SHOWN_TEXTS]
    rows = [
        (str(i + 1), esc(clipped(t.text, 90)), str(t.n_tokens), number(t.distance), number(t.bound),
         word("agrees" if t.agrees else "differs"), esc(t.note))
        for i, t in ((i, data.texts[i]) for i in order)
    ]  # fmt: skip
    marked = [k for k, i in enumerate(order) if not data.texts[i].agrees]
    heads = [
        f">{data.unit}",
        "begins" if data.unit == "text" else "what",
        ">tokens",
        ">1 - cos",
        ">bound",
        "verdict",
        "nearest arithmetic",
    ]
    listed = table(heads, rows, marked=marked, caption=f"{data.unit.capitalize()}s, those that differ first")
    left_out = (
        f"<p>{len(data.texts) - len(order)} more {data.unit}s are not listed.</p>"
        if len(order) < len(data.texts)
        else ""
    )
    every = len(rows) == len(data.texts)
    summary = f"All {len(rows)} {data.unit}s, those that differ first" if every else f"The first {data.unit}s"
    if len(rows) > FEW_TEXTS:
        listed = f"<details><summary>{summary}</summary>{listed}{left_out}</details>"
    return figure(drawn, f"{esc(alt)} A distance of 0 stands at the foot.") + listed


def layers(data: ReportData) -> str:
    """Both errors of every tensor in the order of the run, and the largest in a table."""
    if not data.tensors:
        return ""
    seen: set[int | None] = set()
    labels = []
    for t in data.tensors:  # the first tensor of each layer bears its number
        labels.append("" if t.layer in seen or t.layer is None else str(t.layer))
        seen.add(t.layer)
    titles = [spell(t) for t in data.tensors]
    lines = [
        Line("local", [t.local for t in data.tensors]),
        Line("propagated", [t.propagated for t in data.tensors]),
        Line("bound of local", [t.bound for t in data.tensors], joined=False),
    ]
    lines = [line for line in lines if any(y is not None for y in line.y)]
    beyond = [i for i, t in enumerate(data.tensors) if is_beyond(t)]
    alt = f"Error of {len(data.tensors)} tensors in the order of the run. " + (
        f"The first beyond its bound is {spell(data.tensors[beyond[0]])}."
        if beyond
        else "No operation is beyond its bound."
    )
    drawn = plot(lines, alt, x_labels=labels, y_name="NMSE", x_name="layer", log=True, titles=titles)
    caption = (
        f"{esc(alt)} <b>Local</b>: this operation alone, ours run on the engine's own inputs. <b>Propagated</b>: "
        "the two runs side by side, with all that went wrong before. NMSE is the sum of squared differences over the "
        "sum of squares; errors of 0 stand at the foot."
    )
    return figure(drawn, caption) + tensor_table(data, beyond)


def tensor_table(data: ReportData, beyond: Sequence[int]) -> str:
    """The tensors that are beyond their bounds, then those of the largest local error."""
    rest = sorted(range(len(data.tensors)), key=lambda i: -(data.tensors[i].local or 0))
    order = [*beyond, *(i for i in rest if i not in set(beyond))][:SHOWN_TENSORS]
    rows = [
        (
            f"<code>{esc(spell(t))}</code>",
            esc(t.op),
            number(t.local),
            number(t.propagated),
            number(t.bound),
            esc(t.note),
        )
        for t in (data.tensors[i] for i in order)
    ]
    heads = ["tensor", "operation", ">local", ">propagated", ">bound", "note"]
    marked = [k for k, i in enumerate(order) if i in set(beyond)]
    return table(heads, rows, marked=marked, caption="Tensors, the worst first")


def worst(data: ReportData) -> str:
    """Both sides of the worst tensor and their difference, as heat maps."""
    if data.worst is None:
        return ""
    w = data.worst
    ours, theirs = (flat(np.asarray(x, np.float64)) for x in (w.ours, w.theirs))
    if ours.shape != theirs.shape:
        shapes = f"{tuple(w.ours.shape)} in the reference, {tuple(w.theirs.shape)} in the engine"
        return f"<p>The shapes of <code>{esc(w.name)}</code> differ: {shapes}.</p>"
    with np.errstate(invalid="ignore"):
        gap = theirs - ours
    if np.array_equal(ours, theirs, equal_nan=True):
        return f"<p>Both sides have the same <code>{esc(w.name)}</code>, {ours.shape[0]} x {ours.shape[1]} numbers.</p>"
    finite = np.abs(np.concatenate([ours, theirs]))
    top = float(finite[np.isfinite(finite)].max(initial=0))
    size = f"{ours.shape[0]} rows, {ours.shape[1]} columns"
    maps = "".join(
        f"<h3>{heading}</h3>" + heat(x, f"Heat map of {w.name}, {heading}: {size}.", signed=True, most=most)
        for heading, x, most in (("Reference", ours, top), ("Engine", theirs, top), ("Difference", gap, None))
    )
    return (
        f"<p><code>{esc(w.name)}</code>: {size}; a row a line of pixels, from the top. {esc(furthest(w, gap))} "
        "What is not finite is magenta.</p>" + maps + row_table(w, ours, gap)
    )


def flat(x: Array) -> Array:
    """(..., C) as rows (N, C)."""
    rows: Array = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    return rows


def furthest(w: WorstTensor, gap: Array) -> str:
    """Where the two are furthest apart, in words."""
    size = np.where(np.isfinite(gap), np.abs(gap), np.inf)
    if not size.size or not size.max():
        return "Both are the same."
    i, j = divmod(int(size.argmax()), gap.shape[1])
    who = f" (“{w.rows[i]}”)" if i < len(w.rows) else ""
    return f"They are furthest apart in row {i}{who}, column {j}: by {gap[i, j]:.4g}."


def row_table(w: WorstTensor, ours: Array, gap: Array) -> str:
    """The rows with the largest error."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = (gap**2).sum(axis=1) / (ours**2).sum(axis=1)
    error = np.where(np.isnan(error), np.where((gap == 0).all(axis=1), 0.0, np.inf), error)
    order = np.argsort(-error, kind="stable")[: min(len(error), 10)]
    named = len(w.rows) == len(error)
    rows = [(str(i), esc(w.rows[i]) if named else "", number(float(error[i]))) for i in order]
    return table([">row", w.unit, ">NMSE"], rows, caption="Rows, the worst first")


def tokens(data: ReportData) -> str:
    """Ids and pieces of both sides, differing places set off."""
    return "".join(map(tokens_of, data.tokens))


def tokens_of(t: BothTokens) -> str:
    head = f"<h3>{esc(clipped(t.text, 90)) or '(an empty text)'}</h3>"
    if not t.theirs:
        return (
            f"{head}<p>Reference ({len(t.ours)} tokens; the engine does not report its own)</p>{boxes(t.ours, set())}"
        )
    odd = differing([id for id, _ in t.ours], [id for id, _ in t.theirs])
    same = not any(odd)
    note = "The same ids." if same else "What differs has a thick border."
    return (
        f"{head}<p>Reference, {len(t.ours)} tokens</p>{boxes(t.ours, odd[0])}"
        f"<p>Engine, {len(t.theirs)} tokens. {note}</p>{boxes(t.theirs, odd[1])}"
    )


def differing(a: Sequence[int], b: Sequence[int]) -> tuple[set[int], set[int]]:
    """Places of each that have no equal in the other, by the longest common runs."""
    import difflib

    odd: tuple[set[int], set[int]] = (set(), set())
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind != "equal":
            odd[0].update(range(i, j))
            odd[1].update(range(k, m))
    return odd


def piece_of(piece: str) -> str:
    """A token's text; empty where the engine shows its ids alone."""
    return f"{esc(piece)} " if piece else ""


def boxes(pieces: Sequence[tuple[int, str]], odd: set[int]) -> str:
    """Tokens as boxes."""
    parts = []
    for i, (id, piece) in enumerate(pieces):
        kind = "token odd" if i in odd else "token"
        parts.append(f'<span class="{kind}" title="place {i}, id {id}">{piece_of(piece)}<small>{id}</small></span>')
    return f'<div class="tokens">{"<wbr>".join(parts)}</div>'


def attention(data: ReportData) -> str:
    """The reference's attention, and the engine's where it shows it."""
    if not data.attention or not data.traced:
        return ""
    first = data.attention[0].layer
    ours = {a.layer: a.ours for a in data.attention}
    parts = ["<h3>Reference</h3>", attention_map("attention-ours", ours, data.traced, layer=first)]
    theirs = {a.layer: a.theirs for a in data.attention if a.theirs is not None}
    if theirs:
        layer = first if first in theirs else next(iter(theirs))
        parts += ["<h3>Engine</h3>", attention_map("attention-theirs", theirs, data.traced, layer=layer)]
    return "".join(parts)


def shares(data: ReportData) -> str:
    """Each token's share in the pooled vector."""
    if not len(data.contributions) or len(data.contributions) != len(data.traced):
        return ""
    both = len(data.their_contributions) == len(data.traced)
    text = (
        "<p>Share of each token in the pooled vector, q<sub>t</sub> · p / |p|²; shares add up to 1, and a negative one "
        "(orange) pulls the other way.</p>"
    )
    ours = strip(data.traced, data.contributions)
    if not both:
        return text + ours
    return f"{text}<h3>Reference</h3>{ours}<h3>Engine</h3>{strip(data.traced, data.their_contributions)}"


def hypotheses(data: ReportData) -> str:
    """What each hypothesis left of the difference, the best first."""
    if not data.hypotheses:
        return ""
    order = sorted(data.hypotheses, key=lambda h: (not h[2], h[1]))
    rows = [
        (esc(name), number(left), word("explains it" if explains else "leaves too much"))
        for name, left, explains in order
    ]
    marked = [i for i, h in enumerate(order) if h[2]]
    intro = "<p>Each was put into the reference in turn; what is left of the difference is the largest 1 - cos.</p>"
    return intro + table(["hypothesis", ">left", "verdict"], rows, marked=marked)


def environment(data: ReportData) -> str:
    """Builds, versions, options."""
    rows = [(esc(k), esc(v)) for k, v in facts("", data.environment)]
    return table(["what", "value"], rows, kind="facts") if rows else ""


def facts(prefix: str, found: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Labels and values, those of mappings within mappings one by one."""
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from facts(f"{prefix}{key}, ", value)
        elif isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
            for part in value:
                yield from facts(f"{prefix}{key}, ", part)
        elif value is not None and value != []:
            yield f"{prefix}{key}", value


def commands(text: str) -> str:
    """HTML of a sentence: what stands in backticks, and options, as code."""
    return re.sub(
        r"`([^`]+)`|(?<![\w-])(--(?:(?:pooling|(?:embd-)?normalize|budget) [\w-]+|[a-z-]+))",
        lambda m: f"<code>{m[1] or m[2]}</code>",
        esc(text),
    )


def word(text: str) -> str:
    """A word or two that stay on one line."""
    return f'<span class="word">{esc(text)}</span>'


def is_beyond(t: TensorError) -> bool:
    """Whether an operation's own error leaves its bound."""
    return t.local is not None and t.bound is not None and not t.local <= t.bound


def spell(t: TensorError) -> str:
    """A tensor's name, with which of several of that name it is."""
    return t.name if not t.k else f"{t.name} (no. {t.k + 1})"


def number(x: float | None) -> str:
    """Three digits."""
    return "" if x is None else "not finite" if not math.isfinite(x) else f"{x:.3g}"
