"""The measurements other than throughput, one function a section: what each gives goes into the results as it is."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.memory import measure
from benchmarks.peers import GGML, WHEEL, Model, Peers, Settings
from benchmarks.processes import ROOT, Worker, WorkerError, job
from benchmarks.texts import ROWS, Row, token_ids
from refembed.embedder import FORWARD_TOKENS

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import refembed": ["-c", "import refembed"],
    "refembed --help": ["-m", "refembed", "--help"],
    "refembed tokenize hi": ["-m", "refembed", "tokenize", "hi"],
    "refembed embed hi": ["-m", "refembed", "embed", "hi"],
}
SHAPES = {"minilm": [(384, 384), (1536, 384), (384, 1536)], "gemma": [(1024, 640), (2048, 640), (640, 2048)]}  # (n, k)
HEIGHT = FORWARD_TOKENS  # rows of a product: what `fast` computes at a time
SIZES = (1, 8, 32, 128, 256)  # texts of a call


@dataclasses.dataclass
class Bench:
    """What sections are given: the models by name ("minilm-f32" ...), and the settings."""

    models: dict[str, Model]
    settings: Settings
    n_vocab: dict[str, int]
    quick: bool = False
    long: bool = False

    @property
    def largest(self) -> list[Model]:
        """Models whose loading and memory are looked at."""
        return [self.models[n] for n in ("minilm-q8_0", "gemma-3-270m-q4_k_m") if n in self.models]


def loading(bench: Bench) -> dict[str, Any]:
    """Seconds until a model is ready, fresh and again, and llama.cpp's until it has a context (fresh)."""
    found = {}
    for model in [bench.models["minilm-f32"], *bench.largest]:
        ids = token_ids(Row(1, 8, ""), bench.n_vocab[model.name], model.first, model.last)[0]
        found[model.name] = job(
            "load", model=model.path, pooling=model.pooling, ids=ids, rounds=2 if bench.quick else 7
        )
        with Worker("llama.cpp") as worker:
            try:
                opened = worker.open("LlamaCpp", model=model.path, threads=1, pooling=model.pooling)
                found[model.name]["llama.cpp"] = opened["seconds"]
            except WorkerError as e:
                print(f"  {e}")
    return found


def cold(bench: Bench) -> dict[str, list[float]]:
    """Seconds of whole processes, kernels and models cached: the first of each warms up and is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(3 if bench.quick else 8):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def memory(bench: Bench) -> dict[str, Any]:
    """MiB at the peak, of one text of 512 tokens: `memory.py`, decoded weights kept or not."""
    found: dict[str, Any] = {}
    for model in bench.largest:
        for engine in ("fast", "fast, budget 0", "llama.cpp"):
            most = measure(engine, model.path)
            most.pop("vector")
            found.setdefault(model.name, {})[engine] = most
    return found


def batches(bench: Bench) -> dict[str, Any]:
    """Texts of 32 tokens, so many in a call: MiniLM F32."""
    model = bench.models["minilm-f32"]
    settings = dataclasses.replace(bench.settings, seconds=3, alone=bench.settings.alone, shrink=1)
    settings.only = tuple(n for n in settings.only if n not in (GGML, WHEEL))
    with Peers(model, settings) as peers:
        sizes = SIZES[:3] if bench.quick else SIZES
        return {str(n): peers.row(f"{n} at once", Row(n, 32, ""), bench.n_vocab[model.name]) for n in sizes}


def by_threads(bench: Bench) -> dict[str, Any]:
    """64 texts of 32 tokens by one thread, two, ... as many as there are cores: MiniLM F32."""
    model, found = bench.models["minilm-f32"], {}
    for threads in sorted({1, min(2, bench.settings.threads), bench.settings.threads}):
        settings = dataclasses.replace(bench.settings, threads=threads, seconds=3)
        settings.only = tuple(n for n in settings.only if n != GGML)
        with Peers(model, settings) as peers:
            found[str(threads)] = peers.row("64x32", Row(64, 32, ""), bench.n_vocab[model.name])
    return found


def growth(bench: Bench) -> dict[str, Any]:
    """Endless input, by tenths: MiniLM F32, texts of 8 tokens."""
    count = 102_400 if bench.long else 10_240 if bench.quick else 20_480  # tenths of whole batches
    threads = bench.settings.threads
    found: dict[str, Any] = job("growth", model=bench.models["minilm-f32"].path, count=count, length=8, threads=threads)
    return found


def sgemm(bench: Bench) -> dict[str, Any]:
    """The products of linear layers compared with NumPy's sgemm, one thread each."""
    rounds, env = 3 if bench.quick else 15, {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {name: job("sgemm", env=env, shapes=s, rows=HEIGHT, rounds=rounds) for name, s in SHAPES.items()}


def profile(bench: Bench) -> dict[str, Any]:
    """Where one core's time goes."""
    found = {}
    wanted = {"minilm-f32": ("256x32", "48x256", "1x8", "1x512"), "gemma-3-270m-q4_k_m": ("32x64", "1x512")}
    for name, rows in wanted.items():
        if name in bench.models:
            model = bench.models[name]
            texts = {}
            for r in rows:
                row = ROWS[r]
                row = Row(max(row.count // (8 if bench.quick else 1), 1), row.length, "")
                texts[r] = token_ids(row, bench.n_vocab[name], model.first, model.last)
            found[name] = job("profile", model=model.path, pooling=model.pooling, rows=texts, least=0.5)
    return found


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "loading": loading, "cold": cold, "memory": memory, "batches": batches, "threads": by_threads,
    "growth": growth, "sgemm": sgemm, "profile": profile,
}  # fmt: skip
