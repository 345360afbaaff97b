"""HttpEngine on a stand-in: the bodies of Ollama, TEI, vLLM and others, and everything that can go wrong."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify.engines.base import open_engine
from refembed.verify.engines.http import HttpEngine
from tests.verify.engines.stand_in import Answer, stand_in

VECTORS = {"a": [0.5, -1.25, 3.0], "b": [1.0, 2.0, -0.125], "c": [0.0, 0.25, 8.0]}  # exact in float32


def vector(item):
    """A text's; that of ids depends on them."""
    return VECTORS.get(item, [1.0, 1.0, 1.0]) if isinstance(item, str) else [float(len(item)), float(sum(item)), 0.0]


def listed(x):
    return x if isinstance(x, list) else [x]


def openai(body):
    rows = [vector(i) for i in listed(body["input"])]
    if body.get("encoding_format") == "base64":
        rows = [base64.b64encode(struct.pack("<3f", *row)).decode() for row in rows]
    return {"object": "list", "model": "m", "data": [{"embedding": v, "index": i} for i, v in enumerate(rows)]}


OLLAMA = {
    "GET /api/version": {"version": "0.13.5"},
    "GET /api/tags": {"models": [{"name": "all-minilm:latest"}]},
    "POST /api/show": {"details": {"family": "bert", "quantization_level": "F16"}},
    "POST /api/embed": lambda body: {
        "model": body["model"],
        "embeddings": [vector(i) for i in body["input"]],
        "total_duration": 14143917,
        "load_duration": 1019500,
        "prompt_eval_count": 8,
    },
    "POST /api/embeddings": lambda body: {"embedding": vector(body["prompt"])},
    "POST /v1/embeddings": openai,
}
TEI_INFO = {
    "model_id": "sentence-transformers/all-MiniLM-L6-v2",
    "model_sha": "8b3219a92973c328a8e22fadcfa821b5dc75636a",
    "model_dtype": "float32",
    "max_client_batch_size": 32,
    "version": "1.9.3",
}
TEI = {
    "GET /info": TEI_INFO,
    "POST /embed": lambda body: [vector(i) for i in listed(body["inputs"])],
    "POST /embed_all": lambda body: [[vector(i), vector(i)] for i in listed(body["inputs"])],
    "POST /tokenize": lambda body: [[{"id": 101, "text": "[CLS]", "special": True, "start": None, "stop": None},
                                     {"id": 1037, "text": "a", "special": False, "start": 0, "stop": 1}]],
}  # fmt: skip
VLLM = {
    "GET /v1/models": {"object": "list", "data": [{"id": "BAAI/bge-small-en", "owned_by": "vllm"}]},
    "POST /v1/embeddings": openai,
    "POST /tokenize": lambda body: (
        {"count": 2, "max_model_len": 512, "tokens": [101, 1037]}
        if "prompt" in body
        else Answer({"error": {"message": "Field required", "code": 400}}, 400)
    ),
}


def same(found, texts):
    return all(np.array_equal(v, np.float32(VECTORS[t])) for v, t in zip(found, texts, strict=True))


# -- servers --


def test_ollama_is_recognized_by_its_version():
    with stand_in(OLLAMA) as server:
        engine = HttpEngine(server.url, batch=2)
        assert engine.name == "http ollama"
        assert (engine.can_take_ids, engine.can_tokenize, engine.can_trace) == (False, False, False)
        assert engine.info["model"] == "all-minilm:latest"
        assert engine.info["version"] == "0.13.5"
        assert engine.info["details"]["quantization_level"] == "F16"
        assert same(engine.embed(["a", "b", "c"]), "abc")
        bodies = [body for asked, body, _ in server.seen if asked == "POST /api/embed"]
        assert bodies[-2:] == [
            {"model": "all-minilm:latest", "input": texts, "truncate": False} for texts in (["a", "b"], ["c"])
        ]
        with pytest.raises(EngineError, match="takes texts, not token ids"):
            engine.embed([[1, 2]])
        with pytest.raises(EngineError, match="shows no token ids"):
            engine.tokenize("a")
        with pytest.raises(EngineError, match="shows no intermediate tensors"):
            engine.trace("a")


