"""Several LoRA adapters: in which order does the engine add them?

Float addition is not associative, and llama.cpp leaves the order to chance (`refembed.model.lora`). So no order is
wrong: the reference takes the engine's, where the engine reports it or its bits give it away, and says which that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from refembed.arrays import F64
from refembed.pooling.normalize import normalize
from refembed.verify.reference import Item, OpsByNumerics, Reference, Vectors

CHANCE = "several LoRA adapters: llama.cpp adds them in an order that depends on addresses"
TRIED = 3  # adapters: with more there are too many orders to try
ARITHMETICS = ("ggml", "ggml, plain")  # those in which an engine's bits can be found again


def with_order_of(
    reference: Reference, info: Mapping[str, Any], items: Sequence[Item], vectors: Vectors
) -> tuple[Reference, list[str]]:
    """The reference with its adapters in the engine's order of addition, and what to say of that.

    about           the engine's; "lora_order" is its order where it reports one
    items, vectors  what the engine was asked, and its answers: where it reports no order each is tried on the shortest
    """
    active = [i for i, a in enumerate(reference.by_numerics.adapters) if a.scale]
    if len(active) < 2:
        return reference, []
    order = info.get("lora_order") or found_order(reference, active, items, vectors)
    if order is None:
        return reference, [f"{CHANCE}; this engine's order is not known, and any order is accepted"]
    shown = ", ".join(str(i) for i in order if i in active)
    return reordered(reference, order), [f"{CHANCE}; this engine's is {shown}"]


def reordered(reference: Reference, order: Sequence[int]) -> Reference:
    """The reference with its adapters in another order of addition."""
    return replace(reference, by_numerics=OpsByNumerics(reference.by_numerics.adapters, tuple(order)))


def found_order(
    reference: Reference, active: Sequence[int], items: Sequence[Item], vectors: Vectors
) -> tuple[int, ...] | None:
    """The order under which the engine's vector of the shortest text has the reference's bits; None where none has."""
    if len(active) > TRIED:
        return None
    at = min(range(len(items)), key=lambda i: len(reference.ids_of(items[i])))
    rest = tuple(i for i in range(len(reference.by_numerics.adapters)) if i not in active)
    for order in permutations(active):
        tried = reordered(reference, order + rest)
        if any(same_bits(vectors[at], tried.vectors([items[at]], numerics)[0]) for numerics in ARITHMETICS):
            return order + rest
    return None


def same_bits(theirs: F64, ours: F64) -> bool:
    """Whether an engine's numbers are ours as float32, raw or normalized."""
    return any(np.array_equal(theirs, normalize(ours.astype(np.float32), p)) for p in (-1, 2))
