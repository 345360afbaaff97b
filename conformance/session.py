"""What the checks share: the oracle, refembed with the models loaded, and answers that more than one test needs."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance.cases import Case, Text
from conformance.models import model_path
from conformance.oracle import Oracle
from refembed import Embedder, Trace
from refembed.arrays import F32

Loader = Callable[..., Embedder]  # model, numerics, options of Embedder.load -> refembed


def load(model: str, numerics: str, **options: Any) -> Embedder:
    """refembed as it is."""
    return Embedder.load(model_path(model), numerics=numerics, **options)


class Session:
    """refembed and an oracle, compared.

    loader  gives the refembed under test; mutants.py hands in a broken one
    """

    def __init__(self, oracle: Oracle, loader: Loader = load) -> None:
        self.oracle, self.loader = oracle, loader
        self.embedders: dict[tuple[Any, ...], Embedder] = {}
        self.vectors: dict[tuple[str, str, str, int, str], F32] = {}
        self.traces: OrderedDict[tuple[Any, ...], Trace] = OrderedDict()
        self.arranged: dict[tuple[str, str, str], dict[str, F32]] = {}

    def embedder(self, model: str, numerics: str, **options: Any) -> Embedder:
        """refembed with this model; other models are let go, for they fill memory. options: as Embedder.load has."""
        numerics = "fast" if numerics == "any" else numerics
        key = (model, numerics, *sorted(options.items()))
        if key not in self.embedders:
            self.embedders = {k: e for k, e in self.embedders.items() if k[0] == model}
            self.embedders[key] = self.loader(model, numerics, **options)
        return self.embedders[key]

    def vector(self, model: str, numerics: str, text: Text, pooling: str = "native", normalize: int = 2) -> F32:
        """The text's vector, alone in its batch."""
        key = (model, numerics, pooling, normalize, text.id)
        if key not in self.vectors:
            embedder = self.embedder(model, numerics)
            self.vectors[key] = embedder.embed(text.data, pooling=pooling, normalize=normalize)
        return self.vectors[key]

    def trace(self, model: str, numerics: str, text: Text, pooling: str = "native", **options: Any) -> Trace:
        """refembed's tensors; the last two traces are kept."""
        key = (model, numerics, text.id, pooling, *sorted(options.items()))
        if key not in self.traces:
            while len(self.traces) >= 2:
                self.traces.popitem(last=False)
            self.traces[key] = self.embedder(model, numerics, **options).trace(text.data, pooling=pooling)
        return self.traces[key]

    def in_batches(self, case: Case, numerics: str, arrangement: str) -> dict[str, F32]:
        """Vectors of all texts of a case, by id, computed in batches arranged in this way."""
        key = (case.id, numerics, arrangement)
        if key not in self.arranged:
            embedder = self.embedder(case.model, numerics)
            found: dict[str, F32] = {}
            for batch in ARRANGEMENTS[arrangement](case.texts):
                rows: Any = embedder.embed([t.data for t in batch])
                found |= {t.id: np.asarray(row) for t, row in zip(batch, rows, strict=True)}
            self.arranged[key] = found
        return self.arranged[key]


def shuffled(texts: Sequence[Text]) -> list[Text]:
    """The texts in an order that is arbitrary but always the same."""
    return random.Random(5).sample(texts, len(texts))


def neighbors(texts: Sequence[Text]) -> list[list[Text]]:
    """Batches of two and of three texts."""
    batches: list[list[Text]] = []
    rest = list(texts)
    while rest:
        size = 2 + len(batches) % 2
        batches.append(rest[:size])
        rest = rest[size:]
    return batches


ARRANGEMENTS: dict[str, Callable[[Sequence[Text]], list[list[Text]]]] = {
    "together": lambda texts: [list(texts)],
    "reversed": lambda texts: [list(texts)[::-1]],
    "shuffled": lambda texts: [shuffled(texts)],
    "neighbors": neighbors,
}
