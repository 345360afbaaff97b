"""Every engine's error and speed on MiniLM: python -m benchmarks tradeoff [--only "OpenVINO*"] [--rows 256x32 ...]

Speed: each engine in a process of its own, in turns, tokens a second; ratios are taken round by round (`rounds.py`).
Error: 1 - cos of 40 texts of the suite to float64, median and worst: of llama.cpp's formulas for refembed and
llama.cpp, of the published ones (GELU by erf) for the others. Results are kept by machine in
benchmarks/results/tradeoff-NAME.json; docs/tradeoff.md and its plots are made from all of them (--tables: only that).

PyTorch, ONNX Runtime and OpenVINO want --peers-python, an interpreter with the packages of the extra `peers`; a
native llama.cpp wants --native, a folder of its libraries. Who is absent is named and left out.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.peers import Model, native_cpu
from benchmarks.processes import ROOT, Worker, WorkerError, job
from benchmarks.rounds import interleaved, median, ratio
from benchmarks.speed import vocabulary
from benchmarks.tables import replace, table
from benchmarks.texts import ROWS, token_ids
from conformance.cases import load_texts
from conformance.models import model_path
from refembed import Embedder, hub

FOLDER, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "tradeoff.md"
TEXTS, CALIBRATION = 40, 200
SHOWN = ("256x32", "48x256", "mixed", "1x8", "1x512")


@dataclass(frozen=True)
class Contender:
    """One engine with one kind of weights. family: what it is plotted as; peers: whether it needs their interpreter."""

    name: str
    family: str
    engine: str
    weights: str = "minilm-f32"
    options: tuple[tuple[str, Any], ...] = ()
    peers: bool = False

    @property
    def published(self) -> bool:
        """Whether it computes the published formulas, not llama.cpp's."""
        return self.peers


def of_ours(weights: str, *numerics: str) -> list[Contender]:
    """refembed's contenders of some weights."""
    kind = weights.removeprefix("minilm-").upper()
    return [Contender(f"refembed {kind} {n}", "refembed", "Refembed", weights, (("numerics", n),)) for n in numerics]


def of_llamacpp(native: bool) -> list[Contender]:
    """llama.cpp's, from the wheel or built for this processor."""
    family = "llama.cpp, native" if native else "llama.cpp, wheel"
    kinds = ("minilm-f32", "minilm-q8_0", "minilm-q4_k_m")
    return [Contender(f"{family} {k.removeprefix('minilm-').upper()}", family, "LlamaCpp", k) for k in kinds]


def of_peer(family: str, engine: str, *precisions: str) -> list[Contender]:
    """Those of a peer that takes the published weights."""
    return [
        Contender(f"{family} {p.upper()}", family, engine, options=(("precision", p),), peers=True) for p in precisions
    ]


CONTENDERS = [
    *of_ours("minilm-f32", "fast", "bf16"),
    *of_ours("minilm-q8_0", "int8", "fast"),
    *of_ours("minilm-q4_k_m", "int8", "fast"),
    *of_llamacpp(native=False),
    *of_llamacpp(native=True),
    *of_peer("PyTorch", "SentenceTransformers", "f32", "bf16"),
    *of_peer("ONNX Runtime", "OnnxRuntime", "f32", "int8"),
    *of_peer("OpenVINO", "OpenVINO", "f32", "bf16", "int8"),
]

# whose speeds are set against each other: those that multiply alike, and for `int8` those of comparable error
COMPARED = {
    "refembed F32 fast": ["OpenVINO F32", "ONNX Runtime F32", "PyTorch F32", "llama.cpp, native F32"],
    "refembed F32 bf16": ["OpenVINO BF16", "PyTorch BF16"],
    "refembed Q8_0 int8": ["OpenVINO INT8", "OpenVINO BF16", "ONNX Runtime INT8", "llama.cpp, native Q8_0"],
    "refembed Q8_0 fast": ["OpenVINO F32", "llama.cpp, native Q8_0"],
    "refembed Q4_K_M int8": ["OpenVINO INT8", "llama.cpp, native Q4_K_M"],
    "refembed Q4_K_M fast": ["llama.cpp, native Q4_K_M"],
}


