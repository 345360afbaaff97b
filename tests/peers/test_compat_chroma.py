"""`refembed.compat.chroma` in real collections, reopened by another process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import ModelError, RequestError
from tests.tiny import tiny_bert

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

DOCUMENTS = ["Spaghetti is cooked in salted water.", "Rust is a language for systems.", "The moon has no air."]
REOPEN = """
import sys, chromadb
from chromadb.config import Settings
import refembed.compat.chroma
client = chromadb.PersistentClient(sys.argv[1], Settings(anonymized_telemetry=False))
found = client.get_collection("docs").query(query_texts=[sys.argv[2]], n_results=1)
print(found["ids"][0][0], found["distances"][0][0])
"""


@pytest.fixture
def client(tmp_path: Path) -> Any:
    chromadb = pytest.importorskip("chromadb", reason="an optional library: refembed[chroma]")
    from chromadb.config import Settings

    return chromadb.PersistentClient(str(tmp_path / "db"), Settings(anonymized_telemetry=False))


def test_a_collection_is_filled_asked_and_reopened_elsewhere(client: Any, minilm: Path, tmp_path: Path) -> None:
    """Another process knows the function from what Chroma saved."""
    from refembed.compat.chroma import RefembedEmbeddingFunction

    prompts = {"query": "query: "}
    function = RefembedEmbeddingFunction(str(minilm), prompts=prompts)
    docs = client.create_collection("docs", embedding_function=function)
    docs.add(ids=["pasta", "rust", "moon"], documents=DOCUMENTS)
    e = Embedder.load(minilm)
    stored = np.array(docs.get(ids=["pasta"], include=["embeddings"])["embeddings"][0], np.float32)
    assert np.array_equal(function(DOCUMENTS)[0], e.embed(DOCUMENTS[0]))
    assert np.allclose(
        stored, e.embed(DOCUMENTS[0]), rtol=2.4e-7, atol=0
    )  # Chroma 1.5.9 changes last bits of any vector
    found = docs.query(query_texts=["How do I boil pasta?"], n_results=2)
    assert found["ids"][0][0] == "pasta"
    wanted = 1 - float(e.embed("query: How do I boil pasta?") @ stored)
    assert found["distances"][0][0] == pytest.approx(wanted, abs=1e-5)
    command = [sys.executable, "-c", REOPEN, str(tmp_path / "db"), "How do I boil pasta?"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said[0] == "pasta"
    assert float(said[1]) == pytest.approx(wanted, abs=1e-5)


def test_another_model_at_the_same_path_is_an_error(client: Any, tmp_path: Path) -> None:
    from refembed.compat.chroma import RefembedEmbeddingFunction

    path = tiny_bert(tmp_path / "m.gguf", seed=1)
    function = RefembedEmbeddingFunction(str(path), normalize=-1, numerics="exact")
    config = function.get_config()
    again = RefembedEmbeddingFunction.build_from_config(config)
    assert np.array_equal(again(["the cat"])[0], function(["the cat"])[0])
    shutil.copy(tiny_bert(tmp_path / "other.gguf", seed=2), path)
    with pytest.raises(ModelError, match="not the file that the collection was made with"):
        RefembedEmbeddingFunction.build_from_config(config)


def test_a_collections_options_cannot_change(minilm: Path) -> None:
    pytest.importorskip("chromadb", reason="an optional library: refembed[chroma]")
    from refembed.compat.chroma import RefembedEmbeddingFunction

    function = RefembedEmbeddingFunction(str(minilm))
    config = function.get_config()
    function.validate_config_update(config, dict(config))
    with pytest.raises(RequestError, match="the collection's pooling cannot change"):
        function.validate_config_update(config, config | {"pooling": "cls"})
    assert function.default_space() == "cosine"
    assert not function.is_legacy()


def test_mullamas_vectors_go_in_as_they_are(client: Any, minilm: Path) -> None:
    """The last Python block of Mullama's guide: `.data` of each embedding, and of the query."""
    from refembed.compat.mullama import Context, ContextParams, Model

    context = Context(Model.load(str(minilm)), ContextParams(embeddings=True))
    docs = client.create_collection("docs")
    embeddings = context.get_embedding_batch(DOCUMENTS)
    docs.add(ids=["pasta", "rust", "moon"], embeddings=[e.data for e in embeddings], documents=DOCUMENTS)
    query = context.get_embedding("How do I boil pasta?")
    found = docs.query(query_embeddings=[query.data], n_results=2)
    assert found["documents"][0][0] == DOCUMENTS[0]
