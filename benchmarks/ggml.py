"""Tokens per second of the `ggml` numerics compared with the llama.cpp that it equals: python -m benchmarks ggml

Every text alone on both sides, two threads, flash attention on and off, in interleaved rounds. Ratios are medians over
rounds of (refembed / llama.cpp) within a round. The vectors are compared first: not a bit may differ.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from benchmarks.texts import Row, token_ids
from refembed import Embedder, hub
from refembed.verify.engines.llamacpp import LlamaCpp

ROWS = {"16 x 32 tokens": (16, 32), "6 x 128 tokens": (6, 128), "2 x 512 tokens": (2, 512), "20 x 8 tokens": (20, 8)}


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--types", nargs="*", default=["f32", "f16", "q8_0"])
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args(argv)
    print(f"{'':34}{'refembed':>12}{'llama.cpp':>12}  tokens/s (ratio)")
    for outtype in args.types:
        path = hub.resolve("minilm", outtype=outtype)
        for flash in (False, True):
            ours = Embedder.load(path, numerics="ggml", flash_attn=flash, repack=False)
            with LlamaCpp(path, threads=2, flash_attn=flash) as theirs:
                for row, (count, length) in ROWS.items():
                    ids = token_ids(Row(count, length, row), ours.info.n_vocab)
                    a, b = np.array(ours.embed(ids, normalize=-1)), np.stack(theirs.embed(ids))
                    assert np.array_equal(a.view(np.int32), b.view(np.int32)), "the bits differ"
                    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
                    for _ in range(args.rounds):
                        for name, run in (("ours", ours.embed), ("theirs", theirs.embed)):
                            start = time.perf_counter()
                            run(ids)
                            seconds[name].append(time.perf_counter() - start)
                    rates = [count * length / statistics.median(seconds[n]) for n in ("ours", "theirs")]
                    ratio = statistics.median(t / o for o, t in zip(seconds["ours"], seconds["theirs"], strict=True))
                    label = f"{outtype:5} flash {'on ' if flash else 'off'} {row}"
                    print(f"{label:34}{rates[0]:12,.0f}{rates[1]:12,.0f}  ({ratio:.2f})", flush=True)


if __name__ == "__main__":
    main()
