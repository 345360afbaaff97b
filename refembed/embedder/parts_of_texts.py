"""More than one vector a text: of its chunks, of its tokens, and sparse ones."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from refembed.arrays import F32
from refembed.embedder.base import EmbedderBase
from refembed.errors import RequestError
from refembed.pipeline.inputs import Input, check_ids, input_list

if TYPE_CHECKING:
    from refembed.pipeline.multi_vector import Head, TokenVectors
    from refembed.pipeline.sparse import Head as SparseHead
    from refembed.pipeline.sparse import SparseVector


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
        from refembed.pipeline.spans import check_spans, pool_spans, token_spans

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
        inputs, alone = input_list(texts)
        _ = self.sparse_head  # before any text is read
        found = [self.sparse_of(self.ids_of(text, i, truncate)) for i, text in enumerate(inputs)]
        return found[0] if alone else found

    def sparse_of(self, ids: Sequence[int]) -> SparseVector:
        """The sparse vector of one text, of token ids that are checked."""
        from refembed.pipeline.sparse import sparse

        head = self.sparse_head
        table = self.table if head.kind == "vocabulary" else np.empty((0, 0), np.float32)
        return sparse(head, self.model, self.ops, self.forward([ids]), list(ids), self.tokenizer.vocab, table)

    def embed_multi_vector(
        self, texts: str | bytes | Sequence[Input], *, is_query: bool = False, truncate: bool = False
    ) -> F32 | list[F32]:
        """A vector for each token, by the head of a ColBERT model or of bge-m3; `similarity.maxsim` compares them.

        texts     token ids are those of a whole text, as `tokenize` gives them
        is_query  ColBERT models read queries and documents differently (`refembed.pipeline.multi_vector`): a query has
                  its marker, and is filled up with [MASK]; a document has another, and no vectors of punctuation.
                  bge-m3 reads both alike, and gives no vector to the first token
        truncate  cut a text that is longer than the head was made for, instead of refusing it
        returns   (T, D) float32, each of length 1; for several texts a list of such
        Raises ModelError for a file without such a head (`refembed convert --heads` keeps it); else as `embed`.

        >>> Embedder.load("minilm").embed_multi_vector("a cat")
        Traceback (most recent call last):
            ...
        refembed.errors.ModelError: no head of many vectors in this file
          hint: ...
        """
        inputs, alone = input_list(texts)
        _ = self.multi_vector_head  # before any text is read
        found = []
        for i, text in enumerate(inputs):
            if isinstance(text, (str, bytes, bytearray, memoryview)):
                ids = self.tokenize(text if isinstance(text, str) else bytes(text))
            else:
                ids = check_ids(text, i, self.info.n_vocab)
            found.append(self.token_vectors(ids, f"input {i}", is_query, truncate).vectors)
        return found[0] if alone else found

    def token_vectors(self, ids: list[int], what: str, is_query: bool, truncate: bool) -> TokenVectors:
        """Tokens and vectors of one text of `embed_multi_vector`. what: the text, for errors."""
        from refembed.pipeline.multi_vector import token_vectors

        head = self.multi_vector_head
        if head.document is None or not ids:  # read as all models read texts
            ids = self.truncate_or_raise(ids, what, truncate, self.tokenizer.vocab.is_closed(ids))
        return token_vectors(head, self.model, self.ops, ids, what, is_query=is_query, cut=truncate)

    @functools.cached_property
    def sparse_head(self) -> SparseHead:
        """What makes sparse vectors. ModelError where the file has none."""
        from refembed.pipeline.sparse import read_sparse

        return read_sparse(self.file.metadata, self.info.n_embd, self.info.n_vocab)

    @functools.cached_property
    def multi_vector_head(self) -> Head:
        """What makes many vectors a text. ModelError where the file has none."""
        from refembed.pipeline.multi_vector import read_head

        return read_head(self.file.metadata, self.info.n_embd, self.info.n_ctx)

    @functools.cached_property
    def table(self) -> F32:
        """(V, C) token embeddings, decoded once."""
        return np.asarray(self.file.tensors["token_embd.weight"].dequantize(), np.float32)
