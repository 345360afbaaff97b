"""Text -> token ids, from GGUF metadata alone. Knows no tensors.

vocab       tokens and their roles          attributes  what each token is
special     cutting out special tokens      base        what all kinds share, and the way back
unicode     code points                     wordpiece   "bert"
"""

from __future__ import annotations

import os

from refembed.errors import ModelError
from refembed.gguf import GGUFFile, Metadata, open_gguf
from refembed.tokenizer.base import Tokenizer
from refembed.tokenizer.vocab import Vocab, read_vocab
from refembed.tokenizer.wordpiece import WordPiece

__all__ = ["TOKENIZERS", "Tokenizer", "Vocab", "load_tokenizer"]

TOKENIZERS: dict[str, type[Tokenizer]] = {  # tokenizer.ggml.model -> what encodes
    "bert": WordPiece,
}


def load_tokenizer(source: str | os.PathLike[str] | GGUFFile | Metadata) -> Tokenizer:
    """The tokenizer of a GGUF file; one with a vocabulary and no tensors will do.

    source   path, open file, or its metadata

    ModelError for a kind that is not a row of TOKENIZERS or a vocabulary that contradicts itself; GGUFError for a file
    that is no GGUF or lacks a key.
    """
    if isinstance(source, Metadata):
        return from_metadata(source, "the model")
    if isinstance(source, GGUFFile):
        return from_metadata(source.metadata, str(source.path))
    with open_gguf(source) as file:
        return from_metadata(file.metadata, str(file.path))


def from_metadata(metadata: Metadata, where: str) -> Tokenizer:
    """As load_tokenizer; `where` names the file in errors."""
    kind = metadata.string("tokenizer.ggml.model")
    if kind not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise ModelError(f"{where}: tokenizer.ggml.model is {kind!r}", hint=f"refembed tokenizes: {known}")
    return TOKENIZERS[kind](read_vocab(metadata, where), where)
