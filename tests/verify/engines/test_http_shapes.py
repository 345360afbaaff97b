"""Every shape of embeddings seen in the wild is recognized, and nothing else is taken for one."""

from __future__ import annotations

import base64
import struct

import numpy as np
import pytest

from refembed.errors import EngineError
from refembed.verify.engines.http_shapes import ROUTES, SERVERS, embeddings, in_order

A, B = [0.5, -1.25, 3.0], [1.0, 2.0, -0.125]  # exact in float32
A64, B64 = (base64.b64encode(struct.pack("<3f", *v)).decode() for v in (A, B))
ROWS = [A, B]  # of the tokens of one text

SHAPES = {  # label: (answer to two texts, vectors)
    "openai float": ({"object": "list", "data": [{"embedding": A, "index": 0}, {"embedding": B, "index": 1}]}, [A, B]),
    "openai base64": ({"data": [{"embedding": A64, "index": 0}, {"embedding": B64, "index": 1}]}, [A, B]),
    "openai tokens": ({"data": [{"embedding": ROWS, "index": 0}, {"embedding": [A], "index": 1}]}, [ROWS, [A]]),
    "native": ([{"index": 0, "embedding": [A]}, {"index": 1, "embedding": [B]}], [[A], [B]]),
    "native flat": ([{"index": 0, "embedding": A}, {"index": 1, "embedding": B}], [A, B]),
    "results": ({"results": [{"embedding": A}, {"embedding": B}]}, [A, B]),
    "embeddings": ({"model": "m", "embeddings": [A, B], "total_duration": 1, "prompt_eval_count": 6}, [A, B]),
    "bare": ([A, B], [A, B]),
}
OF_ONE = {
    "single": ({"embedding": A}, [A]),
    "bare single": (A, [A]),
    "embeddings": ({"id": "x", "embeddings": {"float": [A], "int8": [[1]]}}, [A]),  # Cohere
    "openai float": ({"data": [{"embedding": A}]}, [A]),
}
NONE = {
    "no keys": ({}, r"an object with the keys \(none\), which is no shape"),
    "other keys": ({"choices": [], "usage": {}}, "an object with the keys 'choices', 'usage'"),
    "null": (None, "answered with null"),
    "a number": (7, "answered with 7"),
    "empty list": ([], "an empty list: no vector at all"),
    "empty data": ({"data": []}, "an empty list 'data': no vector"),
    "empty embeddings": ({"model": "m", "embeddings": []}, "an empty list 'embeddings': no vector"),
    "null embedding": ({"data": [{"embedding": None, "index": 0}]}, "entry 0 has no embedding"),
    "error in a success": ({"error": "embedding contains NaN"}, "an error inside a success: 'embedding contains NaN'"),
    "a string": (["hello there"], "a string that is not base64: 'hello there'"),
    "half a float": ({"data": [{"embedding": "AAAA"}]}, "base64 of 3 bytes"),
}


@pytest.mark.parametrize(("label", "case"), [*SHAPES.items(), *OF_ONE.items()])
def test_each_shape_is_recognized(label, case):
    answer, vectors = case
    found = embeddings(answer, "x")
    assert found.shape == label
    given = in_order(found, len(vectors), "x")
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(given, vectors, strict=True))


@pytest.mark.parametrize("case", NONE.values(), ids=NONE)
def test_anything_else_is_one_sentence(case):
    answer, message = case
    with pytest.raises(EngineError, match=message):
        embeddings(answer, "x")


def test_index_says_the_order():
    answer = {"data": [{"embedding": B, "index": 1}, {"embedding": A, "index": 0}]}
    assert in_order(embeddings(answer, "x"), 2, "x") == [A, B]


@pytest.mark.parametrize("index", [[0, 0], [1, 2], [0, 5]])
def test_an_index_that_is_no_order(index):
    answer = {"data": [{"embedding": A, "index": i} for i in index]}
    with pytest.raises(EngineError, match="each of 0 to 1 once is meant"):
        in_order(embeddings(answer, "x"), 2, "x")


def test_a_wrong_count():
    with pytest.raises(EngineError, match="gave 2 vectors for 3 texts"):
        in_order(embeddings([A, B], "x"), 3, "x")


def test_the_tables_name_each_other():
    known = [r.dialect for r in ROUTES]
    assert len(set(known)) == len(known)
    assert len({r.path for r in ROUTES}) == len(ROUTES)
    assert all(dialect in known for dialects in SERVERS.values() for dialect in dialects)
