"""Clients of OpenAI, Ollama and Hugging Face in Python, as they are, against a running `refembed serve`.

Where llama-server has the endpoint, the same client asks it the same.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.peers.conftest import TEXTS, Served
from tests.server.servers import Client, llama, refembed

openai = pytest.importorskip("openai", reason="the extra `peers` has it")
ollama = pytest.importorskip("ollama", reason="the extra `peers` has it")
hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` has it")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("swept")]

IDS = [[101, 7592, 102], [101, 102]]


def talk(server: Client, **options: Any) -> Any:
    """openai-python on a server; it tries once."""
    return openai.OpenAI(**{"base_url": f"{server.address}/v1", "api_key": "none", "max_retries": 0, **options})


# OpenAI


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}], ids=repr)
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], IDS], ids=["texts", "one text", "ids"])
def test_openai_embeds(served: Served, texts: list[Any], options: dict[str, Any]) -> None:
    """Unasked the client wants base64 and decodes it. Usage, order and the model's name are llama-server's too."""
    ours, theirs = (
        talk(server).embeddings.create(model="some-model", input=texts, **options)
        for server in (served.ours, served.theirs)
    )
    vectors = [d.embedding for d in ours.data]
    if options.get("encoding_format") == "base64":  # asked for, it is left as it is
        vectors = [np.frombuffer(base64.b64decode(v), "<f4") for v in vectors]
    served.check(vectors, texts)
    for field in ("model", "object", "usage"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert [(d.index, d.object) for d in ours.data] == [(d.index, d.object) for d in theirs.data]


def test_openai_embeds_one_string(served: Served) -> None:
    answer = talk(served.ours).embeddings.create(model="m", input=TEXTS[1])
    served.check([answer.data[0].embedding], TEXTS[1:2])


def test_openai_embeds_many_texts_in_order(served: Served) -> None:
    """300 in one request."""
    many = [f"text number {i}" for i in range(300)]
    answer = talk(served.ours).embeddings.create(model="m", input=many)
    assert [d.index for d in answer.data] == [*range(300)]
    some = [0, 7, 150, 299]
    served.check([answer.data[i].embedding for i in some], [many[i] for i in some])


def test_openai_embeds_many_requests_at_once(served: Served) -> None:
    """32 by the asynchronous client; each has its own answer."""

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0) as client:
            jobs = [client.embeddings.create(model="m", input=TEXTS[i % len(TEXTS)]) for i in range(32)]
            return [answer.data[0].embedding for answer in await asyncio.gather(*jobs)]

    served.check(asyncio.run(ask()), [TEXTS[i % len(TEXTS)] for i in range(32)])


def test_openai_cuts_dimensions(served: Served) -> None:
    """The first 16 numbers, of length 1 again. llama-server gives all 384."""
    answer = talk(served.ours).embeddings.create(model="m", input=TEXTS, dimensions=16)
    raw = served.wanted(TEXTS, embd_normalize=-1)[:, :16]
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(np.array([d.embedding for d in answer.data]) - unit).max() <= max(1e-7, 5 * served.bound)


ERRORS: dict[str, tuple[dict[str, Any], str, int]] = {
    "nothing": ({"input": []}, "BadRequestError", 400),
    "an empty list": ({"input": [[]]}, "BadRequestError", 400),
    "an id too large": ({"input": [[99999]]}, "BadRequestError", 400),
    "an unknown encoding": ({"input": "a", "encoding_format": "hex"}, "BadRequestError", 400),
    "a text too long": ({"input": "a " * 600}, "InternalServerError", 500),
}


@pytest.mark.parametrize("name", ERRORS)
def test_openai_raises_what_it_raises_on_llama_server(served: Served, name: str) -> None:
    """The same class, status and message."""
    options, kind, status = ERRORS[name]
    said = []
    for server in (served.ours, served.theirs):
        with pytest.raises(getattr(openai, kind)) as e:
            talk(server).embeddings.create(model="m", **options)
        assert e.value.status_code == status
        said.append((e.value.code, e.value.type, e.value.message))
    assert said[0] == said[1]


def test_openai_raises_on_what_a_server_of_embeddings_has_not(served: Served) -> None:
    client = talk(served.ours)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="m", input="a", dimensions=385)
    with pytest.raises(openai.InternalServerError, match="needs a model that writes text") as e:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])
    assert e.value.status_code == 501
    with pytest.raises(openai.NotFoundError):
        client.files.list()


def test_openai_needs_the_key(tiny: Path) -> None:
    """The key it is made with is the bearer's token."""
    with refembed("-m", tiny, "--api-key", "open-sesame") as ours, llama(tiny, api_keys=["open-sesame"]) as theirs:
        for server in (ours, theirs):
            with pytest.raises(openai.AuthenticationError):
                talk(server).embeddings.create(model="m", input="a")
            assert talk(server, api_key="open-sesame").embeddings.create(model="m", input="a").usage.prompt_tokens > 2


