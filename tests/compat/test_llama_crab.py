"""`refembed.compat.llama_crab`: what llama-crab's page shows, and llama.cpp's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.compat.llama_crab import EmbedOptions, Llama, LlamaParams, PoolingType
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.testing.synthetic import synthetic
from refembed.tokenizer.pairs import encode_pair
from tests.tiny import tiny_bert

EXACT = {"numerics": "ggml", "flash_attn": False, "repack": False}
CORPUS = ["Rust keeps memory safe.", "Paris is a city in France.", "Bananas are yellow fruit."]


@pytest.fixture(scope="module")
def llama(minilm: Path) -> Llama:
    return Llama.load(LlamaParams(str(minilm)).with_n_ctx(512).with_embeddings(True), **EXACT)


def test_the_page_s_search_finds_the_right_text(llama: Llama) -> None:
    q = llama.embed("a systems programming language", True)
    scored = [(i, sum(a * b for a, b in zip(q, llama.embed(doc, True), strict=True))) for i, doc in enumerate(CORPUS)]
    scored.sort(key=lambda pair: -pair[1])
    assert scored[0][0] == 0
    assert np.allclose([np.dot(q, v) for v in llama.embed_texts(CORPUS, True)], [s for _, s in sorted(scored)])


@pytest.mark.oracle
def test_vectors_are_llama_cpps_of_the_same_ids(llama: Llama, oracle: Any) -> None:
    """As in llama-crab a special token that is spelled out stays text."""
    for text in ("Rust keeps memory safe.", "two [SEP] parts"):
        ids = oracle.tokenize(text, parse_special=False)
        (wanted,) = oracle.embed([ids])
        assert np.array_equal(llama.embed(text, False), wanted)
        assert np.array_equal(llama.embed(text, True), oracle.normalize(wanted[None])[0])


@pytest.mark.oracle
def test_the_start_token_can_be_left_out(llama: Llama, oracle: Any) -> None:
    ids = oracle.tokenize("Rust keeps memory safe.")
    (wanted,) = oracle.embed([ids[1:]])
    options = EmbedOptions.new().with_normalize(False).with_start_token(False)
    assert np.array_equal(llama.embed_with_options("Rust keeps memory safe.", options), wanted)
    assert ids[0] == 101


def test_many_texts_are_each_text_alone(llama: Llama) -> None:
    found = llama.embed_texts(CORPUS, True)
    assert all(np.array_equal(a, llama.embed(t, True)) for a, t in zip(found, CORPUS, strict=True))
    assert llama.embed_texts([], True) == []


@pytest.mark.parametrize(("asked", "name"), [("cls", "cls"), (PoolingType.Last, "last"), (1, "mean"), ("None", "none")])
def test_pooling_types_by_name_number_and_member(minilm: Path, asked: Any, name: str) -> None:
    llama = Llama(minilm, n_ctx=512, embeddings=True, pooling_type=asked)
    wanted = Embedder.load(minilm).embed("a cat", pooling=name)
    assert np.array_equal(llama.embed("a cat", True), wanted)


def test_pooling_is_the_files_and_mean_where_the_key_is_absent(tmp_path: Path) -> None:
    for pooling, name in ((2, "cls"), (None, "mean")):
        path = tiny_bert(tmp_path / f"{pooling}.gguf", pooling=pooling)
        assert np.array_equal(
            Llama(path, embeddings=True).embed("the cat", True), Embedder.load(path).embed("the cat", pooling=name)
        )


def test_parameters_are_copied_never_changed() -> None:
    base = LlamaParams.new("m.gguf")
    assert base.with_n_gpu_layers(99).with_use_mmap(False).ignored == {"n_gpu_layers": 99, "use_mmap": False}
    assert base.with_pooling_type(PoolingType.Cls).with_n_ctx(5) == LlamaParams(
        "m.gguf", 5, pooling_type=PoolingType.Cls
    )
    assert base == LlamaParams("m.gguf")
    with pytest.raises(RequestError, match="pooling_type 'median'"):
        base.with_pooling_type("median")


def test_without_embeddings_it_says_so_in_llama_crabs_words(minilm: Path) -> None:
    llama = Llama(minilm)
    for call in (lambda: llama.embed("a", True), lambda: llama.rerank("a", ["b"])):
        with pytest.raises(RuntimeError, match="embedding mode is not enabled"):
            call()


def test_a_text_beyond_n_ctx_is_refused(minilm: Path) -> None:
    with pytest.raises(RequestError, match="input 0: 7 tokens, but the context has 4"):
        Llama(minilm, n_ctx=4, embeddings=True).embed("a b c d e", True)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"}
    return synthetic(tmp_path_factory.mktemp("rank") / "rank.gguf", "bert", pooling=4, optional=head)


@pytest.mark.oracle
def test_scores_are_llama_cpps_of_the_servers_pairs(reranker: Path) -> None:
    """Synthetic weights; the ids of a pair are held against llama-server in tests/pooling/test_rerank.py."""
    from refembed.verify.engines.llamacpp import LlamaCpp

    llama = Llama.load(LlamaParams(reranker).with_embeddings(True).with_pooling_type(PoolingType.Rank), **EXACT)
    documents = ["a dog was in it", "the cat is", "of and to"]
    scores = llama.rerank("the cat sat", documents)
    pairs = [encode_pair(llama.embedder.tokenizer, "the cat sat", d) for d in documents]
    with LlamaCpp(reranker, pooling="rank") as engine:
        assert scores == [float(s[0]) for s in engine.embed(pairs)]


def test_a_bi_encoder_does_not_rerank(llama: Llama, minilm: Path) -> None:
    with pytest.raises(RequestError, match="a reranker wants pooling rank, and this is mean"):
        llama.rerank("a", ["b"])
    with pytest.raises((ModelError, RequestError)):
        Llama(minilm, embeddings=True, pooling_type="rank").rerank("a", ["b"])


def test_writing_text_is_refused(llama: Llama) -> None:
    with pytest.raises(NotImplementedError, match=r"Llama\.create_completion: refembed makes embeddings"):
        llama.create_completion("once", 5)


def test_errors_name_no_argument_that_llama_crab_lacks(minilm: Path) -> None:
    llama = Llama.load(LlamaParams(str(minilm)).with_n_ctx(4096).with_embeddings(True))
    with pytest.raises(TooLongError, match=r"the model reads at most 512(.|\n)*cut the text") as found:
        llama.embed("cat " * 600, True)
    assert "truncate" not in str(found.value)
