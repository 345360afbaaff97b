"""LlamaIndex's `BaseEmbedding`.

    from refembed.compat.llama_index import RefembedEmbedding
    VectorStoreIndex.from_documents(documents, embed_model=RefembedEmbedding(model="model.gguf"))

`embed_batch_size` is LlamaIndex's (10); it changes no bits. Its embeddings_cache has the bare text for a key, so it
must not be shared between models or prompts. Needs llama-index-core.
"""

from __future__ import annotations

import asyncio
from typing import Any

from refembed.compat.common import Source, need, one_text, text_list

need("llama_index.core", "llama-index-core", "llama_index")
from llama_index.core.base.embeddings.base import BaseEmbedding  # noqa: E402 - the sentence above comes first
from llama_index.core.bridge.pydantic import Field, PrivateAttr  # noqa: E402


class RefembedEmbedding(BaseEmbedding):
    """Texts to lists of numbers. Fields as of `refembed.compat.common.Source`."""

    model: str = Field(default="minilm", description="A GGUF file, a folder or a name")
    pooling: str = Field(default="native", description="native, mean, cls, last, max ...")
    normalize: int | None = Field(default=None, description="llama.cpp's embd_normalize; None: Euclid")
    dimensions: int | None = Field(default=None, description="Keep the first so many numbers")
    truncate: bool = Field(default=False, description="Cut a text that is too long instead of refusing it")
    prompts: dict[str, str] | str = Field(default_factory=dict, description="What stands before a query, a document")
    load: dict[str, Any] = Field(default_factory=dict, description="For Embedder.load: numerics, semantics, lora ...")
    _source: Source = PrivateAttr()

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self._source = Source(
            self.model, pooling=self.pooling, normalize=self.normalize, dimensions=self.dimensions,
            truncate=self.truncate, prompts=self.prompts, load=self.load,
        )  # fmt: skip
        _ = self._source.embedder  # a model that cannot be loaded is reported now
        if "model_name" not in data:
            self.model_name = self.model

    @classmethod
    def class_name(cls) -> str:
        """LlamaIndex's name for it in what it saves."""
        return "RefembedEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        found: list[float] = self._source.vectors([one_text(query, "a query")], "query")[0].tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._source.vectors(text_list(texts, "texts"), "document").tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)
