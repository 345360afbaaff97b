"""What `python -m benchmarks scale` runs: one process and several, a stub behind tokenizers, programs of engines."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refembed.batch import EmbedBatch
from refembed.embedder import Embedder
from refembed.kernels import threads

ROOT = Path(__file__).resolve().parents[1]
FILES = 20
WORKERS = 2
ENGINES = {  # name -> the library that it needs
    "no engine": "pyarrow", "`embed --engine ray`": "ray", "Ray Data": "ray", "Spark": "pyspark",
    "Dask": "distributed", "datasets": "datasets",
}  # fmt: skip
KINDS = ("Private_Clean", "Private_Dirty", "Shared_Clean", "Shared_Dirty", "Pss")
Way = Callable[[list[str]], tuple[float, float, dict[str, int]]]  # seconds, seconds of a core, KiB of a worker

# a program without an engine: its share of the files, one after the other
PLAIN = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from refembed.batch import EmbedBatch
texts, vectors, model, part, of = sys.argv[1:]
batch = EmbedBatch(model)
Path(vectors).mkdir(parents=True, exist_ok=True)
for file in sorted(Path(texts).glob("*.parquet"))[int(part)::int(of)]:
    pq.write_table(batch(pq.read_table(file)), Path(vectors, file.name))
"""


def processes(e: Embedder, options: argparse.Namespace, texts: list[str]) -> dict[str, Any]:
    """Seconds of each way in each round, seconds of a core, and the memory of a worker."""
    ways: dict[str, Way] = {"`EmbedBatch`, 1 x 1": batched(options)}
    ways |= {f"{n} x {t}": pooled(e, n, t) for n, t in shapes(threads.available())}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    computed: dict[str, list[float]] = {name: [] for name in ways}
    memory: dict[str, dict[str, int]] = {}
    for turn in range(-1, options.rounds):
        for name, way in ways.items():
            taken, of_a_core, kib = way(texts[:200] if turn < 0 else texts)
            if turn >= 0:
                seconds[name].append(taken)
                computed[name].append(of_a_core)
            if kib:
                memory[f"{name}, `memory_budget` as it is"] = kib
            print(f"{name}: {taken:.1f} s{' to warm' * (turn < 0)}", file=sys.stderr)
    mapped = Embedder.load(options.model, numerics=options.numerics, memory_budget="mapped")
    *_, memory[f"{WORKERS} x 1, `memory_budget` mapped"] = pooled(mapped, WORKERS, 1)(texts[:200])
    return {"seconds": seconds, "computed": computed, "memory": memory}


