"""From `-m` to a model. Each function imports what it needs, so that `tokenize` and `info` load no kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refembed.embedder import Embedder
    from refembed.gguf import GGUFFile
    from refembed.tokenizer import Tokenizer


def open_model(model: str) -> GGUFFile:
    """Open the file that a path or a name stands for."""
    from refembed.gguf import open_gguf
    from refembed.hub import resolve

    return open_gguf(resolve(model))


def open_tokenizer(model: str) -> Tokenizer:
    """The tokenizer alone; a file of any architecture will do."""
    from refembed.tokenizer import load_tokenizer

    return load_tokenizer(open_model(model))


def open_embedder(model: str, numerics: str) -> Embedder:
    """Everything that embedding needs."""
    from refembed.embedder import Embedder

    return Embedder.load(model, numerics=numerics)
