"""refembed compared with its peers: `make bench`, or python -m benchmarks [--quick] [--only ROW ...]

Each engine runs in a process of its own; they take turns, and a ratio is taken round by round. The machine and the
builds are printed; the measurements are kept in benchmarks/results/NAME.json, and the tables of docs/performance.md
made anew from that. docs/performance.md says what is measured how.

    python -m benchmarks --quick                    a look: a few texts, nothing is kept
    python -m benchmarks --only 'minilm-f32/*' sgemm   these only; other figures in the file stay
    python -m benchmarks --tables                   the page alone, from what the file has
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import asked, machine, tables
from benchmarks.peers import ENGINES, OURS, Model, Peers, Settings
from benchmarks.processes import ROOT, WorkerError
from benchmarks.sections import SECTIONS, Bench
from benchmarks.texts import ROWS

PAGE = ROOT / "docs" / "performance.md"
MINILM_ROWS, GEMMA_ROWS = ("256x32", "48x256", "mixed", "1x8", "1x512"), ("32x64", "1x512")
KEEP = ("name", "when", "machine", "builds", "skipped", "rows", *SECTIONS)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Of the command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--quick", action="store_true", help="few texts and rounds; nothing is kept unless --name is given")
    p.add_argument("--long", action="store_true", help="100,000 texts for the growth of time and memory")
    p.add_argument("--only", nargs="+", metavar="ROW", default=["*"], help="MODEL/ROW or a section; * stands for any")
    p.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    p.add_argument("--seconds", type=float, default=8.0, help="of rounds for each row")
    p.add_argument("--minutes", type=float, default=12.0, help="after these, rows get a single round")
    p.add_argument("--threads", type=int, default=machine.cores())
    p.add_argument("--native", metavar="DIR", default=os.environ.get("REFEMBED_NODE_LLAMA_CPP"),
                   help="llama.cpp's libraries: bins/linux-x64 of @node-llama-cpp/linux-x64")  # fmt: skip
    p.add_argument("--peers-python", metavar="PATH", default=os.environ.get("REFEMBED_PEERS_PYTHON"),
                   help="an interpreter that has sentence-transformers, onnx and onnxruntime")  # fmt: skip
    p.add_argument(
        "--gemma", metavar="FILE", default=os.environ.get("REFEMBED_GEMMA3"), help="gemma-3-270m-q4_k_m.gguf"
    )
    p.add_argument("--name", help="of the file of results; default: after the machine")
    p.add_argument("--tables", action="store_true", help="measure nothing")
    p.add_argument("--list", action="store_true", help="what can be measured")
    args = p.parse_args(argv)
    for option, path in (("--native", args.native), ("--gemma", args.gemma), ("--peers-python", args.peers_python)):
        if path and not Path(path).exists():
            p.error(f"{option} {path}: there is no such thing")
    if args.threads < 1:
        p.error(f"--threads {args.threads}: at least 1")
    if OURS not in args.engines:
        args.engines.insert(0, OURS)
    return args


def rows_of(gemma: bool) -> list[str]:
    """Names of all throughput rows."""
    rows = [f"{m}/{r}" for m in asked.MINILM for r in MINILM_ROWS]
    return rows + ([f"{asked.GEMMA}/{r}" for r in GEMMA_ROWS] if gemma else [])


def models(gemma: str | None) -> dict[str, Model]:
    """The files that are measured; MiniLM's are made when first needed."""
    from refembed import hub

    folder = str(hub.source_folder("minilm"))
    found = {}
    for name in asked.MINILM:
        outtype = name.removeprefix("minilm-")
        path = str(hub.resolve("minilm", outtype=outtype))
        found[name] = Model(name, path, folder=folder if outtype == "f32" else None)
    if gemma:
        found[asked.GEMMA] = Model(asked.GEMMA, str(Path(gemma).absolute()), "mean", first=2, last=None)
    return found


def vocabulary(model: Model) -> int:
    """Rows of token_embd.weight."""
    from refembed import open_gguf

    return int(open_gguf(model.path).tensors["token_embd.weight"].shape[0])


