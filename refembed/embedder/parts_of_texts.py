"""More than one vector a text: of its chunks, of its tokens, and sparse ones."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.embedder.base import EmbedderBase
from refembed.errors import RequestError
from refembed.pipeline.inputs import Input, input_list
from refembed.pipeline.spans import check_spans, pool_spans, token_spans
from refembed.pipeline.sparse import multi_vector, read_multi_vector, read_sparse, sparse


class PartsOfTexts(EmbedderBase):
    """Methods of `Embedder`."""

    def embed_chunks(
        self, text: str, chunks: Iterable[Sequence[Any]], *, pooling: str = "native", normalize: int | None = None,
        dimensions: int | None = None,
    ) -> F32:  # fmt: skip
        """Vectors of parts of a text that is read in one pass: late chunking (`refembed.pipeline.spans`).

        text      of at most `info.n_ctx` tokens
        chunks    of `refembed.chunk.chunk`, or pairs (start, end) of characters
        returns   (S, D) float32: each chunk pools its own tokens, which have seen the whole text. Special tokens in
                  front belong to chunks from the text's beginning, those behind to chunks to its end, so that one chunk
                  of the whole text has the vector of `embed`
        Other arguments and errors as of `embed`; RequestError for a chunk without tokens of its own.

        >>> e = Embedder.load("minilm")
        >>> e.embed_chunks("Berlin is large. It has a river.", [(0, 17), (17, 32)]).shape
        (2, 384)
        """
        if not isinstance(text, str):
            raise RequestError(f"embed_chunks takes characters, not {type(text).__name__}", hint="text.decode()")
        options = self.resolve_options(pooling, normalize, dimensions)
        if options.pooling in ("none", "rank"):
            raise RequestError(f"pooling {options.pooling} gives no vector a chunk", hint='pooling="mean"')
        spans, ids = check_spans(chunks, len(text)), self.ids_of(text, 0, False)
        if not spans:
            return np.empty((0, options.dimensions or self.width(options.pooling)), np.float32)
        return pool_spans(self.model, self.ops, ids, token_spans(self.tokenizer, text, ids, spans), options)

    def embed_sparse(self, texts: str | bytes | Sequence[Input], *, truncate: bool = False) -> Any:
        """Sparse vectors of texts, for models with a head for them: bge-m3, SPLADE (`refembed.pipeline.sparse`).

        returns  a SparseVector for one text, a list of them for several: `ids` of tokens and their `weights`;
                 `a.dot(b)` says how alike two are
        Raises ModelError for a file without such a head (`refembed convert --heads` keeps it); else as `embed`.

        >>> Embedder.load("minilm").embed_sparse("a cat")
        Traceback (most recent call last):
            ...
        refembed.errors.ModelError: no sparse head in this file
          hint: ...
        """
        head = read_sparse(self.file.metadata, self.info.n_embd, self.info.n_vocab)
        vocab, embeddings = self.tokenizer.vocab, np.empty((0, 0), np.float32)
        if head.kind == "vocabulary":
            embeddings = self.table
        inputs, alone = input_list(texts)
        ids = [self.ids_of(text, i, truncate) for i, text in enumerate(inputs)]
        found = [sparse(head, self.model, self.ops, self.forward([i]), i, vocab, embeddings) for i in ids]
        return found[0] if alone else found

    def embed_multi_vector(self, texts: str | bytes | Sequence[Input], *, truncate: bool = False) -> F32 | list[F32]:
        """A vector for each token but the first, by bge-m3's ColBERT head; `similarity.maxsim` compares them.

        returns  (T - 1, D) float32, each of length 1; for several texts a list of such
        Raises ModelError for a file without such a head (`refembed convert --heads` keeps it); else as `embed`.

        >>> Embedder.load("minilm").embed_multi_vector("a cat")
        Traceback (most recent call last):
            ...
        refembed.errors.ModelError: no head of many vectors in this file
          hint: ...
        """
        head = read_multi_vector(self.file.metadata, self.info.n_embd)
        inputs, alone = input_list(texts)
        ids = [self.ids_of(text, i, truncate) for i, text in enumerate(inputs)]
        found = [multi_vector(head, self.forward([i])) for i in ids]
        return found[0] if alone else found

    @functools.cached_property
    def table(self) -> F32:
        """(V, C) token embeddings, decoded once."""
        return np.asarray(self.file.tensors["token_embd.weight"].dequantize(), np.float32)
