"""Another commit's code, compared with this one: python -m benchmarks before COMMIT [--models ...] [--rows ...]

Both in processes of their own, in turns; tokens a second, and the median over the rounds of (seconds of the commit's /
seconds of this code's), so that above 1 this code is the faster one. Then the seconds of `import refembed` and of
loading a model and embedding one word, each in fresh processes. Kernels are compiled before the clock starts.

    python -m benchmarks before HEAD~20 --rows 1x8 256x32 --numerics fast
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.peers import Model
from benchmarks.processes import ROOT, Worker
from benchmarks.rounds import interleaved, median, ratio
from benchmarks.speed import vocabulary
from benchmarks.texts import ROWS, token_ids
from conformance.models import model_path

NOW = "this code"
STARTS = {
    "import refembed": "import refembed",
    "load, one word": "from refembed import Embedder; Embedder.load({model!r}, numerics={numerics!r}).embed(['word'])",
}


def checked_out(commit: str, folder: Path) -> Path:
    """A folder with the commit's package `refembed` and this code's `benchmarks`."""
    archive = subprocess.run(["git", "archive", commit, "refembed"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        sys.exit(f"git archive {commit}: {archive.stderr.decode(errors='replace').strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


def speed(model: str, numerics: str, roots: dict[str, Path], caches: Path, args: argparse.Namespace) -> None:
    """Tokens a second of both, row by row."""
    path = str(model_path(model))
    with ExitStack() as stack:
        workers = {}
        for name, root in roots.items():
            worker = Worker(name, None, {"NUMBA_CACHE_DIR": str(caches / name)}, root=root)
            workers[name] = stack.enter_context(worker)
            workers[name].open("Refembed", model=path, threads=args.threads, numerics=numerics)
        for row in args.rows:
            ids, least, runs = token_ids(ROWS[row], vocabulary(Model(model, path))), 0.2 if ROWS[row].alone else 0.0, {}
            for name, worker in workers.items():
                way = worker.ask("give", row=row, ids=ids)["ways"][0]
                worker.ask("run", row=row, way=way, least=least)
                ask = partial(worker.ask, "run", row=row, way=way, least=least)
                runs[name] = lambda ask=ask: float(ask()["seconds"])
            taken = interleaved(runs, dict.fromkeys(runs, 1.0), seconds=args.seconds, most=args.rounds)
            tokens, r = sum(map(len, ids)), ratio(taken[args.commit], taken[NOW])
            rates = "  ".join(f"{name} {tokens / median(found):,.0f}" for name, found in taken.items())
            low, high = f"{r.low:.2f}", f"{r.high:.2f}"
            print(f"{model:<14} {numerics:<6} {row:<7} {rates}  ratio {r.median:.2f} ({low} to {high})", flush=True)


def starts(model: str, numerics: str, roots: dict[str, Path], caches: Path, args: argparse.Namespace) -> None:
    """Seconds of a fresh process."""
    for what, line in STARTS.items():
        code = line.format(model=str(model_path(model)), numerics=numerics)

        def seconds(name: str, code: str = code) -> float:
            env = {**os.environ, "NUMBA_CACHE_DIR": str(caches / name), "PYTHONPATH": str(roots[name])}
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=roots[name], env=env, check=True)
            return time.perf_counter() - begin

        runs = {name: partial(seconds, name) for name in roots}
        taken = interleaved(runs, {name: run() for name, run in runs.items()}, seconds=args.seconds, most=args.rounds)
        r = ratio(taken[args.commit], taken[NOW])
        rates = "  ".join(f"{name} {median(found) * 1000:,.0f} ms" for name, found in taken.items())
        print(f"{what:<22} {numerics:<6}  {rates}  ratio {r.median:.2f} ({r.low:.2f} to {r.high:.2f})", flush=True)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks before", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("commit")
    p.add_argument("--models", nargs="+", default=["minilm-f32", "minilm-q8_0"], help="of conformance/models.toml")
    p.add_argument("--rows", nargs="+", choices=list(ROWS), default=["256x32", "48x256", "mixed", "1x8", "1x512"])
    p.add_argument("--numerics", nargs="+", default=["fast", "ggml"])
    p.add_argument("--threads", type=int, default=machine.cores())
    p.add_argument("--seconds", type=float, default=8.0, help="of rounds for each row")
    p.add_argument("--rounds", type=int, default=15, help="of each row, at most")
    args = p.parse_args(argv)
    for name, value in {**machine.facts(), "load": f"{os.getloadavg()[0]:.1f}"}.items():
        print(f"{name:<12}{value}")
    with tempfile.TemporaryDirectory() as name:
        tree, caches = Path(name) / "tree", Path(name) / "caches"
        tree.mkdir()
        roots = {args.commit: checked_out(args.commit, tree), NOW: ROOT}
        for numerics in args.numerics:
            for model in args.models:
                speed(model, numerics, roots, caches, args)
            starts(args.models[0], numerics, roots, caches, args)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
