"""Processes, engines and tokenizers (docs/scale.md): what each costs, and the memory that a worker has of its own.

python -m benchmarks scale                                # processes and threads, memory, tokenizers: a minute
python -m benchmarks scale --engines                      # also Ray, Spark, Dask, datasets on two workers: two more
python -m benchmarks scale --engines --write              # results into benchmarks/results, tables into docs/scale.md
python -m benchmarks scale --tables                       # the page's tables anew from those results

Every round measures each way once, so that other work on the machine slows all of them alike; ratios are taken within
a round. An engine's program is run with few texts and with many: the difference is its speed, the rest its start. It is
compared with as many programs without an engine, each with its share of the files. Needs the engines; one that is
absent is named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine, scale_runs
from benchmarks.rounds import ratio
from benchmarks.tables import FOLDER, filled, replace, spell_ratio, table
from refembed.embedder import Embedder
from refembed.kernels import threads

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
Results = dict[str, Any]


def measure(options: argparse.Namespace) -> Results:
    """All figures, fit for JSON."""
    texts = [f"{i} " + "the cat sat on a mat " * (options.words // 6) for i in range(options.texts)]
    e = Embedder.load(options.model, numerics=options.numerics)
    e.warm()
    tokens = sum(len(e.tokenize(text)) for text in texts) / len(texts)
    results: Results = {
        "machine": machine.facts(), "builds": machine.builds(), "load": [os.getloadavg()[0]],
        "model": f"{options.model}, {options.numerics}", "texts": len(texts), "tokens a text": round(tokens, 1),
    }  # fmt: skip
    results |= scale_runs.processes(e, options, texts)
    results["tokenizers"] = scale_runs.tokenizers(e, texts)
    if options.engines:
        results["engines"], results["absent"] = scale_runs.engines(e, texts * 2)
    results["load"].append(os.getloadavg()[0])
    return results | {"when": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def shapes_table(results: Results) -> str:
    """Texts a second of each number of processes and threads."""
    n, seconds = results["texts"], results["seconds"]
    rows = []
    for name, found in seconds.items():
        rates = [n / s for s in found]
        computed = statistics.median(results["computed"][name])
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        rows.append([name, f"{statistics.median(rates):,.0f}", spread, f"{1000 * computed / n:.2f}"])
    return table(["processes x threads", "texts/s", "least to most", "ms of a core a text"], rows)


def shapes_line(results: Results) -> str:
    """All cores as processes, against all as threads."""
    seconds, n = results["seconds"], threads_of(results)
    found = ratio(seconds[f"1 x {n}"], seconds[f"{n} x 1"])
    return f"{n} processes of one thread, over one process of {n} threads, round by round: {spell_ratio(found)}."


def threads_of(results: Results) -> int:
    """Cores of the machine that was measured."""
    return int(results["machine"]["cores"])


def memory_table(results: Results) -> str:
    """MiB of a worker."""
    rows = []
    for name, kib in results["memory"].items():
        own = kib["Private_Clean"] + kib["Private_Dirty"]
        shared = kib["Shared_Clean"] + kib["Shared_Dirty"]
        rows.append([name, *(f"{v / 1024:.0f}" for v in (own, shared, kib["model"], kib["Pss"]))])
    return table(["MiB of each worker", "private", "shared", "of it the model", "proportional"], rows)


def tokenizers_table(results: Results) -> str:
    """Tokens a second through a model that computes nothing, and through one as fast as a core tokenizes."""
    found = results["tokenizers"]
    rows = [[name, *(f"{rate:,.0f}" for rate in rates.values())] for name, rates in found.items()]
    return table(["tokens/s through a stub", *next(iter(found.values()))], rows)


def engines_table(results: Results) -> str:
    """Start and speed of each engine's program."""
    if "engines" not in results:
        return "Not measured."
    engines = results["engines"].items()
    rates = {name: (many - few) / (long - short) for name, (few, short, many, long) in engines if long > short}
    plain = rates.get(next(iter(results["engines"])))
    rows = []
    for name, (few, short, _, long) in engines:
        if (rate := rates.get(name)) is None:  # the start varies by more than these texts take
            rows.append([name, f"{min(short, long):.1f}", "too few texts", "", f"{long:.1f}"])
            continue
        over = f"{rate / plain:.2f}" if plain else ""
        rows.append([name, f"{short - few / rate:.1f}", f"{rate:,.0f}", over, f"{long:.1f}"])
    absent = "".join(f"\n\nNot measured: {name}: {why}." for name, why in results.get("absent", {}).items())
    last = next(iter(results["engines"].values()))[2]
    return table(["two workers", "start, s", "texts/s then", "over none", f"{last:,} texts, s"], rows) + absent


def source_line(results: Results) -> str:
    """Where the figures come from."""
    of = f"{results['model']}, texts of {results['tokens a text']:.0f} tokens"
    load = f"load {results['load'][0]:.1f} before"
    cores = f"{results['machine']['processor'].partition(',')[0]}, {results['machine']['cores']} cores"
    when = f"{datetime.fromisoformat(results['when']):%d %B %Y}"
    return f"{of}; {cores}, {load}, {when} (`python -m benchmarks scale --engines`)."


MADE = {
    "scale-source": source_line, "scale-shapes": shapes_table, "scale-ratio": shapes_line,
    "scale-memory": memory_table, "scale-tokenizers": tokenizers_table, "scale-engines": engines_table,
}  # fmt: skip


def where_measured(make: Callable[[Results], str]) -> Callable[[Results], str]:
    """The same, for a page of which nothing has been measured yet as well."""
    return lambda results: make(results) if results else "Not measured yet."


TABLES = {name: where_measured(make) for name, make in MADE.items()}


def newest(folder: Path) -> Results:
    """Of the results that are kept, a file a machine, those that were measured last."""
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("scale-*.json")]
    if not kept:
        sys.exit("no results are kept: --write keeps them")
    return max(kept, key=lambda results: datetime.fromisoformat(results["when"]))


def main(args: Sequence[str]) -> None:
    """Print all tables as Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="minilm:q8_0")
    parser.add_argument("--numerics", default="fast")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--words", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the results, and make docs/scale.md's tables anew")
    parser.add_argument("--tables", action="store_true", help="only make the tables anew, from the results kept last")
    options = parser.parse_args(args)
    if options.tables:
        results = newest(FOLDER)
    else:
        print(f"load {os.getloadavg()[0]:.1f}, {threads.available()} cores", file=sys.stderr)
        results = measure(options)
        for name, make in TABLES.items():
            print(f"\n{name}\n\n{make(results)}")
    if options.write:
        path = FOLDER / f"scale-{machine.slug(results['machine'])}.json"
        replace(path, json.dumps(results, indent=1) + "\n")
    if options.write or options.tables:
        page = PAGE.read_text(encoding="utf-8")
        replace(PAGE, filled(page, results, "docs/scale.md", TABLES))


if __name__ == "__main__":
    main(sys.argv[1:])
