"""Many vectors a text, one for each token: the heads of ColBERT models and of bge-m3, for `similarity.maxsim`.

    bge-m3    <hidden_t, weight> + bias of each token but the first, length 1. Chen et al. 2024, arXiv:2402.03216
    colbert   the same of every token, of a text that is read as a query or as a document. Khattab & Zaharia 2020,
              arXiv:2004.12832

    query     [CLS] [Q] what is a cat [SEP] [MASK] [MASK] ...    filled up to a length: query expansion
    document  [CLS] [D] a small animal . [SEP]                   tokens of the skiplist (.) have no vector

No token sees [MASK], not even itself, unless the model was trained so; [MASK] sees the tokens of the text. So a query's
own tokens have the hidden states that they have without it. The heads are in keys that `refembed convert --heads`
writes (`refembed.convert.own_heads`, `.colbert_head`). Each text is computed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import F32, I64, Float
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.gguf import Metadata
from refembed.kernels.exact.attention import mask_scores, softmax, split_heads
from refembed.kernels.ops import NO_TAP, AttentionSpec, Ops, Tap
from refembed.kernels.wrapper import OpsWrapper
from refembed.model import Model
from refembed.model.batch import pack
from refembed.pipeline.truncate import truncate
from refembed.pooling.normalize import normalize

KEY = "refembed.multi_vector."
NONE = "`refembed convert --heads` keeps that of ColBERT models and of bge-m3; of others, embed(text, pooling='none')"


@dataclass(frozen=True)
class Reading:
    """How a ColBERT model reads queries, or documents."""

    length: int  # most tokens of a text, all counted
    marker: int | None  # the token behind the first: [Q], [D]
    expanded: int = 0  # a shorter text is filled up to so many tokens
    expansion: int = 0  # with this one: [MASK]
    attended: bool = False  # whether other tokens see these
    skipped: tuple[int, ...] = ()  # tokens without a vector


class Head(NamedTuple):
    """The linear layer, and how texts are read before it; bge-m3 reads all alike."""

    weight: F32  # (D, C)
    bias: F32  # (D)
    query: Reading | None = None
    document: Reading | None = None


class TokenVectors(NamedTuple):
    """Tokens of a text that have a vector (T), and their vectors (T, D)."""

    ids: list[int]
    vectors: F32


def read_head(md: Metadata, C: int, n_ctx: int) -> Head:
    """The head of a file. ModelError where it has none, or one that does not fit the model.

    C      channels of the model
    n_ctx  tokens that it reads at most
    """
    kind = md.string(f"{KEY}kind", "token")
    if f"{KEY}bias" not in md or kind not in ("token", "colbert"):
        found = "no head of many vectors in this file" + ("" if kind == "token" else f" that is known: {kind!r}")
        raise ModelError(found, hint=NONE)
    weight, bias = (np.asarray(md.floats(f"{KEY}{name}"), np.float32) for name in ("weight", "bias"))
    if weight.size != len(bias) * C or not len(bias):
        found = f"{KEY}weight has {weight.size} numbers, not {len(bias)}x{C}"
        raise ModelError(found, hint="convert it again")
    head = Head(weight.reshape(len(bias), C), bias)
    if kind == "token":
        return head
    document = Reading(
        md.uint(f"{KEY}document_length", n_ctx), md.uint(f"{KEY}document_token_id", None),
        skipped=tuple(md.ints(f"{KEY}skiplist", np.empty(0, np.int64)).tolist()),
    )  # fmt: skip
    query = Reading(
        md.uint(f"{KEY}query_length", n_ctx), md.uint(f"{KEY}query_token_id", None),
        md.uint(f"{KEY}expansion_length", 0), md.uint(f"{KEY}expansion_token_id", 0),
        md.flag(f"{KEY}expansion_attended", False),
    )  # fmt: skip
    for name, length in (("query_length", query.length), ("expansion_length", query.expanded)):
        if length > n_ctx:
            raise ModelError(f"{KEY}{name} is {length}, but the model reads at most {n_ctx}", hint="convert it again")
    return head._replace(query=query, document=document)


def token_vectors(
    head: Head, model: Model, ops: Ops, ids: Sequence[int], what: str, *, is_query: bool = False, cut: bool = False
) -> TokenVectors:
    """The vectors of one text.

    ids  of the text as the tokenizer gives them, special tokens and all
    cut  shorten a text that is too long; its last token stays
    what  the text, for errors
    Raises RequestError for a text in which no token has a vector, TooLongError, ModelError for what is not finite.
    """
    reading = head.query if is_query else head.document
    every, real = (
        (list(ids), len(ids)) if reading is None else marked(reading, list(ids), what, cut, model.hparams.n_ctx)
    )
    kept = np.arange(1, len(every)) if reading is None else np.flatnonzero(~np.isin(every, reading.skipped))
    if not len(kept):
        raise RequestError(f"{what}: no token of it has a vector", hint="give it some words")
    hidden = expanded(model, ops, every, real)[kept]
    with np.errstate(all="ignore"):  # what is not finite is refused below
        rows = normalize(hidden @ head.weight.astype(hidden.dtype).T + head.bias.astype(hidden.dtype), 2)
    vectors = np.asarray(rows, np.float32)
    if not np.isfinite(vectors).all():
        raise ModelError("the model gave a vector that is not finite", hint="`refembed doctor` looks for NaN")
    return TokenVectors([every[i] for i in kept], vectors)


def marked(reading: Reading, ids: list[int], what: str, cut: bool, n_ctx: int) -> tuple[list[int], int]:
    """Ids with the marker behind the first, filled up; and how many of them are the text's and the marker."""
    limit = min(reading.length, n_ctx) - (reading.marker is not None)
    if len(ids) > limit and not cut:
        hint = f"cut it into pieces, or pass truncate=True (--truncate) to keep its first {limit} tokens"
        raise TooLongError(f"{what}: {len(ids)} tokens, but this head was made for at most {limit}", hint=hint)
    ids = truncate(ids, limit, keep_last=True)
    if reading.marker is not None:
        ids = [*ids[:1], reading.marker, *ids[1:]]
    filled = ids + [reading.expansion] * (reading.expanded - len(ids))
    return filled, len(filled) if reading.attended else len(ids)


