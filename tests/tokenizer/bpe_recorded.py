"""Digests of llama.cpp's token ids for each rule of `pretokenize.TABLE`: where no llama.cpp runs, these judge.

Recorded from xllamacpp 2026.10.11549 with add_special=False, parse_special=True and the vocabularies of `bpe_vocabs`;
`test_pretokenize` holds them against the live library. To record anew: python -m tests.tokenizer.bpe_recorded
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

N_TEXTS = 100

RECORDED = {
    "afmoe": "736fdd3d26698e73b5bbd61fe956f847",
    "bailingmoe": "ac5c7bb44afb107158945ad90cc906f0",
    "bloom": "89d02656545cdf197b23390bf7599879",
    "chameleon": "5c055ddf5ae94f8bc39ba972733ad037",
    "chatglm-bpe": "9c4d5f7cd8db0051323eb086a48b98cd",
    "command-r": "74ccda399a7899a07ffee5f47f20d094",
    "dbrx": "9c4d5f7cd8db0051323eb086a48b98cd",
    "deepseek-coder": "cbc14736f197eb703475616df1884cfa",
    "deepseek-llm": "f2ce99bfa06fdd672f8ffbd88a4b3b8a",
    "deepseek-v3": "54afa9e6bffbb7593a81ddbcc7591294",
    "default": "0c2804139d97e0b889c690c2e503877f",
    "exaone-moe": "15f6803e841d582e796ea83ec2a5f7f5",
    "falcon": "2059bfd4c443aebd81eebbb6f343aa36",
    "gemma4": "a555aafc5d400518f1fab7ebcdeccb8d",
    "glm4": "50b815817d31f5f78b99d021cfc97bbe",
    "gpt-2": "8b9b5d9e1a166aead2396b492f474c0e",
    "gpt-4o": "9f59fc001d8ad828fefda4ec0ba594d1",
    "granite-embed-multi-97m": "8fddaac1164a17890b6cdc38c509092b",
    "jais-2": "54611ed48908e02c6b41a8aa43f70cc0",
    "jina-v1-en": "8b9b5d9e1a166aead2396b492f474c0e",
    "kimi-k2": "68e91739ee211e5df9ec1f7e6849278f",
    "laguna": "a1740fa1dbcc242fa88f05cae896610c",
    "llama3": "50b815817d31f5f78b99d021cfc97bbe",
    "megrez": "ac5c7bb44afb107158945ad90cc906f0",
    "minicpm5": "4fe0b38f475252b4c70c277660b7b60a",
    "mmbert": "8131e0ff8c265edc36eeafadd0dca3ad",
    "poro-chat": "89d02656545cdf197b23390bf7599879",
    "qwen2": "ac5c7bb44afb107158945ad90cc906f0",
    "qwen35": "ecbd02b06ac93b84767327bcf06fdbe9",
    "sarvam-moe": "a555aafc5d400518f1fab7ebcdeccb8d",
    "seed-coder": "86f7e26380dd901ead22c3e6190f2837",
    "spark2_5": "9eeb9635cfd4df2331fcf33078480016",
    "starcoder": "74ccda399a7899a07ffee5f47f20d094",
    "superbpe": "e2b375f2f5a7ddbd902de1f318d7ca26",
    "tekken": "43ffebb9d694f308902eb31c7bde1727",
    "tiny_aya": "d162068e95a68199bf07b888b1048171",
    "trillion": "8b9b5d9e1a166aead2396b492f474c0e",
    "ufakzeka": "93da977e95a0e509153e7f7eaf04ab63",
    "viking": "18e64c39b815e8a7305dd7ed104883ee",
    "whitespace": "281bc4a04109655461b1fee630d61a4f",
    "youtu": "09b51fc75acc675ab5f46080046d2394",
}


def main() -> None:
    from refembed.tokenizer.pretokenize import TABLE
    from tests.tokenizer.bpe_llamacpp import Many
    from tests.tokenizer.bpe_vocabs import Vocabularies, texts_to_cut
    from tests.tokenizer.recorded import digest

    texts = texts_to_cut(2026, N_TEXTS)
    rules = {id(rule): name for name, rule in reversed(TABLE.items())}
    with tempfile.TemporaryDirectory() as folder, Many() as engine:
        files = Vocabularies(Path(folder))
        for name in sorted(rules.values()):
            assert engine.open(files.write(name))
            sys.stdout.write(f'    "{name}": "{digest(engine.ids(texts, False, True))}",\n')


if __name__ == "__main__":
    main()
