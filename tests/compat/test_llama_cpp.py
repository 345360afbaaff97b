"""`refembed.compat.llama_cpp` against what the real llama-cpp-python gave (`tests/record_llama_cpp_python.py`)."""

from __future__ import annotations

import base64
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.compat import llama_cpp
from refembed.compat.llama_cpp import FIXED, IGNORED, Llama
from refembed.errors import RequestError

REAL = json.loads((Path(__file__).parent.parent / "data" / "llama-cpp-python.json").read_text(encoding="utf-8"))
TEXTS = REAL["texts"]


def f32(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.fixture(scope="module")
def bits(minilm: Path) -> Llama:
    return Llama(str(minilm), embedding=True, numerics="ggml", verbose=False)


@pytest.fixture(scope="module")
def fast(minilm: Path) -> Llama:
    return Llama(model_path=str(minilm), embedding=True)


def test_vectors_have_the_bits_of_llama_cpp_python(bits: Llama) -> None:
    for text, wanted in zip(TEXTS, REAL["alone"], strict=True):
        assert np.array_equal(np.array(bits.embed(text), np.float32), f32(wanted)), text[:40]


def test_texts_of_one_call_have_its_bits_too(bits: Llama) -> None:
    """There they share a batch, which moves last digits: alone they are others."""
    found = np.array(bits.embed(TEXTS[:4]), np.float32)
    assert np.array_equal(found.ravel(), f32(REAL["batch"]))
    assert not np.array_equal(found[0], f32(REAL["alone"][0]))


def test_unit_vectors_are_those_of_llama_cpp_python(bits: Llama) -> None:
    """There the division is in double and the result stays double: an ulp of float32."""
    assert np.abs(np.array(bits.embed(TEXTS[2], normalize=True)) - f32(REAL["unit"])).max() < 3e-8


def test_no_pooling_gives_a_list_a_token(minilm: Path) -> None:
    llm = Llama(minilm, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_NONE, numerics="ggml")
    rows = llm.embed(TEXTS[1])
    assert len(rows) == len(REAL["ids"][1])
    assert np.array_equal(np.float32(rows).ravel(), f32(REAL["rows"]))


def test_fast_numbers_are_as_near_as_fast_numerics_are(fast: Llama) -> None:
    for text, wanted in zip(TEXTS, REAL["alone"], strict=True):
        assert np.abs(np.array(fast.embed(text)) - f32(wanted)).max() < 2e-3  # of vectors about 5 long


def test_create_embedding_has_the_same_form(bits: Llama) -> None:
    reply = bits.create_embedding(TEXTS[:4], model="m")
    assert list(reply["data"][0]) == ["object", "embedding", "index"]
    vectors = [item.pop("embedding") for item in reply["data"]]
    assert reply == REAL["reply"]
    assert list(reply) == list(REAL["reply"])
    assert type(vectors[0]) is list
    assert type(vectors[0][0]) is float
    assert bits.create_embedding("a")["model"] == bits.model_path


def test_counts_are_tokens_after_cutting(fast: Llama) -> None:
    assert fast.embed(TEXTS, return_count=True)[1] == REAL["count"]


def test_tokens_and_their_text_are_the_same(fast: Llama) -> None:
    assert [fast.tokenize(t.encode()) for t in TEXTS] == REAL["ids"]
    assert [fast.tokenize(t.encode(), special=True) for t in TEXTS] == REAL["special ids"]
    assert [fast.tokenize(t.encode(), add_bos=False) for t in TEXTS] == REAL["bare ids"]
    assert [fast.detokenize(i).decode() for i in REAL["ids"]] == REAL["pieces"]
    assert [fast.detokenize(i, special=True).decode() for i in REAL["ids"]] == REAL["special pieces"]
    tokenizer = fast.tokenizer()
    assert tokenizer.encode("hi [SEP]") == [101, 7632, 102, 102]
    assert tokenizer.decode([101, 7632, 102]) == "hi"


def test_numbers_and_metadata_are_the_same(fast: Llama) -> None:
    numbers = [fast.n_ctx(), fast.n_batch, fast.n_embd(), fast.n_vocab(), fast.token_bos(), fast.token_eos()]
    assert [*numbers, fast.pooling_type()] == REAL["numbers"]
    assert fast.metadata == REAL["metadata"]


def test_every_method_is_there_with_its_arguments(fast: Llama) -> None:
    for name, arguments in REAL["methods"].items():
        method = getattr(Llama, name)
        if method.__doc__.startswith("Raises UnsupportedError"):
            with pytest.raises(NotImplementedError, match=f"Llama.{name}: refembed makes embeddings"):
                getattr(fast, name)()
        else:
            assert [p for p in inspect.signature(method).parameters if p != "self"] == arguments, name
    with pytest.raises(NotImplementedError, match="writes no text"):
        fast("once upon a time")


def test_every_argument_of_the_constructor_is_known() -> None:
    """With its default; those that are ignored, and those that have one value only, likewise."""
    own = inspect.signature(Llama).parameters
    for name, default in REAL["arguments"].items():
        if name in own:
            assert own[name].default == default, name
        elif name in FIXED:
            assert FIXED[name] == default, name
        else:
            assert name in IGNORED, name


def test_what_llama_cpp_python_refuses_is_refused_in_its_words(minilm: Path, fast: Llama) -> None:
    with pytest.raises(RuntimeError, match="must be created with embedding=True to call this method"):
        Llama(minilm).embed("a")
    with pytest.raises(ValueError, match=r"Requested tokens \(522\) exceed batch size of 512"):
        fast.embed(TEXTS[4], truncate=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rope_freq_base": 1e6}, "would change the numbers"),
        ({"kv_overrides": {"tokenizer.ggml.add_bos_token": False}}, "would change the numbers"),
        ({"pooling_type": 9}, "pooling_type 9"),
        ({"n_contexts": 1}, "unexpected keyword argument 'n_contexts'"),
    ],
)
def test_what_cannot_be_had_is_one_error(minilm: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Llama(minilm, embedding=True, **arguments)


def test_texts_are_strings(fast: Llama) -> None:
    with pytest.raises(TypeError, match="not int"):
        fast.embed([5])  # type: ignore[list-item]


def test_a_shorter_batch_cuts_sooner(minilm: Path) -> None:
    llm = Llama(minilm, embedding=True, n_batch=8)
    assert llm.embed(TEXTS[2], return_count=True)[1] == 8
    assert llm.embed(TEXTS[2]) == llm.embedder.embed([REAL["ids"][2][:8]], normalize=-1)[0].tolist()
