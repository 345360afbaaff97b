"""What the cache of vectors saves: python -m benchmarks cache [--model NAME_OR_FILE] [--texts N]

Texts a second, computing against taking from the file, in turns, in this process; the ratio is of the two. "short" are
texts of about 12 tokens, "long" of 256. Then a search engine's traffic: queries drawn by Zipf's law out of 20,000, in
calls of 8, by two sizes of the file: what share of them were hits, and the largest the file became.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from refembed import Embedder
from refembed.corpus.fingerprint import describe, digests_of
from refembed.corpus.vector_cache import Cache


def text_of(rng: random.Random, ids: Sequence[str], n: int) -> str:
    return " ".join(rng.choices(ids, k=n))


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def speed(e: Embedder, folder: Path, rows: dict[str, list[str]], rounds: int) -> None:
    print(f"  {'':7} {'calls of':>8} {'computed/s':>11} {'hits/s':>9} {'ratio':>7} {'same bits':>10}")
    for name, texts in rows.items():
        for size in (1, len(texts)):
            calls = [texts[i : i + size] for i in range(0, len(texts), size)]
            with Cache(folder / f"{name}.sqlite") as cache:
                same = all(np.array_equal(cache.embed(e, c), e.embed(c)) for c in calls)
                found = [
                    (seconds(lambda: [e.embed(c) for c in calls]), seconds(lambda: [cache.embed(e, c) for c in calls]))  # noqa: B023
                    for _ in range(rounds)
                ]
            slow, quick = min(r[0] for r in found), min(r[1] for r in found)
            n = len(texts)
            print(f"  {name:7} {size:8} {n / slow:11.0f} {n / quick:9.0f} {slow / quick:7.0f} {same!s:>10}", flush=True)


def traffic(folder: Path, dimension: int, queries: int) -> None:
    """Fixed vectors stand in for computed ones: the hit rate does not depend on them."""
    rng = np.random.default_rng(0)
    ranks = rng.permutation(20_000)
    weights = 1 / (np.arange(20_000) + 3)
    drawn = ranks[rng.choice(20_000, queries, p=weights / weights.sum())]
    distinct = len(set(drawn.tolist()))
    print(f"  {'limit':>7} {'hits':>7} {'file, MiB':>10}   of {queries:,} queries, {distinct:,} distinct")
    for limit in (4 << 20, 16 << 20, 64 << 20):
        path, hits, largest = folder / f"{limit}.sqlite", 0, 0
        with Cache(path, limit=limit) as cache:
            for i in range(0, queries, 8):
                keys = [b"%020d" % q for q in drawn[i : i + 8]]
                found = cache.find(set(keys), [dimension] * len(keys), keys)
                hits += sum(key in found for key in keys)
                cache.store({key: np.full(dimension, 1, np.float32) for key in keys if key not in found})
                largest = max(largest, path.stat().st_size)
        print(f"  {limit >> 20:3} MiB {hits / queries:7.1%} {largest / 2**20:10.1f}", flush=True)


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--texts", type=int, default=64)
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args(argv)
    e, rng = Embedder.load(args.model), random.Random(0)
    words = ["the", "river", "carries", "old", "stories", "from", "a", "mountain", "village", "to", "quiet", "sea"]
    rows = {"short": [text_of(rng, words, 10) + f" {i}" for i in range(args.texts)]}
    rows["long"] = [text_of(rng, words, 250) + f" {i}" for i in range(args.texts // 4)]
    first = seconds(lambda: describe(e))
    again = seconds(lambda: digests_of([e.info.path]))
    print(f"{args.model}: fingerprint {1000 * first:.0f} ms, known again {1000 * again:.1f} ms")
    e.embed(rows["short"][:8])
    with tempfile.TemporaryDirectory() as folder:
        speed(e, Path(folder), rows, args.rounds)
        traffic(Path(folder), e.width("mean"), 40_000)


if __name__ == "__main__":
    main()
