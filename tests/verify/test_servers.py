"""Healthy llama-servers in every setting are not accused; unusual ones are named, with what to do about it."""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from conformance.architectures import load_variants
from refembed import Embedder
from refembed.errors import EngineError
from refembed.verify.engines.base import open_engine
from refembed.verify.engines.http import HttpEngine
from refembed.verify.run import verify
from tests.llama_server import llama_server
from tests.verify.engines.stand_in import Answer, stand_in

TEXTS = ["hello world", "the cat sat on the mat", "a dog", "NASA sent Maria to Paris in May", "b"]
POOLINGS = ("unspecified", "none", "mean", "cls", "last")
NORMS = (-1, 0, 1, 2, 3)
QUIET = ("identical", "within rounding")
SOME = {("unspecified", 2), ("none", 2), ("mean", 2), ("mean", -1), ("cls", 0), ("last", 1), ("last", 3)}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A decoder whose file names no pooling."""
    return written("gemma3", tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    """A model with a classifier head and pooling_type 4."""
    return written("bert", tmp_path_factory.mktemp("reranker"), rank=True)


def written(arch: str, folder: Path, rank: bool = False) -> Path:
    variant = next(v for v in load_variants() if v.arch == arch and v.rank is rank)
    return variant.write(folder / f"{arch}.gguf", **({"pooling": 4} if rank else {}))


@contextmanager
def asked(path, pooling="unspecified", opened=None, **params):
    """An engine at a llama-server that was started so."""
    with llama_server(path, pooling, **params) as url:
        yield open_engine(url, path, **(opened or {}))


SETTINGS = [
    pytest.param(*row, marks=[] if row in SOME else [pytest.mark.slow]) for row in itertools.product(POOLINGS, NORMS)
]


# -- healthy ---------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize(("pooling", "norm"), SETTINGS)
def test_a_file_that_names_no_pooling_is_right_under_every_pooling_and_norm(decoder, pooling, norm):
    assert Embedder.load(decoder).model.hparams.pooling is None
    with asked(decoder, pooling, embd_normalize=norm) as engine:
        v = verify(decoder, engine, TEXTS)
    assert v.kind in QUIET, v.cause
    if pooling == "cls":  # a decoder's first token sees nothing else
        assert v.remedy.startswith("start it with --pooling last")
    else:
        assert v.remedy.startswith("nothing to do")
    named = [r for r in v.evidence.remarks if r.startswith("the file names no pooling")]
    if pooling in ("unspecified", "none"):
        assert named == []
    else:
        assert named[0].endswith(f"pass --pooling {pooling}")
        assert v.evidence.facts["pooling"] == pooling


@pytest.mark.oracle
@pytest.mark.parametrize(("pooling", "norm"), SETTINGS)
def test_minilm_is_right_under_every_norm_and_other_poolings_are_named(minilm, pooling, norm):
    with asked(minilm, pooling, embd_normalize=norm) as engine:
        v = verify(minilm, engine, TEXTS)
        if pooling in ("unspecified", "mean"):
            assert v.kind in QUIET, v.cause
            return
        assert v.kind == "differs"
        assert [c.id for c in v.causes] == [f"pooling-{pooling}"]
        assert v.remedy.startswith("start it with --pooling mean")
        meant = verify(minilm, engine, TEXTS, pooling=pooling)
    assert meant.kind in QUIET, meant.cause


@pytest.mark.oracle
def test_lengths_are_asked_of_the_server_and_judged_by_what_was_asked(decoder):
    with llama_server(decoder, "mean") as url:
        for norm in (-1, 0, 1, 2, True, False):
            v = verify(decoder, open_engine(url, decoder, normalize=norm), TEXTS)
            assert v.kind in QUIET, v.cause
        v = verify(decoder, open_engine(url, decoder, normalize=1), TEXTS, normalize=2)
    assert [c.id for c in v.causes] == ["scaled-taxicab"]
    assert v.remedy.startswith("start it with --embd-normalize 2")


@pytest.mark.oracle
@pytest.mark.parametrize("opened", [{"batch": 4}, {"encoding": "base64"}, {"batch": 5, "encoding": "base64"}])
def test_no_way_of_asking_is_a_fault(decoder, opened):
    with asked(decoder, "mean", opened=opened, n_parallel=4, n_ctx=1024, kv_unified=True) as engine:
        assert verify(decoder, engine, TEXTS).kind in QUIET


@pytest.mark.oracle
def test_texts_of_one_request_are_cut_into_pieces_where_each_slot_has_its_own_cache(decoder):
    """llama.cpp itself: a decoder's texts of unequal length in one batch, under mean pooling."""
    with asked(decoder, "mean", n_parallel=4, n_ctx=1024) as engine:
        v = verify(decoder, engine, TEXTS)
    assert [c.id for c in v.causes] == ["pieces-pooled"]
    assert v.remedy.startswith("start it with --parallel 1, or with --kv-unified")


