"""Similarity: the contract, worked examples, matrices, llama.cpp's cosine bit for bit, and bad input."""

from __future__ import annotations

import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed import Embedder
from refembed.errors import RequestError
from refembed.similarity import COLUMNS, cosine, dot, euclidean, hamming, manhattan, maxsim
from refembed.testing import CodeContract, SimilarityContract
from refembed.testing.code_properties import codes
from refembed.testing.strategies import vector_tuples, wild_vectors

MEASURES = (cosine, dot, euclidean, manhattan)


class TestSimilarity(SimilarityContract):
    """float32: products and result of a cosine are rounded to float, all else is in double."""

    rounding = 2.0**-23

    def cosine(self, a: Any, b: Any) -> float:
        return cosine(a, b)

    def dot(self, a: Any, b: Any) -> float:
        return dot(a, b)

    def euclidean(self, a: Any, b: Any) -> float:
        return euclidean(a, b)

    def manhattan(self, a: Any, b: Any) -> float:
        return manhattan(a, b)


@pytest.mark.parametrize(
    ("measure", "a", "b", "expected"),
    [
        (cosine, [3, 4], [4, 3], 24 / 25),
        (cosine, [1, 0], [0, 5], 0),
        (cosine, [1, 2], [-2, -4], -1),
        (cosine, [0, 0], [0, 0], 1),
        (cosine, [0, 0], [1, 0], 0),
        (dot, [1, 2, 3], [4, -5, 6], 12),
        (euclidean, [1, 2], [4, 6], 5),
        (manhattan, [1, 2], [4, -6], 11),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_worked_example(measure: Any, a: list[float], b: list[float], expected: float, dtype: Any) -> None:
    result = measure(np.array(a, dtype), np.array(b, dtype))
    assert type(result) is float
    assert result == pytest.approx(expected, rel=float(np.finfo(dtype).eps))


@given(ab=vector_tuples(2))
def test_fractions_agree(ab: Any) -> None:
    """Exact arithmetic: dot and manhattan, and euclidean and cosine by their squares."""
    a, b = ([Fraction(float(v)) for v in x] for x in ab)
    pairs = list(zip(a, b, strict=True))
    aa, bb, products = sum(x * x for x in a), sum(y * y for y in b), sum(x * y for x, y in pairs)
    near = 40 * 2.0**-53
    assert dot(*ab) == pytest.approx(float(products), rel=0, abs=near * float(sum(abs(x * y) for x, y in pairs)))
    assert manhattan(*ab) == pytest.approx(float(sum(abs(x - y) for x, y in pairs)), rel=near)
    assert euclidean(*ab) ** 2 == pytest.approx(float(sum((x - y) ** 2 for x, y in pairs)), rel=near)
    exact = float(products) / (float(aa) * float(bb)) ** 0.5
    assert cosine(*(x.astype(np.float64) for x in ab)) == pytest.approx(exact, rel=0, abs=near)
    assert cosine(*ab) == pytest.approx(exact, rel=0, abs=2.0**-23)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pair_has_the_same_bits_alone_and_in_a_matrix(measure: Any, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal((3, 7)).astype(dtype)
    a[2], b[1] = 0, 0
    matrix = measure(a, b)
    assert (matrix.shape, matrix.dtype) == ((5, 3), np.float64)
    assert matrix.tolist() == [[measure(x, y) for y in b] for x in a]
    assert measure(b, a).tolist() == matrix.T.tolist()
    assert measure(a[0], b).tolist() == matrix[0].tolist()
    assert measure(a, b[0]).tolist() == matrix[:, 0].tolist()
    assert measure(np.asfortranarray(a), np.repeat(b, 2, axis=1)[:, ::2]).tolist() == matrix.tolist()


@pytest.mark.parametrize("measure", MEASURES)
def test_more_vectors_than_are_taken_at_a_time_change_nothing(measure: Any) -> None:
    b = np.random.default_rng(0).standard_normal((COLUMNS + 2, 3)).astype(np.float32)
    row = measure(b[0], b)
    assert row.shape == (len(b),)
    for j in (0, 1, COLUMNS - 1, COLUMNS, COLUMNS + 1):
        assert row[j] == measure(b[0], b[j])


@pytest.mark.parametrize("measure", MEASURES)
def test_the_shape_is_that_of_a_then_that_of_b(measure: Any) -> None:
    a, b = np.ones((2, 3, 4), np.float32), np.ones((5, 4), np.float32)
    assert measure(a, b).shape == (2, 3, 5)
    assert measure(a[:, :0], b).shape == (2, 0, 5)
    assert measure(a[0], b[:0]).shape == (3, 0)


def test_float32_and_float64_mixed_is_double() -> None:
    a, b = np.array([0.1, 0.2], np.float32), np.array([0.3, 0.1])
    assert cosine(a, b) == cosine(a.astype(np.float64), b)


@given(a=wild_vectors(), b=wild_vectors())
def test_a_cosine_of_finite_vectors_is_never_nan(a: Any, b: Any) -> None:
    """Subnormal and huge float32 too, where llama.cpp says NaN or takes a vector for zero."""
    D = min(len(a), len(b))
    c = cosine(a[:D], b[:D])
    assert abs(c) <= 1 + 2.0**-23
    exact = cosine(a[:D].astype(np.float64), b[:D].astype(np.float64))
    assert c == pytest.approx(exact, rel=0, abs=2.0**-22)


@pytest.mark.parametrize("size", [1e-310, 1e-160, 1e160, 1e300])
def test_a_double_cosine_does_not_see_size(size: float) -> None:
    assert cosine(np.array([3.0, 4.0]) * size, np.array([4.0, 3.0])) == pytest.approx(0.96, rel=1e-12)


def test_a_double_cosine_never_passes_one() -> None:
    """Parallel vectors, where the plain quotient is 1 + 2^-52 for some."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((300, 1, 9))
    cosines = np.array([cosine(x, x * k) for x, k in zip(a, rng.uniform(-9, 9, 300), strict=True)])
    assert np.abs(cosines).max() == 1
    assert np.abs(cosines).min() > 1 - 2.0**-50


# --- bad input ---


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2], [1, 2, 3], "the first vectors have 2 numbers, the second 3\n  hint: vectors of two models"),
        ([[1, 2]], [[1]], "the first vectors have 2 numbers, the second 1"),
        ([1, np.nan], [1, 2], "the first vectors have NaN or infinity"),
        ([1, 2], [1, np.inf], "the second vectors have NaN or infinity"),
        (3.0, [3.0], "the first: a vector is a list of numbers, not float64"),
        ([3.0], ["x"], "the second: a vector is a list of numbers"),
        ([[1], [1, 2]], [1], "the first are not vectors of one length"),
    ],
)
def test_bad_vectors_are_refused(measure: Any, a: Any, b: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        measure(a, b)


@pytest.mark.parametrize("measure", [dot, euclidean])
def test_a_result_beyond_double_is_refused(measure: Any) -> None:
    with pytest.raises(RequestError, match="too large"):
        measure(np.array([1e200]), np.array([-1e200]))


# --- bits ---


class TestHamming(CodeContract):
    def hamming(self, a: Any, b: Any) -> int:
        return hamming(a, b)


@given(ab=codes())
def test_int8_and_booleans_are_the_same_bits(ab: Any) -> None:
    """sentence-transformers' `binary` is each byte less 128; a mixed pair counts right as well."""
    signed = [(x.astype(int) - 128).astype(np.int8) for x in ab]
    expected = hamming(*ab)
    assert hamming(*signed) == hamming(ab[0], signed[1]) == hamming(*(np.unpackbits(x) > 0 for x in ab)) == expected
    assert type(expected) is int


def test_every_pair_of_codes_is_counted() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (n, 5), np.uint8) for n in (3, COLUMNS + 7))
    matrix = hamming(a, b)
    assert matrix.shape == (3, COLUMNS + 7)
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, hamming(b, a).T)
    for i, j in ((0, 0), (2, COLUMNS - 1), (1, COLUMNS + 6)):
        assert (
            matrix[i, j] == (int.from_bytes(a[i].tobytes(), "big") ^ int.from_bytes(b[j].tobytes(), "big")).bit_count()
        )
    assert hamming(a[:0], b).shape == (0, COLUMNS + 7)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros(2, np.uint8), np.zeros(3, np.uint8), "the first codes have 2 bytes, the second 3"),
        ([1.0, 2.0], np.zeros(2, np.uint8), "the first: a code is bytes or booleans, not float64"),
        (np.uint8(1), np.zeros(1, np.uint8), "the first: a code is bytes or booleans"),
        (np.zeros(2, np.uint8), [[True], [True, False]], "the second are not codes of one length"),
    ],
)
def test_bad_codes_are_refused(a: Any, b: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        hamming(a, b)


# --- llama.cpp ---

LLAMA_COSINES = """
import ctypes, importlib.util, sys
from pathlib import Path
import numpy as np

home = Path(importlib.util.find_spec("xllamacpp").origin).parent
cosine = ctypes.CDLL(str(next(home.glob("xllamacpp*.so"))))._Z26common_embd_similarity_cosPKfS0_i
cosine.restype, cosine.argtypes = ctypes.c_float, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
x = np.load(sys.argv[1])
np.save(sys.argv[2], np.array([[cosine(a.ctypes.data, b.ctypes.data, len(a)) for b in x] for a in x], np.float32))
"""


@pytest.mark.oracle
@pytest.mark.parametrize("D", [1, 2, 7, 384, 768])
def test_a_float32_cosine_equals_llama_cpp_bit_for_bit(D: int, tmp_path: Path) -> None:
    """Every pair of vectors of lengths 1e-14 to 1e18, zeros among them."""
    rng = np.random.default_rng(D)
    x = rng.standard_normal((80, D))
    x *= np.exp(rng.uniform(np.log(1e-14), np.log(1e18), (80, 1))) / np.linalg.norm(x, axis=1, keepdims=True)
    x[rng.random((80, D)) < 0.2] = 0
    x[:3], x[40:60] = 0, x[20:40] * rng.uniform(0.5, 2, (20, 1))  # zeros; vectors that point nearly alike
    x = x[(np.linalg.norm(x, axis=1) == 0) | (np.linalg.norm(x, axis=1) > 1e-14)].astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", LLAMA_COSINES, str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    expected = np.load(tmp_path / "y.npy")
    assert len(np.unique(expected)) > 1
    assert cosine(x, x).tolist() == expected.tolist()


# --- maxsim ---


@given(st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4), st.randoms())
def test_maxsim_is_its_definition_in_whole_numbers(Q: int, lengths: list[int], D: int, rng: random.Random) -> None:
    def tokens(n: int) -> list[list[int]]:
        return [[rng.randint(-9, 9) for _ in range(D)] for _ in range(n)]

    query, documents = tokens(Q), [tokens(n) for n in lengths]
    expected = [
        sum(max(sum(a * b for a, b in zip(q, d, strict=True)) for d in document) for q in query)
        for document in documents
    ]
    assert maxsim(query, documents).tolist() == expected
    assert maxsim(np.array(query, np.float32), np.array(documents[0], np.float32)) == expected[0]


