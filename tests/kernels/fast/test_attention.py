"""Attention by tiles against the formula in float64, across the borders of its blocks; rows that stand alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.fast.attention import QUERIES, SUMMED
from refembed.kernels.fast.ops import WINDOW_KINDS, Fast
from refembed.kernels.llvm import microkernel
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import BIDIRECTIONAL, AttentionMask, AttentionSpec
from refembed.model.trace import Recorder, at_layer
from tests.kernels.longhand import chain, close, random, sees, slope, stored

MASKS = [
    BIDIRECTIONAL,
    AttentionMask(causal=True),
    AttentionMask(causal=True, window=1),
    AttentionMask(causal=True, window=37),
    AttentionMask(causal=True, window=150),
    AttentionMask(window=37),
    AttentionMask(window=20, kind="symmetric"),
    AttentionMask(causal=True, window=51, kind="symmetric"),
    AttentionMask(window=50, kind="chunked"),
    AttentionMask(causal=True, window=50, kind="chunked"),
    AttentionMask(max_bias=8.0),
    AttentionMask(causal=True, window=70, max_bias=8.0),
]


def formula(
    q: Any, k: Any, v: Any, H: int, K: int, offsets: Any, scale: float, mask: AttentionMask, cap: float, bias: Any,
    sinks: Any = None,
) -> Any:  # fmt: skip
    """softmax(scale q kᵀ + what the mask says) v in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    D, E = q.shape[1] // H, v.shape[1] // K
    out = np.empty((len(q), H * E))
    for begin, end in itertools.pairwise(offsets):
        n = end - begin
        seen = np.array([[sees(i, j, mask) for j in range(n)] for i in range(n)])
        apart = np.abs(np.arange(n)[:, None] - np.arange(n))
        for h in range(H):
            mine, g = slice(h * D, (h + 1) * D), h // (H // K)
            theirs, values = slice(g * D, (g + 1) * D), slice(g * E, (g + 1) * E)
            s = scale * (q[begin:end, mine] @ k[begin:end, theirs].T)
            s = cap * np.tanh(s / cap) if cap else s
            s = s if bias is None else s + bias[h, :n, :n]
            s = s - slope(h, H, mask.max_bias) * apart if mask.max_bias else s
            e = np.where(seen, np.exp(s), 0)
            total = e.sum(1, keepdims=True) + (0 if sinks is None else np.exp(np.float64(sinks[h])))
            out[begin:end, h * E : (h + 1) * E] = (e / total) @ v[begin:end, values]
    return out


def compare(ops: Fast, n: int, D: int, masks: Any = tuple(MASKS), H: int = 4, K: int = 2) -> None:
    """Texts of n and a few tokens, with each mask, with and without a cap and a bias."""
    offsets = np.array([0, 3, 3 + n])
    q, k, v = random(1, n + 3, H * D), random(2, n + 3, K * D), random(3, n + 3, K * D)
    table, sinks = random(4, H, n + 3, n + 3), random(5, H, scale=2)
    ways = ((0.0, None, None), (5.0, None, None), (0.0, table, None), (0.0, None, sinks), (5.0, table, sinks))
    for mask, (cap, bias, sink) in itertools.product(masks, ways):
        stored_sinks = None if sink is None else stored(sink, "attn_sinks")
        got = ops.attention(q, k, v, AttentionSpec(H, K, D**-0.5, mask, cap), offsets, bias=bias, sinks=stored_sinks)
        close(got, formula(q, k, v, H, K, offsets, D**-0.5, mask, cap, bias, sink), ops, times=2)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize(("D", "E"), [(192, 128), (10, 17), (33, 1), (576, 512)])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_values_may_have_another_width_than_keys(numerics: str, D: int, E: int, K: int) -> None:
    """As in DeepSeek's latent attention, narrower and wider; also where each step is shown."""
    ops, H, n = load_ops(numerics), 4, QUERIES + 5
    q, k, v = (random(seed, n, size).astype(ops.dtype) for seed, size in ((1, H * D), (2, K * D), (3, K * E)))
    spec, offsets = AttentionSpec(H, K, D**-0.5, AttentionMask(causal=True)), np.array([0, 4, n])
    wanted = formula(q, k, v, H, K, offsets, D**-0.5, spec.mask, 0.0, None)
    got = ops.attention(q, k, v, spec, offsets)
    close(got, wanted, ops, times=2)
    assert ops.attention(q, k, v, spec, offsets, at_layer(Recorder(), 0)).tobytes() == got.tobytes()


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_each_head_goes_through_its_own_matrix(numerics: str) -> None:
    ops, x, w = load_ops(numerics), random(1, 7, 3, 10), random(2, 3, 6, 10)
    for attended in (False, True):
        got = ops.per_head(x.astype(ops.dtype), stored(w, "attn_k_b"), attended=attended)
        close(got, np.einsum("thc,hnc->thn", x.astype(np.float64), w.astype(np.float64)), ops)


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_every_mask_cap_and_bias_is_the_formula(mask: AttentionMask) -> None:
    """Over several blocks of queries and of keys."""
    compare(Fast(), 2 * SUMMED + 5, 20, [mask])


