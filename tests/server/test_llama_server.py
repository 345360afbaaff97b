"""Each request goes to refembed and to real llama-server: same status, same shape, same numbers, same errors."""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.testing.synthetic import synthetic
from tests.server.conftest import Pair
from tests.server.servers import Answer, llama, refembed

pytestmark = pytest.mark.oracle

OPENAI, NATIVE = "/v1/embeddings", "/embedding"


def ordered(value: Any) -> Any:
    """A value in which the order of keys counts."""
    return [*map(ordered, value)] if isinstance(value, list) else (
        [(k, ordered(v)) for k, v in value.items()] if isinstance(value, dict) else value
    )  # fmt: skip


def both(pair: Pair, method: str, path: str, body: Any = None, /, **headers: str) -> tuple[Answer, Answer]:
    ours, theirs = (server.ask(method, path, body, **headers) for server in pair)
    return ours, theirs


def same(pair: Pair, method: str, path: str, body: Any = None, /, **headers: str) -> Answer:
    """Ask both; all must be the same: status, type, and the body with its order of keys and every digit."""
    ours, theirs = both(pair, method, path, body, **headers)
    assert (ours.status, ours.body[:300] if ours.status != 200 else b"") == (
        theirs.status,
        theirs.body[:300] if theirs.status != 200 else b"",
    ), body
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    if ours.body != theirs.body:
        assert ordered(named(ours)) == ordered(named(theirs)), body
    return ours


def named(answer: Answer) -> Any:
    """The JSON, without the name of the model where that is a path."""
    found = answer.json
    if isinstance(found, dict) and str(found.get("model", "")).endswith(".gguf"):
        found["model"] = "path"
    return found