def test_maxsim_of_a_text_with_itself_is_its_number_of_tokens(tiny: Path) -> None:
    e = Embedder.load(tiny, numerics="exact")
    a, b = e.embed(["the cat sat", "hello"], pooling="none")
    assert maxsim(a, a) == pytest.approx(5, abs=1e-6)  # [CLS] the cat sat [SEP], each of length 1
    assert maxsim(a, [a, b]).tolist() == [maxsim(a, a), maxsim(a, b)]
    assert maxsim(a, b) < 5


@pytest.mark.parametrize(
    ("query", "documents", "said"),
    [
        ([1.0, 2.0], [[1.0, 2.0]], r"the query: token vectors of shape \(2,\)"),
        ([[1.0, 2.0]], [1.0, 2.0], r"the document: token vectors of shape \(2,\)"),
        ([[1.0, 2.0]], [[[1.0, 2.0]], [1.0, 2.0]], r"document 1: token vectors of shape \(2,\)"),
        ([[1.0, 2.0]], np.empty((0, 2)), "the document: token vectors of shape"),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], "the first vectors have 2 numbers, the second 3"),
        ([[1.0, np.nan]], [[1.0, 2.0]], "NaN"),
    ],
)
def test_maxsim_refuses_what_are_no_token_vectors(query: Any, documents: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        maxsim(query, documents)
