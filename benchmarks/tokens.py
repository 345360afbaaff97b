"""Megabytes of text a second, refembed and llama.cpp in turns: python -m benchmarks tokens [NAME_OR_FILE ...]

Without names: the default model, and one vocabulary of each kind where `python -m conformance fetch vocabularies` has
been run. "English" has word frequencies like natural text, out of 20,000 made-up words; "mixed" is the hostile mixture
that tests use; "one word" is a megabyte without a space. The first two come in texts of 4096 and of about 80 bytes.
Cold is the first round of a tokenizer that has seen nothing yet, warm its best. llama.cpp runs in its own process and
is asked for all texts at once; the way there and back is counted. `tokenizers` is the library of that name, where it
is installed and the same tokenizer can be had for it: all texts in one call, its threads switched off.

--embed NUMERICS ...: instead, tokens a second of a model (of conformance/models.toml; default minilm-q8_0) that embeds
English texts of about 80 bytes, from text and from token ids, in turns.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refembed import hub, load_tokenizer
from refembed.testing.texts import WORDS, random_texts
from refembed.tokenizer import Tokenizer
from refembed.verify.engines.llamacpp import LlamaCpp

KINDS = ("gpt-2", "llama-bpe", "qwen2", "gemma-4", "llama-spm", "gemma-3-270m", "nomic-bert-moe")
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


def library_for(name: str, ours: Tokenizer) -> Any:
    """The library `tokenizers` with the same tokenizer: MiniLM's own file, GPT-2 put together. None where it is not."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        tokenizers: Any = importlib.import_module("tokenizers")
    except ImportError:
        return None
    if name == "minilm":
        made = tokenizers.Tokenizer.from_file(str(hub.source_folder("minilm") / "tokenizer.json"))
    elif ours.vocab.pre == "gpt-2":
        vocab = {t.decode(errors="replace"): i for i, t in enumerate(ours.vocab.tokens)}
        lines = ours.vocab.metadata.strings("tokenizer.ggml.merges").to_bytes()
        made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [tuple(m.decode().split(" ")) for m in lines]))
        made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        return None
    made.no_truncation()
    made.no_padding()
    return made


def path_of(name: str) -> Path:
    """A file, a model's name, or that of a fetched vocabulary."""
    from conformance import vocabularies

    return vocabularies.path_of(name) if name in vocabularies.names() else hub.resolve(name)


def milliseconds(run: Callable[[], object]) -> float:
    """Of the best of three."""
    best = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        best.append(1000 * (time.perf_counter() - start))
    return min(best)


def measure(name: str, rounds: int) -> None:
    """The rows of one vocabulary."""
    path = path_of(name)
    ready = milliseconds(lambda: load_tokenizer(path))
    ours, texts_of = load_tokenizer(path), {"English": english(SIZE), "mixed": mixed(SIZE)}
    texts_of["one word"] = ["antidisestablishmentarianism" * (SIZE // 28)]
    library = library_for(name, ours)
    print(f"{name}: tokenizer.ggml.model {ours.vocab.kind}, {len(ours.vocab):,} tokens; ready in {ready:.0f} ms")
    with LlamaCpp(path, vocab_only=True) as engine:
        for row, texts in texts_of.items():
            assert [load_tokenizer(path).encode(t) for t in texts[:2]] == engine.tokenize_many(texts[:2])
            encode = load_tokenizer(path).encode

            def run(texts: Sequence[str], encode: Callable[[str], list[int]] = encode) -> list[list[int]]:
                return [encode(t) for t in texts]

            found = [(speed(run, texts), speed(engine.tokenize_many, texts)) for _ in range(rounds)]
            warm, theirs = max(r[0] for r in found), max(r[1] for r in found)
            third = max(speed(library.encode_batch, texts) for _ in range(rounds)) if library else None
            last = f"{third:11.1f}" if third else f"{'-':>11}"
            print(f"  {row:10} {found[0][0]:8.1f} {warm:8.1f} {theirs:10.1f} {warm / theirs:6.2f} {last}", flush=True)


def embedding(model: str, numerics: str, rounds: int) -> None:
    """A line: tokens a second from text, a tokenizer that has seen nothing and one that has, and from ids."""
    from conformance.models import model_path
    from refembed import Embedder

    texts = [text[i : i + 80] for text in english(SIZE // 8) for i in range(0, len(text), 80)]
    e = Embedder.load(model_path(model), numerics=numerics)
    options, ids = e.resolve_options(), [load_tokenizer(model_path(model)).encode(text) for text in texts]
    tokens = sum(map(len, ids))

    def rate(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return tokens / (time.perf_counter() - start)

    for _ in range(2):  # kernels, panels of weights
        e.vectors(ids, *options)
    cold = rate(lambda: e.embed(texts))
    found = [(rate(lambda: e.embed(texts)), rate(lambda: e.vectors(ids, *options))) for _ in range(rounds)]
    warm, without = (max(column) for column in zip(*found, strict=True))
    rates = f"{cold:>10,.0f}{warm:>10,.0f}{without:>10,.0f}{warm / without:>7.2f}"
    print(f"{model:<14} {numerics:<6}{len(texts):>7,} texts{rates}")


def main(argv: list[str] | None = None) -> None:
    from conformance import vocabularies

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help="GGUF files, models, or vocabularies by name")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--embed", nargs="+", metavar="NUMERICS", help="tokens a second of embedding, tokenizer included")
    args = p.parse_args(argv)
    if args.embed:
        print(f"{'':33}{'cold':>10}{'warm':>10}{'from ids':>10}{'ratio':>7}  tokens a second")
        for name in args.names or ("minilm-q8_0",):
            for numerics in args.embed:
                embedding(name, numerics, args.rounds)
        return
    fetched = vocabularies.names()
    print(f"  {'MB/s':10} {'cold':>8} {'warm':>8} {'llama.cpp':>10} {'ratio':>6} {'tokenizers':>11}")
    for name in args.names or ("minilm", *(n for n in KINDS if n in fetched)):
        measure(name, args.rounds)


if __name__ == "__main__":
    main()