BORDERS = sorted({1, 2, QUERIES - 1, QUERIES, QUERIES + 1, SUMMED - 1, SUMMED, SUMMED + 1, fast_attention.P + 1})


@pytest.mark.parametrize("n", BORDERS)
def test_the_borders_of_blocks_of_queries_and_keys_are_no_borders(n: int) -> None:
    compare(Fast(), n, 17, [BIDIRECTIONAL, AttentionMask(causal=True, window=n // 2 + 1)])


@pytest.mark.parametrize("D", [1, 2, 15, 16, 17, 47, 48, 49, 64, 80, 96, 100, 128, 129, 257])
def test_heads_may_have_any_width(D: int) -> None:
    compare(Fast(), 21, D, [BIDIRECTIONAL, AttentionMask(causal=True)])


@pytest.mark.parametrize(("H", "K"), [(1, 1), (6, 1), (6, 2), (6, 3), (6, 6)])
def test_heads_share_keys_in_groups(H: int, K: int) -> None:
    compare(Fast(), 60, 5, [AttentionMask(causal=True)], H, K)


@pytest.mark.parametrize(("n", "D"), [(5, 3), (129, 20), (60, 200), (50, 257)])
def test_scores_are_chains_over_blocks_of_channels(n: int, D: int) -> None:
    q, k = random(5, n, D), random(6, n, D)
    out = np.full((n, n), np.nan, np.float32)
    fast_attention.scores_of(q, k, out)
    want = sum(chain(q[:, d : d + SUMMED], k.T[d : d + SUMMED], fused=microkernel.FUSED) for d in range(0, D, SUMMED))
    assert np.array_equal(out, want)


@pytest.mark.parametrize(("n", "D"), [(5, 3), (128, 16), (129, 49), (300, 100)])
def test_mixes_are_chains_over_blocks_of_keys(n: int, D: int) -> None:
    p, v = np.abs(random(7, n, n)), random(8, n, D)
    out = np.full((n, D), np.nan, np.float32)
    fast_attention.mix_of(p, v, out)
    want = sum(chain(p[:, j : j + SUMMED], v[j : j + SUMMED], fused=microkernel.FUSED) for j in range(0, n, SUMMED))
    assert np.array_equal(out, want)


def attend(x: Any, y: Any, offsets: Any, mask: AttentionMask, soft_cap: float = 0.0, **more: Any) -> Any:
    """4 heads of 12 channels, 2 of keys."""
    return Fast().attention(x, y, -y, AttentionSpec(4, 2, 0.3, mask, soft_cap), np.asarray(offsets), **more)


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_attention_has_the_same_bits_alone_and_in_a_batch(mask: AttentionMask) -> None:
    """Whatever came before in memory, and wherever it begins."""
    offsets = np.cumsum([0, 1, SUMMED + 9, 2, QUERIES, QUERIES + 1, 200])
    x, y = random(9, offsets[-1], 48), random(10, offsets[-1], 24)
    together = attend(x, y, offsets, mask)
    for begin, end in itertools.pairwise(offsets):
        alone = attend(x[begin:end], y[begin:end], [0, end - begin], mask)
        assert alone.tobytes() == together[begin:end].tobytes()


@settings(max_examples=25)
@given(st.integers(1, 280), st.integers(1, 60), st.integers(0, 150), st.sampled_from(["standard", "chunked"]))
def test_with_a_causal_mask_a_row_does_not_notice_what_follows(n: int, further: int, window: int, kind: Any) -> None:
    """Be it as large as can be."""
    mask = AttentionMask(causal=True, window=window, kind=kind)
    x, y = random(11, n + further, 48), random(12, n + further, 24)
    y[n:] *= 1e30
    short, long = attend(x[:n], y[:n], [0, n], mask), attend(x, y, [0, n + further], mask)
    assert short.tobytes() == long[:n].tobytes()


@pytest.mark.parametrize("cap", [0.0, 4.0])
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_a_trace_changes_no_bits(mask: AttentionMask, cap: float) -> None:
    """It computes every score and takes one step at a time."""
    n = SUMMED + 70
    x, y, tap = random(13, n, 48), random(14, n, 24), at_layer(Recorder(), 0)
    for bias, sinks in ((None, None), (random(15, 4, n, n), None), (None, stored(random(16, 4), "sinks"))):
        silent = attend(x, y, [0, n], mask, soft_cap=cap, bias=bias, sinks=sinks)
        traced = attend(x, y, [0, n], mask, soft_cap=cap, bias=bias, sinks=sinks, tap=tap)
        assert silent.tobytes() == traced.tobytes()


def test_cores_may_share_heads_and_texts() -> None:
    """Each part writes the channels of its own heads, to the bit."""
    H, D, offsets = 3, 7, np.array([0, 50, 53])
    q = random(16, 53, H * D)
    rest = (np.float32(0.4), True, 9, WINDOW_KINDS["standard"], np.float32(0), np.zeros(H, np.float32))
    more, none = np.empty((0, 0, 0), np.float32), np.empty(0, np.float32)
    whole, out = np.empty_like(q), np.full_like(q, np.nan)
    fast_attention.attention(q, q, q, H, 1, offsets, *rest, more, none, whole, 0, 6)
    for unit in (4, 0, 5, 1, 3, 2):
        before = out.copy()
        fast_attention.attention(q, q, q, H, 1, offsets, *rest, more, none, out, unit, unit + 1)
        s, h = divmod(unit, H)
        mine = np.zeros(q.shape, bool)
        mine[offsets[s] : offsets[s + 1], h * D : (h + 1) * D] = True
        assert out[mine].tobytes() == whole[mine].tobytes()
        assert out[~mine].tobytes() == before[~mine].tobytes()


@pytest.mark.parametrize("bad", [np.nan, -np.nan])
@pytest.mark.parametrize("n", [5, 40, 200])
def test_what_is_no_number_spoils_every_row_that_sees_it(n: int, bad: float) -> None:
    """And no other text's: an error is not to look like a result."""
    x, y = random(17, n + 9, 48), random(18, n + 9, 24)
    clean = attend(x, y, [0, n, n + 9], AttentionMask(causal=True))
    x[3] = bad
    got = attend(x, y, [0, n, n + 9], AttentionMask(causal=True))
    assert np.isnan(got[3]).all()
    assert np.delete(got, 3, 0).tobytes() == np.delete(clean, 3, 0).tobytes()
    y[2] = bad
    assert np.isnan(attend(x, y, [0, n, n + 9], AttentionMask(causal=True))[2:n]).all()
    assert attend(x, y, [0, n, n + 9], AttentionMask(causal=True))[n:].tobytes() == clean[n:].tobytes()
