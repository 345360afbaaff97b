"""Late chunking: a document is read in one pass, and each chunk pools its own tokens, which have seen all others.

Günther, Mohr, Williams, Wang & Xiao 2024, "Late Chunking: Contextual Chunk Embeddings Using Long-Context Embedding
Models". A chunk's vector is then about what the document says there: "it" knows what it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import RequestError
from refembed.kernels.ops import Ops
from refembed.model import Model
from refembed.model.batch import pack
from refembed.pipeline.vectors import VectorOptions, cut_and_normalize
from refembed.pooling.heads import pooled
from refembed.tokenizer import Tokenizer

Span = tuple[int, int]


def check_spans(spans: Iterable[Any], length: int) -> list[Span]:
    """Spans as pairs of whole numbers, of `Chunk`s their first two. RequestError for one that is not in the text."""
    found = []
    for i, span in enumerate(spans):
        try:
            start, end = int(span[0]), int(span[1])
        except (TypeError, ValueError, IndexError):
            raise RequestError(f"span {i}: {span!r:.60}", hint="chunks, or pairs (start, end) of characters") from None
        if not 0 <= start < end <= length:
            raise RequestError(f"span {i}: {start} to {end}, of a text of {length} characters")
        found.append((start, end))
    return found


def token_spans(tokenizer: Tokenizer, text: str, ids: Sequence[int], spans: Sequence[Span]) -> list[Span]:
    """Which of a text's tokens are a span's: from, to.

    ids      (T) of the text, with special tokens
    returns  a token that reaches over a border belongs to what comes behind it. Special tokens in front belong to
             spans from the text's beginning, those behind to spans to its end
    Raises RequestError for a span without tokens.

    >>> from refembed import load_tokenizer
    >>> t = load_tokenizer("minilm")
    >>> token_spans(t, "a cat sat", t.encode("a cat sat"), [(0, 5), (6, 9)])  # [CLS] a cat | sat [SEP]
    [(0, 3), (3, 5)]
    """
    front = len(tokenizer.front())
    inner = ids[front : len(ids) - len(tokenizer.back())]
    at = {0: 0, len(text): len(ids)}
    for border in sorted({border for span in spans for border in span} - at.keys()):
        begun = tokenizer.encode(text[:border], False, True)
        same = next(
            (i for i, (a, b) in enumerate(zip(begun, inner, strict=False)) if a != b), min(len(begun), len(inner))
        )
        at[border] = 0 if not same else len(ids) if same == len(inner) else front + same
    found = [(at[start], at[end]) for start, end in spans]
    for (start, end), (first, last) in zip(spans, found, strict=True):
        if first >= last:
            raise RequestError(f"the span {start} to {end}, {text[start:end]!r:.40}, has no token of its own")
    return found


def pool_spans(model: Model, ops: Ops, ids: Sequence[int], spans: Sequence[Span], options: VectorOptions) -> F32:
    """One forward pass, and a vector for each span of tokens: (S, D)."""
    with np.errstate(all="ignore"):
        hidden = model.forward(pack([list(ids)]), ops)  # (T, C)
        rows = np.concatenate([hidden[a:b] for a, b in spans])
        offsets = np.cumsum([0, *(b - a for a, b in spans)])
        vectors = pooled(rows, offsets, options.pooling, model, ops)
    return np.stack([cut_and_normalize(v, options.normalize, options.dimensions) for v in vectors])