def test_openai_waits_for_a_model_that_is_being_loaded(minilm: Path) -> None:
    """503 is an answer that it tries again on."""
    with refembed("-m", minilm, wait=False) as server:
        with pytest.raises(openai.InternalServerError) as e:
            talk(server).embeddings.create(model="m", input="a")
        assert e.value.status_code == 503
        answer = talk(server, max_retries=10).embeddings.create(model="m", input="a")
        assert len(answer.data[0].embedding) == 384


def test_openai_lists_the_model(served: Served) -> None:
    """Its name and what llama-server says of it beyond OpenAI's fields."""
    [ours], [theirs] = (talk(server).models.list().data for server in (served.ours, served.theirs))
    assert ours.id == str(served.path)
    for field in ("id", "object", "owned_by", "aliases", "meta"):
        assert getattr(ours, field) == getattr(theirs, field)


# Ollama: llama-server has none of these endpoints, so its numbers alone are the measure


def test_ollama_embeds(served: Served) -> None:
    client = ollama.Client(host=served.address)
    answer = client.embed(model="all-minilm", input=TEXTS)
    served.check(answer.embeddings, TEXTS)
    assert answer.model == "all-minilm"
    usage = talk(served.theirs).embeddings.create(model="m", input=TEXTS).usage
    assert answer.prompt_eval_count == usage.prompt_tokens
    served.check(client.embed(model="m", input=TEXTS[1]).embeddings, TEXTS[1:2])
    assert len(client.embed(model="m", input="a", dimensions=16, keep_alive=60, options={"x": 1}).embeddings[0]) == 16


def test_ollama_embeds_as_it_did_before(served: Served) -> None:
    """`embeddings`: one prompt, not normalized; a number is a few units large."""
    answer = ollama.Client(host=served.address).embeddings(model="m", prompt=TEXTS[0])
    served.check([answer.embedding], TEXTS[:1], scale=10.0, embd_normalize=-1)


def test_ollama_embeds_asynchronously(served: Served) -> None:
    async def ask() -> Any:
        client = ollama.AsyncClient(host=served.address)
        return await asyncio.gather(*(client.embed(model="m", input=text) for text in TEXTS))

    served.check([answer.embeddings[0] for answer in asyncio.run(ask())], TEXTS)


def test_ollama_lists_the_model(served: Served) -> None:
    [model] = ollama.Client(host=served.address).list().models
    assert (model.model, model.size) == (str(served.path), served.path.stat().st_size)
    assert (model.details.format, model.details.family, model.details.quantization_level) == ("gguf", "bert", "F32")


def test_ollama_raises(served: Served) -> None:
    """The message is the server's."""
    client = ollama.Client(host=served.address)
    with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length") as e:
        client.embed(model="m", input="a " * 600, truncate=False)
    assert e.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="needs a model that writes text") as e:
        client.generate(model="m", prompt="a")
    assert e.value.status_code == 501
    served.check(client.embed(model="m", input="a " * 600).embeddings, [[101] + [1037] * 510 + [102]])


# Hugging Face: huggingface_hub as a client of Text Embeddings Inference


@pytest.mark.parametrize("path", ["", "/embed"])
def test_hugging_face_extracts_features(served: Served, path: str) -> None:
    """At the address of the server, or of its endpoint."""
    client = hub.InferenceClient(model=served.address + path)
    for text in TEXTS:
        found = client.feature_extraction(text)
        assert found.dtype == np.float32
        served.check(found, [text])
    served.check(client.feature_extraction(TEXTS[0], normalize=False), TEXTS[:1], scale=10.0, embd_normalize=-1)
    served.check(client.feature_extraction("a " * 600, truncate=True), [[101] + [1037] * 510 + [102]])
    with pytest.raises(hub.errors.HfHubHTTPError) as e:
        client.feature_extraction("a " * 600)
    assert e.value.response.status_code == 422
    assert "must have less than 512 tokens" in str(e.value)


def test_hugging_face_compares_sentences(served: Served) -> None:
    client = hub.InferenceClient(model=f"{served.address}/similarity")
    found = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    wanted = served.wanted(TEXTS)
    assert np.abs(np.array(found) - wanted @ wanted[0]).max() <= max(3e-7, 2 * served.bound)