def texts_and_ids() -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the texts whose error is measured, and of others that an engine may calibrate its codes with."""
    every = [text.data for text in load_texts().values()]
    step = max(len(every) // TEXTS, 1)
    chosen = every[::step][:TEXTS]
    others = [text for i, text in enumerate(every) if i % step][:CALIBRATION]
    tokenizer = Embedder.load(model_path("minilm-f32")).tokenizer
    return [cut(tokenizer.encode(t)) for t in chosen], [cut(tokenizer.encode(t)) for t in others]


def cut(ids: Sequence[int], most: int = 512) -> list[int]:
    """At most so many tokens, the last of them kept."""
    return list(ids) if len(ids) <= most else [*ids[: most - 1], ids[-1]]


def start(who: Contender, args: argparse.Namespace, calibration: list[list[int]], scratch: Path) -> Worker:
    """Its process, with the model loaded. WorkerError where it cannot be here."""
    options: dict[str, Any] = {"threads": args.threads, **dict(who.options)}
    if who.peers:
        if args.peers_python is None:
            raise WorkerError("no interpreter that has it: --peers-python PATH or REFEMBED_PEERS_PYTHON=PATH", True)
        options["model"] = str(hub.source_folder("minilm"))
        if who.engine != "SentenceTransformers":
            options |= {"model": onnx_file(options["model"], args.peers_python, scratch)}
            if options["precision"] == "int8":
                options |= {"calibration": calibration}
    else:
        options["model"] = str(model_path(who.weights))
    if who.family == "llama.cpp, native":
        if args.native is None:
            raise WorkerError("no folder of its libraries: --native DIR or REFEMBED_NODE_LLAMA_CPP=DIR", True)
        options |= {"lib": os.fspath(args.native), "cpu": native_cpu(Path(args.native))}
    single = {"OPENBLAS_NUM_THREADS": "1"} if who.engine == "LlamaCpp" else {}
    worker = Worker(who.name, args.peers_python if who.peers else None, single)
    try:
        worker.open(who.engine, **options)
    except BaseException:
        worker.close()
        raise
    return worker


def onnx_file(folder: str, python: str, scratch: Path) -> str:
    """The model as ONNX, exported once."""
    file = scratch / "minilm.onnx"
    if not file.is_file():
        job("export", python, folder=folder, file=os.fspath(file))
    return os.fspath(file)


def errors(worker: Worker, ids: list[list[int]], exact: np.ndarray[Any, Any]) -> list[float]:
    """Median and worst 1 - cos."""
    way = worker.ask("give", row="texts", ids=ids)["ways"][0]
    found = worker.vectors("texts", way).astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    far = 1 - (found * exact).sum(1) / norms
    return [float(max(np.median(far), 0)), float(max(far.max(), 0))]


def fastest(worker: Worker, row: str, ids: list[list[int]], least: float) -> tuple[str, float]:
    """The fastest of its ways on this row, and its seconds."""
    ways = worker.ask("give", row=row, ids=ids)["ways"]
    each = {way: worker.ask("run", row=row, way=way, least=least)["seconds"] for way in [*ways[:1], *ways]}
    way = min(each, key=each.__getitem__)
    return way, each[way]


def measure(workers: dict[str, Worker], row: str, ids: list[list[int]], seconds: float) -> dict[str, Any]:
    """One row: {name: {"way", "tokens a second", "seconds"}}."""
    least = 0.2 if ROWS[row].alone else 0.0
    ways, probe = {}, {}
    for name, worker in workers.items():
        ways[name], probe[name] = fastest(worker, row, ids, least / 4)
    runs = {
        name: partial(lambda w, way: float(w.ask("run", row=row, way=way, least=least)["seconds"]), worker, ways[name])
        for name, worker in workers.items()
    }
    taken = interleaved(runs, probe, seconds=seconds)
    tokens = sum(map(len, ids))
    for name, found in taken.items():
        print(f"  {name:<32}{tokens / median(found):>10,.0f} tokens a second  {ways[name]}", flush=True)
    return {n: {"way": ways[n], "tokens a second": tokens / median(s), "seconds": s} for n, s in taken.items()}


def run(args: argparse.Namespace) -> None:
    """Measure, keep, and make the page."""
    ids, calibration = texts_and_ids()
    exact = {
        published: np.stack(
            Embedder.load(
                model_path("minilm-f32"), numerics="exact", semantics="original" if published else "llama.cpp"
            ).embed(ids)
        ).astype(np.float64)
        for published in (False, True)
    }
    results: dict[str, Any] = {"machine": machine.facts(), "threads": args.threads, "builds": machine.builds()}
    results |= {"errors": {}, "absent": {}, "rows": {}, "load": [os.getloadavg()[0]]}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for who in CONTENDERS:
                if not any(fnmatch.fnmatch(who.name, pattern) for pattern in args.only):
                    continue
                try:
                    workers[who.name] = start(who, args, calibration, Path(scratch))
                    results["errors"][who.name] = errors(workers[who.name], ids, exact[who.published])
                    print("{:<32}1 - cos {:.1e}, worst {:.1e}".format(who.name, *results["errors"][who.name]))
                except WorkerError as e:
                    results["absent"][who.name] = str(e)
                    print(f"without {who.name}: {e}", flush=True)
            n_vocab = vocabulary(Model("minilm-f32", str(model_path("minilm-f32"))))
            for row in args.rows:
                print(ROWS[row].about, flush=True)
                results["rows"][row] = measure(workers, row, token_ids(ROWS[row], n_vocab), args.seconds)
                if args.keep:  # after each row, so that nothing is lost
                    keep(results)
        finally:
            for worker in workers.values():
                worker.close()


def keep(results: dict[str, Any]) -> None:
    """Write what was measured so far; rows of an earlier run stay where the same builds ran on the same day."""
    found = results | {
        "load": [results["load"][0], os.getloadavg()[0]],
        "when": f"{datetime.now(timezone.utc):%d %B %Y}",
    }
    file = FOLDER / f"tradeoff-{machine.slug(results['machine'])}.json"
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if all(before[key] == found[key] for key in ("machine", "threads", "builds", "when")):
            rows = before["rows"] | found["rows"]
            found["rows"] = {row: rows[row] for row in ROWS if row in rows}
    replace(file, json.dumps(found, indent=1) + "\n")


def speed(found: dict[str, Any] | None) -> str:
    """Tokens a second; nothing where it was not measured."""
    return f"{found['tokens a second']:,.0f}" if found else ""


def ratios(row: dict[str, Any], name: str, peer: str) -> str:
    """How many times as fast as a peer a contender is, in the median of the rounds."""
    return f"{ratio(row[peer]['seconds'], row[name]['seconds']).median:.2f}" if name in row and peer in row else ""


def page(every: Sequence[dict[str, Any]]) -> str:
    """docs/tradeoff.md."""
    parts = [
        "# Error and speed of every engine",
        "Made by `python -m benchmarks tradeoff --keep`; do not edit. all-MiniLM-L6-v2, tokens a second on random "
        "ids, higher is better; error: 1 - cos to float64 with the F32 weights, on 40 texts of the suite, median / "
        "worst, so that it holds what the weights' type costs too. refembed and llama.cpp are compared with "
        "llama.cpp's formulas, the others with the published ones. Each engine runs in the fastest of its ways (sizes "
        "of batches, flash attention), in turns with the others; OpenVINO's INT8 is NNCF's post-training quantization "
        "(calibrated on 200 texts), ONNX Runtime's is its dynamic quantization.",
    ]
    for results in every:
        rows = results["rows"]
        load = " and ".join(f"{x:.1f}" for x in results["load"])
        about = f"{results['threads']} threads, {results['when']}; load average {load} at the start and the end."
        head = ["engine", "error, median / worst", *[ROWS[r].about for r in rows]]
        body = [
            [name, f"{a:.1e} / {b:.1e}", *[speed(row.get(name)) for row in rows.values()]]
            for name, (a, b) in results["errors"].items()
        ]
        against = [
            [f"{name} / {peer}", *[ratios(row, name, peer) for row in rows.values()]]
            for name, peers in COMPARED.items()
            for peer in peers
            if name in results["errors"] and peer in results["errors"]
        ]
        plot = f"tradeoff-{machine.slug(results['machine'])}.svg"
        parts += [
            f"## {results['machine']['processor']}",
            f"{results['machine']['features']}; {about}",
            f"![Error against tokens a second of each engine, 256 texts of 32 tokens]({plot})",
            table(head, body),
            "Ratios of speed, in the median of the rounds, where two do the same or bring comparable vectors.",
            table(["refembed / peer", *[ROWS[r].about for r in rows]], against),
        ]
        if results["absent"]:
            parts.append("Not measured: " + "; ".join(f"{n}: {why}" for n, why in results["absent"].items()) + ".")
    return "\n\n".join(parts) + "\n"


def plot(results: dict[str, Any], file: Path) -> None:
    """Error against speed, both axes logarithmic, as an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot, ticker

    mpl.rcParams["svg.hashsalt"] = "refembed"  # the same file from the same figures
    row = results["rows"][next(iter(results["rows"]))]
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    families: dict[str, list[str]] = {}
    for name in results["errors"]:
        family = next(c.family for c in CONTENDERS if c.name == name)
        families.setdefault(family, []).append(name)
    for marker, (family, names) in zip("osD^vPX", families.items(), strict=False):
        x = [row[n]["tokens a second"] for n in names]
        y = [max(results["errors"][n][0], 1e-16) for n in names]
        axes.scatter(x, y, marker=marker, label=family, s=50)
        for name, a, b in zip(names, x, y, strict=True):
            ours = family == "refembed"  # on the other side, since peers lie close
            at, align = ((-5, -11), "right") if ours else ((5, 4), "left")
            axes.annotate(
                name.removeprefix(family).strip(), (a, b), xytext=at, ha=align, textcoords="offset points", size=8
            )
    axes.set(xscale="log", yscale="log", xlabel="tokens a second", ylabel="1 - cos to float64, median of 40 texts")
    axes.xaxis.set_minor_locator(ticker.LogLocator(subs=(2, 3, 5)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks tradeoff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", nargs="+", metavar="ENGINE", default=["*"], help="names of contenders; * stands for any")
    p.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(SHOWN))
    p.add_argument("--threads", type=int, default=machine.cores())
    p.add_argument("--seconds", type=float, default=15.0, help="of rounds for each row")
    p.add_argument("--peers-python", metavar="PATH", default=os.environ.get("REFEMBED_PEERS_PYTHON"))
    p.add_argument("--native", metavar="DIR", default=os.environ.get("REFEMBED_NODE_LLAMA_CPP"))
    p.add_argument("--keep", action="store_true", help="keep the results of this machine, and make the page anew")
    p.add_argument("--tables", action="store_true", help="measure nothing: the page alone")
    args = p.parse_args(argv)
    if not args.tables:
        run(args)
    if args.keep or args.tables:
        every = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(FOLDER.glob("tradeoff-*.json"))]
        for results in every:
            plot(results, PAGE.parent / f"tradeoff-{machine.slug(results['machine'])}.svg")
        replace(PAGE, page(every))


if __name__ == "__main__":
    main()
