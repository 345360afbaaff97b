"""What decoders need on top of tests/kernels/exact/test_operations.py, in each numerics, against formulas written
out in plain Python.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.kernels.exact import attention
from refembed.kernels.fast import attention as fast_attention
from refembed.kernels.fast.ops import WINDOW_KINDS
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import BIDIRECTIONAL, AttentionMask, AttentionSpec, Ops
from refembed.model.trace import Recorder, at_layer
from tests.kernels.longhand import close, random, sees, slope, stored


@pytest.fixture(scope="module", params=["exact", "fast"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param)


@pytest.mark.parametrize("shape", [(1, 1), (6, 31), (3, 2, 10), (5, 1, 7), (4, 640)])
@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1.0])
def test_rms_norm_is_the_papers_formula(ops: Ops, shape: tuple[int, ...], eps: float) -> None:
    """Not centered; a head is normalized by itself, with the one weight of all heads."""
    C = shape[-1]
    x, w = random(1, *shape, scale=3) + 2, random(2, C)
    want = np.empty(shape)
    for at in np.ndindex(shape[:-1]):
        mean = math.fsum(float(v) ** 2 for v in x[at]) / C
        want[at] = [float(v) / math.sqrt(mean + eps) * float(g) for v, g in zip(x[at], w, strict=True)]
    close(ops.rms_norm(x.astype(ops.dtype), stored(w, f"r{shape}"), eps), want, ops)
    close(ops.rms_norm(x.astype(ops.dtype), None, eps), want / w.astype(np.float64), ops)


def test_activations_are_their_formulas_everywhere(ops: Ops) -> None:
    x = np.concatenate([np.linspace(-30, 30, 4001), [0.0, 1e-30, -1e-30, 85.0]]).astype(np.float32)
    up = random(3, 1, len(x))
    numbers = [float(v) for v in x]
    silu = np.array([v / (1 + math.exp(-v)) for v in numbers])
    gelu = np.array([0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in numbers])
    erf = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in numbers])
    a, b = x.reshape(1, -1).astype(ops.dtype), up.astype(ops.dtype)
    close(ops.silu(a)[0], silu, ops)
    close(ops.gelu_erf(a)[0], erf, ops)
    close(ops.swiglu(a, b)[0], silu * up[0].astype(np.float64), ops)
    close(ops.geglu(a, b)[0], gelu * up[0].astype(np.float64), ops)
    clamped = [min(v, 7.0) for v in numbers]
    gate = np.array([v / (1 + math.exp(-1.702 * v)) for v in clamped])
    close(ops.swiglu_oai(a, 9 * b)[0], gate * (1 + np.array([max(-7.0, min(9 * float(v), 7.0)) for v in up[0]])), ops)
    tail = (x < -1e-20) & (x > -12)  # each number by itself: the left tails do not cancel
    assert np.abs(ops.gelu_erf(a)[0][tail] / erf[tail] - 1).max() < 2e-6
    assert np.abs(ops.silu(a)[0][tail] / silu[tail] - 1).max() < 2e-6


def test_activations_survive_numbers_of_any_size(ops: Ops) -> None:
    x = np.array([[-3e38, -1e4, 1e4, 3e38]], ops.dtype)
    for f in (ops.silu, ops.gelu_erf):
        y = f(x)
        assert np.abs(y[0, :2]).max() <= 2.0
        assert np.array_equal(y[0, 2:], x[0, 2:])


def test_the_gate_comes_first(ops: Ops) -> None:
    gate, up = np.array([[-50.0, 2.0]], ops.dtype), np.array([[2.0, -50.0]], ops.dtype)
    for f in (ops.geglu, ops.swiglu):
        y = f(gate, up)
        assert abs(y[0, 0]) < 1e-10
        assert y[0, 1] < -80


def plain(
    q: Any,
    k: Any,
    v: Any,
    H: int,
    K: int,
    offsets: Any,
    scale: float,
    mask: AttentionMask,
    cap: float,
    bias: Any = None,
) -> Any:
    """Attention, one number at a time."""
    D = q.shape[1] // H
    out = np.zeros(q.shape)
    for begin, end in itertools.pairwise(offsets):
        for h, t in itertools.product(range(H), range(begin, end)):
            a, b = h * D, h // (H // K) * D
            scores = {}
            for u in range(begin, end):
                if sees(t - begin, u - begin, mask):
                    s = scale * math.fsum(float(q[t, a + d]) * float(k[u, b + d]) for d in range(D))
                    s = cap * math.tanh(s / cap) if cap else s
                    s += 0 if bias is None else float(bias[h, t - begin, u - begin])
                    scores[u] = s - (slope(h, H, mask.max_bias) * abs(t - u) if mask.max_bias else 0)
            high = max(scores.values())
            e = {u: math.exp(s - high) for u, s in scores.items()}
            for d in range(D):
                out[t, a + d] = math.fsum(p * float(v[u, b + d]) for u, p in e.items()) / math.fsum(e.values())
    return out


CASES = [
    (4, 2, AttentionMask(causal=True), 0.0),
    (3, 1, AttentionMask(causal=True, window=1), 0.0),
    (6, 3, AttentionMask(causal=True, window=4), 5.0),
    (2, 2, AttentionMask(causal=True, window=30), 0.0),
    (2, 1, AttentionMask(window=4), 0.0),
    (2, 2, AttentionMask(window=5, kind="symmetric"), 0.0),
    (2, 1, AttentionMask(causal=True, window=4, kind="symmetric"), 2.0),
    (2, 2, AttentionMask(causal=True, window=4, kind="chunked"), 0.0),
    (1, 1, AttentionMask(window=3, kind="chunked"), 0.0),
    (5, 5, AttentionMask(max_bias=8.0), 0.0),
    (12, 4, AttentionMask(causal=True, max_bias=8.0), 3.0),
    (4, 1, BIDIRECTIONAL, 50.0),
]


@pytest.mark.parametrize(("H", "K", "mask", "cap"), CASES)
def test_attention_with_masks_groups_and_caps_is_the_formula(
    ops: Ops, H: int, K: int, mask: AttentionMask, cap: float
) -> None:
    D, offsets = 6, np.array([0, 1, 12, 14, 23])
    q, k, v = random(10, 23, H * D, scale=2), random(11, 23, K * D), random(12, 23, K * D)
    want = plain(q, k, v, H, K, offsets, 0.7, mask, cap)
    mine = [x.astype(ops.dtype) for x in (q, k, v)]
    for cached in (False, True):
        spec = AttentionSpec(H, K, 0.7, mask, cap, cached)
        got = ops.attention(*mine, spec, offsets)
        close(got, want, ops, times=2)
        tap = at_layer(Recorder(), 0)
        assert np.array_equal(got, ops.attention(*mine, spec, offsets, tap))  # a trace changes no bits
        names = [] if cached else ["v_cont-0"]
        names += ["kq-0", *(["kq_scaled_1-0", "kq_tanh-0", "kq_scaled_2-0"] if cap else []), "kq_soft_max-0", "kqv-0"]
        assert [t.name for t in tap.tap.trace.tensors] == names * 4


@pytest.mark.parametrize("mask", [BIDIRECTIONAL, AttentionMask(causal=True, window=4)])
def test_a_bias_is_added_to_the_scores_of_every_text(ops: Ops, mask: AttentionMask) -> None:
    """T5's: one table for the longest text, whose corner serves shorter ones."""
    H, K, D, offsets = 4, 2, 6, np.array([0, 2, 9, 10])
    q, k, v = random(20, 10, H * D), random(21, 10, K * D), random(22, 10, K * D)
    bias = random(23, H, 7, 7, scale=2)
    want = plain(q, k, v, H, K, offsets, 0.7, mask, 0, bias)
    mine = [x.astype(ops.dtype) for x in (q, k, v)]
    spec, own = AttentionSpec(H, K, 0.7, mask), bias.astype(ops.dtype)
    got = ops.attention(*mine, spec, offsets, bias=own)
    close(got, want, ops, times=2)
    tap = at_layer(Recorder(), 0)
    assert np.array_equal(got, ops.attention(*mine, spec, offsets, tap, bias=own))
    shown = ["v_cont-0", "kq-0", "kq_plus_kq_b-0", "kq_soft_max-0", "kqv-0"]
    assert [t.name for t in tap.tap.trace.tensors] == shown * 3