ONE = [
    "hello world",
    "",
    "Größe, café! \U0001f600 [SEP] 東京",
    [101, 7592, 102],
    [12, "string", 34],
    ["string", 12],
    [1, "a", 2.5],
    {"prompt_string": "hello"},
    {"prompt_string": ["a", 5]},
    {"prompt_string": [7592, 2088]},
    {"content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "world"}]},
    {"content": []},
    {"content": [{"type": "text", "text": 5}]},
    [["hello", 2088]],
    ["one"],
]


@pytest.mark.parametrize("text", ONE, ids=repr)
def test_one_text_of_any_shape_has_the_same_digits(pair: Pair, text: Any) -> None:
    assert same(pair, "POST", OPENAI, {"input": text}).status == 200
    assert same(pair, "POST", NATIVE, {"content": text}).status == 200


MANY = [
    ["a", "b c", ""],
    [[101, 7592, 102], [2088]],
    ["string", [12, "string", 34], {"prompt_string": "x"}, {"content": [{"type": "text", "text": "y"}]}],
    ["hello"] * 5,
]


@pytest.mark.parametrize("texts", MANY, ids=repr)
def test_several_texts_keep_order_and_usage(pair: Pair, texts: list[Any]) -> None:
    """llama-server runs them together, and its numbers then move by an ulp or two: 1e-6 here."""
    for path in (OPENAI, NATIVE):
        ours, theirs = both(pair, "POST", path, {"input": texts, "model": "m"})
        assert ours.status == theirs.status == 200
        a, b = ours.json, theirs.json
        if path == OPENAI:
            assert [*a] == [*b] == ["model", "object", "usage", "data"]
            assert (a["model"], a["usage"]) == (b["model"], b["usage"])
            a, b = a["data"], b["data"]
        assert [[*d] for d in a] == [[*d] for d in b]
        assert [d["index"] for d in a] == [d["index"] for d in b] == [*range(len(texts))]
        for x, y in zip(a, b, strict=True):
            u, v = ((e[0] if path == NATIVE else e) for e in (x["embedding"], y["embedding"]))
            assert u == pytest.approx(v, abs=1e-6)


@pytest.mark.parametrize("norm", [-1, 0, 1, 2, 3, 6, 2.7, True])
def test_a_request_chooses_the_norm(pair: Pair, norm: Any) -> None:
    """Fractions are cut off, true is 1. p-norms go through pow, whose last bit two C libraries may disagree on."""
    body = {"input": "hello world", "embd_normalize": norm}
    if norm in (3, 6):
        ours, theirs = both(pair, "POST", OPENAI, body)
        assert ours.json["data"][0]["embedding"] == pytest.approx(theirs.json["data"][0]["embedding"], rel=2e-7)
    else:
        same(pair, "POST", OPENAI, body)


def test_base64_is_the_same_bytes(pair: Pair) -> None:
    answer = same(pair, "POST", OPENAI, {"input": "hello", "encoding_format": "base64"})
    item = answer.json["data"][0]
    assert [*item] == ["embedding", "index", "object", "encoding_format"]
    raw = base64.b64decode(item["embedding"])
    plain = same(pair, "POST", OPENAI, {"input": "hello", "encoding_format": "float"}).json["data"][0]
    assert [*struct.unpack(f"<{len(raw) // 4}f", raw)] == plain["embedding"]
    same(pair, "POST", NATIVE, {"content": "hello", "encoding_format": "base64"})  # ignored there


@pytest.mark.parametrize(
    "body",
    [
        {"input": "a", "model": 5},
        {"input": "a", "model": "x"},
        {"input": "a", "content": "b"},
        {"content": "a"},
        {"input": "a", "user": "me", "nonsense": [1]},
        {"content": "a", "input": ""},
    ],
    ids=repr,
)
def test_other_fields_mean_what_they_mean_there(pair: Pair, body: dict[str, Any]) -> None:
    """`content` is no word of OpenAI's: the answer then has the native shape even there."""
    same(pair, "POST", OPENAI, body)
    same(pair, "POST", "/embeddings?x=1", body)


WRONG = [
    b"", b" ", b"{", b"x", b"[1", b"[1,", b"[1 2]", b'{"input":tru}', b'{"a" 1}', b"{1:2}", b'{"a":1,}', b'{"a":}',
    b'{"input":"a"} x', b'{"input":"a"}{', b'{"input":"a" "b"}', b'{"input":"a\\q"}', b'{"input":"a\x01"}',
    b'{"input":"a\n"}', b'{"input":"\xff"}', b'{"input":"\xe2\x82"}', b'{"input":"\xed\xa0\x80"}', b'{"input":"a',
    b'{"input":"\\ud800"}', b'{"input":"\\udc00"}', b'{"input":"\\ud800\\u0041"}', b'{"input":"\\u12g4"}',
    b'{"input":01}', b'{"input":-}', b'{"input":1.}', b'{"input":1e}', b'{"input":1e+}', b'{"input":1e999}',
    b'{"input":NaN}', b'{"input":-Infinity}', b"\n\n{\n  'a'", b"/*c*/{}", b"nulll", b"[true,false,nul]",
    b"\xef\xbb\xbf{", b"\0", b"[\0]", b"{\0", b"\xef", b"\xef\xbbx",
    b'{"input":"a",\n"x":[1,{"y":2}],\n"z":}', b"\t[\r\n]]", b"[1]]", b'"', b"-", b"+1", b'{"a"', b'{"a":1',
]  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=repr)
def test_what_is_not_json_is_refused_in_other_words(pair: Pair, body: bytes) -> None:
    """The same status and kind; the message is orjson's: what is wrong, line, column."""
    for path in (OPENAI, "/tokenize"):
        ours, theirs = both(pair, "POST", path, body)
        assert (ours.status, theirs.status) == (400, 400)
        error = ours.json["error"]
        assert error | {"message": ""} == theirs.json["error"] | {"message": ""}
        assert re.fullmatch(r"the body is not JSON: .+: line \d+ column \d+ \(char \d+\)", error["message"], re.DOTALL)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"content":"a b"}\0', "unexpected content after document: line 1 column 18"),
        (b'\xef\xbb\xbf{"content":"a b"}', "byte order mark"),
        (b'{"content":"a b","x":' + b"[" * 2000 + b"]" * 2000 + b"}", "depth limit exceeded"),
    ],
    ids=["a NUL behind it", "a byte order mark", "deep nesting"],
)
def test_what_only_llama_server_reads_is_refused(pair: Pair, body: bytes, why: str) -> None:
    """docs/server.md lists these."""
    ours, theirs = both(pair, "POST", "/tokenize", body)
    assert (ours.status, theirs.status) == (400, 200)
    assert why in ours.json["error"]["message"]