def expanded(model: Model, ops: Ops, ids: list[int], real: int) -> Float:
    """Hidden states (T, C) of a text of which no token sees those from `real` on."""
    own = ops if real == len(ids) else ExpansionOps(ops, real)
    with np.errstate(all="ignore"):
        return np.asarray(model.forward(pack([ids]), own, NO_TAP))


class ExpansionOps(OpsWrapper):
    """Operations on one text whose tokens from `real` on are seen by none and see those before.

    Attention of the first `real` tokens is `base`'s; that of the others is the definition's (`kernels.exact.attention`)
    in the dtype of `base`. One that sees nothing through its window takes nothing, as in PyTorch.
    """

    def __init__(self, base: Ops, real: int) -> None:
        super().__init__(base)
        self.real = real

    def attention(
        self, q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *,
        bias: Float | None = None, sinks: Any = None,
    ) -> Float:  # fmt: skip
        """(T, H D)."""
        n, T = self.real, len(q)
        q, k, v = (np.asarray(x) for x in (q, k, v))
        first = self.base.attention(q[:n], k[:n], v[:n], spec, np.array([0, n]), tap, bias=bias, sinks=sinks)
        qh, kh, vh = split_heads(q[n:], k[:n], v[:n], spec, NO_TAP)
        hidden = mask_scores(spec.n_head, T, spec.mask, slice(n, None))[..., :n].astype(q.dtype)
        scores = qh @ kh.transpose(0, 2, 1) * q.dtype.type(spec.scale) + hidden  # (H, T - n, n)
        sees = np.isfinite(scores).any(axis=-1, keepdims=True)
        shares = np.where(sees, softmax(np.where(sees, scores, 0)), 0).astype(q.dtype)
        rest = (shares @ vh).transpose(1, 0, 2).reshape(T - n, -1)
        return np.concatenate([np.asarray(first), rest])
