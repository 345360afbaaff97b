"""Tokenizers as `transformers` saves them anew: a tokenizer.json alone, whatever the file was that they came from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from refembed.convert.folder import convert
from refembed.tokenizer import load_tokenizer
from tests.peers.tokenizer_draws import Draw, Json, trained
from tests.peers.tokenizer_folders import TEXTS, build

pytestmark = pytest.mark.peers

GEMMA = {"add_dummy_prefix": False, "unk_id": 3, "bos_id": 2, "eos_id": 1, "pad_id": 0}
T5 = {"unk_id": 2, "bos_id": -1, "eos_id": 1, "pad_id": 0}
PLAIN: Json = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}


def layout(name: str) -> tuple[str, str, bytes, Json]:
    """Architecture, file, its content, tokenizer_config.json."""
    llama = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    gemma = llama | {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "add_eos_token": True}
    t5 = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
          "extra_ids": 0}  # fmt: skip
    return {
        "llama": ("llama", "tokenizer.model", trained("bpe", vocab_size=440, **PLAIN), llama),
        "llama without a space": (
            "llama", "tokenizer.model", trained("bpe", vocab_size=440, **PLAIN), llama | {"add_prefix_space": False}
        ),
        "gemma": ("gemma-embedding", "tokenizer.model", trained("bpe", vocab_size=440, **PLAIN, **GEMMA), gemma),
        "t5": ("t5encoder", "spiece.model", trained("unigram", vocab_size=150, **T5), t5),
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "llama without a space", "gemma", "t5"])
def test_a_tokenizer_that_transformers_saved_has_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    import sentencepiece
    from transformers import AutoTokenizer

    arch, file, model, settings = layout(name)
    draw = Draw(arch, {file: model, "tokenizer_config.json": settings})
    draw.size = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()  # type: ignore[call-arg]
    first = build(draw, tmp_path / "first")
    saved = tmp_path / "saved"
    AutoTokenizer.from_pretrained(first).save_pretrained(saved)
    for path in (first / "config.json", first / "model.safetensors"):
        shutil.copy(path, saved)
    assert not (saved / file).exists()
    theirs = AutoTokenizer.from_pretrained(saved)
    ours = load_tokenizer(convert(saved, tmp_path / "x.gguf"))
    texts = [t for t in TEXTS if not (name == "llama" and t.startswith(" "))]  # one space more: that is said
    different: list[Any] = [
        (text, theirs(text)["input_ids"]) for text in texts if ours.encode(text) != theirs(text)["input_ids"]
    ]
    assert different == []