@pytest.mark.oracle
def test_a_prompt_that_the_server_adds_is_named_and_no_fault_where_it_is_meant(minilm):
    with llama_server(minilm) as url:
        inner = HttpEngine(url)

        def add(body):
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            if not all(isinstance(t, str) for t in texts):
                return Answer({"error": "texts only"}, 400)
            vectors = inner.embed([f"query: {t}" for t in texts])
            return {"data": [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]}

        with stand_in({"POST /v1/embeddings": add, "GET /v1/models": {"data": [{"id": "m"}]}}) as proxy:
            engine = open_engine(proxy.url, minilm)
            assert [c.id for c in verify(minilm, engine, TEXTS).causes] == ["prefix 'query: '"]
            v = verify(minilm, engine, TEXTS, prefix="query: ")
    assert v.kind in QUIET, v.cause


@pytest.mark.oracle
def test_a_rerankers_scores_come_out_of_the_vector_that_llama_server_puts_them_in(reranker):
    with asked(reranker, "rank") as engine:
        v = verify(reranker, engine, TEXTS)
    assert v.kind in QUIET, v.cause
    with asked(reranker, "mean") as engine:
        v = verify(reranker, engine, TEXTS)
    assert [c.id for c in v.causes] == ["pooling-mean"]
    assert v.remedy.startswith("start it with --pooling rank")


@pytest.mark.oracle
@pytest.mark.parametrize("model", ["minilm", "decoder"])
def test_scores_in_place_of_vectors_are_named(model, request):
    path = request.getfixturevalue(model)
    with asked(path, "rank") as engine:
        v = verify(path, engine, TEXTS)
    assert [c.id for c in v.causes] == ["pooling-rank"]
    assert v.remedy.startswith("start it with --pooling mean")


# -- another model ---------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_another_model_is_named_by_what_the_server_says_of_it(minilm, decoder):
    with asked(decoder, "mean") as engine:
        v = verify(minilm, engine)
    assert (v.kind, [c.id for c in v.causes]) == ("differs", ["other-model"])
    assert "the server serves gemma3.gguf (n_embd 36, n_vocab 101)" in v.cause
    assert f"this file is {minilm.name} (n_embd 384, n_vocab 30,522)" in v.cause
    assert v.remedy == "serve the file that was verified, or verify the file that is served"
    assert (v.evidence.texts, v.noise_floor) == ((), {})  # vectors of unequal length have no distance


@pytest.mark.oracle
def test_another_model_of_the_same_shape_is_named_by_its_parameters(tmp_path, decoder):
    deeper = next(v for v in load_variants() if v.arch == "gemma3" and v.name == "plain").write(
        tmp_path / "other.gguf", F=150, seed=3
    )
    with asked(deeper, "mean") as engine:
        v = verify(decoder, engine, TEXTS)
    assert [c.id for c in v.causes] == ["other-model"]
    assert "n_params" in v.cause


def test_vectors_of_another_length_have_no_distance(tiny):
    draw = np.random.default_rng(0)
    routes = {
        "GET /v1/models": {"data": [{"id": "bge-base"}]},
        "POST /v1/embeddings": lambda body: {
            "data": [{"index": i, "embedding": draw.normal(size=48).tolist()} for i in range(len(body["input"]))]
        },
    }
    with stand_in(routes) as server:
        v = verify(tiny, open_engine(server.url, tiny), TEXTS)
    assert [c.id for c in v.causes] == ["other-model"]
    assert "the server serves bge-base with vectors of 48 numbers" in v.cause
    assert v.evidence.texts == ()


# -- unusual servers -------------------------------------------------------------------------------------------------


def openai(answer, many=True):
    """Routes of a server with OpenAI's API that answers with what a function makes of the texts."""

    def post(body):
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        if any(not isinstance(t, str) for t in texts):
            return Answer({"error": {"message": "texts only"}}, 400)
        found = answer(texts)
        if isinstance(found, Answer):
            return found
        return {"data": [{"index": i, "embedding": np.asarray(v).tolist()} for i, v in enumerate(found)]}

    return {"GET /v1/models": {"data": [{"id": "m"}]}, "POST /v1/embeddings": post}


@pytest.fixture(scope="module")
def e(tiny):
    return Embedder.load(tiny, numerics="fast")


