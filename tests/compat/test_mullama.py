"""`refembed.compat.mullama`: what Mullama's embeddings guide shows, block by block, on a real model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.compat import mullama
from refembed.compat.mullama import (
    Context,
    ContextParams,
    EmbeddingGenerator,
    Model,
    PoolingStrategy,
    cosine_similarity,
    dot_product,
    normalize,
)
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.testing.synthetic import synthetic
from tests.tiny import tiny_bert

PASTA = ["How do I cook pasta?", "What is the recipe for spaghetti?", "Tell me about quantum physics"]

# The guide's Python blocks, each as the calls it makes; what one block makes is there for the next.
BLOCKS = {
    "a first vector": """
model = Model.load(path)
context = Context(model, ContextParams(embeddings=True))
embedding = context.get_embedding("Hi there")
assert f"{embedding.dimension}" == "384"
assert len(embedding.data[:5]) == 5
""",
    "pooling": """
mean = context.get_embedding("Hi!", pooling=PoolingStrategy.Mean)
last = context.get_embedding("Hi!",
    pooling=PoolingStrategy.Last)
assert list(mean.data) != list(last.data)
""",
    "a batch": """
texts = ["one text", "and a second one", "three"]
embeddings = context.get_embedding_batch(texts)
for text, emb in zip(texts, embeddings):
    assert f'"{text[:4]}" {emb.dimension}'.endswith(" 384")
assert len(embeddings) == 3
""",
    "similarity": """
a, b, c = (context.get_embedding(t) for t in PASTA)
near, far = cosine_similarity(a.data, b.data), cosine_similarity(a.data, c.data)
assert f"{near:.4f}" > f"{far:.4f}"
x, y = np.array(a.data), np.array(b.data)
assert abs(np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)) - near) < 1e-6
assert abs(dot_product(a.data, b.data) - near) < 1e-6
""",
    "normalization": """
vec = np.array(context.get_embedding("Hi!").data)
normalized = vec / np.linalg.norm(vec)
assert abs(np.dot(normalized, normalize(vec)) - 1) < 1e-6
""",
    "a vector database": """
documents = ["a language for systems", "a language for numbers", "a language for browsers"]
embeddings = context.get_embedding_batch(documents)
stored = [e.data for e in embeddings]
query = context.get_embedding("what runs in a browser?")
assert max(range(3), key=lambda i: float(np.dot(stored[i], query.data))) == 2
""",
}


def test_every_block_of_the_guide_runs(minilm: Path) -> None:
    names: dict[str, Any] = {**vars(mullama), "np": np, "PASTA": PASTA, "path": str(minilm)}
    for title, code in BLOCKS.items():
        exec(compile(code, title, "exec"), names)
    assert {"embedding", "mean", "last", "embeddings"} <= set(names)  # each block asserts on its own, too


@pytest.fixture(scope="module")
def context(minilm: Path) -> Context:
    return Context(Model.load(str(minilm), numerics="ggml", flash_attn=False, repack=False), embeddings=True)


@pytest.mark.oracle
def test_vectors_are_llama_cpps(context: Context, oracle: Any) -> None:
    """Bit for bit before normalizing, and live llama.cpp's own normalization after it."""
    for text in PASTA:
        (wanted,) = oracle.embed([text])
        assert np.array_equal(context.get_embedding(text, normalize=False).data, wanted)
        assert np.array_equal(context.get_embedding(text).data, oracle.normalize(wanted[None])[0])


@pytest.mark.oracle
def test_token_ids_and_their_text_are_llama_cpps(context: Context, oracle: Any) -> None:
    model, ids = context.model, [101, 7632, 2088, 999, 102]
    assert model.tokenize("hi world!") == oracle.tokenize("hi world!") == ids
    for remove, unparse in ((False, False), (True, False), (False, True), (True, True)):
        assert model.detokenize(ids, remove, unparse) == oracle.detokenize(ids, remove, unparse)


@pytest.mark.oracle
@pytest.mark.parametrize(("strategy", "name"), [("Mean", "mean"), ("First", "cls"), ("Last", "last")])
def test_pooling_strategies_are_llama_cpps(context: Context, minilm: Path, strategy: str, name: str) -> None:
    from refembed.verify.engines.llamacpp import LlamaCpp

    with LlamaCpp(minilm, pooling=name) as engine:
        (wanted,) = engine.embed([PASTA[0]])
    assert np.array_equal(context.get_embedding(PASTA[0], PoolingStrategy[strategy], normalize=False).data, wanted)


def test_max_is_the_largest_of_each_channel(context: Context) -> None:
    rows = context.model.embedder.embed(PASTA[0], pooling="none", normalize=-1)
    assert np.array_equal(context.get_embedding(PASTA[0], PoolingStrategy.Max, False).data, rows.max(axis=0))


def test_a_batch_is_each_text_alone(context: Context) -> None:
    for text, found in zip(PASTA, context.get_embedding_batch(PASTA), strict=True):
        assert np.array_equal(found.data, context.get_embedding(text).data)
        assert found.data.dtype == np.float32
        assert abs(math.fsum(float(x) ** 2 for x in found.data) - 1) < 1e-6
    assert context.get_embedding_batch([]) == []