def test_softmax_and_tanh_are_their_formulas(ops: Ops) -> None:
    x = random(30, 5, 7, scale=3)
    rows = [[math.exp(float(a)) / math.fsum(math.exp(float(b)) for b in row) for a in row] for row in x]
    close(ops.softmax(x.astype(ops.dtype)), rows, ops)
    close(ops.tanh(x.astype(ops.dtype)), [[math.tanh(float(a)) for a in row] for row in x], ops)
    np.testing.assert_allclose(ops.softmax(np.array([[1e4, -1e4]], ops.dtype)), [[1, 0]], atol=2e-38)
    assert ops.softmax(x[:1].astype(ops.dtype)).tobytes() == ops.softmax(x.astype(ops.dtype))[:1].tobytes()


def test_experts_multiply_each_token_by_its_own_matrices(ops: Ops) -> None:
    x, w = random(31, 9, 10), random(32, 5, 7, 10)  # 5 matrices (7, 10)
    chosen = np.array([[0, 3], [3, 0], [1, 1], [4, 0], [0, 1], [3, 4], [1, 3], [0, 4], [4, 3]])  # no token chose 2
    tensor = stored(w, "ffn_up_exps")
    want = [[w[e].astype(np.float64) @ x[t].astype(np.float64) for e in chosen[t]] for t in range(9)]
    got = ops.experts(x.astype(ops.dtype), tensor, chosen)
    close(got, want, ops)
    bias = random(35, 5, 7)
    want = np.array(want) + bias.astype(np.float64)[chosen]
    close(ops.experts(x.astype(ops.dtype), tensor, chosen, stored(bias, "ffn_up_exps_b")), want, ops)
    rows = random(33, 9, 2, 10)  # one row for each expert of a token, as their second matrices get
    want = [
        [w[e].astype(np.float64) @ rows[t, i].astype(np.float64) for i, e in enumerate(chosen[t])] for t in range(9)
    ]
    close(ops.experts(rows.astype(ops.dtype), tensor, chosen), want, ops)
    for t in range(9):  # whichever other tokens go to that expert
        alone = ops.experts(x[t : t + 1].astype(ops.dtype), tensor, chosen[t : t + 1])
        assert alone.tobytes() == got[t : t + 1].tobytes()


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_short_convolution_looks_back_inside_its_text(ops: Ops, n: int) -> None:
    x, w, offsets = random(34, 12, 5), random(35, 5, n), np.array([0, 1, 3, 12])
    want = np.zeros((12, 5))
    for begin, end in itertools.pairwise(offsets):
        for t, c, i in itertools.product(range(begin, end), range(5), range(n)):
            u = t - n + 1 + i
            want[t, c] += float(w[c, i]) * float(x[u, c]) if u >= begin else 0
    close(ops.short_conv(x.astype(ops.dtype), stored(w, f"conv{n}"), offsets), want, ops)


