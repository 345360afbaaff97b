"""Decoders that people download most: python -m benchmarks families [--families qwen3moe ...] [--types Q8_0 ...]

Synthetic models of about 100 million weights of each family, `fast` and `int8` compared with llama.cpp, each in a
process of its own, in turns; tokens a second, and the median over the rounds of (seconds of llama.cpp / seconds of the
engine). llama.cpp is that of the wheel, which is built for AVX2 and not for the machine at hand ("llama.cpp, wheel"),
unless --native names a folder of libraries. --scale 0.1 makes the models a tenth as wide, for a look.

It may run unattended: what fails is said and the next model is measured, and no model is begun that would not be done
within --minutes, by what the slowest took so far. Each is named at the end, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.integers import LLAMA, measure
from benchmarks.peers import native_cpu
from benchmarks.processes import Worker
from benchmarks.texts import ROWS, token_ids
from refembed import open_gguf
from refembed.testing.synthetic import synthetic

V = 8000
EXPERTS: dict[str, Any] = {"C": 768, "H": 12, "K": 4, "D": 64, "F": 2048, "n_layer": 8, "X": 16, "n_used": 4}
DENSE: dict[str, Any] = {"C": 768, "H": 12, "K": 4, "D": 64, "F": 3072, "n_layer": 12}
WIDTH = {"expert_feed_forward_length": (256, "UINT32")}
FAMILIES: dict[str, dict[str, Any]] = {  # arguments of `synthetic`
    "qwen3moe": EXPERTS | {"keys": WIDTH},
    "gpt-oss": EXPERTS | {"keys": WIDTH, "window": 128},
    "gemma4": DENSE | {"E": 64, "window": 512},
    "qwen35": DENSE | {"conv": 4, "N": 64, "dt": 12, "G": 4},
    "olmo2": DENSE | {"K": 12},
}
ENGINES = ("fast", "int8", LLAMA)


def scaled(sizes: dict[str, Any], scale: float) -> dict[str, Any]:
    """Sizes of a narrower model: fewer layers, fewer heads of 64, and widths that stay multiples of 256."""
    if scale == 1:
        return sizes
    narrow = {letter: max(int(sizes[letter] * scale) // 256, 1) * 256 for letter in ("C", "F")}
    H = narrow["C"] // sizes["D"]
    heads = {"H": H, "K": H * sizes["K"] // sizes["H"]}
    return sizes | narrow | heads | {"n_layer": max(int(sizes["n_layer"] * scale), 3)}


def write(family: str, type_name: str, scale: float, folder: Path) -> tuple[Path, int]:
    """A model of the family, and how many weights it has."""
    path = synthetic(
        folder / f"{family}-{type_name}.gguf", family, P=2048, V=V, type_name=type_name, pooling=3,
        **scaled(FAMILIES[family], scale),
    )  # fmt: skip
    total = 0
    for tensor in open_gguf(path).tensors.values():
        count = 1
        for n in tensor.shape:
            count *= n
        total += count
    return path, total


def opened(path: Path, args: argparse.Namespace) -> dict[str, Worker]:
    """An engine a process."""
    workers: dict[str, Worker] = {}
    for name in args.engines:
        single = {"OPENBLAS_NUM_THREADS": "1"} if name == LLAMA else {}
        workers[name] = Worker(name, None, single)
        native = {"lib": args.native, "cpu": native_cpu(Path(args.native))} if args.native else {}
        options = native if name == LLAMA else {"numerics": name}
        engine = "LlamaCpp" if name == LLAMA else "Refembed"
        workers[name].open(engine, model=str(path), threads=args.threads, **options)
    return workers


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    p.add_argument("--types", nargs="+", default=["F16", "Q8_0"], help="of the weights")
    p.add_argument("--rows", nargs="+", choices=list(ROWS), default=["32x64", "1x512"])
    p.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    p.add_argument("--threads", type=int, default=machine.cores())
    p.add_argument("--seconds", type=float, default=6.0, help="of rounds for each row")
    p.add_argument("--minutes", type=float, default=9.5, help="for all models; what does not fit is left out")
    p.add_argument("--scale", type=float, default=1.0, help="of widths and layers")
    p.add_argument("--native", help="a folder of llama.cpp's libraries, built for this machine")
    args = p.parse_args(argv)
    build = f"native: {args.native}" if args.native else "wheel, built for AVX2, not native"
    for name, value in {**machine.facts(), "load": f"{os.getloadavg()[0]:.1f}", LLAMA: build}.items():
        print(f"{name:<12}{value}")
    begin, longest, missing = time.monotonic(), 0.0, []
    for family, type_name in itertools.product(args.families, args.types):
        started = time.monotonic()
        if started - begin + longest >= 60 * args.minutes:
            missing.append(f"{family} {type_name}: no time left")
            continue
        try:
            measure_model(family, type_name, args)
        except Exception as e:
            missing.append(f"{family} {type_name}: {type(e).__name__}: {e}")
        longest = max(longest, time.monotonic() - started)
    print(f"load {os.getloadavg()[0]:.1f} at the end, after {(time.monotonic() - begin) / 60:.1f} minutes")
    for line in missing:
        print(f"missing: {line}")
    if missing:
        sys.exit(1)


def measure_model(family: str, type_name: str, args: argparse.Namespace) -> None:
    """One model, all rows."""
    with tempfile.TemporaryDirectory() as folder:
        path, count = write(family, type_name, args.scale, Path(folder))
        workers: dict[str, Worker] = {}
        try:
            workers = opened(path, args)
            for row in args.rows:
                label = f"{family} {type_name} {count / 1e6:.0f}M"
                measure(workers, label, row, token_ids(ROWS[row], V), args.seconds)
        finally:
            for worker in workers.values():
                worker.close()


if __name__ == "__main__":
    main()