def test_the_generator_gives_bare_vectors(context: Context) -> None:
    generator = EmbeddingGenerator(context.model, n_ctx=512, normalize=True)
    assert generator.n_embd == 384
    assert np.array_equal(generator.embed(PASTA[0]), context.get_embedding(PASTA[0], PoolingStrategy.Native).data)
    assert [v.shape for v in generator.embed_batch(PASTA)] == [(384,)] * 3
    raw = EmbeddingGenerator(context.model, normalize=False).embed(PASTA[0])
    assert np.linalg.norm(raw) > 2


def test_the_binding_s_context_takes_its_options_by_name(context: Context) -> None:
    other = Context(context.model, 64, n_batch=128, n_threads=4, embeddings=True)
    assert (other.n_ctx, other.n_batch) == (64, 128)
    with pytest.raises(RequestError, match=r"input 0: 102 tokens, but the context has 64"):
        other.get_embedding("word " * 100)
    assert other.get_embeddings() is None
    other.decode(context.model.tokenize("a"))
    assert np.array_equal(other.get_embeddings(), context.get_embedding("a", normalize=False).data)
    other.clear_cache()
    assert other.get_embeddings() is None


def test_a_context_without_embeddings_says_so(context: Context) -> None:
    with pytest.raises(RuntimeError, match="made without embeddings\n  hint: Context"):
        Context(context.model, ContextParams()).get_embedding("a")


def test_mean_on_a_model_of_another_pooling_warns_once(tmp_path: Path) -> None:
    context = Context(Model.load(tiny_bert(tmp_path / "cls.gguf", pooling=2)), ContextParams(embeddings=True))
    with pytest.warns(UserWarning, match="the model's file says cls") as caught:
        context.get_embedding("the cat")
    assert caught[0].filename == __file__
    context.get_embedding("the dog")  # warnings are errors here
    context.get_embedding("the cat", pooling=PoolingStrategy.Native)


def test_the_model_says_what_it_is(context: Context) -> None:
    model = context.model
    assert (model.n_ctx_train, model.n_embd, model.n_vocab, model.n_layer, model.n_head) == (512, 384, 30522, 6, 12)
    assert (model.token_bos, model.token_eos, model.architecture) == (101, 102, "bert")
    assert model.metadata()["bert.pooling_type"] == "1"
    assert model.tokenize("hi [SEP]", special=True) == [101, 7632, 102, 102]
    assert model.tokenize("hi", add_bos=False) == [7632]


def test_similarity_is_arithmetic() -> None:
    assert dot_product([1.0, 2.0], [3.0, -4.0]) == -5
    assert cosine_similarity([3.0, 4.0], [4.0, 3.0]) == pytest.approx(24 / 25)
    assert cosine_similarity([0.0, 0.0], [0.0, 0.0]) == 0
    x = np.array([0.1, 0.7, 0.3], np.float32)
    assert -1 <= cosine_similarity(x, x) <= 1
    assert normalize([3.0, 4.0]).tolist() == pytest.approx([0.6, 0.8])
    assert normalize([0.0, 0.0]).tolist() == [0, 0]
    with pytest.raises(ValueError, match="one length"):
        cosine_similarity([1.0], [1.0, 2.0])


def test_the_backend_is_the_cpu() -> None:
    mullama.backend_init()
    mullama.backend_free()
    assert not mullama.supports_gpu_offload()
    assert mullama.max_devices() == 1
    assert "refembed" in mullama.system_info()


def test_writing_text_is_refused(context: Context) -> None:
    for refuse in (context.generate, context.generate_stream, context.model.apply_chat_template):
        with pytest.raises(NotImplementedError, match="refembed makes embeddings, it writes no text"):
            refuse("once")


def test_native_pooling_of_a_file_that_names_none_is_refused(tmp_path: Path) -> None:
    """A decoder has no vector of its own for a text: the dimension was once the number of tokens."""
    model = Model.load(synthetic(tmp_path / "m.gguf", "llama"), numerics="exact")
    context = Context(model, ContextParams(embeddings=True))
    for call in (
        lambda: context.get_embedding("the cat", PoolingStrategy.Native),
        lambda: EmbeddingGenerator(model).embed("the cat"),
        lambda: context.decode([2, 5, 3]),
    ):
        with pytest.raises(ModelError, match=r"the file names no pooling(.|\n)*PoolingStrategy.Last"):
            call()
    assert context.get_embedding("the cat", PoolingStrategy.Last).dimension == model.n_embd
    assert context.get_embedding("the cat").dimension == model.n_embd


def test_errors_name_no_argument_that_mullama_lacks(context: Context) -> None:
    for call in (
        lambda: context.get_embedding("cat " * 600),
        lambda: EmbeddingGenerator(context.model, n_ctx=8).embed("cat " * 20),
        lambda: context.decode([101] * 600),
    ):
        with pytest.raises(TooLongError) as found:
            call()
        assert found.value.hint
        assert "truncate" not in str(found.value)
    with pytest.raises(ValueError, match="no such PoolingStrategy"):
        context.get_embedding("cat", "meen")
    with pytest.raises(TypeError, match="get_embedding takes one text"):
        context.get_embedding(None)  # type: ignore[arg-type]
    assert np.array_equal(context.get_embedding("cat", "First").data, context.get_embedding("cat", "cls").data)
