"""Processes and threads: texts a second, and the memory that a worker has of its own (docs/scale.md).

python -m benchmarks scale --model minilm:q8_0 --texts 2000 --rounds 3
python -m benchmarks scale --engines        # also the programs of examples/, on two workers: what an engine costs

Every round measures each number of processes and threads once, so that other work on the machine slows all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refembed.batch import EmbedBatch
from refembed.embedder import Embedder
from refembed.kernels import threads

ROOT = Path(__file__).parents[1]
FILES = 20
ENGINES = {"ray": "ray", "spark": "pyspark", "dask": "distributed", "datasets": "datasets"}
KINDS = ("Private_Clean", "Private_Dirty", "Shared_Clean", "Pss")


def main(args: Sequence[str]) -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--model", default="minilm:q8_0")
    parser.add_argument("--numerics", default="fast")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--words", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-budget", default=None)
    parser.add_argument("--engines", action="store_true")
    options = parser.parse_args(args)
    budget = int(options.memory_budget) if (options.memory_budget or "").isdecimal() else options.memory_budget
    texts = [f"{i} " + "the cat sat on a mat " * (options.words // 6) for i in range(options.texts)]
    e = Embedder.load(options.model, numerics=options.numerics, memory_budget=budget)
    tokens = sum(len(e.tokenize(text)) for text in texts) / len(texts)
    load = os.getloadavg()[0]
    print(f"{options.model}, {options.numerics}, {len(texts)} texts of {tokens:.0f} tokens; load {load:.1f} before")
    cores = threads.available()
    ways: dict[str, Any] = {"EmbedBatch, 1 process x 1 thread": batch(options, budget)}
    ways |= {f"{n} x {t}": pooled(e, n, t) for n, t in shapes(cores)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, dict[str, int]] = {}
    for turn in range(-1, options.rounds):
        for name, way in ways.items():
            seconds, computed, pids = way(texts)
            if turn >= 0:
                rates[name].append(len(texts) / seconds)
                spent[name].append(1000 * computed / len(texts))
            print(f"{name}: {seconds:.1f} s{' to warm' * (turn < 0)}", file=sys.stderr)
            if pids:
                memory[name] = pids
    if options.engines:
        for name, seconds in engines(str(e.info.path), texts):
            rates[name] = [len(texts) / seconds]
            print(f"{name}: {seconds:.1f} s", file=sys.stderr)
    print("\n| processes x threads | texts/s | least to most | ms of a core a text |\n|---|---:|---:|---:|")
    for name, found in rates.items():
        core = f"{statistics.median(spent[name]):.1f}" if name in spent else ""
        print(f"| {name} | {statistics.median(found):,.0f} | {min(found):,.0f} to {max(found):,.0f} | {core} |")
    print("\n| MiB of each worker | private | shared | proportional |\n|---|---:|---:|---:|")
    for name, kib in memory.items():
        own = kib["Private_Clean"] + kib["Private_Dirty"]
        print(f"| {name} | {own >> 10} | {kib['Shared_Clean'] >> 10} | {kib['Pss'] >> 10} |")


def shapes(cores: int) -> list[tuple[int, int]]:
    """Numbers of processes and of their threads: one, all threads of one process, and all divided."""
    found = [(1, 1), (1, cores)]
    found += [(n, cores // n) for n in range(2, cores + 1) if cores % n == 0]
    return list(dict.fromkeys(found))


def batch(options: argparse.Namespace, budget: Any) -> Any:
    """An engine's work on one worker: batches of 256 rows."""
    embed = EmbedBatch(options.model, numerics=options.numerics, memory_budget=budget)

    def run(texts: list[str]) -> tuple[float, float, dict[str, int]]:
        embed.ready()
        began, computed = time.perf_counter(), time.process_time()
        for at in range(0, len(texts), 256):
            embed({"text": texts[at : at + 256]})
        return time.perf_counter() - began, time.process_time() - computed, {}

    return run


def pooled(e: Embedder, n: int, t: int) -> Any:
    """One process of t threads, or a pool of n of them."""

    def run(texts: list[str]) -> tuple[float, float, dict[str, int]]:
        threads.use(t)
        if n > 1:
            e.start_pool(n, threads=t)
            e.embed(texts[:64] * n)  # each has packed its weights
        pool = e.running_pool()
        pids = pool.pids if pool else []
        began, computed = time.perf_counter(), computed_by(pids)
        for _ in e.embed_iter(texts):
            pass
        seconds, computed = time.perf_counter() - began, computed_by(pids) - computed
        found = memory_of(pids) if pids else {}
        e.stop_pool()
        return seconds, computed, found

    return run


def computed_by(pids: list[int]) -> float:
    """Seconds of a core that this process and others have computed."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def engines(model: str, texts: list[str]) -> Iterator[tuple[str, float]]:
    """Seconds from the start of each program of examples/ to its end, Python, JVM and models included."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "texts")
        source.mkdir()
        for n in range(FILES):
            part = range(n * len(texts) // FILES, (n + 1) * len(texts) // FILES)
            pq.write_table(pa.table({"id": list(part), "text": [texts[i] for i in part]}), source / f"{n:03}.parquet")
        for name, library in ENGINES.items():
            if importlib.util.find_spec(library):
                program = [f"examples/embed_{name}.py", str(source), f"{folder}/{name}", model]
                submit = str(Path(sys.executable).with_name("spark-submit"))
                run = [submit, "--master", "local[2,4]"] if name == "spark" else [sys.executable]
                env = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
                began = time.perf_counter()
                subprocess.run([*run, *program], check=True, capture_output=True, cwd=ROOT, env=env)
                yield f"{name}, 2 workers", time.perf_counter() - began


def memory_of(pids: list[int]) -> dict[str, int]:
    """KiB of a worker, the mean over all, as the system counts them."""
    total = dict.fromkeys(KINDS, 0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name = line.partition(":")[0]
            if name in total:
                total[name] += int(line.split()[1])
    return {name: kib // len(pids) for name, kib in total.items()}
