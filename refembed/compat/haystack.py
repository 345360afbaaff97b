"""Haystack's embedders, one for a query's text and one for documents.

    from refembed.compat.haystack import RefembedDocumentEmbedder, RefembedTextEmbedder
    pipeline.add_component("embedder", RefembedTextEmbedder(model="model.gguf"))

The model is loaded by `warm_up`, or by the first run; components of one process that name the same model load it each.
device, token and batch_size, which Haystack's own embedders have, are absent: nothing here depends on them. Needs
haystack-ai.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from refembed.compat.common import InputTypeError, Source, need

need("haystack", "haystack-ai", "haystack")
from haystack import Document, component, default_from_dict, default_to_dict  # noqa: E402 - see the line above


@component
class RefembedTextEmbedder:
    """A text to a list of numbers.

    model            a file, a folder or a name, as `Embedder.load` takes it
    prefix, suffix   put around the text
    pooling, normalize, dimensions, truncate   as of `refembed.compat.common.Source`
    load             for `Embedder.load`: numerics, semantics, lora ...
    """

    def __init__(
        self, model: str = "minilm", *, prefix: str = "", suffix: str = "", pooling: str = "native",
        normalize: int | None = None, dimensions: int | None = None, truncate: bool = False,
        load: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.prefix, self.suffix = prefix, suffix
        self.source = Source(
            model, pooling=pooling, normalize=normalize, dimensions=dimensions, truncate=truncate, load=load
        )

    def warm_up(self) -> None:
        """Load the model."""
        _ = self.source.embedder

    def to_dict(self) -> dict[str, Any]:
        """As Haystack saves pipelines."""
        saved: dict[str, Any] = default_to_dict(self, **written(self.source), prefix=self.prefix, suffix=self.suffix)
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RefembedTextEmbedder:
        """What `to_dict` wrote down."""
        found: RefembedTextEmbedder = default_from_dict(cls, data)
        return found

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """{"embedding": [...], "meta": {"model"}} of a text."""
        if not isinstance(text, str):
            raise InputTypeError(f"RefembedTextEmbedder takes a string, not {type(text).__name__}", hint="documents: "
                          "RefembedDocumentEmbedder")  # fmt: skip
        vector = self.source.vectors([self.prefix + text + self.suffix], "query")[0]
        return {"embedding": vector.tolist(), "meta": {"model": self.source.name}}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """As `run`, in a thread."""
        found: dict[str, Any] = await asyncio.to_thread(self.run, text)
        return found


@component
class RefembedDocumentEmbedder:
    """Documents to documents with an embedding. The given ones are not changed.

    meta_fields_to_embed   values of a document's meta that are put before its content
    embedding_separator    between them
    The rest as of RefembedTextEmbedder.
    """

    def __init__(
        self, model: str = "minilm", *, prefix: str = "", suffix: str = "",
        meta_fields_to_embed: list[str] | None = None, embedding_separator: str = "\n", pooling: str = "native",
        normalize: int | None = None, dimensions: int | None = None, truncate: bool = False,
        load: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.prefix, self.suffix = prefix, suffix
        self.meta_fields_to_embed, self.embedding_separator = list(meta_fields_to_embed or []), embedding_separator
        self.source = Source(
            model, pooling=pooling, normalize=normalize, dimensions=dimensions, truncate=truncate, load=load
        )

    def warm_up(self) -> None:
        """Load the model."""
        _ = self.source.embedder

    def to_dict(self) -> dict[str, Any]:
        """As Haystack saves pipelines."""
        saved: dict[str, Any] = default_to_dict(
            self, **written(self.source), prefix=self.prefix, suffix=self.suffix,
            meta_fields_to_embed=self.meta_fields_to_embed, embedding_separator=self.embedding_separator,
        )  # fmt: skip
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RefembedDocumentEmbedder:
        """What `to_dict` wrote down."""
        found: RefembedDocumentEmbedder = default_from_dict(cls, data)
        return found

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """{"documents": [...], "meta": {"model"}}, in the order given."""
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise InputTypeError(
                "RefembedDocumentEmbedder takes a list of Documents", hint="a text: RefembedTextEmbedder"
            )
        vectors = self.source.vectors([self.text_of(d) for d in documents], "document")
        found = [replace(d, embedding=vector.tolist()) for d, vector in zip(documents, vectors, strict=True)]
        return {"documents": found, "meta": {"model": self.source.name}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """As `run`, in a thread."""
        found: dict[str, Any] = await asyncio.to_thread(self.run, documents)
        return found

    def text_of(self, document: Document) -> str:
        """What of a document is embedded."""
        meta = [str(document.meta[f]) for f in self.meta_fields_to_embed if document.meta.get(f) is not None]
        return self.prefix + self.embedding_separator.join([*meta, document.content or ""]) + self.suffix


def written(source: Source) -> dict[str, Any]:
    """The options of a source that a component has: Haystack has prefix where others have prompts."""
    return {key: value for key, value in source.config().items() if key != "prompts"}