def test_ollamas_older_route_takes_one_text_at_a_time():
    with stand_in(OLLAMA) as server:
        engine = HttpEngine(server.url + "/api/embeddings", batch=8)
        assert engine.info["shape"] == "single"
        assert same(engine.embed(["a", "b"]), "ab")
        assert [body["prompt"] for asked, body, _ in server.seen if asked == "POST /api/embeddings"][-2:] == ["a", "b"]


def test_which_of_several_models_must_be_said():
    many = OLLAMA | {"GET /api/tags": {"models": [{"name": "x"}, {"name": "y"}]}}
    with stand_in(many) as server:
        with pytest.raises(EngineError, match=r"serves 2 models: x, y\n  hint: model_name= chooses one"):
            HttpEngine(server.url)
        assert HttpEngine(server.url, model_name="y").info["model"] == "y"


def test_tei_is_recognized_by_its_info():
    with stand_in(TEI) as server:
        engine = HttpEngine(server.url, batch=3)
        assert engine.name == "http tei"
        assert engine.info["model"] == TEI_INFO["model_id"]
        assert engine.info["version"] == "1.9.3"
        assert engine.info["shape"] == "bare"
        assert engine.tokenize("a") == [101, 1037]
        assert same(engine.embed(["a", "b", "c"]), "abc")
        assert server.seen[-1][1] == {"inputs": ["a", "b", "c"], "truncate": False}
        assert np.array_equal(engine.embed([[101, 1037]])[0], np.float32([2, 1138, 0]))


def test_teis_rows_of_tokens():
    with stand_in(TEI) as server:
        assert [v.shape for v in HttpEngine(server.url + "/embed_all").embed(["a", "b"])] == [(2, 3), (2, 3)]


@pytest.mark.parametrize(("normalize", "sent"), [(True, True), (False, False), (None, None)])
def test_teis_switch_for_the_norm(normalize, sent):
    with stand_in(TEI) as server:
        HttpEngine(server.url, normalize=normalize).embed(["a"])
        assert server.seen[-1][1].get("normalize") is sent


def test_openais_api_by_its_list_of_models():
    with stand_in(VLLM) as server:
        engine = HttpEngine(server.url, batch=2, api_key="key", extra={"dimensions": 3})
        assert engine.name == "http openai"
        assert engine.tokenize("a") == [101, 1037]
        assert engine.can_take_ids
        assert same(engine.embed(["a", "b"]), "ab")
        _, body, headers = server.seen[-1]
        sent = {"model": "BAAI/bge-small-en", "input": ["a", "b"], "encoding_format": "float", "dimensions": 3}
        assert body == sent
        assert headers["Authorization"] == "Bearer key"


def test_base64_is_asked_for_and_read():
    with stand_in(VLLM) as server:
        engine = HttpEngine(server.url, encoding="base64", batch=2)
        assert engine.info["shape"] == "openai base64"
        assert same(engine.embed(["a", "b"]), "ab")


def test_a_server_that_says_nothing_about_itself_is_probed():
    with stand_in({"POST /embedding": lambda body: {"embedding": vector(body["content"])}}) as server:
        engine = HttpEngine(server.url)
        assert engine.info["route"] == "/embedding"
        assert engine.name == "http native single"
        assert same(engine.embed(["a", "b"]), "ab")


def test_a_prefix_and_a_query_are_kept():
    with stand_in({"POST /deployments/x/embeddings?api-version=1": openai}) as server:
        engine = HttpEngine(server.url + "/deployments/x/embeddings?api-version=1")
        assert same(engine.embed(["a"]), "a")
        assert engine.info["url"] == server.url + "/deployments/x"


