"""`refembed.compat.sentence_transformers` compared with the real sentence-transformers, on MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.compat.sentence_transformers import SentenceTransformer

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXTS = ["Hello, world!", "a", "", "  two  spaces ", "How do I cook pasta?", "word " * 300]
PROMPTS = {"query": "query: ", "document": "passage: "}
BOUND = 5e-7  # of unit vectors, both in float32: tests/peers/test_minilm.py


@pytest.fixture(scope="module")
def real(minilm_folder: Path) -> Any:
    library = pytest.importorskip("sentence_transformers", reason="an optional library, with PyTorch")
    return library.SentenceTransformer(str(minilm_folder), device="cpu", prompts=PROMPTS)


@pytest.fixture(scope="module")
def ours(minilm: Path) -> SentenceTransformer:
    model = SentenceTransformer(minilm, prompts=PROMPTS)
    model.max_seq_length = 256  # sentence_bert_config.json of all-MiniLM-L6-v2
    return model


CALLS: list[dict[str, Any]] = [
    {}, {"truncate_dim": 64}, {"truncate_dim": 64, "normalize_embeddings": True}, {"normalize_embeddings": True},
    {"prompt_name": "query"}, {"prompt": "x "}, {"batch_size": 1},
]  # fmt: skip


@pytest.mark.parametrize("options", CALLS, ids=str)
def test_encode_is_the_real_encode(real: Any, ours: SentenceTransformer, options: dict[str, Any]) -> None:
    for texts in (TEXTS, TEXTS[0]):
        wanted, found = real.encode(texts, **options), ours.encode(texts, **options)
        assert (found.shape, found.dtype, type(found)) == (wanted.shape, wanted.dtype, type(wanted))
        # a vector that is cut and normalized again is divided by what is left of its length, and so is its error
        whole = ours.encode(texts, **{k: v for k, v in options.items() if k != "normalize_embeddings"})
        length = np.linalg.norm(whole, axis=-1, keepdims=True) if "normalize_embeddings" in options else 1
        assert (np.abs(found - wanted) < BOUND / length).all()


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_fewer_bits_are_the_real_ones(real: Any, ours: SentenceTransformer, precision: str) -> None:
    """Of the very same floats equal; through encode a level may turn, where a float lies on its edge."""
    from sentence_transformers.quantization import quantize_embeddings

    from refembed.compat.sentence_transformers import quantized

    x = real.encode(TEXTS)
    assert np.array_equal(quantized(x, precision), quantize_embeddings(x, precision=precision))
    wanted, found = real.encode(TEXTS, precision=precision), ours.encode(TEXTS, precision=precision)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert (found != wanted).mean() < 0.01


def test_queries_and_documents_are_prompted_alike(real: Any, ours: SentenceTransformer) -> None:
    assert np.abs(ours.encode_query(TEXTS) - real.encode_query(TEXTS)).max() < BOUND
    assert np.abs(ours.encode_document("a") - real.encode_document("a")).max() < BOUND


def test_token_embeddings_and_ids_are_the_real_ones(real: Any, ours: SentenceTransformer) -> None:
    wanted, found = (m.encode(TEXTS, output_value="token_embeddings") for m in (real, ours))
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.numpy() - b).max() < 2e-5  # of rows about 7 long
    wanted, found = real.tokenize(TEXTS), ours.tokenize(TEXTS)
    for name in found:
        assert np.array_equal(wanted[name].numpy(), found[name]), name


def in_float64(name: str, a: Any, b: Any) -> Any:
    """The similarity of each row of a (N, C) to each of b (M, C), by its formula: (N, M)."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    match name:
        case "cosine":
            return (a * b).sum(axis=2) / np.linalg.norm(a, axis=2) / np.linalg.norm(b, axis=2)
        case "dot":
            return (a * b).sum(axis=2)
        case "euclidean":
            return -np.sqrt(((a - b) ** 2).sum(axis=2))
        case _:
            return -np.abs(a - b).sum(axis=2)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_the_real_ones(real: Any, ours: SentenceTransformer, name: str) -> None:
    """Ours are the formula's, rounded once; theirs are sums in float32: sqrt(384) of its roundings away, or less."""
    a, b = real.encode(TEXTS[:3]), real.encode(TEXTS[3:])
    exact = in_float64(name, a, b)
    real.similarity_fn_name = ours.similarity_fn_name = name
    try:
        for method, values in (("similarity", exact), ("similarity_pairwise", np.diag(exact))):
            wanted, found = getattr(real, method)(a, b).numpy(), getattr(ours, method)(a, b)
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
            rounding = np.finfo(np.float32).eps * np.maximum(np.abs(values), 1)
            assert (np.abs(found - values) <= rounding).all()
            assert (np.abs(wanted - values) <= np.sqrt(384) * rounding).all()
    finally:
        real.similarity_fn_name = ours.similarity_fn_name = "cosine"


def test_sizes_and_empty_lists_are_the_real_ones(real: Any, ours: SentenceTransformer) -> None:
    assert ours.get_embedding_dimension() == real.get_embedding_dimension() == 384
    assert ours.max_seq_length == real.max_seq_length
    wanted, found = real.encode([]), ours.encode([])
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    wanted, found = real.encode("a", convert_to_tensor=True), ours.encode("a", convert_to_tensor=True)
    assert (found.shape, found.dtype, type(found)) == (wanted.shape, wanted.dtype, type(wanted))
