"""Compression against other libraries: sentence-transformers' bytes, scikit-learn's and SciPy's k-means, faiss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refembed.compress import Binary, ProductQuantizer, Stage, quantize, ranges_of, recall, search
from refembed.compress.pq import k_means
from refembed.errors import RequestError
from refembed.pooling.normalize import normalize
from refembed.similarity import hamming

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def theirs(*args: Any, **options: Any) -> Any:
    quantization = pytest.importorskip("sentence_transformers.util.quantization", reason="needs sentence-transformers")
    return quantization.quantize_embeddings(*args, **options)


def vectors(N: int, D: int, seed: int = 0) -> Any:
    """Unit vectors around 30 centers, some numbers exactly zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((30, D))[rng.integers(0, 30, N)] + rng.standard_normal((N, D)) / 2
    x[rng.random((N, D)) < 0.02] = 0
    return normalize(x.astype(np.float32), 2)


# --- sentence-transformers ---


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("D", [1, 7, 8, 384, 769])
def test_the_bytes_are_sentence_transformers(precision: str, dtype: Any, D: int) -> None:
    """Ranges from the batch, from calibration vectors, and given; numbers outside them among the batch."""
    x, more = vectors(400, D).astype(dtype), vectors(250, D, seed=1).astype(dtype)
    ranges = np.stack([more.min(axis=0), more.max(axis=0)])
    ranges[:, 0] = ranges[0, 0]  # a dimension that never changed
    for options in ({}, {"calibration_embeddings": more}, {"ranges": ranges}):
        expected = theirs(x, precision, **options)
        found = quantize(x, precision, **options)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_the_bytes_are_theirs_for_floats_of_every_size(precision: str) -> None:
    """Subnormal to 1e38, each dimension of a size of its own; in float32 and in double."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((300, 200)) * np.exp(rng.uniform(-95, 85, 200))).astype(np.float32)
    for y in (x, x.astype(np.float64)):
        assert quantize(y, precision).tobytes() == theirs(y, precision).tobytes()


def test_one_vector_alone_is_refused_by_both() -> None:
    x = vectors(1, 16)
    with pytest.raises(ValueError, match="single embedding"):
        theirs(x, "int8")
    with pytest.raises(RequestError, match="1 is not enough"):
        quantize(x, "int8")
    assert quantize(x, "int8", ranges_of(vectors(50, 16))).shape == (1, 16)


def test_decoding_to_the_middle_of_a_step_halves_the_error_of_theirs() -> None:
    """Their decoder takes the lower edge: off by up to a step, and on the average by half of one; ours by a quarter."""
    from sentence_transformers.util.quantization import _dequantize_embeddings

    from refembed.compress import Ranged

    x = vectors(2000, 64)
    ranges = ranges_of(x)
    codec = Ranged(ranges, "uint8")
    codes = codec.encode(x)
    edge = np.abs(_dequantize_embeddings(codes, "uint8", ranges) - x) / codec.step
    middle = np.abs(codec.decode(codes) - x) / codec.step
    assert edge.max() == pytest.approx(1, abs=1e-3)
    assert middle.max() == pytest.approx(0.5, abs=1e-3)
    assert (edge.mean(), middle.mean()) == pytest.approx((0.5, 0.25), abs=0.01)


# --- k-means and product quantization ---


def test_k_means_is_as_good_as_scikit_learn_s() -> None:
    """Mean squared error over that of scikit-learn, one start each, five seeds: within 1 in 50."""
    cluster = pytest.importorskip("sklearn.cluster", reason="needs scikit-learn")
    x = np.ascontiguousarray(vectors(4000, 16)[:, :8])

    def loss(book: Any) -> float:
        return float(((x[:, None] - book) ** 2).sum(axis=-1).min(axis=1).mean())

    ours = np.mean([loss(k_means(x, 64, np.random.default_rng(s), 25)) for s in range(5)])
    peers = [cluster.KMeans(64, n_init=1, max_iter=25, random_state=s).fit(x).cluster_centers_ for s in range(5)]
    assert ours <= 1.02 * np.mean([loss(book) for book in peers])


def test_codes_are_those_of_scipy_s_vq() -> None:
    """The nearest centroid of each part: equal but for ties of rounding, none here."""
    vq = pytest.importorskip("scipy.cluster.vq", reason="needs SciPy").vq
    x = vectors(1500, 32)
    codec = ProductQuantizer.fit(x, 8)
    codes = codec.encode(x)
    for m, book in enumerate(codec.codebooks):
        expected, _ = vq(x.reshape(-1, 8, 4)[:, m].astype(np.float64), book.astype(np.float64))
        assert np.array_equal(codes[:, m], expected)


def test_product_quantization_is_as_good_as_faiss_s() -> None:
    """Reconstruction error and recall@10, both trained on the same vectors: within 1 in 30, and 0.03."""
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    x, queries = vectors(6000, 64), vectors(100, 64, seed=9)
    codec = ProductQuantizer.fit(x, 16)
    index = faiss.IndexPQ(64, 16, 8)
    index.train(x)
    index.add(x)
    decoded = index.reconstruct_n(0, len(x))
    loss, peer_loss = (float(((y - x) ** 2).sum(axis=1).mean()) for y in (codec.decode(codec.encode(x)), decoded))
    assert loss <= peer_loss * 31 / 30
    exact = queries @ x.T
    ours, _ = search(Stage(codec, codec.encode(x)), queries, 10)
    _, peers = index.search(queries, 10)
    assert recall(exact, ours, 10).mean() >= recall(exact, peers, 10).mean() - 0.03


def test_asymmetric_distances_are_faiss_s_for_the_same_codebooks() -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    x, queries = vectors(3000, 32), vectors(20, 32, seed=9)
    codec = ProductQuantizer.fit(x, 8)
    index = faiss.IndexPQ(32, 8, 8)
    index.train(x)
    faiss.copy_array_to_vector(codec.codebooks.ravel(), index.pq.centroids)
    index.add(x)
    codes = faiss.vector_to_array(index.codes).reshape(-1, 8)
    assert np.array_equal(codes, codec.encode(x))
    _, scores = search(Stage(codec, codes), queries, 5)
    distances, _ = index.search(queries, 5)
    assert np.abs(-scores - distances).max() <= 1e-5


# --- bits ---


def test_hamming_search_is_faiss_s() -> None:
    """Distances of the best 10, and each row found at the distance that is said."""
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    x, queries = vectors(3000, 128), vectors(25, 128, seed=9)
    codec = Binary(128)
    codes, bits = codec.encode(x), codec.encode(queries)
    index = faiss.IndexBinaryFlat(128)
    index.add(codes)
    expected, _ = index.search(bits, 10)
    rows, scores = search(Stage(codec, codes), queries, 10)
    assert np.array_equal(-scores, expected)
    assert np.array_equal(np.take_along_axis(hamming(bits, codes), rows, axis=1), expected)


def test_scoring_again_finds_what_sentence_transformers_finds() -> None:
    """semantic_search_faiss over ubinary: the same candidates by Hamming, then the query's floats times the bits.

    Theirs multiplies by 0 and 1 where ours has -1 and 1; for one query the two rank alike.
    """
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    quantization = pytest.importorskip("sentence_transformers.util.quantization", reason="needs sentence-transformers")
    x, queries = vectors(3000, 128), vectors(25, 128, seed=9)
    codes = quantize(x, "ubinary")
    found, _ = quantization.semantic_search_faiss(
        queries, corpus_embeddings=codes, corpus_precision="ubinary", top_k=10, rescore_multiplier=300
    )
    stage = Stage(Binary(128), codes)
    rows, _ = search(stage, queries, 10, rescore=stage, multiplier=300)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == rows.tolist()
