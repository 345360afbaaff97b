"""The engines that stand side by side on one model, each in its own process; who is absent is named in a sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.engines import AS_PUBLISHED
from benchmarks.processes import Worker, WorkerError, job
from benchmarks.rounds import interleaved
from benchmarks.texts import Row, token_ids

OURS, GGML = "refembed", "refembed ggml"
WHEEL, NATIVE, TORCH, ONNX = "llama.cpp, wheel", "llama.cpp, native", "PyTorch", "ONNX Runtime"
ENGINES = (OURS, GGML, WHEEL, NATIVE, TORCH, ONNX)
FLOAT = 0.99999  # least cosine between engines' vectors on float weights; PyTorch's rounding is 1e-7 away
QUANTIZED = 0.999
GEMMA = 0.997  # 8-bit activations: 0.9975 on random ids, in llama.cpp and in refembed's `ggml`, which has its bits
SOME = 2048  # tokens of a row that ways and vectors are compared on


@dataclass(frozen=True)
class Model:
    """A file that engines run. pooling: as asked of each; folder: the same weights as published, for PyTorch."""

    name: str
    path: str
    pooling: str = "native"
    folder: str | None = None
    first: int | None = 101
    last: int | None = 102

    @property
    def alike(self) -> float:
        """The least cosine that vectors of two engines may have."""
        if self.name.startswith("gemma"):
            return GEMMA
        return FLOAT if self.name.endswith(("f32", "f16")) else QUANTIZED


@dataclass
class Settings:
    """How much is measured, and who takes part."""

    seconds: float = 8.0  # of rounds for a row, at least
    least: int = 3  # rounds
    most: int = 9
    alone: float = 0.2  # seconds that runs of a single text are repeated for in a round
    shrink: int = 1  # rows have so many times fewer texts
    threads: int = 1
    native: Path | None = None
    python: str | None = None
    onnx: str | None = None
    only: tuple[str, ...] = ENGINES
    ways: dict[tuple[str, str], str] = field(default_factory=dict)  # (engine, row) -> the fastest way, found once
    skipped: dict[str, str] = field(default_factory=dict)  # engine -> why
    builds: dict[str, str] = field(default_factory=dict)


def native_cpu(folder: Path) -> str:
    """The CPU backend of a folder that llama.cpp's loader would choose here; WorkerError where none fits."""
    present = machine.backends(folder)
    chosen = machine.variant(present, machine.flags())
    if chosen is None:
        raise WorkerError(f"{folder}: no CPU backend that runs here; there are {', '.join(present) or 'none'}", True)
    return chosen


def start(name: str, model: Model, settings: Settings) -> Worker | None:
    """The worker of one engine with the model loaded; None, and a sentence in `skipped`, where it takes no part."""
    if name not in settings.only or name in settings.skipped or (name in (TORCH, ONNX) and model.folder is None):
        return None
    try:
        return started(name, model, settings)
    except WorkerError as e:
        if name == OURS:
            raise
        settings.skipped[name] = str(e)
        print(f"without {name}: {e}", flush=True)
        return None


def started(name: str, model: Model, settings: Settings) -> Worker:
    """`start`, with WorkerError for the absent."""
    common: dict[str, Any] = {"model": model.path, "threads": settings.threads}
    engine, python, more = "LlamaCpp", None, {"pooling": model.pooling}
    if name in (OURS, GGML):
        engine, more = "Refembed", more | {"numerics": "fast" if name == OURS else "ggml"}
    elif name == NATIVE:
        if settings.native is None:
            raise WorkerError("no folder of its libraries: --native DIR or REFEMBED_NODE_LLAMA_CPP=DIR", True)
        more |= {"lib": str(settings.native), "cpu": native_cpu(settings.native)}
    elif name in (TORCH, ONNX):
        if settings.python is None:
            raise WorkerError("no interpreter that has it: --peers-python PATH or REFEMBED_PEERS_PYTHON=PATH", True)
        engine, python, more = ("SentenceTransformers" if name == TORCH else "OnnxRuntime"), settings.python, {}
        common["model"] = model.folder if name == TORCH else exported(model, settings)
    single = {"OPENBLAS_NUM_THREADS": "1"} if engine == "LlamaCpp" else {}
    worker = Worker(name, python, single)
    try:
        about = worker.open(engine, **common, **more)["about"]
    except BaseException:
        worker.close()
        raise
    suffix = f", CPU backend {more['cpu']}" if name == NATIVE else ""
    if name not in (OURS, GGML):
        settings.builds[name] = ", ".join(about.values()) + suffix
    return worker


