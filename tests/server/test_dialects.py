"""Ollama's and Text Embeddings Inference's endpoints: their shapes, with llama-server's numbers.

Neither server can run here; shapes, statuses and messages are those of their sources (server/routes.go and
api/types.go of Ollama, router/src/http of text-embeddings-inference).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.embedder.test_sparse import with_bge_heads
from tests.server.conftest import Pair
from tests.server.servers import llama, refembed

pytestmark = pytest.mark.oracle

TEXTS = ["hello world", "", "Größe, café!"]


def vectors(pair: Pair, texts: list[Any], **options: Any) -> list[Any]:
    """What llama-server says, each text on its own: its numbers do not move then."""
    return [pair[1].embed(text, **options)[0] for text in texts]


# Ollama


def test_ollama_embeds_one_text_or_several(pair: Pair) -> None:
    """Unit vectors, the model's name as it was asked for, durations in nanoseconds."""
    ours = pair[0]
    for given, texts in ((TEXTS, TEXTS), ("hello world", TEXTS[:1])):
        answer = ours.post("/api/embed", {"model": "all-minilm", "input": given}).json
        assert [*answer] == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
        assert answer["model"] == "all-minilm"
        assert answer["embeddings"] == vectors(pair, texts)
        assert answer["prompt_eval_count"] == sum(
            len(pair[1].post("/tokenize", {"content": t, "add_special": True}).json["tokens"]) for t in texts
        )
        assert answer["total_duration"] > 0


@pytest.mark.parametrize("given", ["", None, []])
def test_ollama_embeds_nothing_as_nothing(pair: Pair, given: Any) -> None:
    answer = pair[0].post("/api/embed", {"model": "m", "input": given})
    assert (answer.status, answer.json) == (200, {"model": "m", "embeddings": []})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "missing request body"),
        ({"input": 5}, "invalid input type"),
        ({"input": False}, "invalid input type"),
        ({"input": {"a": 1}}, "invalid input type"),
        ({"input": [1, 2]}, "invalid input type"),
        ({"input": ["a", 2]}, "invalid input type"),
        ({"input": "a " * 600, "truncate": False}, "the input length exceeds the context length"),
    ],
)
def test_ollama_says_what_is_wrong(pair: Pair, body: Any, message: str) -> None:
    answer = pair[0].post("/api/embed", body)
    assert (answer.status, answer.json) == (400, {"error": message})


def test_ollama_truncates_unless_truncate_is_false(pair: Pair) -> None:
    """To what the model reads, the special tokens kept; dimensions out of range cut nothing."""
    ours = pair[0]
    whole = [101] + [1037] * 510 + [102]
    answer = ours.post("/api/embed", {"input": "a " * 600}).json
    assert answer["embeddings"] == vectors(pair, [whole])
    assert answer["prompt_eval_count"] == 512
    cut = ours.post("/api/embed", {"input": "hello", "dimensions": 8}).json["embeddings"][0]
    raw = vectors(pair, ["hello"], embd_normalize=-1)[0][:8]
    assert cut == pytest.approx([x / sum(y * y for y in raw) ** 0.5 for x in raw], abs=1e-7)
    for none in (0, 384, 999, -1):
        answer = ours.post("/api/embed", {"input": "hello", "dimensions": none}).json
        assert answer["embeddings"] == vectors(pair, ["hello"])


def test_ollamas_older_endpoint_normalizes_nothing(pair: Pair) -> None:
    ours = pair[0]
    assert ours.post("/api/embeddings", {"model": "m", "prompt": "hello"}).json == {
        "embedding": vectors(pair, ["hello"], embd_normalize=-1)[0]
    }
    assert ours.post("/api/embeddings", {"prompt": ""}).json == {"embedding": []}
    assert ours.post("/api/embeddings", {"prompt": 5}).status == 400
    assert ours.post("/api/embeddings", b"").json == {"error": "missing request body"}


def test_ollama_lists_the_model(pair: Pair) -> None:
    [model] = pair[0].get("/api/tags").json["models"]
    assert [*model] == ["name", "model", "modified_at", "size", "digest", "details"]
    assert model["details"]["family"] == "bert"
    assert (model["details"]["format"], model["details"]["quantization_level"]) == ("gguf", "F32")
    assert len(model["digest"]) == 64
    assert [*pair[0].get("/api/version").json] == ["version"]
    answer = pair[0].post("/api/chat", {})
    assert (answer.status, [*answer.json]) == (501, ["error"])


# Text Embeddings Inference


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [("hello", ["hello"]), (TEXTS, TEXTS), ([101, 7592, 102], [[101, 7592, 102]]), ([[101, 102]], [[101, 102]])],
    ids=repr,
)
def test_tei_embeds_texts_and_ids(pair: Pair, inputs: Any, texts: list[Any]) -> None:
    """A bare list of vectors, for one text as well."""
    assert pair[0].post("/embed", {"inputs": inputs}).json == vectors(pair, texts)
    raw = pair[0].post("/embed", {"inputs": inputs, "normalize": False}).json
    assert raw == vectors(pair, texts, embd_normalize=-1)