@pytest.mark.parametrize(("H", "K", "mask", "cap"), CASES)
def test_a_texts_attention_does_not_depend_on_its_neighbors(
    ops: Ops, H: int, K: int, mask: AttentionMask, cap: float
) -> None:
    D, offsets = 10, np.array([0, 3, 40, 41])
    q, k, v = (random(s, 41, n * D).astype(ops.dtype) for s, n in ((1, H), (2, K), (3, K)))
    spec = AttentionSpec(H, K, 0.3, mask, cap)
    together = ops.attention(q, k, v, spec, offsets)
    for begin, end in itertools.pairwise(offsets):
        alone = ops.attention(q[begin:end], k[begin:end], v[begin:end], spec, np.array([0, end - begin]))
        assert alone.tobytes() == together[begin:end].tobytes()


def test_what_is_hidden_weighs_nothing() -> None:
    """However large it is."""
    q = np.ones((3, 2), np.float32)
    v = np.array([[1, 2], [3, 4], [3e38, -3e38]], np.float32)
    got = load_ops("fast").attention(q, q, v, AttentionSpec(1, 1, 1.0, AttentionMask(causal=True)), np.array([0, 3]))
    assert np.array_equal(got[:2], [[1, 2], [2, 3]])


masks = st.builds(
    AttentionMask,
    causal=st.booleans(),
    window=st.integers(0, 12),
    kind=st.sampled_from(["standard", "chunked", "symmetric"]),
)


@given(masks, st.integers(1, 30))
def test_every_mask_leaves_each_query_one_piece_with_itself_in_it(mask: AttentionMask, n: int) -> None:
    """The definition's piece, and its compiled version's, are the rules' answers for each pair."""
    begin, end = attention.reach(n, mask)
    for i in range(n):
        seen = [j for j in range(n) if sees(i, j, mask)]
        assert i in seen
        assert list(range(begin[i], end[i])) == seen
        assert fast_attention.reach(i, n, mask.causal, mask.window, WINDOW_KINDS[mask.kind]) == (begin[i], end[i])


def test_slopes_are_the_papers() -> None:
    """8 heads: 1/2, 1/4 ... 1/256; 12 heads: these, and 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5."""
    eight = [2.0**-i for i in range(1, 9)]
    assert np.array_equal(attention.slopes(8, 8.0), eight)
    np.testing.assert_allclose(attention.slopes(12, 8.0), eight + [2.0**-e for e in (0.5, 1.5, 2.5, 3.5)])


def test_mean_is_each_texts_own(ops: Ops) -> None:
    x, offsets = random(5, 9, 4).astype(ops.dtype), np.array([0, 1, 4, 9])
    want = [
        [math.fsum(float(v) for v in x[a:b, c]) / (b - a) for c in range(4)] for a, b in itertools.pairwise(offsets)
    ]
    close(ops.mean(x, offsets), want, ops)
    assert ops.mean(x, offsets).dtype == ops.dtype


def test_a_traced_operation_gives_the_bits_of_a_silent_one(ops: Ops) -> None:
    tap, w = at_layer(Recorder(), 3), stored(random(14, 8), "tw")
    for shape in ((5, 8), (5, 3, 8)):
        x = random(13, *shape).astype(ops.dtype)
        assert ops.rms_norm(x, w, 1e-5).tobytes() == ops.rms_norm(x, w, 1e-5, tap).tobytes()
    assert [t.name for t in tap.tap.trace.tensors] == ["norm-3", "norm-3"]
    assert ops.rms_norm(x, None, 1e-5, tap) is not None
    assert len(tap.tap.trace.tensors) == 2  # without a weight the caller names the result
