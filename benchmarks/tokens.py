"""Megabytes of text a second, refembed and llama.cpp in turns: python -m benchmarks tokens [--model NAME]

"English" has word frequencies like natural text, out of 20,000 made-up words; "mixed" is the hostile mixture that tests
use; "one word" is a megabyte without a space. The first two come in texts of 4096 and of about 80 bytes. Cold is the
first round of a tokenizer that has seen nothing yet, warm its best. llama.cpp runs in its own process and is asked for
all texts at once; the way there and back is counted.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

from refembed import hub, load_tokenizer
from refembed.testing.texts import WORDS, random_texts
from refembed.verify.engines.llamacpp import LlamaCpp

SIZE = 1_000_000  # bytes of each kind of text, about
SYLLABLES = (
    "con",
    "ing",
    "tion",
    "er",
    "ment",
    "al",
    "re",
    "in",
    "pre",
    "ter",
    "est",
    "un",
    "com",
    "ous",
    "able",
    "ly",
)


def english(size: int) -> list[str]:
    """Words by Zipf's law out of 20,000, with punctuation and capitals."""
    rng = random.Random(0)
    lexicon = [w for w in WORDS if w.isascii()] + [
        "".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(20_000)
    ]
    weights = [1 / (rank + 3) for rank in range(len(lexicon))]
    words = rng.choices(lexicon, weights, k=size // 6)
    text = " ".join(w.title() + "," if i % 17 == 0 else w + "." if i % 13 == 0 else w for i, w in enumerate(words))
    return [text[i : i + 4096] for i in range(0, len(text), 4096)]


def mixed(size: int) -> list[str]:
    """Every script there is."""
    return [t for t in random_texts(0, size // 80) if isinstance(t, str)]


def speed(run: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    """Megabytes a second of one run."""
    size = sum(len(t.encode()) for t in texts)
    start = time.perf_counter()
    run(texts)
    return size / (time.perf_counter() - start) / 1e6


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args(argv)
    path = hub.resolve(args.model)
    start = time.perf_counter()
    load_tokenizer(path)
    print(f"ready in {1000 * (time.perf_counter() - start):.0f} ms")
    rows = {"English": english(SIZE), "mixed": mixed(SIZE), "one word": ["antidisestablishmentarianism" * (SIZE // 28)]}
    print(f"{'MB/s':10} {'cold':>8} {'warm':>8} {'llama.cpp':>10} {'ratio':>6}")
    with LlamaCpp(path, vocab_only=True) as engine:
        for name, texts in rows.items():
            assert [load_tokenizer(path).encode(t) for t in texts[:20]] == engine.tokenize_many(texts[:20])
            encode = load_tokenizer(path).encode

            def ours(texts: Sequence[str], encode: Callable[[str], list[int]] = encode) -> list[list[int]]:
                return [encode(t) for t in texts]

            rounds = [(speed(ours, texts), speed(engine.tokenize_many, texts)) for _ in range(args.rounds)]
            warm, theirs = max(r[0] for r in rounds), max(r[1] for r in rounds)
            print(f"{name:10} {rounds[0][0]:8.1f} {warm:8.1f} {theirs:10.1f} {warm / theirs:6.2f}", flush=True)


if __name__ == "__main__":
    main()