REFUSED = [
    [], "text", b"null", 5, {}, {"inputs": "a"},
    {"input": []}, {"input": [[]]}, {"input": ["a", []]}, {"input": {"prompt_string": []}},
    {"input": None}, {"input": 5}, {"input": True}, {"input": [True]}, {"input": [1.5]}, {"input": [1, None]},
    {"input": [1, 2.5]}, {"input": [1, "a", None]}, {"input": [1, "a", [2]]}, {"input": ["a", {"x": 1}]},
    {"input": {"prompt_string": 5}}, {"input": {"prompt_string": None}}, {"input": {"prompt_string": {"a": 1}}},
    {"input": {"content": "x"}}, {"input": {"content": ["x"]}}, {"input": {"content": [{"text": "x"}]}},
    {"input": {"content": [{"type": "x"}]}}, {"input": {"content": None}},
    {"input": {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}},
    {"input": {"content": [{"type": "input_audio"}]}}, {"input": {"content": [{"type": "input_video"}]}},
    {"input": {"content": [{"type": "video_url"}]}}, {"input": {"prompt_string": "x", "multimodal_data": []}},
    {"input": [99999]}, {"input": [-1]}, {"input": ["a", [99999]]}, {"input": [7592, 30522]},
    {"input": "a", "encoding_format": "x"}, {"input": "a", "encoding_format": 1},
    {"input": "a", "encoding_format": None}, {"input": "a", "encoding_format": ["float"]},
    {"input": "a", "embd_normalize": "2"}, {"input": "a", "embd_normalize": None}, {"input": "a", "embd_normalize": []},
    {"input": "a " * 600}, {"input": ["a", "a " * 511]}, {"content": "a " * 600},
    {"input": 1, "encoding_format": "x"}, {"input": 1, "embd_normalize": "x"},
]  # fmt: skip


@pytest.mark.parametrize("body", REFUSED, ids=lambda b: repr(b)[:60])
def test_what_cannot_be_embedded_is_refused_in_the_same_words(pair: Pair, body: Any) -> None:
    assert same(pair, "POST", OPENAI, body).status in (400, 500)
    assert same(pair, "POST", "/embeddings", body).status in (400, 500)


TOKENIZE: list[Any] = [
    {"content": "hello world"}, {"content": "hello [SEP] world", "add_special": True}, {}, [], "x",
    {"content": "hello [SEP]", "parse_special": False}, {"content": "Héllo \U0001f600 東京 xyzzy", "with_pieces": True},
    {"content": ["a", 5, "b"], "add_special": True}, {"content": [5, "b"], "add_special": True}, {"content": []},
    {"content": "a", "add_special": "x"}, {"content": "a", "with_pieces": 1}, {"content": 5}, {"content": None},
    {"content": {"a": 1}}, {"content": [5, True, None]}, {"content": [5, True]}, {"content": [99999]}, {"content": ""},
]  # fmt: skip


@pytest.mark.parametrize("body", TOKENIZE, ids=repr)
def test_tokens_are_the_same_ids(pair: Pair, body: Any) -> None:
    same(pair, "POST", "/tokenize", body)


@pytest.mark.parametrize(
    "body",
    [
        {"tokens": [101, 7592, 1010, 2088, 19802, 102, 100, 0]}, {}, [], {"tokens": []}, {"tokens": 5},
        {"tokens": ["a"]}, {"tokens": [1.7]}, {"tokens": [True]}, {"tokens": None}, {"tokens": [7592, None]},
    ],
    ids=repr,
)  # fmt: skip
def test_ids_are_the_same_text(pair: Pair, body: Any) -> None:
    same(pair, "POST", "/detokenize", body)