def exported(model: Model, settings: Settings) -> str:
    """The model as an ONNX file, made by PyTorch when first needed."""
    assert settings.onnx
    assert model.folder
    file = Path(settings.onnx) / f"{Path(model.folder).name}.onnx"
    if not file.is_file():
        job("export", settings.python, folder=model.folder, file=os.fspath(file))
    return os.fspath(file)


class Peers:
    """The engines of one model, while the context lasts."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> Peers:
        try:
            for name in ENGINES:
                worker = start(name, self.model, self.settings)
                if worker:
                    self.workers[name] = worker
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def row(self, name: str, row: Row, n_vocab: int) -> dict[str, Any]:
        """One row: in which way each is fastest, who agrees, and the seconds of each in interleaved rounds."""
        s = self.settings
        if not row.alone:
            row = Row(max(row.count // s.shrink, 2), row.length, row.about)
        ids = token_ids(row, n_vocab, self.model.first, self.model.last)
        some = ids[:: max(sum(map(len, ids)) // SOME, 1)]
        found = self.ready(name, row, ids, some)
        wrong = {n: f["cosine"] for n, f in found.items() if not f["cosine"] >= self.model.alike}
        for engine, value in wrong.items():
            print(f"  {engine} computes something else here (cosine {value:.6f}): it is not timed", flush=True)
            del found[engine]
        least = s.alone if row.alone else 0
        seconds = interleaved(
            {n: partial(self.seconds, n, name, f["way"], least) for n, f in found.items()},
            {n: f["probe"] for n, f in found.items()},
            seconds=s.seconds, least=s.least, most=s.most,
        )  # fmt: skip
        engines = {
            n: {"way": f["way"], "cosine": f["cosine"], "seconds": seconds[n]}
            for n, f in found.items()
            if any(x is not None for x in seconds[n])
        }
        return {"texts": len(ids), "tokens": sum(map(len, ids)), "engines": engines, "disagree": wrong}

    def ready(self, name: str, row: Row, ids: list[list[int]], some: list[list[int]]) -> dict[str, dict[str, Any]]:
        """Give each engine the row: {engine: its way, its seconds and its least cosine on some of the texts}."""
        found: dict[str, dict[str, Any]] = {}
        ours: Any = None
        for engine, worker in list(self.workers.items()):
            try:
                way = self.way(engine, name, ids, some)
                worker.ask("give", row="some", ids=some)
                vectors = worker.vectors("some", way)
                ours = vectors if engine == OURS else ours
                worker.ask("give", row=name, ids=ids)
                probe = worker.ask("run", row="some", way=way, least=self.settings.alone / 4 if row.alone else 0)
                wanted = self.published() if engine in (TORCH, ONNX) else ours
                found[engine] = {"way": way, "probe": probe["seconds"], "cosine": cosine(vectors, wanted)}
            except WorkerError as e:
                self.leave(engine, e)
        return found

    def published(self) -> Any:
        """refembed's vectors of some texts of this row by the published formulas."""
        return self.workers[OURS].vectors("some", AS_PUBLISHED)

    def seconds(self, engine: str, row: str, way: str, least: float) -> float | None:
        """One measurement; None once the engine's process has died, which is said, and the others go on."""
        if engine not in self.workers:
            return None
        try:
            taken: float = self.workers[engine].ask("run", row=row, way=way, least=least)["seconds"]
            return taken
        except WorkerError as e:
            self.leave(engine, e)
            return None

    def leave(self, engine: str, error: WorkerError) -> None:
        """An engine broke: the others go on, unless it is refembed."""
        if engine == OURS:
            raise error
        print(f"  without {engine} from here on: {error}", flush=True)
        self.workers.pop(engine).close()

    def way(self, engine: str, row: str, ids: list[list[int]], some: list[list[int]]) -> str:
        """The fastest of an engine's ways; looked for once a row, whatever the weights' type."""
        key, worker = (engine, row), self.workers[engine]
        if key not in self.settings.ways:
            ways: list[str] = worker.ask("give", row=row, ids=ids)["ways"]
            best = {}
            if len(ways) > 1:
                part = ids if engine in (TORCH, ONNX) else some  # padding depends on how many texts there are
                worker.ask("give", row="warm", ids=ids[:1])
                worker.ask("give", row="part", ids=part)
                for way in ways:
                    worker.ask("run", row="warm", way=way, least=0.02)
                    best[way] = worker.ask("run", row="part", way=way, least=0.02)["seconds"]
            self.settings.ways[key] = min(best, key=best.__getitem__) if best else ways[0]
        return self.settings.ways[key]


def cosine(a: Any, b: Any) -> float:
    """The least cosine between vectors of the same text; -1 where shapes differ or a number is not finite."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return -1.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))).min())
