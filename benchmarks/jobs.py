"""What a worker measures once, in a fresh process: loading, growth, products against sgemm, time per kind of layer."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any


def export(folder: str, file: str) -> str:
    """An ONNX file of a published folder, by PyTorch."""
    from benchmarks.engines import export as made

    return made(folder, file)


def load(model: str, pooling: str, ids: list[int], rounds: int = 5) -> dict[str, Any]:
    """Seconds to load a model: in this fresh process, imports done; then again; and until a first vector is there."""
    from refembed import Embedder

    def once() -> tuple[float, float]:
        start = time.perf_counter()
        embedder = Embedder.load(model, numerics="fast")
        ready = time.perf_counter() - start
        embedder.embed([ids], pooling=pooling)
        return ready, time.perf_counter() - start

    fresh, *again = [once() for _ in range(rounds + 1)]
    ready, first = (statistics.median(column) for column in zip(*again, strict=True))
    return {"fresh": fresh[0], "fresh_first": fresh[1], "ready": ready, "first": first}


def resident() -> int:
    """Bytes of memory this process holds now; 0 where the system does not say."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return 0
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) << 10


def growth(
    model: str, count: int, length: int, threads: int, ends: Sequence[int | None] = (101, 102)
) -> dict[str, Any]:
    """Endless input: tokens a second and resident bytes of each tenth of `count` texts; ends as BERT has them."""
    from benchmarks.texts import Row, token_ids
    from refembed import Embedder
    from refembed.kernels import threads as pool

    pool.use(threads)
    embedder = Embedder.load(model, numerics="fast")
    some = token_ids(Row(1024, length, ""), embedder.info.n_vocab, *ends)
    embedder.embed(some)
    texts = itertools.islice(itertools.cycle(some), count)
    edges = [count * i // 10 for i in range(11)]
    seconds: list[float] = []
    held: list[int] = []
    start = time.perf_counter()
    for done, _ in enumerate(embedder.embed_iter(texts), start=1):
        if done == edges[len(seconds) + 1]:
            seconds.append(time.perf_counter() - start)
            held.append(resident())
            start = time.perf_counter()
    rates = [(b - a) * length / s for (a, b), s in zip(itertools.pairwise(edges), seconds, strict=True)]
    return {"texts": count, "length": length, "tokens_a_second": rates, "resident": held}


def sgemm(shapes: list[tuple[int, int]], rows: int, rounds: int) -> list[dict[str, Any]]:
    """GFLOP/s of x (rows, k) times W (n, k) transposed, one thread: `gemm.by_rows`, and NumPy's matmul.

    OPENBLAS_NUM_THREADS=1 is set outside. Each round runs both, one after the other, long enough to be timed.
    """
    import numpy as np

    from refembed.kernels.llvm import gemm

    found, nothing = [], np.empty(0, np.float32)
    for n, k in shapes:
        rng = np.random.default_rng(0)
        x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, k), (n, k)))
        packed, turned = gemm.pack(w), np.ascontiguousarray(w.T)
        ours, theirs = (np.empty((rows, n), np.float32) for _ in range(2))
        runs: dict[str, Callable[[], Any]] = {
            "refembed": partial(gemm.by_rows, x, packed, nothing, ours, 0, 0, rows),
            "sgemm": partial(np.matmul, x, turned, out=theirs),
        }
        flops, rates = 2.0 * rows * n * k, dict[str, list[float]]((name, []) for name in runs)
        for run in runs.values():
            run()
        if np.abs(ours - theirs).max() > 1e-3 * np.abs(theirs).max():
            raise ArithmeticError(f"the products of shape {n} x {k} differ")
        repeat = max(1, int(4e9 / flops))
        for _ in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                for _ in range(repeat):
                    run()
                rates[name].append(flops * repeat / (time.perf_counter() - start) / 1e9)
        found.append({"n": n, "k": k, "rows": rows, "gflops": rates})
    return found


KINDS = {
    "attention": "attention", "layer_norm": "norm", "add_layer_norm": "norm", "rms_norm": "norm",
    "get_rows": "embedding lookup", "mean": "pooling", "rope": "RoPE", "gelu": "GELU", "gelu_erf": "GELU",
    "geglu": "gate", "swiglu": "gate", "silu": "gate",
}  # fmt: skip


def profile(model: str, pooling: str, rows: dict[str, list[list[int]]], least: float) -> dict[str, Any]:
    """CPU seconds of one core per kind of layer, one thread, for each row; "Python between" is what is left.

    Products go by the shape of their weights; `flops` are theirs, so that their rate can be computed. Each operation is
    called by itself: no captured graph is replayed, and matrices that a text meets at once it meets one after the
    other.
    """
    from refembed import Embedder
    from refembed.kernels import threads
    from refembed.kernels.fast import ops as fast

    threads.use(1)
    spent: Counter[str] = Counter()
    flops: Counter[str] = Counter()

    def watch(name: str, kind: str | None) -> None:
        method = getattr(fast.Fast, name)

        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            start = time.thread_time()
            result = method(self, *arguments, **options)
            what = kind or "product {}x{}".format(*arguments[1].shape)
            spent[what] += time.thread_time() - start  # type: ignore[assignment]  # a Counter adds floats as well
            if kind is None:
                flops[what] += 2 * len(arguments[0]) * int(arguments[1].shape[0]) * int(arguments[1].shape[1])
            return result

        setattr(fast.Fast, name, watched)

    fast.Fast.capture_or_replay = lambda self, given, layers, x, offsets=None: layers(x)  # type: ignore[method-assign]
    fast.Fast.linears = lambda self, x, matrices: [self.linear(x, *m) for m in matrices]  # type: ignore[method-assign]
    for name, kind in ({"product": None} | KINDS).items():
        watch(name, kind)
    embedder, found = Embedder.load(model, numerics="fast"), {}
    for row, ids in rows.items():
        embedder.embed(ids, pooling=pooling)
        spent.clear()
        flops.clear()
        start, runs = time.thread_time(), 0
        while time.thread_time() - start < least or not runs:
            embedder.embed(ids, pooling=pooling)
            runs += 1
        total = time.thread_time() - start
        parts = {k: v / runs for k, v in spent.most_common()}
        parts["Python between"] = total / runs - sum(parts.values())
        found[row] = {"tokens": sum(map(len, ids)), "seconds": total / runs, "parts": parts,
                      "flops": {k: v / runs for k, v in flops.items()}}  # fmt: skip
    return found
