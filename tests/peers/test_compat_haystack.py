"""`refembed.compat.haystack` in Haystack's own pipelines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

DOCUMENTS = ["Spaghetti is cooked in salted water.", "Rust is a language for systems.", "The moon has no air."]


@pytest.fixture(scope="module")
def haystack() -> Any:
    pytest.importorskip("haystack", reason="an optional library: refembed[haystack]")
    from refembed.compat import haystack

    return haystack


def test_pipelines_index_search_and_are_saved(haystack: Any, minilm: Path) -> None:
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    index = Pipeline()
    index.add_component("embedder", haystack.RefembedDocumentEmbedder(str(minilm)))
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder.documents", "writer.documents")
    index.run({"embedder": {"documents": [Document(content=t) for t in DOCUMENTS]}})

    search = Pipeline()
    search.add_component("embedder", haystack.RefembedTextEmbedder(str(minilm)))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    search.connect("embedder.embedding", "retriever.query_embedding")
    (found,) = search.run({"embedder": {"text": "How do I boil pasta?"}})["retriever"]["documents"]
    assert found.content == DOCUMENTS[0]

    alone = Pipeline()
    alone.add_component("embedder", haystack.RefembedTextEmbedder(str(minilm), prefix="query: ", dimensions=64))
    again = Pipeline.loads(alone.dumps(), allowed_modules=["refembed.compat.haystack"])
    wanted = Embedder.load(minilm).embed("query: a", dimensions=64)
    for pipeline in (alone, again):
        reply = pipeline.run({"embedder": {"text": "a"}})["embedder"]
        assert np.array_equal(np.float32(reply["embedding"]), wanted)
        assert reply["meta"] == {"model": str(minilm)}


def test_meta_stands_before_the_content_and_documents_are_not_changed(haystack: Any, minilm: Path) -> None:
    from haystack import Document

    embedder = haystack.RefembedDocumentEmbedder(
        str(minilm), prefix="<", suffix=">", meta_fields_to_embed=["title", "none"], embedding_separator=" | "
    )
    again = haystack.RefembedDocumentEmbedder.from_dict(embedder.to_dict())
    given = [Document(content="a cat", meta={"title": "Pets", "none": None}), Document(content=None)]
    e = Embedder.load(minilm)
    for each in (embedder, again):
        found = each.run(given)["documents"]
        assert np.array_equal(np.float32([d.embedding for d in found]), e.embed(["<Pets | a cat>", "<>"]))
    assert all(d.embedding is None for d in given)
    assert asyncio.run(embedder.run_async(given))["documents"] == found
    assert embedder.run([])["documents"] == []


def test_the_model_is_loaded_by_warm_up_and_a_mistake_is_an_error(haystack: Any, minilm: Path) -> None:
    embedder = haystack.RefembedTextEmbedder(str(minilm))
    assert embedder.source._loaded is None
    embedder.warm_up()
    assert embedder.source._loaded is not None
    assert asyncio.run(embedder.run_async("a")) == embedder.run("a")
    with pytest.raises(TypeError, match="takes a string, not list"):
        embedder.run(["a"])
    with pytest.raises(TypeError, match="takes a list of Documents"):
        haystack.RefembedDocumentEmbedder(str(minilm)).run("a")
