"""`refembed.compat.sentence_transformers` by itself; tests/peers compares it with the real one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.compat.sentence_transformers import SentenceTransformer, quantized
from refembed.errors import RequestError

TEXTS = ["Hello, world!", "a", "", "How do I cook pasta?"]


@pytest.fixture(scope="module")
def model(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(minilm, prompts={"query": "query: ", "passage": "passage: "}, device="cpu")


@pytest.fixture(scope="module")
def embedder(minilm: Path) -> Embedder:
    return Embedder.load(minilm, semantics="original")


def test_one_text_gives_one_vector_and_several_a_matrix(model: SentenceTransformer, embedder: Embedder) -> None:
    assert model.encode("a").shape == (384,)
    assert model.encode([]).shape == (0,)
    found = model.encode(TEXTS, batch_size=2, show_progress_bar=True)
    assert (found.shape, found.dtype) == ((4, 384), np.float32)
    assert np.array_equal(found, embedder.embed(TEXTS))
    assert np.array_equal(model.encode(sentences=TEXTS, inputs=[]), found)
    assert [v.shape for v in model.encode(TEXTS, convert_to_numpy=False)] == [(384,)] * 4


def test_prompts_stand_in_front(model: SentenceTransformer) -> None:
    wanted = model.encode("query: a cat")
    for found in (
        model.encode("a cat", prompt_name="query"), model.encode("a cat", prompt="query: "), model.encode_query("a cat")
    ):  # fmt: skip
        assert np.array_equal(found, wanted)
    assert np.array_equal(model.encode_document(["a cat"])[0], model.encode("passage: a cat"))
    assert np.array_equal(model.encode_query("a cat", prompt=""), model.encode("a cat"))
    with pytest.raises(ValueError, match="prompt_name 'doc': the prompts are"):
        model.encode("a", prompt_name="doc")


def test_a_default_prompt_is_used_where_none_is_named(minilm: Path, model: SentenceTransformer) -> None:
    other = SentenceTransformer(minilm, prompts={"q": "query: "}, default_prompt_name="q")
    assert np.array_equal(other.encode("a cat"), model.encode("query: a cat"))
    with pytest.raises(ValueError, match="default_prompt_name 'x'"):
        SentenceTransformer(minilm, default_prompt_name="x")


def test_vectors_are_cut_after_normalizing_and_made_unit_where_asked(model: SentenceTransformer) -> None:
    whole = model.encode(TEXTS)
    assert np.array_equal(model.encode(TEXTS, truncate_dim=64), whole[:, :64])
    unit = model.encode(TEXTS, truncate_dim=64, normalize_embeddings=True)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1)
    with model.truncate_embeddings(32):
        assert model.get_sentence_embedding_dimension() == 32
        assert model.encode("a").shape == (32,)
    assert model.get_embedding_dimension() == 384
    with pytest.raises(ValueError, match="truncate_dim 0"):
        model.encode("a", truncate_dim=0)


def test_without_a_normalize_module_vectors_are_raw(minilm: Path, embedder: Embedder) -> None:
    raw = SentenceTransformer(minilm, normalize=False)
    assert np.array_equal(raw.encode("a"), embedder.embed("a", normalize=-1))
    assert np.array_equal(raw.encode("a", normalize_embeddings=True), embedder.embed("a"))


def test_too_long_a_text_is_cut_and_that_is_logged(
    minilm: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    model = SentenceTransformer(minilm)
    model.max_seq_length = 8
    with caplog.at_level(logging.WARNING):
        found = model.encode(["word " * 20, "a"])
    assert caplog.messages == ["1 of 2 texts have more than 8 tokens and were cut"]
    assert np.array_equal(found[0], embedder.embed("word " * 6))


def test_token_embeddings_are_raw_rows(model: SentenceTransformer, embedder: Embedder) -> None:
    rows = model.encode(["a cat", "a"], output_value="token_embeddings")
    assert [r.shape for r in rows] == [(4, 384), (3, 384)]
    assert np.array_equal(rows[0], embedder.embed("a cat", pooling="none", normalize=-1))
    everything = model.encode("a cat", output_value=None)
    assert everything["input_ids"].tolist() == [101, 1037, 4937, 102]
    assert np.array_equal(everything["sentence_embedding"], embedder.embed("a cat"))


def test_tokenize_pads(model: SentenceTransformer) -> None:
    found = model.tokenize(["a cat", "a"])
    assert found["input_ids"].tolist() == [[101, 1037, 4937, 102], [101, 1037, 102, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.parametrize(
    ("name", "wanted"), [("cosine", 0.6), ("dot", 3.0), ("euclidean", -(20**0.5)), ("manhattan", -6.0)]
)
def test_similarity_is_arithmetic(minilm: Path, name: str, wanted: float) -> None:
    model = SentenceTransformer(minilm, similarity_fn_name=name)
    a, b = np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])
    found = model.similarity(a, [b[0], a[0]])
    assert found.shape == (1, 2)
    assert found[0, 0] == pytest.approx(wanted)
    assert model.similarity_pairwise(a, b).tolist() == pytest.approx([wanted])
    assert model.similarity(a[0], b[0]).shape == (1, 1)


def test_fewer_bits_by_hand() -> None:
    x = np.array([[-127.0, 0.5, 255.0], [128.0, 0.5, 0.0], [0.7, 0.5, 99.0]], np.float32)  # levels are 1 apart
    assert quantized(x, "uint8").tolist() == [[0, 0, 255], [255, 0, 0], [127, 0, 99]]
    assert quantized(x, "int8").tolist() == [[-128, -128, 127], [127, -128, -128], [-1, -128, -29]]
    assert quantized(x, "ubinary").tolist() == [[0b01100000], [0b11000000], [0b11100000]]
    assert quantized(x, "binary").tolist() == [[0b01100000 - 128], [0b11000000 - 128], [0b11100000 - 128]]
    with pytest.raises(ValueError, match="ranges of 1 vector say nothing"):
        quantized(x[:1], "int8")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode("a", precision="int4"), "precision 'int4'"),
        (lambda m: m.encode("a", output_value="logits"), "output_value 'logits'"),
        (lambda m: m.encode(["a", 5]), "encode takes texts; int is none"),
        (lambda m: m.encode("a", device=["cpu"]), "a list of devices"),
        (lambda m: m.fit([]), "it trains none"),
        (lambda m: m.similarity_pairwise(np.ones((2, 3)), np.ones((1, 3))), "2 vectors and 1"),
        (lambda m: setattr(m, "similarity_fn_name", "jaccard"), "similarity_fn_name 'jaccard'"),
    ],
)
def test_what_cannot_be_had_is_one_error(model: SentenceTransformer, call: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call(model)


def test_tensors_need_torch(model: SentenceTransformer) -> None:
    try:
        import torch
    except ModuleNotFoundError:
        with pytest.raises(NotImplementedError, match="pip install torch"):
            model.encode("a", convert_to_tensor=True)
    else:
        assert isinstance(model.encode("a", convert_to_tensor=True), torch.Tensor)


@pytest.mark.system
def test_a_pool_of_processes_gives_the_bits_of_one(model: SentenceTransformer, embedder: Embedder) -> None:
    """As sentence-transformers' documentation writes it: start, encode, stop."""
    wanted = embedder.embed(TEXTS * 20)
    pool = model.start_multi_process_pool(["cpu"] * 2)
    try:
        assert len(set(pool["processes"])) == 2
        assert np.array_equal(model.encode(TEXTS * 20, pool=pool), wanted)
        assert np.array_equal(model.encode_multi_process(TEXTS * 20, pool), wanted)
    finally:
        model.stop_multi_process_pool(pool)
    assert model.embedder.running_pool() is None
    with pytest.raises(RuntimeError, match="no pool of processes is running"):
        model.encode(TEXTS, pool=pool)
