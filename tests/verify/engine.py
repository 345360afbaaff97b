"""Engines for the tests of verdicts: refembed's own vectors, with whatever a test does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refembed import Embedder
from refembed.errors import EngineError


class Stub:
    """An engine that answers with what a function gives."""

    name = "stub"
    can_trace = can_tokenize = False
    can_take_ids = True

    def __init__(self, answer: Callable[[list[Any]], Any], ids: Callable[[str], list[int]] | None = None) -> None:
        self.answer, self.ids, self.info = answer, ids, {}
        self.can_tokenize = ids is not None

    def embed(self, items: Sequence[Any]) -> list[Any]:
        """What the function gives."""
        return [np.asarray(v, np.float32) for v in self.answer(list(items))]

    def tokenize(self, text: str) -> list[int]:
        """What the other function gives."""
        if self.ids is None:
            raise EngineError("no ids")
        return self.ids(text)

    def trace(self, item: Any) -> Any:
        raise EngineError("no tensors")

    def close(self) -> None:
        """Nothing is open."""


class Shown(Stub):
    """One that shows the tensors of an embedder, which may be broken."""

    can_trace = True

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(lambda items: embedder.embed(items))
        self.embedder = embedder

    def trace(self, item: Any) -> Any:
        """Its tensors."""
        return self.embedder.trace(item)