def test_an_id_beyond_the_vocabulary_is_no_accident(pair: Pair) -> None:
    """llama-server answers 500 with a message of its C++ library; refembed says what is wrong."""
    ours, theirs = both(pair, "POST", "/detokenize", {"tokens": [99999]})
    assert theirs.status == 500
    assert (ours.status, ours.json["error"]["message"]) == (400, "Prompt contains invalid tokens")


ELSEWHERE = [
    ("GET", "/health"), ("GET", "/v1/health"), ("HEAD", "/health"), ("GET", "/embedding"), ("PUT", "/embedding"),
    ("POST", "/nope"), ("DELETE", "/health"), ("POST", "/props"), ("POST", "/slots/0?action=save"), ("GET", "/tools"),
    ("POST", "/tools"), ("GET", "/cors-proxy"), ("GET", "/lora-adapters"), ("GET", "/tokenize"),
    ("POST", "/rerank"), ("POST", "/v1/rerank"), ("POST", "/reranking"), ("POST", "/v1/reranking"), ("GET", "/slots"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ELSEWHERE)
def test_other_paths_answer_alike(pair: Pair, method: str, path: str) -> None:
    """/slots is asked for its keys; llama-server's grow with what a slot has done."""
    if path == "/slots":
        ours, theirs = both(pair, method, path)
        assert [{k: d[k] for k in ("id", "n_ctx", "is_processing")} for d in theirs.json] == [
            {k: d[k] for k in ("id", "n_ctx", "is_processing")} for d in ours.json
        ]
        return
    same(pair, method, path, b"{}" if method == "POST" else None)


def test_headers_are_alike(pair: Pair) -> None:
    for method, path, origin in (("OPTIONS", "/embedding", "http://x.y"), ("GET", "/health", "http://x.y")):
        ours, theirs = both(pair, method, path, None, Origin=origin)
        assert ours.status == theirs.status == 200
        assert ours.body == theirs.body
        wanted = [k for k in theirs.headers if k.startswith(("access-control", "server", "content-"))]
        assert {k: ours.headers.get(k) for k in wanted} == {k: theirs.headers[k] for k in wanted}


def test_the_model_list_has_the_same_facts(pair: Pair) -> None:
    for path in ("/models", "/v1/models"):
        ours, theirs = (answer.json for answer in both(pair, "GET", path))
        ours["data"][0]["created"] = theirs["data"][0]["created"]
        assert ordered(ours) == ordered(theirs)


def test_properties_have_the_same_keys(pair: Pair) -> None:
    """Settings of a text generator are empty; what refembed adds is under `refembed`."""
    ours, theirs = (answer.json for answer in both(pair, "GET", "/props"))
    own = ours.pop("refembed")
    assert (own["pooling"], own["n_ubatch"]) == ("mean", 512)
    assert [*ours] == [*theirs]
    assert [*ours["default_generation_settings"]] == [*theirs["default_generation_settings"]]
    alike = ("total_slots", "model_alias", "model_ftype", "model_path", "modalities", "endpoint_slots", "bos_token")
    alike += ("endpoint_props", "endpoint_metrics", "eos_token", "is_sleeping", "cors_proxy_enabled")
    assert {k: ours[k] for k in alike} == {k: theirs[k] for k in alike}
    assert ours["default_generation_settings"]["n_ctx"] == theirs["default_generation_settings"]["n_ctx"]


def test_metrics_have_the_same_names_and_count_tokens(pair: Pair) -> None:
    def scrape(answer: Answer) -> tuple[list[str], dict[str, float]]:
        lines = answer.body.decode().splitlines()
        values = [line.split() for line in lines if not line.startswith("#")]
        return [line for line in lines if line.startswith("#")], {name: float(v) for name, v in values}

    before = [scrape(answer) for answer in both(pair, "GET", "/metrics")]
    same(pair, "POST", NATIVE, {"content": "I believe the meaning of life is"})
    ours, theirs = both(pair, "GET", "/metrics")
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert ours.headers["process-start-time-unix"].isdigit()
    after = [scrape(ours), scrape(theirs)]
    assert after[0][0] == after[1][0]
    for name, step in (("prompt_tokens_total", 9), ("n_decode_total", 1), ("tokens_predicted_total", 0)):
        steps = [b[1][f"llamacpp:{name}"] - a[1][f"llamacpp:{name}"] for a, b in zip(before, after, strict=True)]
        assert steps == [step, step], name


# pooling none


@pytest.mark.parametrize("norm", [None, 2, -1])
def test_each_token_has_its_vector_as_it_is(per_token: Pair, norm: int | None) -> None:
    """embd_normalize is read, and does nothing. (Lengths as first measured, on F16 weights.)"""
    body = {"content": "hello hello hello"} | ({} if norm is None else {"embd_normalize": norm})
    [item] = same(per_token, "POST", "/embeddings", body).json
    lengths = [sum(x * x for x in row) ** 0.5 for row in item["embedding"]]
    assert lengths == pytest.approx([6.4924, 7.4091, 6.6356, 6.4415, 8.7768], abs=1e-2)


def test_pooling_none_is_not_openais(per_token: Pair) -> None:
    """It is said before the body is looked at."""
    for body in (b"x", {"input": "a"}):
        assert same(per_token, "POST", OPENAI, body).status == 400
    same(per_token, "POST", "/embeddings", {"input": "a", "embd_normalize": "x"})
    assert same(per_token, "GET", "/metrics").status == 501
    assert same(per_token, "GET", "/slots").status == 501


# keys, aliases, slots


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Authorization": "Bearer k1"}, {"Authorization": "k2"}, {"Authorization": "bearer k2"},
        {"Authorization": "Bearer k3"}, {"X-Api-Key": "k2"}, {"Authorization": "no", "X-Api-Key": "k2"},
        {"X-Api-Key": "Bearer k1"}, {"Authorization": "Bearer "}, {"Authorization": "", "X-Api-Key": "k1"},
    ],
    ids=repr,
)  # fmt: skip
def test_keys_open_the_same_doors(guarded: Pair, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/health"), ("GET", "/v1/health"), ("GET", "/nope"), ("OPTIONS", "/embedding")):
        ours, theirs = both(guarded, method, path, None, **headers)
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
    ours, theirs = both(guarded, "POST", "/tokenize", {"content": "the cat"}, **headers)
    assert (ours.status, ours.body) == (theirs.status, theirs.body)


def test_the_first_alias_by_alphabet_is_the_name(guarded: Pair) -> None:
    key = {"Authorization": "Bearer k1"}
    ours, theirs = (answer.json for answer in both(guarded, "GET", "/models", None, **key))
    ours["data"][0]["created"] = theirs["data"][0]["created"]
    assert ordered(ours) == ordered(theirs)
    ours, theirs = (answer.json for answer in both(guarded, "POST", OPENAI, {"input": "the cat"}, **key))
    assert ours["model"] == theirs["model"] == "alpha"
    assert ours["data"][0]["embedding"] == pytest.approx(theirs["data"][0]["embedding"], abs=1e-6)


@pytest.mark.parametrize("n", [39, 40, 41, 64, 65])
def test_a_text_is_as_long_as_a_pass_takes(guarded: Pair, n: int) -> None:
    """40 tokens a pass."""
    key = {"Authorization": "Bearer k1"}
    ours, theirs = both(guarded, "POST", "/embeddings", {"input": [5] * n}, **key)
    assert (ours.status, ours.body if n > 40 else b"") == (theirs.status, theirs.body if n > 40 else b"")
    props = [answer.json for answer in both(guarded, "GET", "/props", None, **key)]
    assert props[0]["default_generation_settings"]["n_ctx"] == props[1]["default_generation_settings"]["n_ctx"]
    assert props[0]["total_slots"] == props[1]["total_slots"] == 2


# rerank

QUERY = "the cat sat on the mat"
DOCUMENTS = ["a dog was in it", "the cat is", "of and to", "the cat sat on the mat and was [SEP] it"]
RERANK: list[dict[str, Any]] = [
    {"query": QUERY, "documents": DOCUMENTS},
    {"query": QUERY, "texts": DOCUMENTS},
    {"query": QUERY, "texts": DOCUMENTS, "return_text": True},
    {"query": QUERY, "documents": DOCUMENTS, "texts": ["x"]},
    {"query": QUERY, "documents": DOCUMENTS, "return_text": True},
    {"query": QUERY, "documents": [1], "texts": DOCUMENTS},
    *({"query": QUERY, "documents": DOCUMENTS, "top_n": n} for n in (0, 2, 4, 99, "2", None, 1.9, True, False)),
    {"query": "", "documents": ["", "a"], "model": "m"},
]


@pytest.mark.parametrize("body", RERANK, ids=repr)
def test_documents_have_the_same_scores(rerankers: Pair, body: dict[str, Any]) -> None:
    """llama-server scores the documents together: within 1e-5. Order, indices and shape are the same."""
    for path in ("/rerank", "/reranking", "/v1/rerank", "/v1/reranking"):
        ours, theirs = both(rerankers, "POST", path, body)
        assert ours.status == theirs.status == 200
        a, b = ours.json, theirs.json
        if isinstance(a, dict):
            assert [*a] == [*b]
            assert a["usage"] == b["usage"]
            a, b = a["results"], b["results"]
        assert [[*r] for r in a] == [[*r] for r in b]
        assert [(r["index"], r.get("text")) for r in a] == [(r["index"], r.get("text")) for r in b]
        score = "relevance_score" if isinstance(ours.json, dict) else "score"
        assert [r[score] for r in a] == pytest.approx([r[score] for r in b], abs=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {}, [], {"documents": ["a"]}, {"query": 5, "documents": ["a"]}, {"query": None, "documents": ["a"]},
        {"query": "a"}, {"query": "a", "documents": []}, {"query": "a", "documents": None},
        {"query": "a", "documents": 123}, {"query": "a", "documents": [1, 2, 3]}, {"query": "a", "documents": [{}]},
        {"query": "a", "documents": [], "texts": ["a"]}, {"query": "the " * 600, "documents": ["a"]},
    ],
    ids=lambda b: json.dumps(b)[:60],
)  # fmt: skip
def test_what_cannot_be_ranked_is_refused_in_the_same_words(rerankers: Pair, body: Any) -> None:
    assert same(rerankers, "POST", "/rerank", body).status in (400, 500)