class Keeper:
    """The file of results: read, added to, and written after every section, so that nothing is lost."""

    def __init__(self, name: str, kept: bool) -> None:
        self.path, self.kept = tables.FOLDER / f"{name}.json", kept
        self.results: dict[str, Any] = {
            "name": name, "machine": machine.facts(), "builds": {}, "skipped": {}, "rows": {}
        }  # fmt: skip
        if kept and self.path.is_file():
            before = json.loads(self.path.read_text(encoding="utf-8"))
            if before["machine"] != self.results["machine"]:
                sys.exit(f"{self.path} is of another machine ({before['machine']}); give this one a --name")
            self.results = before

    def add(self, section: str, found: Any, settings: Settings, row: str | None = None) -> None:
        """Keep what was found, and write."""
        if row is not None:
            self.results["rows"][row] = found
        else:
            self.results[section] = found
        now = datetime.now(timezone.utc)
        self.results["when"] = (
            f"last added to on {now:%d %B %Y}; load average {os.getloadavg()[0]:.1f} at the end of it"
        )
        self.results["builds"] |= machine.builds() | settings.builds
        present = set(settings.builds)
        skipped = {**self.results["skipped"], **settings.skipped}
        self.results["skipped"] = {n: why for n, why in skipped.items() if n not in present}
        if self.kept:
            ordered = {k: self.results[k] for k in KEEP if k in self.results}
            tables.replace(self.path, json.dumps(ordered, indent=1) + "\n")


def measure_rows(bench: Bench, chosen: list[str], keeper: Keeper, until: float) -> None:
    """Throughput, model by model; until: when time is up, by perf_counter."""
    for name, model in bench.models.items():
        rows = [r.split("/")[1] for r in chosen if r.startswith(f"{name}/")]
        if not rows:
            continue
        with Peers(model, bench.settings) as peers:
            for row in rows:
                start = time.perf_counter()
                if start > until and peers.settings.most > 1:
                    print("time is up: what follows gets a single round (--minutes)", flush=True)
                    bench.settings.least = bench.settings.most = 1
                found = peers.row(row, ROWS[row], bench.n_vocab[name])
                keeper.add("rows", found, bench.settings, f"{name}/{row}")
                report(f"{name}, {ROWS[row].about}", found, time.perf_counter() - start)


def report(about: str, row: dict[str, Any], took: float) -> None:
    """One row on the screen."""
    best = asked.against_best(row)
    said = [f"{n} {tables.speed(e, row)}" + (f" [{e['way']}]" if e["way"] else "") for n, e in row["engines"].items()]
    verdict = f"  = {tables.spell_ratio(best[1])} x {best[0]}" if best else ""
    print(f"{about} ({took:.0f} s): {'; '.join(said)}{verdict}", flush=True)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    every = [*rows_of(bool(args.gemma)), *SECTIONS]
    if args.list:
        print(*every, sep="\n")
        return
    chosen = [n for n in every if any(fnmatch.fnmatch(n, pattern) for pattern in args.only)]
    unknown = [p for p in args.only if not fnmatch.filter([*rows_of(True), *SECTIONS], p)]
    if unknown:
        sys.exit(f"--only {' '.join(unknown)}: nothing of that name; --list shows them all")
    keeper = Keeper(args.name or machine.slug(machine.facts()), not args.quick or bool(args.name))
    if not args.tables:
        measure(args, chosen, keeper)
    print("\n" + tables.asked_lines(keeper.results))
    if keeper.kept and PAGE.is_file() and keeper.results["builds"]:
        page = PAGE.read_text(encoding="utf-8")
        tables.replace(PAGE, tables.filled(page, keeper.results, str(PAGE)))
        print(f"\n{keeper.path.relative_to(ROOT)} and the tables of {PAGE.relative_to(ROOT)} are written")


def measure(args: argparse.Namespace, chosen: list[str], keeper: Keeper) -> None:
    """All that was chosen."""
    for name, value in {**machine.facts(), **machine.builds(), "load": f"{os.getloadavg()[0]:.1f}"}.items():
        print(f"{name:<12}{value}")
    found = models(args.gemma)
    if not args.gemma:
        print("without Gemma: no file of it: --gemma FILE or REFEMBED_GEMMA3=FILE")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            seconds=1.0 if args.quick else args.seconds, least=2 if args.quick else 3, most=2 if args.quick else 9,
            alone=0.05 if args.quick else 0.2, shrink=16 if args.quick else 1, threads=args.threads,
            native=Path(args.native) if args.native else None, python=args.peers_python, onnx=folder,
            only=tuple(args.engines),
        )  # fmt: skip
        vocabularies = {name: vocabulary(m) for name, m in found.items()}
        bench = Bench(found, settings, vocabularies, quick=args.quick, long=args.long)
        start = time.perf_counter()
        try:
            measure_rows(bench, chosen, keeper, start + 60 * args.minutes)
            for name in [c for c in chosen if c in SECTIONS]:
                begin = time.perf_counter()
                keeper.add(name, SECTIONS[name](bench), settings)
                print(
                    f"\n{name} ({time.perf_counter() - begin:.0f} s)\n{tables.TABLES[name](keeper.results)}", flush=True
                )
        except WorkerError as e:
            sys.exit(str(e))
        print(f"\n{time.perf_counter() - start:.0f} s in all; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
