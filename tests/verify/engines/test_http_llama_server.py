"""HttpEngine on the wheel's real llama-server: its numbers are those of the C API, by every route and encoding."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify.engines.base import Engine, open_engine
from refembed.verify.engines.http import HttpEngine
from tests.llama_server import llama_server

pytestmark = pytest.mark.oracle

TEXTS = ["Hello, llama!", "café", "a"]
IDS = [101, 7592, 1010, 2222, 8067, 999, 102]  # [CLS] hello , ll ##ama ! [SEP], by the published vocab.txt


@pytest.fixture(scope="module")
def server(minilm):
    with llama_server(minilm) as url:
        yield url


@pytest.fixture(scope="module")
def vectors(oracle):
    """Not normalized, from the C API."""
    return oracle.embed(TEXTS)


def unit(v):
    return v / np.linalg.norm(v.astype(np.float64))


def test_the_server_is_recognized_and_says_what_it_is(server, minilm):
    engine = open_engine(server, minilm)
    assert isinstance(engine, Engine)
    assert engine.name == "http llama-server"
    assert engine.info["route"] == "/embeddings"
    assert engine.info["shape"] == "native"
    assert engine.info["model"] == str(minilm)
    assert engine.info["version"]
    assert (engine.info["n_embd"], engine.info["n_vocab"], engine.info["n_ctx_train"]) == (384, 30522, 512)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("route", ["", "/embedding", "/embeddings"])
def test_unnormalized_numbers_arrive_bit_by_bit(server, vectors, route, batch):
    """One text in flight is one llama_decode of it alone; so the bits are those of the C API."""
    found = HttpEngine(server + route, normalize=False, batch=batch).embed(TEXTS)
    assert all(np.array_equal(a, b) for a, b in zip(found, vectors, strict=True))


@pytest.mark.parametrize("route", ["", "/v1", "/v1/embeddings", "/embedding"])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_every_route_and_encoding_gives_the_same_unit_vectors(server, vectors, route, encoding):
    if encoding == "base64" and route == "/embedding":
        with pytest.raises(RequestError, match="floats only"):
            HttpEngine(server + route, encoding=encoding)
        return
    engine = HttpEngine(server + route, encoding=encoding)
    shape = "native" if encoding == "float" and "v1" not in route else f"openai {encoding}"
    assert engine.info["shape"] == shape
    for found, raw in zip(engine.embed(TEXTS), vectors, strict=True):
        assert found.shape == (384,)
        np.testing.assert_allclose(found, unit(raw), atol=3e-8, rtol=0)


def test_token_ids_go_both_ways(server, vectors):
    engine = HttpEngine(server, normalize=False)
    assert engine.can_tokenize
    assert engine.can_take_ids
    assert engine.tokenize(TEXTS[0]) == IDS
    assert np.array_equal(engine.embed([IDS])[0], vectors[0])
    assert [v.shape for v in engine.embed([IDS, "a"])] == [(384,), (384,)]


def test_tokens_in_rows_without_pooling(minilm):
    from refembed.verify.engines.llamacpp import LlamaCpp

    with LlamaCpp(minilm, pooling="none") as direct:
        rows = direct.embed(TEXTS)
    with llama_server(minilm, pooling="none") as url:
        found = HttpEngine(url).embed(TEXTS)
        assert [v.shape for v in found] == [(7, 384), (3, 384), (3, 384)]
        assert all(np.array_equal(a, b) for a, b in zip(found, rows, strict=True))
        with pytest.raises(EngineError, match=r"/v1/embeddings answered 400: Pooling type 'none' is not OAI compat"):
            HttpEngine(url + "/v1")


def test_what_the_server_refuses_is_said_in_its_own_words(server, minilm):
    with pytest.raises(EngineError, match=r"answered 500: input \(\d+ tokens\) is too large to process"):
        HttpEngine(server).embed(["word " * 600])
    message = "answered 501: .*Start it with `--embeddings`"
    with llama_server(minilm, embedding=False) as url, pytest.raises(EngineError, match=message):
        HttpEngine(url)


def test_a_key(minilm):
    with llama_server(minilm, api_keys=["open sesame"]) as url:
        with pytest.raises(EngineError, match="answered 401: Invalid API Key"):
            HttpEngine(url)
        with pytest.raises(EngineError, match="answered 401") as wrong:
            HttpEngine(url, api_key="swordfish")
        assert "swordfish" not in str(wrong.value)
        engine = HttpEngine(url, api_key="open sesame")
        assert engine.name == "http llama-server"
        assert engine.tokenize(TEXTS[0]) == IDS
