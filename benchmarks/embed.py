"""Tokens per second of embedding, side by side in interleaved rounds: python -m benchmarks embed [--model NAME]

Rows are texts of random token ids, so that no tokenizer is timed. Columns: refembed as it is, refembed with BLAS left
to choose kernels by batch height (what batch invariance costs), and llama.cpp from the pinned wheel with flash
attention off and on, two threads. Ratios are medians over rounds of (column / refembed) within a round; the machine
may be noisy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from refembed import Embedder, hub
from refembed.verify.engines.llamacpp import LlamaCpp

ROWS = {"256 x 32 tokens": (256, 32), "48 x 256 tokens": (48, 256), "1 x 8 tokens": (1, 8), "1 x 512 tokens": (1, 512)}
BATCH = 2048  # tokens llama.cpp is given at once: its own default


def texts(count: int, length: int, n_vocab: int) -> list[list[int]]:
    """Token ids: [CLS], random word pieces, [SEP]."""
    rng = np.random.default_rng(0)
    return [[101, *map(int, rng.integers(1000, n_vocab, length - 2)), 102] for _ in range(count)]


def in_batches(engine: LlamaCpp, ids: list[list[int]]) -> None:
    """As many texts at once as fit BATCH tokens; all of a row have one length."""
    step = BATCH // len(ids[0]) if len(ids[0]) >= 32 else 1
    for begin in range(0, len(ids), step):
        engine.embed(ids[begin : begin + step], batched=True)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--rounds", type=int, default=7)
    args = p.parse_args(argv)
    path = hub.resolve(args.model)
    ours, loose = Embedder.load(path), Embedder.load(path, batch_invariant=False)
    with (
        LlamaCpp(path, threads=2, flash_attn=False, n_batch=BATCH, n_seq_max=BATCH // 32) as off,
        LlamaCpp(path, threads=2, flash_attn=True, n_batch=BATCH, n_seq_max=BATCH // 32) as on,
    ):
        columns: dict[str, Callable[[list[list[int]]], object]] = {
            "refembed": ours.embed,
            "refembed, rows may mix": loose.embed,
            "llama.cpp": lambda ids: in_batches(off, ids),
            "llama.cpp, flash": lambda ids: in_batches(on, ids),
        }
        print(f"{'row':<18}" + "".join(f"{name:>26}" for name in columns) + "   tokens/s (ratio to refembed)")
        for row, (count, length) in ROWS.items():
            ids = texts(count, length, ours.info.n_vocab)
            repeat = max(1, 2000 // (count * length))
            seconds: dict[str, list[float]] = {name: [] for name in columns}
            for r in range(args.rounds + 1):
                for name, run in columns.items():
                    start = time.perf_counter()
                    for _ in range(repeat):
                        run(ids)
                    if r:  # the first round warms up
                        seconds[name].append((time.perf_counter() - start) / repeat)
            line = f"{row:<18}"
            for name in columns:
                rate = count * length / statistics.median(seconds[name])
                ratio = statistics.median(a / b for a, b in zip(seconds["refembed"], seconds[name], strict=True))
                line += f"{f'{rate:,.0f} ({ratio:.2f})':>26}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
