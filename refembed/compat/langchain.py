"""LangChain's `Embeddings`.

    from refembed.compat.langchain import RefembedEmbeddings
    InMemoryVectorStore(RefembedEmbeddings("model.gguf", prompts={"query": "search_query: "}))

The asynchronous methods are LangChain's own: they run these in a thread. Needs langchain-core.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refembed.compat.common import Source, need, one_text, text_list
from refembed.embedder import Embedder

need("langchain_core", "langchain-core", "langchain")
from langchain_core.embeddings import Embeddings  # noqa: E402 - the sentence above comes first


class RefembedEmbeddings(Embeddings):
    """Texts to lists of numbers. Arguments as of `refembed.compat.common.Source`; `load` goes to `Embedder.load`."""

    def __init__(
        self, model: str | Path | Embedder = "minilm", *, pooling: str = "native", normalize: int | None = None,
        dimensions: int | None = None, truncate: bool = False, prompts: Mapping[str, str] | str | None = None,
        **load: Any,
    ) -> None:  # fmt: skip
        self.source = Source(
            model, pooling=pooling, normalize=normalize, dimensions=dimensions, truncate=truncate, prompts=prompts,
            load=load,
        )  # fmt: skip
        _ = self.source.embedder  # a model that cannot be loaded is reported now

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents, in order."""
        found: list[list[float]] = self.source.vectors(text_list(texts, "embed_documents"), "document").tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        found: list[float] = self.source.vectors([one_text(text, "embed_query")], "query")[0].tolist()
        return found
