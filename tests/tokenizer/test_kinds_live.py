"""Live llama.cpp and refembed on the vocabularies of `kinds_vocabs` and on real ones: not one id or byte may differ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from refembed.gguf import open_gguf
from refembed.tokenizer import Tokenizer, load_tokenizer
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.tokenizer.kinds_live import assert_equal_ids, assert_equal_pieces, texts
from tests.tokenizer.kinds_vocabs import VARIANTS, write_vocab

pytestmark = pytest.mark.oracle

KINDS = ("llama", "t5", "rwkv", "plamo2")


@pytest.fixture(scope="module", params=VARIANTS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LlamaCpp, Tokenizer]]:
    """llama.cpp and refembed with one variant."""
    path = write_vocab(tmp_path_factory.mktemp("kinds") / f"{request.param}.gguf", VARIANTS[request.param])
    with LlamaCpp(path, vocab_only=True) as engine:
        yield engine, load_tokenizer(path)


def test_each_variant_has_llama_cpps_ids(pair: tuple[LlamaCpp, Tokenizer]) -> None:
    assert_equal_ids(*pair, texts(pair[1], 160, seed=11))


def test_each_variant_has_llama_cpps_pieces(pair: tuple[LlamaCpp, Tokenizer]) -> None:
    assert_equal_pieces(*pair, n=200, seed=12)


@pytest.mark.slow
def test_each_variant_has_llama_cpps_ids_for_6000_texts(pair: tuple[LlamaCpp, Tokenizer]) -> None:
    assert_equal_ids(*pair, texts(pair[1], 6000, seed=13))


def real_vocabularies() -> list[Path]:
    """GGUF files in the folders that REFEMBED_VOCABS names (os.pathsep between), of the kinds tested here."""
    folders = filter(None, os.environ.get("REFEMBED_VOCABS", "").split(os.pathsep))
    return [path for folder in folders for path in sorted(Path(folder).glob("*.gguf")) if kind_of(path) in KINDS]


def kind_of(path: Path) -> str:
    """tokenizer.ggml.model."""
    with open_gguf(path) as file:
        return file.metadata.string("tokenizer.ggml.model", "")


@pytest.mark.slow
def test_real_vocabularies_have_llama_cpps_ids_and_pieces_for_20000_texts() -> None:
    paths = real_vocabularies()
    if not paths:
        pytest.skip("REFEMBED_VOCABS names no folder with a vocabulary of these kinds")
    for path in paths:
        tokenizer = load_tokenizer(path)
        with LlamaCpp(path, vocab_only=True) as engine:
            assert_equal_ids(engine, tokenizer, texts(tokenizer, 20_000, seed=14))
            assert_equal_pieces(engine, tokenizer, n=3000, seed=15)
