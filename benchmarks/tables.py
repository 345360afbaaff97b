"""Results as Markdown, and a page's tables made anew from them: what stands between two markers is replaced.

<!-- table: asked -->
...
<!-- end of table -->
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import asked
from benchmarks.asked import GEMMA, MINILM, against_best, milliseconds
from benchmarks.peers import ENGINES, GGML, OURS
from benchmarks.processes import ROOT
from benchmarks.rounds import Ratio, median
from benchmarks.texts import ROWS

Results = dict[str, Any]
FOLDER = ROOT / "benchmarks" / "results"  # a file a machine
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


class TableError(Exception):
    """A page or a file of results is not as it must be."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns behind the first stand to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spell_ratio(r: Ratio) -> str:
    """'1.12 (1.08 to 1.15)'."""
    return f"{r.median:.2f} ({r.low:.2f} to {r.high:.2f})"


def speed(engine: Results | None, row: Results) -> str:
    """Tokens a second, or the time of a single text."""
    if engine is None:
        return ""
    seconds = median(engine["seconds"])
    return milliseconds(seconds) if row["texts"] == 1 else f"{row['tokens'] / seconds:,.0f}"


def engines_in(rows: Sequence[Results]) -> list[str]:
    """Engines that some row has, in the usual order."""
    return [n for n in ENGINES if any(n in row["engines"] for row in rows)]


def side_by_side(rows: dict[str, Results], first: str) -> str:
    """Rows of engines: speeds, and refembed's ratio to the best peer."""
    names = engines_in(list(rows.values()))
    body = []
    for about, row in rows.items():
        best = against_best(row)
        cells = [speed(row["engines"].get(n), row) for n in names]
        body.append([about, *cells, best[0] if best else "", spell_ratio(best[1]) if best else ""])
    return table([first, *names, "best peer", "refembed / best peer"], body)


def throughput(results: Results, models: Sequence[str]) -> str:
    """The rows of some models."""
    found = results.get("rows", {})
    rows = {
        f"{model.removeprefix('minilm-').upper() if len(models) > 1 else ROWS[r].about}"
        + (f", {ROWS[r].about}" if len(models) > 1 else ""): found[f"{model}/{r}"]
        for model in models
        for r in ROWS
        if f"{model}/{r}" in found
    }
    return side_by_side(rows, "texts") if rows else "Not measured."


def ways(results: Results) -> str:
    """How each peer ran fastest."""
    found = {k: r for k, r in results.get("rows", {}).items() if k.startswith((MINILM[0], GEMMA))}
    names = [n for n in engines_in(list(found.values())) if n not in (OURS, GGML)]
    if not names:
        return "Not measured."
    rows = [[key, *[row["engines"].get(n, {}).get("way", "") for n in names]] for key, row in found.items()]
    return table(["row", *names], rows)


def asked_lines(results: Results) -> str:
    """Asked, measured, met."""
    met = {True: "yes", False: "**no**", None: "not measured"}
    return table(["asked", "measured", "met?"], [[a, m, met[ok]] for a, m, ok in asked.lines(results)])


def source(results: Results) -> str:
    """Where the figures come from."""
    if "when" not in results:
        return "Nothing has been measured yet."
    return f"From `benchmarks/results/{results['name']}.json`, {results['when']}."


def machine(results: Results) -> str:
    """The machine and the builds."""
    rows = [*results["machine"].items(), *results["builds"].items()]
    rows += [(name, f"not measured: {why}") for name, why in results.get("skipped", {}).items()]
    return table(["", "of these figures"], [[k, v] for k, v in rows]).replace("---:", "---")


def loading(results: Results) -> str:
    """Milliseconds."""
    found = results.get("loading", {})
    heads = {"ready": "ready", "first": "first vector", "fresh": "ready, fresh process",
             "fresh_first": "first vector, fresh", "llama.cpp": "llama.cpp ready, fresh"}  # fmt: skip
    rows = [[n, *[milliseconds(f[k]) if k in f else "" for k in heads]] for n, f in found.items()]
    return table(["model", *heads.values()], rows) if rows else "Not measured."


def cold(results: Results) -> str:
    """Whole processes."""
    found = results.get("cold", {})
    rows = [
        [f"`{n}`", milliseconds(statistics.median(s)), f"{milliseconds(min(s))} to {milliseconds(max(s))}"]
        for n, s in found.items()
    ]
    return table(["process", "median", "spread"], rows) if rows else "Not measured."


