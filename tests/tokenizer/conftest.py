"""Tokenizers with the small vocabularies of `vocabs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from refembed.tokenizer import Tokenizer, load_tokenizer
from tests.tokenizer.vocabs import VARIANTS, Key, Typed, write_vocab

Make = Callable[..., Tokenizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(tokens, *keys): a tokenizer of that vocabulary."""

    def make(tokens: list[Typed] | None = None, *keys: Key, typed: bool = True) -> Tokenizer:
        return load_tokenizer(write_vocab(tmp_path / "vocab.gguf", tokens, *keys, typed=typed))

    return make


def shared(name: str) -> Callable[[pytest.TempPathFactory], Tokenizer]:
    """A tokenizer of one variant, made once."""

    def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
        tokens, keys = VARIANTS[name]
        return load_tokenizer(write_vocab(tmp_path_factory.mktemp("vocab") / f"{name}.gguf", tokens, *keys))

    return tokenizer


plain = pytest.fixture(scope="session", name="plain")(shared("plain"))
bytewise = pytest.fixture(scope="session", name="bytewise")(shared("bytewise"))
