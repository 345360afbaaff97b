"""Gemma 3 270M with its real weights (Q4_K_M) against live llama.cpp, tensor by tensor, beyond its window of 512.

REFEMBED_GEMMA3 names the file; without it these tests are skipped. llama.cpp rounds what it multiplies with quantized
weights to 8 bits, and Gemma's states have a few huge channels: alone that moves a product by up to 3.3e-2 of its
largest value (xllamacpp 2026.10.11549; 1, 11, 70 and 600 tokens), a whole run by 1.6e-1. Everything that is computed
in float32 agrees to float32's rounding on llama.cpp's own inputs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.arrays import F32
from refembed.gguf import GGUFWriter, Tensor, open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import NO_TAP
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.live import Both

GEMMA3 = os.environ.get("REFEMBED_GEMMA3", "")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(not GEMMA3, reason="REFEMBED_GEMMA3 names no gemma-3-270m-q4_k_m.gguf"),
]

LOCAL = 3e-6  # of operations in float32: measured 1.4e-6 (attention over 600 keys), 2.2e-7 for the rest
ROPE = 1e-7  # a token: llama.cpp multiplies angles up in float32; measured 4.3e-5 at 600
LOCAL_GELU = 1.2e-3  # measured 7.4e-4
LOCAL_8_BITS = 6e-2  # measured 3.3e-2
WHOLE = 0.3  # measured 0.16


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with Both(Path(GEMMA3), "mean", n_ctx=768) as b:
        yield b


def some_ids(n: int) -> list[int]:
    return [2, *(int(i) for i in np.random.default_rng(n).integers(106, 200_000, n - 1))]


@pytest.mark.parametrize(("n", "numerics"), [(1, "exact"), (11, "exact"), (70, "fast"), (600, "fast")])
def test_every_operation_is_llama_cpps(both: Both, n: int, numerics: str) -> None:
    _, local, whole = both.compare(some_ids(n), numerics)
    quantized = ("Qcur", "Kcur", "Vcur", "attn_out", "ffn_gate", "ffn_up", "ffn_out")
    for d in local:
        bound = {"ROPE": LOCAL + ROPE * n, "GEGLU": LOCAL_GELU}.get(d.op, LOCAL)
        if d.op == "MUL_MAT" and d.name.split("-")[0] in quantized:
            bound = LOCAL_8_BITS
        assert d.difference.rel_peak <= bound, f"{d.name}[{d.k}]: {d.difference}"
    assert max(whole.values()) <= WHOLE


@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_vectors_point_where_llama_cpps_do(pooling: str) -> None:
    """8-bit rounding turns a token's vector by 1 - cos of 1.4e-3 in most places of a random text, 1.8e-2 at worst."""
    with Both(Path(GEMMA3), pooling, n_ctx=768) as both:
        for n in (1, 40, 600):
            (theirs,) = both.engine.embed([some_ids(n)])
            ours = both.vectors(some_ids(n), load_ops("fast"), NO_TAP)
            a, b = (np.atleast_2d(np.squeeze(x)).astype(np.float64) for x in (ours, theirs))
            turned = 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert np.median(turned) < 4e-3
            assert turned.max() < 5e-2


def test_with_its_weights_decoded_rounding_to_half_precision_is_all_that_is_left(tmp_path: Path) -> None:
    """The same matrices as float32: then only GELU's table rounds, and whole runs agree to 1.0e-3 (measured)."""
    f = open_gguf(GEMMA3)
    w = GGUFWriter("gemma3")
    w.copy_keys(f.metadata)
    for t in f.tensors.values():
        if t.name == "token_embd.weight" or t.type.name == "F32":
            w.add_tensor(t.name, t.raw, t.shape, t.type.name)
        else:
            w.add_tensor(t.name, partial(decoded, t), t.shape, "F32")
    with Both(w.write(tmp_path / "f32.gguf"), "last", n_ctx=256) as both:
        for numerics in ("exact", "fast"):
            _, local, whole = both.compare(some_ids(11), numerics)
            for d in local:
                bound = {"GEGLU": LOCAL_GELU}.get(d.op, LOCAL)
                assert d.difference.rel_peak <= bound, f"{d.name}[{d.k}]: {d.difference}"
            assert max(whole.values()) <= 3e-3


def decoded(t: Tensor) -> F32:
    """A tensor as float32, when its turn to be written comes."""
    return t.dequantize().copy()


@pytest.mark.parametrize("flash_attn", [False, True])
def test_long_texts_have_llama_cpp_s_bits(flash_attn: bool) -> None:
    """The `ggml` numerics on texts far beyond the window of 512: not a bit differs."""
    embedder = Embedder.load(GEMMA3, numerics="ggml", flash_attn=flash_attn)
    with LlamaCpp(Path(GEMMA3), pooling="mean", flash_attn=flash_attn, extra_buffer_types=True) as engine:
        for n in (1, 700, 2000):
            ids = [2, *(int(i) for i in np.random.default_rng(n).integers(1000, 200000, n - 1))]
            (ours,), (theirs,) = embedder.embed([ids], pooling="mean", normalize=-1), engine.embed([ids])
            assert (ours.view(np.int32) == theirs.view(np.int32)).all(), n
