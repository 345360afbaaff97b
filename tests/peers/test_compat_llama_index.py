"""`refembed.compat.llama_index` in LlamaIndex's own index."""

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
def embedding(minilm: Path) -> Any:
    pytest.importorskip("llama_index.core", reason="an optional library: refembed[llama-index]")
    from refembed.compat.llama_index import RefembedEmbedding

    return RefembedEmbedding(model=str(minilm))


def test_an_index_finds_the_right_node_and_survives_saving(embedding: Any, tmp_path: Path) -> None:
    from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
    from llama_index.core.schema import TextNode

    nodes = [TextNode(text=t, id_=str(i)) for i, t in enumerate(DOCUMENTS)]
    index = VectorStoreIndex(nodes, embed_model=embedding)
    index.storage_context.persist(persist_dir=str(tmp_path))
    again = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)), embed_model=embedding)
    for searched in (index, again):
        (found,) = searched.as_retriever(similarity_top_k=1).retrieve("How do I boil pasta?")
        assert found.node.get_content() == DOCUMENTS[0]
        e = Embedder.load(embedding.model)
        assert found.score == pytest.approx(float(e.embed("How do I boil pasta?") @ e.embed(DOCUMENTS[0])), abs=1e-6)


def test_vectors_are_refembeds(embedding: Any) -> None:
    e = Embedder.load(embedding.model)
    assert np.array_equal(np.float32(embedding.get_text_embedding_batch(DOCUMENTS)), e.embed(DOCUMENTS))
    assert np.array_equal(np.float32(embedding.get_query_embedding("a")), e.embed("a"))
    assert np.array_equal(np.float32(embedding.get_text_embedding("a")), e.embed("a"))
    assert asyncio.run(embedding.aget_query_embedding("a")) == embedding.get_query_embedding("a")
    assert asyncio.run(embedding.aget_text_embedding_batch(DOCUMENTS)) == embedding.get_text_embedding_batch(DOCUMENTS)
    assert embedding.model_name == embedding.model


def test_queries_and_texts_have_their_prompts(minilm: Path, embedding: Any) -> None:
    from refembed.compat.llama_index import RefembedEmbedding

    prompted = RefembedEmbedding(
        model=str(minilm), prompts={"query": "search_query: ", "document": "search_document: "}
    )
    assert prompted.get_query_embedding("a") == embedding.get_query_embedding("search_query: a")
    assert prompted.get_text_embedding("a") == embedding.get_text_embedding("search_document: a")


def test_its_fields_are_saved_and_read_again(minilm: Path) -> None:
    from refembed.compat.llama_index import RefembedEmbedding

    made = RefembedEmbedding(model=str(minilm), dimensions=64, load={"numerics": "exact"}, embed_batch_size=3)
    again = RefembedEmbedding.from_dict(made.to_dict())
    assert again.class_name() == "RefembedEmbedding"
    assert again.embed_batch_size == 3
    assert again.get_text_embedding("a") == made.get_text_embedding("a")
    assert len(again.get_text_embedding("a")) == 64
