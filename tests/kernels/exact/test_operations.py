"""Each operation, in each numerics, against the textbook formula written out in plain Python: `math`, `fsum`, loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refembed.kernels.llvm import jit
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import AttentionSpec, Ops
from refembed.kernels.wrapper import PatchedOps
from refembed.model.trace import Recorder, at_layer
from tests.kernels.longhand import close, random, stored


@pytest.fixture(scope="module", params=["exact", "fast"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param)


@pytest.mark.parametrize(("T", "C", "N"), [(1, 1, 1), (1, 5, 3), (3, 7, 2), (17, 33, 9), (5, 384, 20)])
def test_linear_is_the_sum_of_products_plus_bias(ops: Ops, T: int, C: int, N: int) -> None:
    x, w, b = random(1, T, C), random(2, N, C), random(3, N)
    want = [[math.fsum(float(x[t, c]) * float(w[n, c]) for c in range(C)) for n in range(N)] for t in range(T)]
    close(ops.linear(x.astype(ops.dtype), stored(w, f"w{T}{C}{N}")), want, ops, times=2)
    biased = ops.linear(x.astype(ops.dtype), stored(w, f"v{T}{C}{N}"), stored(b, f"b{T}{C}{N}"))
    close(biased, np.array(want) + b.astype(np.float64), ops, times=2)


def test_linear_on_whole_numbers_is_exact(ops: Ops) -> None:
    rng = np.random.default_rng(4)
    x, w = rng.integers(-9, 9, (70, 41)), rng.integers(-9, 9, (13, 41))
    got = ops.linear(x.astype(ops.dtype), stored(w, "integers"))
    assert np.array_equal(got.astype(np.int64), x @ w.T)


@pytest.mark.parametrize("C", [1, 2, 31, 384])
@pytest.mark.parametrize("eps", [1e-12, 1e-5, 1.0])
def test_layer_norm_is_the_papers_formula(ops: Ops, C: int, eps: float) -> None:
    x, w, b = random(5, 6, C, scale=3) + 2, random(6, C), random(7, C)
    want = []
    for row in x.astype(np.float64):
        mean = math.fsum(row) / C
        var = math.fsum((v - mean) ** 2 for v in row) / C
        want.append(
            [(v - mean) / math.sqrt(var + eps) * float(g) + float(h) for v, g, h in zip(row, w, b, strict=True)]
        )
    # C = 1: the variance is 0 and eps alone decides; the centered value is an exact 0
    close(ops.layer_norm(x.astype(ops.dtype), stored(w, f"g{C}"), stored(b, f"h{C}"), eps), want, ops, times=2)


def test_add_layer_norm_is_the_layer_norm_of_the_sum(ops: Ops) -> None:
    """With the bits of a sum by NumPy, traced and not traced, whichever operation is replaced."""
    x, y, g = (random(k, 5, 24).astype(ops.dtype) for k in (21, 22, 23))
    w, tap = stored(g[0], "gp"), at_layer(Recorder(), 0)
    want = ops.layer_norm(x + y, w, w, 1e-5)
    assert not np.array_equal(want, ops.layer_norm(x, w, w, 1e-5))
    assert np.array_equal(ops.add_layer_norm(x, y, w, w, 1e-5), want)
    assert np.array_equal(ops.add_layer_norm(x, y, w, w, 1e-5, tap), want)
    replaced = PatchedOps(ops, {"layer_norm": lambda true, x, *rest: true.layer_norm(2 * x, *rest)})
    want = ops.layer_norm(2 * (x + y), w, w, 1e-5)
    assert np.array_equal(replaced.add_layer_norm(x, y, w, w, 1e-5), want)
    assert np.array_equal(replaced.layer_norm(x + y, w, w, 1e-5, tap), want)


def test_layer_norm_needs_no_bias(ops: Ops) -> None:
    x, w = random(8, 3, 16), random(9, 16)
    y = ops.layer_norm(x.astype(ops.dtype), stored(w, "g"), None, 1e-5)
    zero = ops.layer_norm(x.astype(ops.dtype), stored(w, "g"), stored(np.zeros(16), "h"), 1e-5)
    assert np.array_equal(y, zero)


def test_gelu_is_the_tanh_form_everywhere(ops: Ops) -> None:
    x = np.concatenate([np.linspace(-30, 30, 4001), [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30]]).astype(np.float32)
    want = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in map(float, x)]
    got = ops.gelu(x.reshape(1, -1).astype(ops.dtype)).reshape(-1)
    finite = np.abs(x) < 100
    close(got[finite], np.array(want)[finite], ops)
    assert got[~finite & (x > 0)] == pytest.approx(1e30)
    assert np.all(np.abs(got[~finite & (x < 0)]) < 1e-6)


def plain_attention(q: Any, k: Any, v: Any, H: int, offsets: Any, scale: float) -> Any:
    """softmax(scale q kᵀ) v, one number at a time."""
    T, C = q.shape
    D, out = C // H, np.zeros((T, C))
    for begin, end in itertools.pairwise(offsets):
        for h in range(H):
            a, b = h * D, (h + 1) * D
            for t in range(begin, end):
                s = [scale * math.fsum(map(float, q[t, a:b] * k[u, a:b])) for u in range(begin, end)]
                e = [math.exp(z - max(s)) for z in s]
                for d in range(a, b):
                    out[t, d] = math.fsum(p * float(v[begin + j, d]) for j, p in enumerate(e)) / math.fsum(e)
    return out


@pytest.mark.parametrize(
    ("lengths", "H", "D"), [([1], 1, 1), ([4], 2, 3), ([1, 7, 2], 3, 5), ([40], 2, 32), ([5], 2, 301), ([150], 1, 3)]
)
def test_attention_looks_at_its_own_text_only(ops: Ops, lengths: list[int], H: int, D: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    q, k, v = (random(s, offsets[-1], H * D).astype(np.float64) for s in (10, 11, 12))
    want = plain_attention(q, k, v, H, offsets, 1 / math.sqrt(D))
    mine = [np.ascontiguousarray(x, ops.dtype) for x in (q, k, v)]
    got = ops.attention(*mine, AttentionSpec(H, H, 1 / math.sqrt(D)), offsets)
    close(got, want, ops, times=2)


def test_a_large_value_swallows_those_of_its_block_of_keys_and_no_others() -> None:
    """1024 keys of one share each, 2^-10: next to the first value's share float32 has no room for another's."""
    ops = load_ops("fast")
    q = np.zeros((1024, 8), np.float32)
    v = np.ones((1024, 8), np.float32)
    v[0] = 2**24
    lost = (2**14 + 1023 / 1024) - ops.attention(q, q, v, AttentionSpec(2, 2, 1.0), np.array([0, 1024])).astype(
        np.float64
    )
    assert (np.abs(lost) <= 128 / 1024 + 2**-9).all()  # and the last sums round


def test_a_wide_heads_score_is_summed_in_blocks() -> None:
    ops = load_ops("fast")
    k = np.ones((3, 512), np.float32)
    q = k.copy()
    q[:, 0] = 2**24
    tap = at_layer(Recorder(), 0)
    ops.attention(q, k, k, AttentionSpec(1, 1, 1.0), np.array([0, 3]), tap)
    lost = 2**24 + 511 - tap.tap.trace["kq-0"].astype(np.int64)
    assert (lost >= 0).all()
    assert (lost <= 128).all()


@pytest.mark.parametrize(("n", "D"), [(300, 32), (130, 200)])
def test_a_traced_long_attention_gives_the_bits_of_a_silent_one(ops: Ops, n: int, D: int) -> None:
    x, tap = random(16, n, 2 * D).astype(ops.dtype), at_layer(Recorder(), 3)
    spec, offsets = AttentionSpec(2, 2, 0.1), np.array([0, n])
    assert np.array_equal(ops.attention(x, x, x, spec, offsets), ops.attention(x, x, x, spec, offsets, tap))


def test_a_sink_is_a_key_whose_value_is_nothing(ops: Ops) -> None:
    """The same attention with one more key in each text, of that score for each head, and with a value of 0."""
    H, n, D, sinks = 3, 5, 4, random(19, 3, scale=2)
    q, k, v = (random(20 + i, n, H * D).astype(ops.dtype) for i in range(3))
    wider = [np.concatenate([x, np.zeros((1, H * D), ops.dtype)]) for x in (q, k, v)]
    bias = np.zeros((H, n + 1, n + 1), ops.dtype)
    bias[:, :, n] = sinks[:, None]  # the score of the last key, whose channels are 0
    got = ops.attention(q, k, v, AttentionSpec(H, H, 0.5), np.array([0, n]), sinks=stored(sinks, "attn_sinks"))
    close(got, ops.attention(*wider, AttentionSpec(H, H, 0.5), np.array([0, n + 1]), bias=bias)[:n], ops)


def test_attention_survives_scores_of_any_size(ops: Ops) -> None:
    """The largest score is taken off before exp, so thousands do not overflow; the winner takes all."""
    q = np.array([[4e3], [-4e3]], ops.dtype)
    v = np.array([[1.0], [2.0]], ops.dtype)
    got = ops.attention(q, q, v, AttentionSpec(1, 1, 1.0), np.array([0, 2]))
    assert np.allclose(got, [[1.0], [2.0]])


def test_a_traced_operation_gives_the_bits_of_a_silent_one(ops: Ops) -> None:
    x, w, b = random(13, 9, 24).astype(ops.dtype), stored(random(14, 24, 24), "tw"), stored(random(15, 24), "tb")
    tap = at_layer(Recorder(), 3)
    assert np.array_equal(ops.linear(x, w, b), ops.linear(x, w, b, tap, "p"))
    assert np.array_equal(ops.layer_norm(x, b, b, 1e-5), ops.layer_norm(x, b, b, 1e-5, tap))
    spec, offsets = AttentionSpec(3, 3, 0.4), np.array([0, 4, 9])
    assert np.array_equal(ops.attention(x, x, x, spec, offsets), ops.attention(x, x, x, spec, offsets, tap))
    names = [t.name for t in tap.tap.trace.tensors]
    assert names == ["p-3", "norm-3", "norm_w-3"] + ["v_cont-3", "kq-3", "kq_soft_max-3", "kqv-3"] * 2


@given(st.floats(-120, 120, width=32))
def test_expf_is_within_two_ulps_up_to_its_ends(x: float) -> None:
    got, want = float(jit.expf(np.float32(x))), math.exp(x)
    if -87.3 <= x <= 88.37:
        assert abs(got - want) <= 2 * float(np.spacing(np.float32(want)))
    elif x < 0:
        assert 0 <= got <= 1.3e-38
    else:
        assert 2.3e38 <= got < 3.4e38


def test_expf_keeps_nan() -> None:
    assert math.isnan(jit.expf(np.float32(np.nan)))


def test_numerics_that_do_not_exist_are_refused_by_name() -> None:
    from refembed.errors import RequestError

    with pytest.raises(RequestError, match="numerics 'half': there is no such numerics"):
        load_ops("half")