def shapes(cores: int) -> list[tuple[int, int]]:
    """Numbers of processes and of their threads: one, all threads of one process, and all divided."""
    found = [(1, 1), (1, cores)]
    found += [(n, cores // n) for n in range(2, cores + 1) if cores % n == 0]
    return list(dict.fromkeys(found))


def batched(options: argparse.Namespace) -> Way:
    """An engine's work on one worker: batches of 256 rows."""
    embed = EmbedBatch(options.model, numerics=options.numerics)

    def run(texts: list[str]) -> tuple[float, float, dict[str, int]]:
        embed.ready()
        began, computed = time.perf_counter(), time.process_time()
        for at in range(0, len(texts), 256):
            embed({"text": texts[at : at + 256]})
        return time.perf_counter() - began, time.process_time() - computed, {}

    return run


def pooled(e: Embedder, n: int, t: int) -> Way:
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
        found = memory_of(pids, e.info.path) if pids else {}
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


def memory_of(pids: list[int], model: Path) -> dict[str, int]:
    """KiB of a worker, the mean over all, as the system counts them; `model`: shared pages of its file."""
    total = dict.fromkeys((*KINDS, "model"), 0)
    for pid in pids:
        ours = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                ours = line.endswith(str(model.resolve()))
                continue
            name, _, value = line.partition(":")
            if name in KINDS:
                total[name] += int(value.split()[0])
                total["model"] += int(value.split()[0]) * (ours and name.startswith("Shared"))
    return {name: kib // len(pids) for name, kib in total.items()}


def tokenizers(e: Embedder, texts: list[str]) -> dict[str, dict[str, float]]:
    """Tokens a second through a model in whose place a stub computes nothing, or waits as a GPU would be waited for."""
    many = [f"{i} {text}" for i in range(20) for text in texts[:1000]]
    ids = [e.tokenize(text) for text in many[:1000]]
    zeros = np.zeros(e.width(e.resolve_options().pooling), np.float32)

    def rate(pace: float, n: int | None) -> float:
        """With a stub that computes `pace` tokens a second."""
        done = 0

        def stub(batch: list[list[int]], *options: Any) -> list[Any]:
            nonlocal done
            tokens = sum(map(len, batch))
            done += tokens
            time.sleep(tokens / pace if pace else 0)
            return [zeros] * len(batch)

        e.vectors = stub  # type: ignore[method-assign]
        try:
            stream = e.embed_iter(many, tokenizers=n)
            next(stream)  # processes have started
            first, began = done, time.perf_counter()
            for _ in stream:
                pass
            return (done - first) / (time.perf_counter() - began)
        finally:
            del e.vectors  # type: ignore[method-assign]

    began = time.perf_counter()
    for text in many[:1000]:
        e.tokenize(text)
    alone = sum(map(len, ids)) / (time.perf_counter() - began)
    paces = {"that computes nothing": 0.0, f"of {alone:,.0f} tokens/s": alone, f"of {2 * alone:,.0f}": 2 * alone}
    ways = {"tokenized here": None, "`tokenizers=1`": 1, "`tokenizers=2`": 2}
    return {name: {spelled: rate(pace, n) for spelled, pace in paces.items()} for name, n in ways.items()}


def engines(e: Embedder, texts: list[str]) -> tuple[dict[str, tuple[int, float, int, float]], dict[str, str]]:
    """(texts, seconds) of each engine's program with few texts and with many, Python, JVM and models included; and why
    others were left out."""
    found: dict[str, tuple[int, float, int, float]] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        few = len(texts) // 10
        for name in ENGINES:
            if importlib.util.find_spec(ENGINES[name]) is None:
                absent[name] = f"{ENGINES[name]} is not installed"
                continue
            try:
                times = [program(name, str(e.info.path), texts[:n], Path(folder)) for n in (few, len(texts))]
            except subprocess.CalledProcessError as error:
                absent[name] = f"its program failed: {last_line(error.stderr)}"
                continue
            found[name] = (few, times[0], len(texts), times[1])
            print(f"{name}: {times[0]:.1f} s, {times[1]:.1f} s", file=sys.stderr)
    return found, absent


def last_line(said: bytes) -> str:
    """Of what a program said."""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def program(name: str, model: str, texts: list[str], folder: Path) -> float:
    """Seconds from the start of an engine's program to its end. CalledProcessError."""
    source, target = folder / f"texts-{len(texts)}", folder / f"vectors-{list(ENGINES).index(name)}-{len(texts)}"
    if not source.exists():
        write(source, texts)
    env = os.environ | {
        "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "HF_HOME": str(folder / "hf"),
        "PYTHONWARNINGS": "ignore", "SPARK_LOCAL_IP": "127.0.0.1",
    }  # fmt: skip
    began = time.perf_counter()
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, env=env)
        for command in commands(name, str(source), str(target), model)
    ]
    said = [process.communicate()[1] for process in running]
    seconds = time.perf_counter() - began
    for process, stderr in zip(running, said, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, stderr=stderr)
    return seconds


def commands(name: str, source: str, target: str, model: str) -> Iterator[list[str]]:
    """What is started, all at the same time."""
    python, n = sys.executable, str(WORKERS)
    if name == "no engine":
        yield from ([python, "-c", PLAIN, source, target, model, str(i), n] for i in range(WORKERS))
    elif name == "`embed --engine ray`":
        files = [source, "--engine", "ray", "--output", target, "--processes", n]
        yield [python, "-m", "refembed", "embed", "-q", "-m", model, *files]
    elif name == "Spark":
        submit = str(Path(python).with_name("spark-submit"))
        yield [submit, "--master", f"local[{n},4]", "examples/embed_spark.py", source, target, model]
    else:
        example = {"Ray Data": "ray", "Dask": "dask", "datasets": "datasets"}[name]
        yield [python, f"examples/embed_{example}.py", source, target, model, n]


def write(folder: Path, texts: list[str]) -> None:
    """The texts in FILES files of Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for n in range(FILES):
        part = range(n * len(texts) // FILES, (n + 1) * len(texts) // FILES)
        columns = {"id": pa.array(part, pa.int64()), "text": pa.array([texts[i] for i in part], pa.string())}
        table = pa.table(columns)  # of the same types where a file has no rows
        pq.write_table(table, folder / f"{n:03}.parquet")
