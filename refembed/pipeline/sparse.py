"""Sparse vectors: a weight for each token of the vocabulary, nearly all of them 0.

    token        bge-m3: w_t = ReLU(<hidden_t, weight> + bias); of a token that comes several times the largest; special
                 tokens have none. Chen et al. 2024, "M3-Embedding", arXiv:2402.03216
    vocabulary   SPLADE: max over t of log(1 + ReLU(logits_t)), logits by the head of a masked language model. Formal,
                 Lassance, Piwowarski & Clinchant 2021, "SPLADE v2", arXiv:2109.10086

The heads are in keys that `refembed convert --heads` writes (`refembed.convert.own_heads`); llama.cpp passes over them.
Each text is computed alone, so its numbers do not depend on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.errors import ModelError
from refembed.gguf import Metadata
from refembed.kernels.ops import Ops
from refembed.model import Model
from refembed.tokenizer.vocab import Vocab

ROWS = 4096  # of the table of token embeddings multiplied at a time; changes no result but by rounding


class SparseVector(NamedTuple):
    """The tokens of a text that have a weight, ids rising, and their weights, all above 0.

    >>> a = SparseVector(np.array([3, 7]), np.array([0.5, 2], np.float32))
    >>> a.dot(SparseVector(np.array([7, 9]), np.array([1.5, 1], np.float32)))  # 2 * 1.5
    3.0
    """

    ids: I64
    weights: F32

    def dot(self, other: SparseVector) -> float:
        """The sum over common tokens of the product of weights: how alike two texts are."""
        _, i, j = np.intersect1d(self.ids, other.ids, assume_unique=True, return_indices=True)
        return float(self.weights[i].astype(np.float64) @ other.weights[j].astype(np.float64))


@dataclass(frozen=True)
class Head:
    """A head that the file has under keys of refembed's own."""

    kind: str
    arrays: dict[str, F32]


def read_sparse(md: Metadata, C: int, V: int) -> Head:
    """The sparse head of a file. ModelError where it has none, or one that does not fit the model."""
    kind = md.string("refembed.sparse.kind", "")
    if kind == "token":
        return read(md, kind, {"weight": (C,), "bias": (1,)})
    if kind == "vocabulary":
        shapes = {"dense.weight": (C, C), "dense.bias": (C,), "norm.weight": (C,), "norm.bias": (C,), "bias": (V,)}
        return read(md, kind, shapes)
    hint = "`refembed convert --heads` keeps that of bge-m3 and of SPLADE models"
    raise ModelError(f"no sparse head in this file{f' that is known: {kind!r}' if kind else ''}", hint=hint)


def read(md: Metadata, kind: str, shapes: dict[str, tuple[int, ...]]) -> Head:
    """The arrays of a head, each of the shape that it has to have."""
    arrays = {}
    for name, shape in shapes.items():
        key = f"refembed.sparse.{name}"
        x = np.asarray(md.floats(key), np.float32)
        if x.size != np.prod(shape):
            raise ModelError(f"{key} has {x.size} numbers, not {'x'.join(map(str, shape))}", hint="convert it again")
        arrays[name] = x.reshape(shape)
    return Head(kind, arrays)


def sparse(head: Head, model: Model, ops: Ops, hidden: Float, ids: list[int], vocab: Vocab, table: F32) -> SparseVector:
    """The sparse vector of a text.

    hidden  (T, C) of its tokens     ids  (T)
    table   (V, C) token embeddings, for "vocabulary"
    Raises ModelError where a weight is not finite.
    """
    with np.errstate(all="ignore"):  # what is not finite is refused below
        weights = dense_weights(head, model, ops, hidden, ids, vocab, table)
    if not np.isfinite(weights).all():
        raise ModelError("the model gave a weight that is not finite", hint="`refembed doctor` looks for NaN")
    rounded = weights.astype(np.float32)
    found = np.flatnonzero(rounded > 0)
    return SparseVector(found, rounded[found])


def dense_weights(head: Head, model: Model, ops: Ops, hidden: Float, ids: list[int], vocab: Vocab, table: F32) -> Float:
    """The weight of every token of the vocabulary: (V). Arguments as of `sparse`."""
    if head.kind == "token":
        weights = np.zeros(len(vocab), hidden.dtype)
        scores = np.maximum(hidden @ head.arrays["weight"].astype(hidden.dtype) + head.arrays["bias"], 0)
        np.maximum.at(weights, ids, scores)
        special = (vocab.bos, vocab.eos, vocab.sep, vocab.pad, vocab.unk)
        weights[[id for id in special if id is not None]] = 0
        return weights
    return vocabulary(head, model, ops, hidden, table)


def vocabulary(head: Head, model: Model, ops: Ops, hidden: Float, table: F32) -> Float:
    """max over tokens of log(1 + ReLU(logits)): (T, C) -> (V)."""
    a = {name: x.astype(hidden.dtype) for name, x in head.arrays.items()}
    h = ops.gelu_erf(hidden @ a["dense.weight"].T + a["dense.bias"])  # (T, C)
    h = h - h.mean(axis=1, keepdims=True)
    h = h / np.sqrt((h * h).mean(axis=1, keepdims=True) + model.hparams.norm_eps) * a["norm.weight"] + a["norm.bias"]
    most = np.concatenate(
        [(h @ table[i : i + ROWS].astype(hidden.dtype).T).max(axis=0) for i in range(0, len(table), ROWS)]
    )
    return np.log1p(np.maximum(most + a["bias"], 0))
