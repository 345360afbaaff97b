"""The `cupy` numerics on a GPU: python -m benchmarks gpu [--device N] [--types f32 q8_0] [--precisions bf16] [--json F]

Correctness first, speed only if that holds: products to the bit of the chains that `fast` computes on the CPU, those of
tensor cores exact for whole numbers; 1 - cos to `exact` for each type of weights and each precision; the bits of each
text alone and in a batch. Then tokens a second from token ids, and from texts in each precision, compared with
sentence-transformers on the same GPU in the same precision, where that is installed (sorted by length; tf32 is
`torch.set_float32_matmul_precision("high")`). --json keeps everything, with the GPU named. Without a GPU it says what
is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rounds import interleaved, median, ratio
from benchmarks.texts import ROWS, token_ids
from conformance.cases import load_texts
from refembed import Embedder, hub
from refembed.errors import RefembedError
from refembed.gguf import Tensor
from refembed.kernels.exact import tensor_cores
from refembed.kernels.llvm import gemm
from refembed.kernels.numerics import PRECISIONS

TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q4_0", "q4_k_m")
SPEED_ROWS = ("48x256", "256x32", "mixed", "1x8", "1x512")
TEXTS = 40
BOUND = 1e-6  # 1 - cos to `exact`, as the numerics promises
BOUNDS = {"float32": BOUND, "tf32": 2e-6, "fp16": 2e-6, "bf16": 2e-4}  # of each precision: docs/gpu.md, times about 4
SUMS = 1e-5  # error of a sum of tensor cores, over the sum of all |x w|: ten times what a V100's would be here
TORCH_TYPES = {"float32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Encode = Callable[[list[Any]], Any]
SHAPES = ((1, 384, 384), (17, 1536, 384), (300, 1000, 777))  # of products: T, C, N


def facts(index: int) -> dict[str, Any]:
    """Which GPU, and what drives it."""
    import cupy

    found = cupy.cuda.runtime.getDeviceProperties(index)
    return {
        "gpu": found["name"].decode(), "memory": f"{found['totalGlobalMem'] >> 20} MiB",
        "compute": f"{found['major']}.{found['minor']}", "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(), "cupy": cupy.__version__,
    }  # fmt: skip


def products(e: Embedder) -> str:
    """How many products differ in any bit from one chain of multiply-adds for each element."""
    rng, wrong = np.random.default_rng(0), 0
    for T, C, N in SHAPES:
        x, w = (rng.standard_normal(shape, np.float32) for shape in ((T, C), (N, C)))
        got = np.asarray(e.ops.linear(x, Tensor.of(w, f"w{T}")))
        wrong += int((got != gemm.matmul(x, w)).sum())
    return f"{wrong} numbers differ from the CPU's chains of multiply-adds"


def sums(e: Embedder, precision: str) -> tuple[int, float]:
    """Of tensor cores: how many products of whole numbers are wrong, and the largest error over the sum of |x w|."""
    rng, wrong, worst, rounded = np.random.default_rng(0), 0, 0.0, getattr(tensor_cores, f"round_{precision}")
    for T, C, N in SHAPES:
        x, w = (rng.integers(-99, 100, shape).astype(np.float32) for shape in ((T, C), (N, C)))
        got = np.asarray(e.ops.linear(x, Tensor.of(w, f"w{T}")))
        wrong += int((got != np.float64(x) @ np.float64(w).T).sum())
        x, w = (rounded(rng.standard_normal(shape, np.float32)) for shape in ((T, C), (N, C)))
        got = np.asarray(e.ops.linear(x, Tensor.of(w, f"v{T}")), np.float64)
        x, w = np.float64(x), np.float64(w)
        worst = max(worst, float((np.abs(got - x @ w.T) / (np.abs(x) @ np.abs(w).T)).max()))
    return wrong, worst


def distances(found: Any, exact: Any) -> list[float]:
    """1 - cos of each vector to that of `exact`."""
    return [
        1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in ((np.float64(x), np.float64(y)) for x, y in zip(exact, found, strict=True))
    ]


def unequal_alone(e: Embedder, texts: list[Any]) -> int:
    """Texts whose vector has other bits alone than in a batch."""
    together = e.embed(texts, truncate=True)
    return sum(e.embed([t], truncate=True)[0].tobytes() != v.tobytes() for t, v in zip(texts, together, strict=True))


def correctness(args: argparse.Namespace) -> dict[str, Any]:
    """The first part: a line for each type of weights."""
    every = [text.data for text in load_texts().values()]
    texts = every[:: max(len(every) // TEXTS, 1)][:TEXTS]
    found: dict[str, Any] = {}
    for name in args.types:
        path = hub.resolve("minilm", outtype=name)
        e = Embedder.load(path, numerics="cupy", device=args.device)
        if not found:
            found["products"] = products(e)
            print(found["products"])
        found[name] = judged(name, e, Embedder.load(path, numerics="exact"), texts, BOUND)
    for precision in args.precisions:
        if precision == "float32":
            continue
        path = hub.resolve("minilm", outtype="f32")
        e = Embedder.load(path, numerics="cupy", device=args.device, precision=precision)
        row = judged(precision, e, Embedder.load(path, numerics="exact"), texts, BOUNDS[precision])
        wrong, worst = sums(e, precision)
        sound = not wrong and worst <= SUMS
        line = f"{'':<8} {wrong} products of whole numbers are wrong; sums are off by {worst:.1e} of their terms"
        print(line + ("" if sound else "   WRONG"), flush=True)
        found[f"precision {precision}"] = row | {"wrong": wrong, "sums": worst, "sound": row["sound"] and sound}
    found["sound"] = all(row["sound"] for row in found.values() if isinstance(row, dict))
    if others := peers(args):
        original = Embedder.load("minilm", numerics="exact", semantics="original").embed(texts, truncate=True)
    for precision, encode in others.items():
        far = distances(encode(texts), original)
        found[f"sentence-transformers {precision}"] = {"median": statistics.median(far), "worst": max(far)}
        print(f"{precision:<8} sentence-transformers: {statistics.median(far):.1e} / {max(far):.1e} to the original")
    return found


def judged(name: str, e: Embedder, exact: Embedder, texts: list[Any], bound: float) -> dict[str, Any]:
    """A line, and what is in it: how far from `exact`, and whether texts stand alone."""
    far, unequal = distances(e.embed(texts, truncate=True), exact.embed(texts, truncate=True)), unequal_alone(e, texts)
    sound = max(far) <= bound and not unequal
    line = f"{name:<8} 1 - cos to exact {statistics.median(far):.1e} / {max(far):.1e}, "
    line += f"{unequal} of {len(texts)} texts have other bits alone"
    print(line + ("" if sound else "   WRONG"), flush=True)
    return {"median": statistics.median(far), "worst": max(far), "other bits alone": unequal, "sound": sound}


def timed(work: Callable[[], Any]) -> float:
    """Seconds; results are on the host when it returns."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peers(args: argparse.Namespace) -> dict[str, Encode]:
    """The default model in sentence-transformers on the same GPU, in each precision; none where it cannot be had."""
    if importlib.util.find_spec("sentence_transformers") is None or importlib.util.find_spec("torch") is None:
        return {}
    import torch
    from sentence_transformers import SentenceTransformer

    if not torch.cuda.is_available():
        return {}
    folder, device = str(hub.source_folder("minilm")), f"cuda:{args.device}"

    def encoder(precision: str) -> Encode:
        model = SentenceTransformer(folder, device=device, model_kwargs={"dtype": TORCH_TYPES[precision]})
        model.max_seq_length = 512  # as many tokens as refembed reads; its file says 256

        def encode(texts: list[Any]) -> Any:
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            written = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in texts]
            return model.encode(written, batch_size=256, normalize_embeddings=True)

        return encode

    return {precision: encoder(precision) for precision in args.precisions}


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """The second part: tokens a second, and ratios of the rounds in the same precision."""
    own = {
        p: Embedder.load("minilm", numerics="cupy", device=args.device, precision=p)
        for p in dict.fromkeys(["float32", *args.precisions])
    }
    e, others, found = own["float32"], peers(args), {}
    print("" if others else "sentence-transformers is not installed, or PyTorch has no GPU: no comparison")
    for row in args.rows:
        ids = token_ids(ROWS[row], e.info.n_vocab)
        texts = [e.tokenizer.decode(some[1:-1]) for some in ids]
        tokens = sum(len(e.tokenize(text)) for text in texts)
        runs = {"ids": lambda ids=ids: timed(lambda: e.embed(ids))}
        runs |= {p: lambda x=x, t=texts: timed(lambda: x.embed(t, truncate=True)) for p, x in own.items()}
        runs |= {f"peer {p}": lambda f=f, t=texts: timed(lambda: f(t)) for p, f in others.items()}
        for run in runs.values():
            run()  # compiled, and memory taken
        taken = interleaved(runs, dict.fromkeys(runs, 1.0), seconds=args.seconds)
        found[row] = {name: tokens / median(seconds) for name, seconds in taken.items()}
        print(f"{row:<8} " + "  ".join(f"{name} {value:,.0f}" for name, value in found[row].items()) + " tokens/s")
        for p in others:
            r = ratio(taken[f"peer {p}"], taken[p])
            found[row][f"ratio {p}"] = [r.median, r.low, r.high]
            print(f"{'':<8} {p}: {r.median:.2f} times sentence-transformers ({r.low:.2f} to {r.high:.2f})", flush=True)
    return found


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--device", type=int, default=0, help="which GPU")
    p.add_argument("--types", nargs="+", default=list(TYPES), help="of the default model's weights")
    p.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    p.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(SPEED_ROWS))
    p.add_argument("--seconds", type=float, default=5.0, help="of rounds for each row")
    p.add_argument("--json", metavar="FILE", help="keep all results")
    args = p.parse_args(argv)
    try:
        from refembed.kernels.cuda.gpu import Gpu

        Gpu(args.device)
    except RefembedError as e:
        sys.exit(f"{e.message}\n  hint: {e.hint}\nNothing was measured.")
    results: dict[str, Any] = {"machine": facts(args.device)}
    for name, value in results["machine"].items():
        print(f"{name:<10}{value}")
    results["correctness"] = correctness(args)
    if results["correctness"]["sound"]:
        results["speed"] = speed(args)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not results["correctness"]["sound"]:
        sys.exit("wrong results: nothing was timed")


if __name__ == "__main__":
    main()
