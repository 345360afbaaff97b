"""The vocabularies of `kinds_vocabs` against what llama.cpp made of them when it was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from refembed.tokenizer import load_tokenizer
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer.kinds_recorded import RECORDED, texts
from tests.tokenizer.kinds_vocabs import VARIANTS, write_vocab
from tests.tokenizer.recorded import digest


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_are_the_recorded_ones(tmp_path: Path, name: str) -> None:
    tokenizer = load_tokenizer(write_vocab(tmp_path / "vocab.gguf", VARIANTS[name]))
    assert digest([tokenizer.encode(t, True, True) for t in texts()]) == RECORDED.get(name)


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_recorded_digests_are_llama_cpps(tmp_path: Path, name: str) -> None:
    with LlamaCpp(write_vocab(tmp_path / "vocab.gguf", VARIANTS[name]), vocab_only=True) as engine:
        assert digest(engine.tokenize_many(texts(), True, True)) == RECORDED.get(name)