def memory(results: Results) -> str:
    """MiB."""
    rows = [
        [f"{model}, {engine}", *[f"{most[k]:,}" for k in ("peak", "own", "mapped")]]
        for model, engines in results.get("memory", {}).items()
        for engine, most in engines.items()
    ]
    return table(["MiB", "peak", "own", "mapped files"], rows) if rows else "Not measured."


def growth(results: Results) -> str:
    """Tenths."""
    found = results.get("growth")
    if not found:
        return "Not measured."
    rates = [f"{r:,.0f}" for r in found["tokens_a_second"]]
    held = [f"{r / 2**20:,.0f}" for r in found["resident"]]
    head = [f"{found['texts']:,} texts of {found['length']}", *[f"{i}." for i in range(1, 11)]]
    return table([*head], [["tokens a second", *rates], ["resident MiB", *held]])


def sgemm(results: Results) -> str:
    """GFLOP/s of one core."""
    rows = [
        [f"{one['n']} x {one['k']} ({model})", *[f"{statistics.median(one['gflops'][w]):.0f}" for w in
         ("refembed", "sgemm")], spell_ratio(asked.rate_of(one))]
        for model, shapes in results.get("sgemm", {}).items()
        for one in shapes
    ]  # fmt: skip
    return table(["W (n x k)", "refembed", "NumPy's sgemm", "ratio"], rows) if rows else "Not measured."


def profile(results: Results) -> str:
    """Shares of one core's time, and the rate of products."""
    found = results.get("profile")
    if not found:
        return "Not measured."
    tables = []
    for model, rows in found.items():
        kinds = sorted({k for r in rows.values() for k in r["parts"]}, key=lambda k: (not k.startswith("product"), k))
        body = []
        for kind in kinds:
            cells = []
            for r in rows.values():
                part, flops = r["parts"].get(kind, 0.0), r["flops"].get(kind)
                rate = f" at {flops / part / 1e9:.0f} GFLOP/s" if flops and part else ""
                cells.append(f"{100 * part / r['seconds']:.1f}%{rate}")
            body.append([kind, *cells])
        body.append(["all, tokens a second", *[f"{r['tokens'] / r['seconds']:,.0f}" for r in rows.values()]])
        tables.append(table([model, *[ROWS[r].about for r in rows]], body))
    return "\n\n".join(tables)


def sizes(results: Results) -> str:
    found = results.get("batches", {})
    return side_by_side({f"{n} texts": r for n, r in found.items()}, "in a call") if found else "Not measured."


def threads(results: Results) -> str:
    found = results.get("threads", {})
    return side_by_side(found, "threads") if found else "Not measured."


def others(results: Results) -> str:
    """What was asked, and MiniLM's rows, on every other machine that has a file."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        other = {} if path.name.startswith(("tradeoff-", "scale-")) else json.loads(path.read_text(encoding="utf-8"))
        if other and other["name"] != results.get("name"):
            head = f"### {other['machine']['processor']}\n\n{source(other)} {other['machine']['features']}."
            found.append("\n\n".join([head, asked_lines(other), throughput(other, MINILM)]))
    return "\n\n".join(found) or "None has been measured."


TABLES: dict[str, Callable[[Results], str]] = {
    "source": source,
    "asked": asked_lines,
    "others": others,
    "machine": machine,
    "minilm": lambda r: throughput(r, MINILM),
    "gemma": lambda r: throughput(r, (GEMMA,)),
    "ways": ways,
    "batches": sizes,
    "threads": threads,
    "loading": loading,
    "cold": cold,
    "memory": memory,
    "growth": growth,
    "sgemm": sgemm,
    "profile": profile,
}


def filled(
    page: str, results: Results, where: str = "the page", known: Mapping[str, Callable[[Results], str]] = TABLES
) -> str:
    """A page with its tables made anew. TableError for a marker of no table, or one without its end."""
    unknown = {name for _, name, _ in MARKED.findall(page)} - set(known)
    if unknown or len(MARKED.findall(page)) != page.count("<!-- table:"):
        raise TableError(f"{where}: a table's marker is unknown or has no end: {', '.join(unknown) or 'no end'}")
    return MARKED.sub(lambda m: m[1] + "\n" + known[m[2]](results) + "\n\n" + m[3], page)


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