def test_tei_gives_each_token_its_vector(pair: Pair, per_token: Pair) -> None:
    """From a server that pools, too."""
    [rows] = pair[0].post("/embed_all", {"inputs": "hello hello hello"}).json
    assert rows == per_token[1].post("/embeddings", {"content": "hello hello hello"}).json[0]["embedding"]


def test_tei_gives_tokens_and_weights(tiny: Path, tmp_path: Path) -> None:
    """Each weight is ReLU(<hidden, weight> + bias) of llama-server's hidden state; special tokens have none."""
    path, lexical, _ = with_bge_heads(tiny, tmp_path / "m.gguf", 9.0)
    flags = ("-m", path, "--numerics", "ggml", "-fa", "off", "--no-repack", "--pooling", "none")
    with refembed(*flags) as ours, llama(path, "NONE", n_ctx=0) as theirs:
        ids = theirs.post("/tokenize", {"content": TEXTS[0], "add_special": True}).json["tokens"]
        [given] = theirs.post("/embeddings", {"content": TEXTS[0], "embd_normalize": -1}).json
        weights = np.maximum(np.array(given["embedding"]) @ lexical + 9, 0)
        wanted = {i: w for i, w in zip(ids[1:-1], weights[1:-1].tolist(), strict=True) if w > 0}
        one, two = ours.post("/embed_sparse", {"inputs": [TEXTS[0], ids]}).json
        assert ours.post("/embed_sparse", {"inputs": TEXTS[0]}).json == [one] == [two]
        answer = ours.post("/embed_sparse", {"inputs": "a " * 600})
        assert (answer.status, answer.json["error_type"]) == (422, "Validation")
    assert [list(x) for x in one] == [["index", "value"]] * len(wanted)
    assert {x["index"]: x["value"] for x in one} == pytest.approx(wanted, rel=1e-5)
    assert len(wanted) > 1


def test_tei_has_no_sparse_vectors_of_a_model_without_a_head(pair: Pair) -> None:
    answer = pair[0].post("/embed_sparse", {"inputs": "a"})
    wanted = {"error": "Model is not an embedding model with SPLADE pooling", "error_type": "Backend"}
    assert (answer.status, answer.json) == (424, wanted)


def test_tei_compares_sentences(pair: Pair) -> None:
    body = {"inputs": {"source_sentence": "hello", "sentences": ["hello", "good day", "a tree"]}}
    a, *others = vectors(pair, ["hello", "hello", "good day", "a tree"])
    expected = [sum(x * y for x, y in zip(a, b, strict=True)) for b in others]
    assert pair[0].post("/similarity", body).json == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/embed", {}, 422, "Validation", "missing field `inputs`"),
        ("/embed", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
        ("/embed", {"inputs": [[]]}, 400, "Empty", "`inputs` cannot be empty"),
        ("/embed", {"inputs": {"a": 1}}, 422, "Validation", "`inputs` must be a text"),
        ("/embed", {"inputs": [1.5]}, 422, "Validation", "`inputs` must be a text"),
        ("/embed", {"inputs": "a " * 600}, 422, "Validation", "`inputs` must have less than 512 tokens. Given: 602"),
        ("/embed", {"inputs": ["a"] * 2049}, 422, "Validation", "batch size 2049 > maximum allowed batch size 2048"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation", "`dimensions` must be"),
        ("/similarity", {"inputs": "a"}, 422, "Validation", "`inputs` must have"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "`inputs.sentences`"),
    ],
)
def test_tei_says_what_is_wrong(
    pair: Pair, path: str, body: Any, status: int, kind: str, message: str
) -> None:  # fmt: skip
    answer = pair[0].post(path, body)
    assert (answer.status, [*answer.json], answer.json["error_type"]) == (status, ["error", "error_type"], kind)
    assert answer.json["error"].startswith(message)


def test_tei_tells_its_limits(pair: Pair) -> None:
    info = pair[0].get("/info").json
    assert (info["max_input_length"], info["model_type"]) == (512, {"embedding": {"pooling": "mean"}})
    answer = pair[0].post("/embed", {"inputs": "a " * 600, "truncate": True})
    assert answer.json == vectors(pair, [[101] + [1037] * 510 + [102]])


def test_a_server_that_pools_nothing_says_so(per_token: Pair) -> None:
    ours = per_token[0]
    assert ours.post("/api/embed", {"input": "a"}).status == 501
    assert ours.post("/embed", {"inputs": "a"}).status == 422
    assert ours.post("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}).status == 422