def test_a_name_and_a_password_in_the_address_become_a_header():
    with stand_in(TEI) as server:
        engine = HttpEngine(server.url.replace("//", "//me:s%20cret@"))
        assert engine.info["url"] == server.url
        token = server.seen[-1][2]["Authorization"].removeprefix("Basic ")
        assert base64.b64decode(token) == b"me:s cret"


def test_the_key_of_the_environment(monkeypatch):
    monkeypatch.setenv("REFEMBED_API_KEY", "from afar")
    with stand_in(TEI) as server:
        HttpEngine(server.url)
        assert server.seen[-1][2]["Authorization"] == "Bearer from afar"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with stand_in(TEI) as server:
        assert same(HttpEngine(server.url).embed(["a"]), "a")


# -- what goes wrong --


def tei(answer):
    """TEI whose first answer, to the probe, is sound; it changes afterwards."""
    state = {"first": True}

    def embed(body):
        if state.pop("first", False):
            return [VECTORS["a"]]
        return answer

    return {"GET /info": TEI_INFO, "POST /embed": embed}


BROKEN = {
    "NaN": (b"[[NaN, 1.0, 2.0]]", "text 0: 1 of 3 numbers are not finite, the first at 0"),
    "null for NaN": ([[1.0, None, None]], "text 0: 2 of 3 numbers are not finite, the first at 1"),
    "infinity": (b"[[1.0, 1e999, 2.0]]", "1 of 3 numbers are not finite"),
    "beyond float32": ([[1.0, 1e300, 2.0]], "does not fit in float32"),
    "too many": ([[1.0], [2.0]], "gave 2 vectors for 1 texts"),
    "none": ([], "answered with an empty list: no vector at all"),
    "an empty vector": ([[]], r"text 0: an empty vector, shape \(0,\)"),
    "words": ([["x", "y"]], "not a list of numbers but"),
    "ragged rows": ([[[1.0, 2.0], [1.0]]], "not a list of numbers but"),
    "an object": ({"status": "ok"}, "an object with the keys 'status'"),
    "HTML": (Answer(b"<!doctype html><title>Open WebUI</title>", 200, "text/html"), "an HTML page 'Open WebUI', not"),
    "no JSON": (Answer(b"[[1.0,", 200), r"something that is not JSON \(.*\): b'\[\[1.0,'"),
    "nothing": (Answer(b"", 200), "an empty body, not with JSON"),
    "422": (Answer({"error": "`inputs` must have less than 512 tokens. Given: 600", "error_type": "Validation"}, 422),
            "answered 422: `inputs` must have less than 512 tokens. Given: 600"),
    "400 of FastAPI": (Answer({"detail": [{"loc": ["body", "input"], "msg": "field required"}]}, 400),
                       r"answered 400: \[\{\"loc\": \[\"body\", \"input\"\], \"msg\": \"field required\"\}\]"),
    "502 as a page": (Answer(b"<html><title>Bad\n Gateway</title>", 502, "text/html"),
                      "answered 502: an HTML page 'Bad Gateway'"),
    "500 in plain text": (Answer(b"out of\nmemory", 500, "text/plain"), "answered 500: out of memory"),
    "500 and nothing": (Answer(b"", 500, "text/plain"), "answered 500: Internal Server Error"),
    "a redirect": (Answer(b"", 301, headers={"Location": "/there"}), "answered 301 and sends elsewhere: /there\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_one_sentence(case):
    answer, message = case
    with stand_in(tei(Answer(answer) if isinstance(answer, bytes) else answer)) as server:
        engine = HttpEngine(server.url)
        with pytest.raises(EngineError, match=message) as e:
            engine.embed(["b"])
        assert len(str(e.value).splitlines()) - ("\n  hint: " in str(e.value)) == 1


def test_vectors_of_unequal_length():
    def embed(body):
        return [[1.0] * (3 + (text == "b")) for text in body["inputs"]]

    message = r"vectors of unequal length: 3 \(text 0\) and 4 \(text 1\)"
    with stand_in({"GET /info": TEI_INFO, "POST /embed": embed}) as server, pytest.raises(EngineError, match=message):
        HttpEngine(server.url).embed(["a", "b"])


def test_an_address_without_a_server_is_an_engine_error():
    with socket.socket() as s:  # bound, not listening: refused, and no other process takes the port
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
        with pytest.raises(EngineError, match=r"cannot be reached: .*[Rr]efused.*\n  hint: is the server running"):
            HttpEngine(url)


def test_a_connection_that_is_cut():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(5)

        def hang_up():
            s.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(EngineError, match="cannot be reached: "):
            HttpEngine(f"http://127.0.0.1:{s.getsockname()[1]}")
        thread.join()


def test_a_server_that_takes_too_long():
    slow = TEI | {"POST /embed": Answer([VECTORS["a"]], delay=1.0)}
    with stand_in(slow) as server:
        begin = time.monotonic()
        with pytest.raises(EngineError, match=r"gave no answer in 0\.2 s\n  hint: --timeout SECONDS waits longer"):
            HttpEngine(server.url, timeout=0.2)
        assert time.monotonic() - begin < 0.9


def test_a_web_page_is_no_server_of_embeddings():
    page = Answer(b"<!DOCTYPE html><title>Jupyter</title>", 200, "text/html")
    gets = {f"GET {path}": page for path in ("/props", "/api/version", "/info", "/v1/models")}
    with stand_in(gets) as server:
        message = r"has no route that embeds; tried /embeddings, /v1/embeddings, .*404: an HTML page 'Not Found'"
        with pytest.raises(EngineError, match=message):
            HttpEngine(server.url)


@pytest.mark.parametrize("status", [401, 403, 503])
def test_a_closed_door_is_not_tried_again(status):
    """No other route will say better; the first refusal is the message."""
    closed = {f"POST {path}": Answer({"error": f"shut: {path}"}, status) for path in ("/embeddings", "/v1/embeddings")}
    with stand_in(closed) as server:
        with pytest.raises(EngineError, match=f"/embeddings answered {status}: shut: /embeddings"):
            HttpEngine(server.url)
        assert [asked for asked, *_ in server.seen if asked.startswith("POST")] == ["POST /embeddings"]


def test_a_route_that_does_not_exist():
    message = "/v1/embeddings answered 404: an HTML page 'Not Found'"
    with stand_in({}) as server, pytest.raises(EngineError, match=message):
        HttpEngine(server.url + "/v1/embeddings")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch=0: must be a positive whole number"),
        ({"timeout": -1}, "timeout=-1: must be a number of seconds above 0"),
        ({"encoding": "hex"}, "encoding='hex': must be 'float' or 'base64'"),
        ({"normalize": True}, r"normalize=True: /v1/embeddings has no switch for it"),
        ({"color": "red"}, r"has no option 'color'\n  hint: it takes api_key, timeout, batch, model_name"),
    ],
)
def test_options_that_mean_nothing(options, message):
    with stand_in(VLLM) as server, pytest.raises(RequestError, match=message):
        open_engine(server.url, Path("model.gguf"), **options)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://localhost:99999", "http:///v1"])
def test_no_address(url):
    with pytest.raises(RequestError, match="not an address"):
        HttpEngine(url)


def test_texts_arrive_as_they_are():
    """Lone surrogates apart, any text is valid JSON."""
    text = 'a"\\\n\t\0 é 中 \U0001f600'
    with stand_in(TEI) as server:
        HttpEngine(server.url).embed([text])
        assert server.seen[-1][1]["inputs"] == [text]


def test_no_texts_no_request():
    with stand_in(TEI) as server:
        engine, before = HttpEngine(server.url), len(server.seen)
        assert engine.embed([]) == []
        assert len(server.seen) == before


def test_the_engine_closes_like_a_file():
    with stand_in(TEI) as server, HttpEngine(server.url) as engine:
        assert json.dumps(engine.info)
