"""LangChain, LlamaIndex and Chroma with their own embedding classes, against a running `refembed serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.conftest import TEXTS, Served

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("swept")]

DOCUMENTS = [
    "Boil the spaghetti in salted water for nine minutes.",
    "The stock market fell sharply on Monday.",
    "Our cat sleeps on the window sill all day.",
    "The train to Berlin leaves from platform seven.",
    "Water the tomatoes twice a week in summer.",
]
QUESTIONS = {"How do I cook pasta?": 0, "When did shares lose value?": 1, "Where is the kitten?": 2, "gardening": 4}


def langchain_openai(address: str) -> Any:
    """Without `check_embedding_ctx_length=False` it sends ids of OpenAI's own vocabulary: other texts for any model."""
    module = pytest.importorskip("langchain_openai", reason="the extra `peers` has it")
    options = {"base_url": f"{address}/v1", "api_key": "none", "model": "m", "max_retries": 0}
    return module.OpenAIEmbeddings(**options, check_embedding_ctx_length=False)


def langchain_ollama(address: str) -> Any:
    module = pytest.importorskip("langchain_ollama", reason="the extra `peers` has it")
    return module.OllamaEmbeddings(base_url=address, model="m")


@pytest.mark.parametrize("make", [langchain_openai, langchain_ollama])
def test_langchain_embeds(served: Served, make: Any) -> None:
    """Documents, a query, and both asynchronously."""
    embeddings = make(served.address)
    served.check(embeddings.embed_documents(TEXTS), TEXTS)
    served.check([embeddings.embed_query(TEXTS[1])], TEXTS[1:2])
    served.check(asyncio.run(embeddings.aembed_documents(TEXTS)), TEXTS)


def test_langchain_gets_llama_servers_vectors_from_llama_server(served: Served) -> None:
    """The same object, pointed there: what it does to the numbers is nothing."""
    found = langchain_openai(served.theirs.address).embed_documents(TEXTS)
    assert (
        np.array_equal(found, served.wanted(TEXTS).astype(np.float32))
        or np.abs(np.array(found) - served.wanted(TEXTS)).max() < 2e-7
    )  # several texts in a request: llama-server's numbers move by an ulp


@pytest.mark.parametrize("make", [langchain_openai, langchain_ollama])
def test_a_vector_store_of_langchain_finds_the_neighbor(served: Served, make: Any) -> None:
    embeddings = make(served.address)
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(embeddings)
    store.add_texts(DOCUMENTS)
    for question, right in QUESTIONS.items():
        [found] = store.similarity_search(question, k=1)
        assert found.page_content == DOCUMENTS[right]


def index_openai(address: str) -> Any:
    module = pytest.importorskip("llama_index.embeddings.openai_like", reason="the extra `peers` has it")
    options = {"model_name": "m", "api_base": f"{address}/v1", "api_key": "none", "max_retries": 0}
    return module.OpenAILikeEmbedding(**options)


def index_ollama(address: str) -> Any:
    module = pytest.importorskip("llama_index.embeddings.ollama", reason="the extra `peers` has it")
    return module.OllamaEmbedding(model_name="m", base_url=address)


def index_tei(address: str) -> Any:
    module = pytest.importorskip("llama_index.embeddings.text_embeddings_inference", reason="the extra `peers` has it")
    return module.TextEmbeddingsInference(model_name="m", base_url=address)


@pytest.mark.parametrize("make", [index_openai, index_ollama, index_tei])
def test_llama_index_embeds(served: Served, make: Any) -> None:
    """Texts, a query, and both asynchronously."""
    embedding = make(served.address)
    served.check(embedding.get_text_embedding_batch(TEXTS), TEXTS)
    served.check([embedding.get_query_embedding(TEXTS[1])], TEXTS[1:2])

    async def ask() -> Any:
        return await embedding.aget_text_embedding_batch(TEXTS)

    served.check(asyncio.run(ask()), TEXTS)


@pytest.mark.parametrize("make", [index_openai, index_ollama, index_tei])
def test_an_index_of_llama_index_finds_the_neighbor(served: Served, make: Any) -> None:
    embedding = make(served.address)
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex([TextNode(text=text) for text in DOCUMENTS], embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=1)
    for question, right in QUESTIONS.items():
        [found] = retriever.retrieve(question)
        assert found.text == DOCUMENTS[right]
        a, b = served.wanted([question, DOCUMENTS[right]])
        assert found.score == pytest.approx(float(a @ b), abs=max(1e-6, 2 * served.bound))


# Chroma's own classes: name -> the client of whom, its options
FUNCTIONS: dict[str, Any] = {
    "OpenAIEmbeddingFunction": lambda address: {"api_key": "none", "api_base": f"{address}/v1", "model_name": "m"},
    "OllamaEmbeddingFunction": lambda address: {"url": address, "model_name": "m"},
    "HuggingFaceEmbeddingServer": lambda address: {"url": f"{address}/embed"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_collection_of_chroma_finds_the_neighbor(served: Served, name: str, tmp_path: Path) -> None:
    """On disk, opened again by a second client; distances are those of llama-server's vectors."""
    chromadb = pytest.importorskip("chromadb", reason="the extra `peers` has it")
    from chromadb.config import Settings
    from chromadb.utils import embedding_functions

    def collection() -> Any:
        client = chromadb.PersistentClient(str(tmp_path), Settings(anonymized_telemetry=False))
        function = getattr(embedding_functions, name)(**FUNCTIONS[name](served.address))
        space = {"hnsw": {"space": "cosine"}}
        return client.get_or_create_collection("texts", embedding_function=function, configuration=space)

    collection().add(ids=[f"d{i}" for i in range(len(DOCUMENTS))], documents=DOCUMENTS)
    stored = collection().get(include=["embeddings"])
    assert stored["ids"] == [f"d{i}" for i in range(len(DOCUMENTS))]
    served.check(stored["embeddings"], DOCUMENTS)
    found = collection().query(query_texts=[*QUESTIONS], n_results=2)
    assert [ids[0] for ids in found["ids"]] == [f"d{right}" for right in QUESTIONS.values()]
    for question, right, distances in zip(QUESTIONS, QUESTIONS.values(), found["distances"], strict=True):
        a, b = served.wanted([question, DOCUMENTS[right]])
        assert distances[0] == pytest.approx(1 - float(a @ b), abs=max(1e-6, 2 * served.bound))
