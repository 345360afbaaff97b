"""No false alarm: live llama.cpp is right, whatever its settings, and `verify` says so."""

from __future__ import annotations

import time

import pytest

from refembed import Embedder, hub
from refembed.verify.compare.local import compare_traces
from refembed.verify.engines.base import open_engine
from refembed.verify.reference import reference_of
from refembed.verify.run import verify
from refembed.verify.texts import TEXTS

pytestmark = pytest.mark.oracle


def ask(model, texts=None, **options):
    """The verdict on live llama.cpp."""
    with open_engine("llamacpp", model, **options) as engine:
        return verify(model, engine, texts)


@pytest.mark.parametrize("outtype", ["f32", "q8_0"])
def test_llama_cpp_is_identical(outtype):
    v = ask(hub.resolve("minilm", outtype=outtype), TEXTS[:6])
    assert (v.kind, v.cause, v.first_wrong_tensor) == ("identical", "", None)


def test_llama_cpp_with_flash_attention_is_not_accused(minilm):
    v = ask(minilm, TEXTS[:6], flash_attn=True, extra_buffer_types=True, batched=True, threads=2)
    assert v.exit_code == 0
    assert v.first_wrong_tensor is None


@pytest.mark.slow
@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batched", [False, True])
def test_no_setting_of_llama_cpp_is_accused(outtype, flash_attn, threads, batched):
    v = ask(hub.resolve("minilm", outtype=outtype), flash_attn=flash_attn, threads=threads, batched=batched)
    assert v.exit_code == 0, v.cause
    assert v.first_wrong_tensor is None


@pytest.mark.slow
def test_a_trace_of_128_tokens_is_compared_in_three_seconds(minilm):
    """Measured: 0.8 s on two cores."""
    reference = reference_of(Embedder.load(minilm))
    ids = [101, *range(2000, 2126), 102]
    with open_engine("llamacpp", minilm) as engine:
        theirs = engine.trace(ids)
        compare_traces(reference, ids, theirs)
        begin = time.perf_counter()
        found = compare_traces(reference, ids, engine.trace(ids))
    assert time.perf_counter() - begin < 3
    assert len(found.rows) == 144
    assert found.first_wrong is None
