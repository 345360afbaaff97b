"""Digests of llama.cpp's token ids for each vocabulary of `kinds_vocabs`: where no llama.cpp runs, these judge.

Recorded from xllamacpp 2026.10.11549 with add_special=True, parse_special=True; `test_kinds_recorded` holds them
against the live library. To record anew: python -m tests.tokenizer.kinds_recorded
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.tokenizer.kinds_live import NASTY
from tests.tokenizer.kinds_vocabs import VARIANTS, write_vocab
from tests.tokenizer.recorded import digest, recorded_texts


def texts() -> list[str | bytes]:
    """The texts."""
    return NASTY + recorded_texts()[:300]


RECORDED = {
    "spm-random": "ae080e74efb6cebd352c71d4aba92241",
    "spm-ties": "e36e4b61fa0fb7395e81835f2b6899c2",
    "spm-no-scores": "7e1383d0a04798a1c9dc6e0b4c36df8b",
    "spm-bare-bytes": "108c7d7a5c2d21482f837658f1457c5e",
    "spm-no-word-starts": "e29166fbf505a35efeac7f8a3588b7a1",
    "unigram-both": "551c364994357be579e1e8b172715ace",
    "unigram-prefix": "c579c41c30ab724366c60bf79ad90d0f",
    "unigram-merge": "35027470c066effdf00752e970903cc3",
    "unigram-neither": "e330cb70ccccef06e77e83fe589fde8c",
    "unigram-no-map": "8987d51f0b2a759caaf36c342e122ea5",
    "unigram-broken": "d2553f2e4ccf9de236606827720a063d",
    "unigram-strange": "a82bfe8063fc1823eae961afa94f8389",
    "unigram-no-normal": "7598e1f89969cf4733c65bd66b7908e2",
    "rwkv-rwkv": "27ca06259fb9042a521e043604a6fdb5",
    "rwkv-sparse": "5fc9eed5e8596066e8985a0340c046f3",
    "plamo2-plamo2": "22798ff9940bcb8003d456ca34ed1160",
    "plamo2-ties": "fe87fae7f660e7ccfa443a2421877322",
    "plamo2-broken": "4174ea0185d26060a04606d186e4c0ca",
    "plamo2-adds": "ab9e5cbf41443dc22fea955527d14e5d",
}


def main() -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    with tempfile.TemporaryDirectory() as folder:
        for name, variant in VARIANTS.items():
            with LlamaCpp(write_vocab(Path(folder) / "vocab.gguf", variant), vocab_only=True) as engine:
                ids = engine.tokenize_many(texts(), True, True)
            sys.stdout.write(f'    "{name}": "{digest(ids)}",\n')


if __name__ == "__main__":
    main()