def test_a_negative_top_n_is_the_requests_fault(rerankers: Pair) -> None:
    ours, theirs = both(rerankers, "POST", "/rerank", {"query": "a", "documents": ["a"], "top_n": -1})
    assert theirs.status == 500
    assert (ours.status, ours.json["error"]["message"]) == (400, '"top_n" must not be negative')


def test_a_mean_is_of_the_whole_text_where_llama_servers_is_of_its_last_part(tmp_path: Path) -> None:
    """Of a decoder, slots apart, several texts in one request: it takes as many tokens of each as the shortest has,
    and forgets them when it pools what is left (docs/differences.md)."""
    model, texts = synthetic(tmp_path / "m.gguf", "qwen3", pooling=1, K=2, P=300), ["the cat sat on the mat", "a dog"]

    def ask(server: Any, text: Any) -> list[Any]:
        found = server.post(NATIVE, {"content": text, "embd_normalize": -1}).json
        return [np.array(f["embedding"]) for f in sorted(found, key=lambda f: f["index"])]

    with llama(model, "NONE") as server:
        tokens = [ask(server, text)[0] for text in texts]
    lengths = [len(rows) for rows in tokens]
    assert lengths[0] > lengths[1]
    with llama(model, "MEAN", n_parallel=4, n_ctx=1024) as server:
        alone, together = [ask(server, text)[0][0] for text in texts], [v[0] for v in ask(server, texts)]
    np.testing.assert_allclose(alone, [rows.mean(0) for rows in tokens], atol=1e-5)
    np.testing.assert_allclose(together, [tokens[0][lengths[1] :].mean(0), alone[1]], atol=1e-5)
    flags = ("--numerics", "ggml", "-fa", "off", "--no-repack", "-np", "4", "-c", "1024")
    with refembed("-m", model, *flags) as server:
        assert [v[0].tolist() for v in ask(server, texts)] == [v.tolist() for v in alone]
