"""The comparison of two engines as people read it: the word first, one paragraph, then what it stands on."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from refembed.verify.remedies import NOTHING
from refembed.verify.report.text import WIDTH, aligned, first_apart, preview
from refembed.verify.upgrade.answer import REACH, Search, Upgrade

HELP = {
    "identical": "Both engines give the same vectors, bit for bit.",
    "normalize": "Directions stay; lengths do not.",
    "valid": "",
    "re-embed": "",
}
FEW = 1000  # documents below which a report asks for a corpus


def report(u: Upgrade) -> str:
    """All of it as plain text."""
    parts = [textwrap.fill(paragraph(u), WIDTH)]
    if u.ids:
        rows = [
            [preview(t), first_apart(old, new).replace("ours", "old").replace("theirs", "new")] for t, old, new in u.ids
        ]
        parts.append("\n".join(["tokens that changed", *aligned(["text", "where"], rows)]))
    if u.search is not None:
        heads = [
            "what is searched", ">nearest changed", f">of {u.search.k} nearest stayed", ">new nearest was farther by",
        ]  # fmt: skip
        cells = [
            [a.says, f"{a.changed} of {u.search.queries}", f"{100 * a.overlap:.4g} %", f"{a.farther:.2g}"]
            for a in u.search.arrangements
        ]
        parts.append("\n".join(["neighbors", *aligned(heads, cells)]))
    if u.texts and u.moved > 0:
        cells = [[preview(t.text), f"{t.cosine:.2g}", f"{t.moved:.2g}", "beyond" if t.beyond else ""] for t in u.texts]
        parts.append("\n".join(["texts that moved most", *aligned(["text", ">1-cos", ">moved", ""], cells[:10])]))
    parts.append("\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in footer(u)))
    to_do = u.remedy if u.remedy.startswith(NOTHING) else f"what to do: {u.remedy}"
    parts.append(textwrap.fill(to_do, WIDTH, subsequent_indent="  "))
    return "\n\n".join(parts)


def paragraph(u: Upgrade) -> str:
    """The word, why, and the numbers that it stands on."""
    said = [f"{u.kind.upper()}: {called(u.sides['old'])}, then {called(u.sides['new'])}.", HELP[u.kind]]
    if u.cause:
        said.append(f"{u.cause[0].upper()}{u.cause[1:]}.")
    if u.search is not None:
        said += numbers(u, u.search)
    return " ".join(s for s in said if s)


def numbers(u: Upgrade, s: Search) -> list[str]:
    """Neighbors, measured and bounded."""
    stored = s.arrangements[0]
    said = [
        f"Of {s.queries} queries among {s.documents} documents {stored.changed} find another nearest document, and "
        f"{100 * stored.overlap:.4g} % of their {s.k} nearest stay."
    ]
    if not math.isfinite(s.gap):
        return said
    reach = REACH * u.moved
    word = "less" if reach < s.gap else "no less"
    said.append(
        f"Movements of {u.moved:.2g} change the difference of two distances by {reach:.2g} at most: {word} than the "
        f"{s.gap:.2g} that part the nearest document from the next in the median query."
    )
    if s.certain:
        said.append(f"In {s.certain} of {s.queries} queries they can change no nearest document.")
    return said


def footer(u: Upgrade) -> list[str]:
    """What was compared, and remarks."""
    lines = [f"note: {r}" for r in u.remarks]
    if u.search is not None and u.search.documents < FEW:
        lines.append(
            f"note: neighbors among {u.search.documents} documents are farther apart than among millions; --corpus FILE"
            " takes a sample of yours"
        )
    if u.same_tokens is None:
        lines.append("note: not both engines show tokens; changed tokens show in the vectors alone")
    for side in ("old", "new"):
        if side in u.verdicts:
            v = u.verdicts[side]
            lines.append(f"{side}, held against the model: {v['kind']}{': ' + v['cause'] if v['cause'] else ''}")
    lines += [f"{side}: {described(u.sides[side])}" for side in ("old", "new")]
    lines.append(f"{u.count} text{'s' * (u.count != 1)}; largest difference of two components {u.component:.2g}")
    return lines


def described(side: dict[str, Any]) -> str:
    """An engine, and what it says of itself."""
    info = side["info"]
    known = [f"{name} {info[name]}" for name in ("url", "file", "version", "model", "pooling") if info.get(name)]
    return f"{called(side)}{', ' + ', '.join(known) if known else ''}"


def called(side: dict[str, Any]) -> str:
    """`http llama-server`, `llama.cpp (xllamacpp 2026.10.11549)`: an engine, and which wheel, package or folder."""
    build, lib = side["info"].get("build"), (side["info"].get("options") or {}).get("lib")
    if not isinstance(build, dict):
        return str(side["engine"])
    name = Path(lib).name if lib else f"xllamacpp {build.get('wheel')}"
    return f"{side['engine']} ({' '.join(name.split('-')[:2]) if name.endswith('.whl') else name})"
