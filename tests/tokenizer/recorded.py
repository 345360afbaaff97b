"""Digests of llama.cpp's token ids for each vocabulary of `vocabs.VARIANTS`: where no llama.cpp runs, these judge.

Recorded from xllamacpp 2026.10.11549 with add_special=False, parse_special=True; `test_live` holds them against the
live library. To record anew: python -m tests.tokenizer.recorded
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from refembed.testing.texts import SPECIAL, random_texts

N_TEXTS = 1000


def recorded_texts() -> list[str | bytes]:
    """The texts; every fourth has special tokens at both ends."""
    texts = random_texts(2026, N_TEXTS)
    return [
        f"{SPECIAL[i % len(SPECIAL)]} {t}<user> \t<mask>" if i % 4 == 0 and isinstance(t, str) else t
        for i, t in enumerate(texts)
    ]


def digest(ids: Sequence[Sequence[int]]) -> str:
    """Ids of many texts -> 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps([list(i) for i in ids]).encode()).hexdigest()[:32]


RECORDED = {
    "plain": "ea2bf195d7db60d157aa65e1d0475392",
    "bytewise": "54b2c76a20c7317b150e4efa4ef60821",
    "bytewise-accents": "db5345a3c69f3e4559cd2803513cc863",
    "bytewise-cased": "42f87fe3607e25811355d44cf12033f7",
    "bytewise-cased-stripped": "ad3db154a0a4a462282270d50f26d598",
    "roles": "28d89c8bad5ad1728cbf7737b4baa4c6",
    "prefix": "ea2bf195d7db60d157aa65e1d0475392",
    "beyond": "ea2bf195d7db60d157aa65e1d0475392",
    "modern-bert": "ea2bf195d7db60d157aa65e1d0475392",
    "modernbert": "ea2bf195d7db60d157aa65e1d0475392",
    "jina": "57b557c17eceb41345f6a7b6ac044fe4",
    "jina-no-mask": "ea2bf195d7db60d157aa65e1d0475392",
    "nomic-moe": "57b557c17eceb41345f6a7b6ac044fe4",
    "phi": "4b7d9ea072bd2fdde6b826f7c599ae3d",
    "tool-response": "d3053f9ab28d587518f0b18812b2be80",
    "plamo": "d3053f9ab28d587518f0b18812b2be80",
    "harmony": "ea2bf195d7db60d157aa65e1d0475392",
    "calls-only": "ea2bf195d7db60d157aa65e1d0475392",
    "solar": "ea2bf195d7db60d157aa65e1d0475392",
    "no-end": "ea2bf195d7db60d157aa65e1d0475392",
    "named-pad": "ea2bf195d7db60d157aa65e1d0475392",
    "unused": "ea2bf195d7db60d157aa65e1d0475392",
    "empty-and-nul": "ea2bf195d7db60d157aa65e1d0475392",
}


def main() -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp
    from tests.tokenizer.vocabs import VARIANTS, write_vocab

    with tempfile.TemporaryDirectory() as folder:
        for name, (tokens, keys) in VARIANTS.items():
            path = write_vocab(Path(folder) / "vocab.gguf", tokens, *keys)
            with LlamaCpp(path, vocab_only=True) as engine:
                ids = engine.tokenize_many(recorded_texts(), False, True)
            sys.stdout.write(f'    "{name}": "{digest(ids)}",\n')


if __name__ == "__main__":
    main()
