"""`refembed.compat.langchain` in LangChain's own vector store."""

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
def embeddings(minilm: Path) -> Any:
    pytest.importorskip("langchain_core", reason="an optional library: refembed[langchain]")
    from refembed.compat.langchain import RefembedEmbeddings

    return RefembedEmbeddings(str(minilm))


def test_a_vector_store_finds_the_right_neighbor(embeddings: Any) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(DOCUMENTS, embeddings)
    for query, wanted in (("How do I boil pasta?", 0), ("programming", 1), ("astronomy", 2)):
        assert store.similarity_search(query, k=1)[0].page_content == DOCUMENTS[wanted]
    found = asyncio.run(store.asimilarity_search_with_score("How do I boil pasta?", k=3))
    assert found[0][0].page_content == DOCUMENTS[0]
    e = Embedder.load(embeddings.source.name)
    assert found[0][1] == pytest.approx(float(e.embed("How do I boil pasta?") @ e.embed(DOCUMENTS[0])), abs=1e-6)


def test_it_is_langchains_class_and_gives_plain_lists(embeddings: Any) -> None:
    from langchain_core.embeddings import Embeddings

    assert isinstance(embeddings, Embeddings)
    found = embeddings.embed_documents(DOCUMENTS)
    assert type(found[0]) is list
    assert type(found[0][0]) is float
    assert np.array_equal(np.float32(found), Embedder.load(embeddings.source.name).embed(DOCUMENTS))
    assert embeddings.embed_documents([]) == []
    with pytest.raises(TypeError, match="takes a list of texts"):
        embeddings.embed_documents("one")
    with pytest.raises(TypeError, match="takes one text"):
        embeddings.embed_query(["one"])


def test_many_queries_at_once_are_each_alone(embeddings: Any) -> None:
    async def all_of_them() -> list[list[float]]:
        return await asyncio.gather(*(embeddings.aembed_query(f"query {i}") for i in range(16)))

    assert asyncio.run(all_of_them()) == [embeddings.embed_query(f"query {i}") for i in range(16)]


def test_queries_and_documents_have_their_prompts(minilm: Path, embeddings: Any) -> None:
    from refembed.compat.langchain import RefembedEmbeddings

    prompted = RefembedEmbeddings(minilm, prompts={"query": "search_query: ", "document": "search_document: "})
    assert prompted.embed_query("a") == embeddings.embed_query("search_query: a")
    assert prompted.embed_documents(["a"]) == embeddings.embed_documents(["search_document: a"])
