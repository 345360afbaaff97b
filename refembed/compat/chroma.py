"""Chroma's `EmbeddingFunction`.

    from refembed.compat.chroma import RefembedEmbeddingFunction
    client.create_collection("docs", embedding_function=RefembedEmbeddingFunction("model.gguf"))

A new collection measures the cosine (Chroma's own default is the squared Euclidean distance). Chroma writes the
options into the collection and, where this module is imported, makes the function again from them when it is reopened.
Among them is the SHA-256 of the model's file: vectors of two models cannot be compared, so another file at the same
path is an error. A relative path is written down as it is. Needs chromadb.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refembed.compat.common import Source, need, rebuilt, text_list
from refembed.embedder import Embedder
from refembed.errors import ModelError, RequestError

need("chromadb", "chromadb", "chroma")
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space  # noqa: E402 - see the line above
from chromadb.utils.embedding_functions import register_embedding_function  # noqa: E402


@register_embedding_function
class RefembedEmbeddingFunction(EmbeddingFunction[Documents]):
    """Texts to float32 vectors. Arguments as of `refembed.compat.common.Source`; `load` goes to `Embedder.load`."""

    def __init__(
        self, model: str | Path | Embedder = "minilm", *, pooling: str = "native", normalize: int | None = None,
        dimensions: int | None = None, truncate: bool = False, prompts: Mapping[str, str] | str | None = None,
        **load: Any,
    ) -> None:  # fmt: skip
        self.use(
            Source(
                model, pooling=pooling, normalize=normalize, dimensions=dimensions, truncate=truncate,
                prompts=prompts, load=load,
            )
        )  # fmt: skip

    def use(self, source: Source, sha256: str = "") -> None:
        """Take a source; sha256: what its model's file must have, if known."""
        self.source = source
        self.sha256 = source.embedder.info.sha256  # read once, and a model that cannot be loaded is reported now
        if sha256 and sha256 != self.sha256:
            raise ModelError(
                f"{source.name}: not the file that the collection was made with",
                hint=f"its SHA-256 is {self.sha256[:16]}..., the collection's {sha256[:16]}...",
            )

    def __call__(self, input: Documents) -> Embeddings:
        """Vectors of documents, in order."""
        return list(self.source.vectors(text_list(input, "documents"), "document"))

    def embed_query(self, input: Documents) -> Embeddings:
        """Vectors of queries, in order."""
        return list(self.source.vectors(text_list(input, "queries"), "query"))

    @staticmethod
    def name() -> str:
        """What Chroma calls it in what it saves."""
        return "refembed"

    def default_space(self) -> Space:
        """Of a new collection."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """Any: vectors have length 1 by default."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """The options, and which file they are of."""
        return self.source.config() | {"sha256": self.sha256}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> RefembedEmbeddingFunction:
        """The function that `get_config` wrote down. ModelError where its model is another now."""
        found = RefembedEmbeddingFunction.__new__(RefembedEmbeddingFunction)
        found.use(rebuilt({k: v for k, v in config.items() if k != "sha256"}), config.get("sha256", ""))
        return found

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """A collection's vectors are made: what made them cannot change."""
        changed = [key for key in old_config if key != "model" and old_config[key] != new_config.get(key)]
        if changed:
            raise RequestError(f"the collection's {', '.join(changed)} cannot change", hint="make a new collection")
