"""Text -> token ids, from GGUF metadata alone. Knows no tensors.

vocab       tokens and their roles          attributes  what each token is
special     cutting out special tokens      base        what all kinds share, and the way back
unicode     code points                     wordpiece   "bert"
pretokenize a row for each pre-tokenizer    bpe         "gpt2", "gemma4"; bpe_kinds "whitespace", "hybriddna"
charsmap    a table of replacements         unigram     "t5"
compose     Unicode's composed form         rwkv        "rwkv"
spm         "llama"                         no_vocab    "no_vocab", "none"
plamo2      "plamo2"                        explain     what each stage makes of a text
pairs       query and document
"""

from __future__ import annotations

import importlib
import os

from refembed.errors import ModelError
from refembed.gguf import GGUFFile, Metadata, open_gguf
from refembed.tokenizer.base import Tokenizer
from refembed.tokenizer.vocab import Vocab, read_vocab

__all__ = ["TOKENIZERS", "Tokenizer", "Vocab", "load_tokenizer"]

TOKENIZERS = {  # tokenizer.ggml.model -> the module here and the class in it that encode; imported when needed
    "bert": ("wordpiece", "WordPiece"),
    "gpt2": ("bpe", "BPE"),
    "whitespace": ("bpe_kinds", "WhitespaceBPE"),
    "hybriddna": ("bpe_kinds", "HybridDNA"),
    "gemma4": ("bpe", "BPE"),
    "llama": ("spm", "SPM"),
    "t5": ("unigram", "Unigram"),
    "rwkv": ("rwkv", "RWKV"),
    "plamo2": ("plamo2", "Plamo2"),
    "no_vocab": ("no_vocab", "NoVocab"),
    "none": ("no_vocab", "NoVocab"),
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
    return class_of(kind, where)(read_vocab(metadata, where), where)


def class_of(kind: str, where: str = "the model") -> type[Tokenizer]:
    """The class that encodes for a `tokenizer.ggml.model`. ModelError for one that is not a row of TOKENIZERS."""
    if kind not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise ModelError(f"{where}: tokenizer.ggml.model is {kind!r}", hint=f"refembed tokenizes: {known}")
    module, name = TOKENIZERS[kind]
    chosen: type[Tokenizer] = getattr(importlib.import_module(f"refembed.tokenizer.{module}"), name)
    return chosen