def test_one_answer_for_every_text_is_looked_for_before_any_hypothesis(e):
    said = []
    other = np.random.default_rng(0).normal(size=32)
    for answer, words in (
        (lambda t: [other] * len(t), "gives the same vector for every text"),
        (lambda t: [e.embed([TEXTS[1]])[0]] * len(t), "gives the same vector for every text: that of text 1"),
        (lambda t: [[0.0] * 32] * len(t), "gives a vector of zeros for every text"),
    ):
        with stand_in(openai(answer)) as server:
            v = verify(e, open_engine(server.url, e.info.path), TEXTS, progress=said.append)
        assert v.kind == "differs"
        assert v.cause == f"the engine {words}"
        assert v.evidence.tried == 0
    assert not any("cause" in s for s in said)


def test_texts_that_are_too_long_for_the_server_are_left_out_and_counted(e):
    def answer(texts):
        if any(len(t) > 25 for t in texts):
            return Answer({"error": {"message": "input (12 tokens) is too large to process"}}, 500)
        return e.embed(texts)

    with stand_in(openai(answer)) as server:
        v = verify(e, open_engine(server.url, e.info.path), TEXTS)
    assert v.kind in QUIET, v.cause
    assert len(v.evidence.texts) == len(TEXTS) - 1
    remark = next(r for r in v.evidence.remarks if "left out" in r)
    assert remark.startswith("1 of 5 texts, of ")
    assert "500: input (12 tokens) is too large to process" in remark


def test_another_refusal_ends_the_run(e):
    routes = openai(lambda t: Answer({"error": {"message": "out of memory"}}, 500) if len(t[0]) > 25 else e.embed(t))
    with stand_in(routes) as server, pytest.raises(EngineError, match="out of memory"):
        verify(e, open_engine(server.url, e.info.path), TEXTS)


def test_a_server_that_takes_no_text_at_all_ends_the_run(e):
    long = lambda t: Answer({"error": {"message": "maximum context length"}}, 400) if len(t[0]) > 1 else e.embed(t)  # noqa: E731
    with stand_in(openai(long)) as server, pytest.raises(EngineError, match="maximum context length"):
        verify(e, open_engine(server.url, e.info.path), ["hello world", "the cat"])


def test_a_server_that_batches_wrongly_is_asked_for_several_texts_in_one_request(e):
    def answer(texts):
        return [e.embed([" ".join(texts)])[0]] * len(texts) if len(texts) > 1 else e.embed(texts)

    with stand_in(openai(answer)) as server:
        v = verify(e, open_engine(server.url, e.info.path), TEXTS)
    assert [c.id for c in v.causes] == ["batch-dependent"]
    assert "one text a request" in v.remedy


def test_a_server_that_refuses_several_texts_at_once_is_asked_one_by_one(e):
    routes = openai(lambda t: e.embed(t) if len(t) == 1 else Answer({"error": "one text at a time"}, 422))
    with stand_in(routes) as server:
        assert verify(e, open_engine(server.url, e.info.path), TEXTS).kind in QUIET


def test_token_vectors_behind_an_openai_route_are_named(e):
    routes = openai(lambda t: e.embed(t, pooling="none", normalize=-1))
    with stand_in(routes) as server:
        v = verify(e, open_engine(server.url, e.info.path), TEXTS)
    assert [c.id for c in v.causes] == ["pooling-none"]
    assert "does not pool" in v.cause
    assert v.remedy == "set its pooling to mean"


def test_another_vocabulary_is_found_by_the_text_of_the_servers_tokens(e):
    other = {i: f"word{i}" for i in range(60)}
    routes = {
        "GET /props": {"default_generation_settings": {}, "model_path": "/models/bge-small.gguf"},
        "POST /embeddings": lambda b: [{"index": i, "embedding": [[0.5] * 32]} for i in range(len(b["input"]))],
        "POST /tokenize": lambda b: {"tokens": [2, *(10 + (ord(c) % 40) for c in b["content"][:6]), 3]},
        "POST /detokenize": lambda b: {"content": "".join(other[i] for i in b["tokens"])},
    }
    with stand_in(routes) as server:
        v = verify(e, open_engine(server.url, e.info.path), TEXTS)
    assert [c.id for c in v.causes] == ["other-model"]
    assert "the server serves bge-small.gguf with another vocabulary" in v.cause
    assert set(v.evidence.pieces.values()) <= set(other.values())
    assert len(v.evidence.pieces) > 0
    assert json.loads(json.dumps(v.as_dict()))["remedy"] == v.remedy
