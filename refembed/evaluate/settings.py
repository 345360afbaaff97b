"""What is compared: every combination of models, weight types, numerics, poolings, prompts and vector codes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from refembed.arrays import F32
from refembed.compress.codec import Codec
from refembed.compress.schemes import fit, parse
from refembed.convert.quantize_mix import canonical
from refembed.errors import RequestError

PROMPTS = ("none", "own")  # own: what the model was trained to read before queries and documents


@dataclass(frozen=True)
class Setting:
    """One line of the table.

    >>> Setting("minilm", vectors="int8").embedding == Setting("minilm").embedding  # codes are made of the same vectors
    True
    """

    model: str  # as `Embedder.load` takes it
    weights: str = ""  # a type to store its weights in: "Q4_K_M"; "": as they are
    numerics: str = "auto"
    pooling: str = "native"
    prompts: str = "none"
    dimensions: int | None = None  # the first so many numbers of a vector; None: all
    vectors: str = "float32"  # a scheme of refembed.compress, or two with + between: the second scores again

    @property
    def embedding(self) -> Setting:
        """What decides the model's vectors: without what becomes of them."""
        return replace(self, dimensions=None, vectors="float32")


@dataclass(frozen=True)
class Grid:
    """Every combination of these, the last axis changing first.

    >>> grid = Grid(("minilm",), vectors=("float32", "int8"))
    >>> grid.check()  # an error for what cannot be
    >>> [s.vectors for s in grid.settings()]
    ['float32', 'int8']
    """

    models: tuple[str, ...]
    weights: tuple[str, ...] = ("",)
    numerics: tuple[str, ...] = ("auto",)
    poolings: tuple[str, ...] = ("native",)
    prompts: tuple[str, ...] = ("none",)
    dimensions: tuple[int | None, ...] = (None,)
    vectors: tuple[str, ...] = ("float32",)

    def check(self) -> None:
        """RequestError for a scheme, a prompt or a model that cannot be, before anything is computed."""
        if not self.models:
            raise RequestError("no model to evaluate")
        for scheme in self.vectors:
            for part in scheme.split("+", 1):
                parse(part)
        for prompts in self.prompts:
            if prompts not in PROMPTS:
                raise RequestError(f"prompts {prompts!r}", hint=f"one of {', '.join(PROMPTS)}")

    def settings(self) -> Iterator[Setting]:
        """The lines, those of one embedding next to each other; a combination that is there twice comes once."""
        weights = [canonical(w) if w else "" for w in self.weights]
        axes: list[Any] = [
            self.models, weights, self.numerics, self.poolings, self.prompts, self.dimensions, self.vectors
        ]  # fmt: skip
        for values in itertools.product(*map(dict.fromkeys, axes)):
            yield Setting(*values)


def codecs(scheme: str, vectors: F32, seed: int) -> tuple[Codec, Codec | None]:
    """The codec that searches, and the one that scores candidates again, if any: "ubinary+int8"."""
    first, plus, second = scheme.partition("+")
    return fit(first, vectors, seed=seed), fit(second, vectors, seed=seed) if plus else None
