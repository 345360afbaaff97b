"""Vectors of the `ggml` numerics are llama.cpp's, bit for bit: alone, in a batch, and whichever switches are on."""

import os

import numpy as np
import pytest

from refembed import Embedder, hub
from refembed.errors import RequestError
from refembed.verify.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.oracle

TOGETHER = ((5, 9), (3, 3, 3), (40, 40), (30, 7, 90, 12), (100, 60, 64))  # tokens of texts that share a micro-batch


def texts(lengths, seed=1):
    """Token ids of texts of these lengths."""
    rng = np.random.default_rng(seed)
    return [[101, *map(int, rng.integers(1000, 30000, n - 2)), 102] for n in lengths]


def different(ours, theirs):
    """Numbers whose bits differ."""
    return int((np.stack(ours).view(np.int32) != np.stack(theirs).view(np.int32)).sum())


@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("flash_attn", [False, True])
def test_company_changes_bits_as_it_does_in_llama_cpp(outtype, flash_attn):
    """Several texts in one micro-batch: not a bit differs there either, and some differ from the texts alone."""
    path = hub.resolve("minilm", outtype=outtype)
    together = Embedder.load(path, numerics="ggml", flash_attn=flash_attn, n_ubatch=2048)
    alone = Embedder.load(path, numerics="ggml", flash_attn=flash_attn)
    changed = 0
    with LlamaCpp(path, flash_attn=flash_attn, n_batch=2048) as engine:
        for lengths in TOGETHER:
            ids = texts(lengths)
            assert different(together.embed(ids, normalize=-1), engine.embed(ids, batched=True)) == 0, lengths
            separately = engine.embed(ids)
            assert different(alone.embed(ids, normalize=-1), separately) == 0, lengths
            changed += different(engine.embed(ids, batched=True), separately)
    assert changed  # llama.cpp's own dependence on the batch: what n_ubatch is there for


@pytest.mark.parametrize("pooling", ["none", "cls", "last"])
def test_other_poolings_have_llama_cpp_s_bits(pooling):
    path = hub.resolve("minilm", outtype="q8_0")
    ids = texts((12, 70))
    with LlamaCpp(path, pooling=pooling, flash_attn=True) as engine:
        theirs = engine.embed(ids)
    ours = Embedder.load(path, numerics="ggml").embed(ids, pooling=pooling, normalize=-1)
    assert [different([a], [b]) for a, b in zip(ours, theirs, strict=True)] == [0, 0]


def test_a_traced_run_has_the_bits_of_a_silent_one():
    path = hub.resolve("minilm", outtype="q8_0")
    embedder = Embedder.load(path, numerics="ggml", flash_attn=False)
    ids = texts((33,))
    assert different(embedder.embed(ids, normalize=-1), embedder.trace(ids[0])["result_embd_pooled"]) == 0


def test_an_unknown_profile_is_refused():
    with pytest.raises(RequestError, match=r"avx2, .*avx512"):
        Embedder.load("minilm", numerics="ggml", profile="sse2")


@pytest.mark.slow
@pytest.mark.skipif("REFEMBED_NODE_LLAMA_CPP" not in os.environ, reason="REFEMBED_NODE_LLAMA_CPP names no folder")
@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"])
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("repack", [False, True])
def test_the_avx512_profile_has_the_bits_of_such_a_build(outtype, flash_attn, repack):
    """The zen4 plug-in of npm's @node-llama-cpp/linux-x64@3.22.1, its bins/linux-x64; the machine must have AVX-512."""
    path = hub.resolve("minilm", outtype=outtype)
    ids = texts((3, 7, 8, 20, 64, 100))
    build = {"lib": os.environ["REFEMBED_NODE_LLAMA_CPP"], "cpu": "zen4"}
    with LlamaCpp(path, flash_attn=flash_attn, extra_buffer_types=repack, **build) as engine:
        theirs = engine.embed(ids)
    ours = Embedder.load(path, numerics="ggml", profile="avx512", flash_attn=flash_attn, repack=repack)
    assert different(ours.embed(ids, normalize=-1), theirs) == 0
