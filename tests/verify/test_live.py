"""Alignment and local error on real runs: the exact numerics against live llama.cpp, on the default model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refembed import Embedder
from refembed.kernels.exact.ops import Exact
from refembed.verify.compare.align import align
from refembed.verify.compare.replay import replay
from refembed.verify.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.oracle

IDS = [101, 7592, 1010, 2222, 8067, 999, 102]
INSIDE_FLASH_ATTENTION = {"v_cont", "kq", "kq_soft_max", "kqv"}


@pytest.fixture(scope="module")
def ours(minilm):
    return Embedder.load(minilm, numerics="exact")


@pytest.fixture(scope="module")
def theirs(oracle):
    return oracle.trace(IDS)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "none"])
def test_no_tensor_is_left_over(ours, minilm, pooling):
    """Every named tensor that llama.cpp computes has its partner among our taps, and the other way round."""
    with LlamaCpp(minilm, pooling=pooling) as engine:
        a, b = ours.trace(IDS, pooling=pooling), engine.trace(IDS)
    found = align(a, b)
    assert [a.tensors[i].name for i in found.ours_only] == []
    assert [b.tensors[i].name for i in found.theirs_only] == []
    assert len(found.pairs) == len(a.tensors)
    assert {p.name for p in found.pairs if p.by == "place"} == {f"l_out-{i}" for i in range(5)}


def test_partners_are_the_same_tensor(ours, theirs):
    """Their values are near; those of any other tensor of that shape are far."""
    a = ours.trace(IDS)
    pairs = align(a, theirs).pairs
    assert len(pairs) > 100
    for pair in pairs:
        x, y = a.tensors[pair.ours].array, theirs.tensors[pair.theirs].array
        assert np.abs(x - y.reshape(x.shape)).max() < 0.02 * np.abs(x).max(), pair


def test_with_flash_attention_only_its_inside_is_left_over(ours, minilm):
    with LlamaCpp(minilm, flash_attn=True) as engine:
        a, b = ours.trace(IDS), engine.trace(IDS)
    found = align(a, b)
    assert {a.tensors[i].name.split("-")[0] for i in found.ours_only} == INSIDE_FLASH_ATTENTION
    assert found.theirs_only == ()


def test_local_errors_are_rounding(ours, theirs):
    """llama.cpp's GELU goes through a table of half-precision floats; everything else is float32 arithmetic."""
    found = replay(lambda tap: ours.trace(IDS, tap=tap), theirs)
    assert len(found) > 100
    for d in found:
        bound = 2.0**-11 if d.op == "GELU" else 3e-6
        assert d.difference.rel_peak < bound, f"{d.name}[{d.k}]: {d.difference}"


def test_a_fault_shows_in_the_operation_that_has_it_and_nowhere_else(minilm, theirs):
    """Attention without its scale: every softmax is off, everything behind it is right on its own inputs."""

    class Unscaled(Exact):
        def attention(self, q, k, v, spec, offsets, tap, **more):
            return super().attention(q, k, v, replace(spec, scale=1.0), offsets, tap, **more)

    e = Embedder.load(minilm, numerics="exact")
    e.ops = Unscaled()
    bad = {d.name for d in replay(lambda tap: e.trace(IDS, tap=tap), theirs) if d.difference.rel_peak > 2.0**-11}
    assert bad == {f"kq_soft_max-{i}" for i in range(6)}
