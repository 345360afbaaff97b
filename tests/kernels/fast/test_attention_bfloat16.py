"""Attention rounded to bfloat16: each step has the bits of the definition, and together they are those steps."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.exact.bfloat16 import LEAST, multiply_bfloat16, round_bfloat16
from refembed.kernels.fast import attention_bfloat16 as kernels
from refembed.kernels.fast.attention import QUERIES
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import BIDIRECTIONAL, AttentionMask, AttentionSpec
from refembed.model.trace import Recorder, at_layer
from tests.kernels.fast.test_attention import MASKS, formula
from tests.kernels.llvm.test_bfloat16 import CPUS, run_as
from tests.kernels.llvm.test_integer import same_bits
from tests.kernels.longhand import random, stored

SHAPES = [(1, 1, 1), (2, 32, 32), (7, 33, 17), (49, 64, 100), (97, 10, 48), (130, 128, 80)]  # tokens, of a key, a value


def test_scores_and_mix_have_the_bits_of_the_definition() -> None:
    for n, D, E in SHAPES:
        q, k, v = random(1, n, D), random(2, n, D), random(3, n, E)
        p = np.abs(random(4, n, n)) ** 9
        scores, mixed = np.empty((n, n), np.float32), np.empty((n, E), np.float32)
        kernels.scores_of(q, k, scores)
        assert same_bits(scores, multiply_bfloat16(round_bfloat16(q), round_bfloat16(k)))
        kernels.mix_of(p, v, mixed)
        assert same_bits(mixed, multiply_bfloat16(round_bfloat16(p), round_bfloat16(np.ascontiguousarray(v.T))))


def test_rounding_is_that_of_the_definition() -> None:
    """Halves between two numbers, numbers near LEAST, the largest, and what is no number."""
    x = np.r_[
        random(1, 2048) * np.exp(9 * random(2, 2048)), LEAST * (1 + np.arange(-1024, 1024) / 2**18),
        1 + np.arange(1024) / 1024, [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, -0.0, 1e-45, -1e-38] * 2,
    ].astype(np.float32)  # fmt: skip
    pairs = np.empty((1, len(x) // 2 * kernels.PAIR), np.float32)
    kernels.round_rows(x, 0, len(x), 1, len(x), pairs)
    if kernels.INSTRUCTION:
        found = (pairs.view(np.uint16)[0].astype(np.uint32) << 16).view(np.float32)
    else:
        found = pairs.reshape(-1, 2)[:, ::-1].ravel()
    want, numbers = round_bfloat16(x), ~np.isnan(x)
    assert same_bits(found[numbers], want[numbers])
    assert np.isnan(found[~numbers]).all()


def check_steps(n: int, D: int, E: int, masks: Any, H: int = 2, K: int = 1) -> None:
    """Attention as a whole has the bits of its steps, which a trace takes one at a time."""
    offsets = np.array([0, 3, 3 + n])
    q, k, v = random(1, n + 3, H * D), random(2, n + 3, K * D), random(3, n + 3, K * E)
    table, sinks = random(4, H, n + 3, n + 3), random(5, H, scale=2)
    ops = load_ops("bf16")
    ways = ((0.0, None, None), (5.0, None, None), (0.0, table, None), (5.0, table, sinks))
    for mask, (cap, bias, sink) in itertools.product(masks, ways):
        spec = AttentionSpec(H, K, D**-0.5, mask, cap)
        more = {"bias": bias, "sinks": None if sink is None else stored(sink, "attn_sinks")}
        whole, recorder = ops.attention(q, k, v, spec, offsets, **more), Recorder()
        shown = ops.attention(q, k, v, spec, offsets, at_layer(recorder, 0), **more)
        assert same_bits(whole, shown)
        exact = formula(*(round_bfloat16(x) for x in (q, k, v)), H, K, offsets, D**-0.5, mask, cap, bias, sink)
        # a share is rounded by 2^-8 of itself at most, so the whole by 2^-8 of the largest value
        assert np.abs(whole - exact).max() <= 1.001 * 2.0**-8 * np.abs(v).max()


@pytest.mark.parametrize(("n", "D", "E"), [(5, 33, 17), (QUERIES + 5, 32, 32), (2 * QUERIES + 1, 64, 40)])
def test_the_whole_is_its_steps_under_every_mask(n: int, D: int, E: int) -> None:
    check_steps(n, D, E, MASKS)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2 * QUERIES), st.integers(1, 70), st.integers(1, 70), st.integers(1, 60), st.booleans())
def test_a_window_may_begin_and_end_anywhere(n: int, D: int, E: int, window: int, causal: bool) -> None:
    """Also in the middle of a pair."""
    check_steps(n, D, E, [AttentionMask(causal=causal, window=window, kind="symmetric")])


def test_a_text_does_not_notice_its_neighbors_nor_a_row_the_keys_it_does_not_see() -> None:
    ops, n, D = load_ops("int8"), QUERIES + 7, 32
    q, k, v = (random(i, 2 * n, D) for i in range(3))
    for mask in (BIDIRECTIONAL, AttentionMask(causal=True), AttentionMask(causal=True, window=9)):
        spec = AttentionSpec(1, 1, D**-0.5, mask)
        both, alone = (ops.attention(q[:m], k[:m], v[:m], spec, np.arange(0, m + 1, n)) for m in (2 * n, n))
        assert same_bits(both[:n], alone)
        if mask.causal:
            for m in (n - 1, n - 2):
                less = ops.attention(q[:m], k[:m], v[:m], spec, np.array([0, m]))
                assert same_bits(less, alone[:m])


PROBE = """
from tests.kernels.fast import test_attention_bfloat16 as t
print(t.kernels.INSTRUCTION)
t.SHAPES[:] = [(1, 1, 1), (7, 33, 17), (49, 64, 100)]
t.test_scores_and_mix_have_the_bits_of_the_definition()
t.test_rounding_is_that_of_the_definition()
"""


@pytest.mark.slow  # compiles everything anew
@pytest.mark.parametrize("cpu", CPUS)
def test_every_road_has_the_bits_of_the_definition(cpu: str, tmp_path: Path) -> None:
    run_as(cpu, PROBE, tmp_path)
