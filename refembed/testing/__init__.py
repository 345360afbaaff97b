"""For authors of other engines: properties to run against an implementation, and Hypothesis strategies to write more.

    from refembed.testing import PoolingContract

    class TestMine(PoolingContract):
        def pool(self, hidden, offsets, how):
            return my_engine.pool(hidden, offsets, how)

    pooling_properties     what pooling does: PoolingContract
    normalize_properties   what normalizing does: NormalizeContract
    similarity_properties  what cosine, dot product and distances do: SimilarityContract
    code_properties        what int8 and binary codes and Hamming distance do: CodeContract
    operation_properties   what a forward pass is made of: WordPieceContract, EmbeddingContract, AttentionContract,
                           LayerNormContract, SwigluContract, RopeContract, Q8Contract
    exercises              check_exercise("attention", mine): the same for one function, as the course asks for it
    strategies             hidden states, packed batches, vectors, norms, modes
    contract               how a property becomes a test

Needs Hypothesis: `pip install hypothesis`. Names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refembed.testing.code_properties import CodeContract
    from refembed.testing.contract import Contract, for_all
    from refembed.testing.exercises import check_exercise
    from refembed.testing.normalize_properties import NormalizeContract
    from refembed.testing.operation_properties import (
        AttentionContract,
        EmbeddingContract,
        LayerNormContract,
        Q8Contract,
        RopeContract,
        SwigluContract,
        WordPieceContract,
    )
    from refembed.testing.pooling_properties import PoolingContract
    from refembed.testing.similarity_properties import SimilarityContract

__all__ = [
    "AttentionContract",
    "CodeContract",
    "Contract",
    "EmbeddingContract",
    "LayerNormContract",
    "NormalizeContract",
    "PoolingContract",
    "Q8Contract",
    "RopeContract",
    "SimilarityContract",
    "SwigluContract",
    "WordPieceContract",
    "check_exercise",
    "for_all",
]

HOMES = {
    "AttentionContract": "operation_properties",
    "CodeContract": "code_properties",
    "Contract": "contract",
    "EmbeddingContract": "operation_properties",
    "LayerNormContract": "operation_properties",
    "NormalizeContract": "normalize_properties",
    "PoolingContract": "pooling_properties",
    "Q8Contract": "operation_properties",
    "RopeContract": "operation_properties",
    "SimilarityContract": "similarity_properties",
    "SwigluContract": "operation_properties",
    "WordPieceContract": "operation_properties",
    "check_exercise": "exercises",
    "for_all": "contract",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'refembed.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"refembed.testing.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
