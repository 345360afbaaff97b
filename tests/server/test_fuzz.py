"""Bodies that no client should send: refembed and llama-server must say the same, and both live on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from refembed.server.app import ROUTES
from refembed.server.info import not_here
from tests.server.conftest import Pair

pytestmark = pytest.mark.oracle

TEXT = st.text(max_size=12)
LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 5, 101, 102, 30521, 30522, 99999, 2**31 - 1]),
    st.sampled_from([0.0, 1.5, -2.7, 1e9]),
    TEXT,
)
PART = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["text", "image_url", "x", 5]), "text": LEAF, "image_url": LEAF}
)
PROMPT = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.fixed_dictionaries({}, optional={"prompt_string": inner, "multimodal_data": LEAF, "x": LEAF}),
        st.fixed_dictionaries({"content": st.one_of(inner, st.lists(st.one_of(PART, LEAF), max_size=3))}),
    ),
    max_leaves=8,
)
BODY = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "input": PROMPT,
            "content": PROMPT,
            "encoding_format": st.sampled_from(["float", "base64", "x", 1, None]),
            "embd_normalize": st.sampled_from([-1, 0, 1, 2, 2.7, True, "2", None, []]),
            "model": LEAF,
        },
    ),
    PROMPT,
)
FEW = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60
)


def shape(value: Any) -> Any:
    """A value without its numbers and its name."""
    if isinstance(value, dict):
        return [(k, shape(v)) for k, v in value.items() if k != "model" or not str(v).endswith(".gguf")]
    if isinstance(value, list):
        return "vector" if value and all(isinstance(v, float) for v in value) else [*map(shape, value)]
    return "base64" if isinstance(value, str) and len(value) == 2048 else value


@FEW
@given(body=BODY, path=st.sampled_from(["/v1/embeddings", "/embedding"]))
@example(body={"input": ["\0", "a\0b"]}, path="/embedding")
def test_a_body_of_any_shape_gets_llama_servers_answer(pair: Pair, body: Any, path: str) -> None:
    """Same status; the same error, or the same shape."""
    ours, theirs = (server.post(path, json.dumps(body).encode()) for server in pair)
    assert ours.status == theirs.status
    if ours.status != 200:
        assert ours.body == theirs.body
    else:
        assert shape(ours.json) == shape(theirs.json)


@FEW
@given(st.data())
def test_a_damaged_body_gets_llama_servers_answer(pair: Pair, data: st.DataObject) -> None:
    """Cut short, a byte changed, a byte doubled: the same status, and the same error where it still is JSON."""
    raw = json.dumps({"input": [data.draw(TEXT), {"prompt_string": "é"}], "model": 1.5e3, "x": [True, None, "\n"]})
    body = bytearray(raw.encode())
    at = data.draw(st.integers(0, len(body) - 1))
    how = data.draw(st.sampled_from(["cut", "change", "double"]))
    if how == "cut":
        del body[at:]
    elif how == "change":
        body[at] = data.draw(st.integers(0, 255))
    else:
        body.insert(at, body[at])
    ours, theirs = (server.post("/v1/embeddings", bytes(body)) for server in pair)
    assert ours.status == theirs.status
    if ours.status != 200:
        broken = ours.json["error"]["message"].startswith("the body is not JSON")
        assert broken == ("parse error" in theirs.json["error"]["message"])
        assert broken or ours.body == theirs.body


@FEW
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            "content": PROMPT,
            "add_special": LEAF,
            "parse_special": LEAF,
            "with_pieces": st.sampled_from([False, None, "x"]),
        },
    )
)
def test_tokens_of_any_shape_are_llama_servers(pair: Pair, body: Any) -> None:
    ours, theirs = (server.post("/tokenize", body) for server in pair)
    assert (ours.status, ours.body) == (theirs.status, theirs.body)


FLAG = st.sampled_from([True, False, None, "x", 0])
SMALL = st.sampled_from([-1, 0, 1, 2, 8, 384, 385, 10**30, 1.5, None, "2", True])
SENTENCES = st.fixed_dictionaries({}, optional={"source_sentence": LEAF, "sentences": st.lists(LEAF, max_size=3)})
DOCUMENTS = st.one_of(st.lists(TEXT, max_size=4), PROMPT)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "input": PROMPT,
    "content": PROMPT,
    "prompt": LEAF,
    "inputs": st.one_of(PROMPT, SENTENCES),
    "tokens": st.one_of(st.lists(LEAF, max_size=4), LEAF),
    "query": LEAF,
    "documents": DOCUMENTS,
    "texts": DOCUMENTS,
    "model": LEAF,
    "dimensions": SMALL,
    "top_n": SMALL,
    "parameters": st.fixed_dictionaries({}, optional={"truncate": FLAG}),
    **dict.fromkeys(("truncate", "normalize", "return_text", "return_documents", "with_pieces"), FLAG),
}
POSTED = sorted(path for (method, path), (handler, _) in ROUTES.items() if method == "POST" and handler != not_here)
LISTED = ("is too large to process", "input is not supported - hint", "Multimodal data provided")  # docs/server.md


@FEW
@given(body=st.one_of(BODY, st.fixed_dictionaries({}, optional=FIELDS)))
def test_no_endpoint_ever_fails(pair: Pair, rerankers: Pair, body: Any) -> None:
    """Every endpoint there is, of a server of vectors and of one of scores: no 500 but those that are listed."""
    for server in (pair[0], rerankers[0]):
        for path in POSTED:
            answer = server.post(path, body)
            listed = answer.status == 500 and any(why in answer.json["error"]["message"] for why in LISTED)
            assert listed or answer.status in (200, 400, 403, 422, 424, 501), (path, answer.body)
            assert isinstance(answer.json, (dict, list))
        assert server.get("/health").status == 200


@FEW
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            "query": st.one_of(TEXT, LEAF),
            "documents": DOCUMENTS,
            "texts": DOCUMENTS,
            "top_n": st.sampled_from([0, 1, 2, 99, 1.5, None, "2", True]),
            "return_text": FLAG,
            "model": LEAF,
        },
    )
)
def test_pairs_of_any_shape_get_llama_servers_scores(rerankers: Pair, body: Any) -> None:
    """To the digit; and the same errors."""
    ours, theirs = (server.post("/rerank", body) for server in rerankers)
    assert (ours.status, ours.json) == (theirs.status, theirs.json)
