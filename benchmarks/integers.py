"""Products of whole numbers: python -m benchmarks integers [--models minilm-q8_0 ...] [--rows 256x32 ...] [--threads N]

Speed: `int8`, `fast`, `fast` with its products in float32 ("float32"), and llama.cpp from the wheel, or with --native
from a folder of its libraries, each in a process of its own, in turns; tokens a second, and the median over the rounds
of (seconds of the peer / seconds of the engine).
Error: 1 - cos to `exact`, median and worst of 40 texts of the suite; llama.cpp's own is that of `ggml`, which has its
bits (flash attention on). --error and --speed leave the other out.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.peers import Model, native_cpu
from benchmarks.processes import Worker
from benchmarks.rounds import interleaved, median, ratio
from benchmarks.speed import vocabulary
from benchmarks.texts import ROWS, token_ids
from conformance.cases import load_texts
from conformance.models import model_path
from refembed import Embedder

FLOAT32, LLAMA = "float32", "llama.cpp"
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("Refembed", {"numerics": "int8"}),
    "fast": ("Refembed", {"numerics": "fast"}),
    FLOAT32: ("Refembed", {"numerics": "fast", "bits": 0}),
    LLAMA: ("LlamaCpp", {}),
}
MODELS = ("minilm-q8_0", "minilm-q4_0", "minilm-q4_k_m")
TEXTS = 40


def error(model: str) -> None:
    """A line of the table of errors."""
    every = [text.data for text in load_texts().values()]
    texts = every[:: max(len(every) // TEXTS, 1)][:TEXTS]
    path = model_path(model)
    exact = [v.astype(np.float64) for v in Embedder.load(path, numerics="exact").embed(texts, truncate=True)]
    line = f"{model:<16}"
    for numerics in ("ggml", "int8", "fast"):
        found = Embedder.load(path, numerics=numerics).embed(texts, truncate=True)
        far = [
            1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            for a, b in zip(exact, np.float64(found), strict=True)
        ]
        line += f"  {numerics} {np.median(far):.1e} / {max(far):.1e}"
    print(line, flush=True)


def speed(model: str, args: argparse.Namespace) -> None:
    """Lines of the table of speeds."""
    path = str(model_path(model))
    n_vocab, workers = vocabulary(Model(model, path)), {}
    try:
        for name in args.engines:
            engine, options = ENGINES[name]
            single = {"OPENBLAS_NUM_THREADS": "1"} if engine == "LlamaCpp" else {}
            native = {"lib": args.native, "cpu": native_cpu(Path(args.native))} if args.native else {}
            workers[name] = Worker(name, None, single)
            workers[name].open(engine, model=path, threads=args.threads, **options, **(native if name == LLAMA else {}))
        for row in args.rows:
            measure(workers, model, row, token_ids(ROWS[row], n_vocab), args.seconds)
    finally:
        for worker in workers.values():
            worker.close()


def measure(workers: dict[str, Worker], model: str, row: str, ids: list[list[int]], seconds: float) -> None:
    """One row."""
    runs, probe = {}, {}
    least = 0.2 if ROWS[row].alone else 0.0
    for name, worker in workers.items():
        ways = worker.ask("give", row="some", ids=ids[:: max(len(ids) // 8, 1)])["ways"]
        each = {way: worker.ask("run", row="some", way=way, least=least / 4)["seconds"] for way in [*ways[:1], *ways]}
        way = min(each, key=each.__getitem__)
        probe[name] = each[way]
        worker.ask("give", row=row, ids=ids)
        runs[name] = partial(lambda w, way: float(w.ask("run", row=row, way=way, least=least)["seconds"]), worker, way)
    taken = interleaved(runs, dict.fromkeys(probe, 1.0), seconds=seconds)  # all in every round
    tokens = sum(map(len, ids))
    line = f"{model:<14} {row:<7}"
    for name, found in taken.items():
        line += f"  {name} {tokens / median(found):,.0f}"
    for name in ("int8", "fast"):
        for peer in {FLOAT32, LLAMA} & set(taken) if name in taken else ():
            r = ratio(taken[peer], taken[name])
            line += f"  {name}/{peer} {r.median:.2f} ({r.low:.2f} to {r.high:.2f})"
    print(line, flush=True)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks integers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--models", nargs="+", default=list(MODELS), help="of conformance/models.toml, or GGUF files")
    p.add_argument("--rows", nargs="+", choices=list(ROWS), default=["256x32", "48x256", "mixed", "1x8", "1x512"])
    p.add_argument("--threads", type=int, default=machine.cores())
    p.add_argument("--seconds", type=float, default=8.0, help="of rounds for each row")
    p.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    p.add_argument("--native", metavar="DIR", help="a folder of llama.cpp's libraries, built for this machine")
    p.add_argument("--error", action="store_true")
    p.add_argument("--speed", action="store_true")
    args = p.parse_args(argv)
    for name, value in {**machine.facts(), "load": f"{os.getloadavg()[0]:.1f}"}.items():
        print(f"{name:<12}{value}")
    for model in args.models:
        if args.error or not args.speed:
            error(model)
        if args.speed or not args.error:
            speed(model, args)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
