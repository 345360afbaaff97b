"""Layers that keep a state: `exact` and `fast` against their formulas, written out number by number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from refembed.gguf import Tensor
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import Ops
from refembed.model.trace import Recorder, at_layer
from tests.kernels.longhand import close, random, stored

OFFSETS = np.array([0, 1, 9, 150])  # a text of one token, one of a few, and one of more than two chunks of `fast`


@pytest.fixture(params=["exact", "fast"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param)


def texts() -> Iterator[range]:
    """The tokens of each text."""
    return (range(begin, end) for begin, end in itertools.pairwise(OFFSETS.tolist()))


def as_(ops: Ops, *arrays: Any) -> list[Any]:
    """Arrays of the numerics' own type, rows side by side."""
    return [np.asarray(x, ops.dtype).reshape(len(x), -1) for x in arrays]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_gates_are_their_formulas(ops: Ops) -> None:
    x, bias, a = random(1, 6, 5, scale=4), random(2, 5), -np.abs(random(3, 5))
    (mine,) = as_(ops, x)
    close(ops.sigmoid(mine), [[1 / (1 + math.exp(-float(v))) for v in row] for row in x], ops)
    close(ops.exp(mine), [[math.exp(float(v)) for v in row] for row in x], ops)
    close(ops.add_bias(mine, stored(bias, "bias")), x.astype(np.float64) + bias, ops)
    want = [[float(a[h]) * softplus(float(v) + float(bias[h])) for h, v in enumerate(row)] for row in x]
    tap = at_layer(Recorder(), 0)
    for own in (ops.log_decay(mine, stored(bias, "bias"), stored(a, "a")),
                ops.log_decay(mine, stored(bias, "bias"), stored(a, "a"), tap)):  # fmt: skip
        close(own, want, ops)
    assert [t.name for t in tap.tap.trace.tensors] == ["alpha_biased-0", "a_softplus-0"]  # type: ignore[attr-defined]
    far = np.array([[-1e4, 1e4]], ops.dtype)
    assert np.abs(ops.sigmoid(far) - [[0, 1]]).max() < 2e-38
    none, one = Tensor.of([0, 0], "none"), Tensor.of([1, 1], "one")
    assert np.abs(ops.log_decay(far, none, one) - [[0, 1e4]]).max() < 2e-38


@pytest.mark.parametrize(("K", "H", "D"), [(1, 1, 1), (2, 4, 10), (3, 3, 17), (1, 2, 32)])
def test_the_delta_rule_is_its_formula(ops: Ops, K: int, H: int, D: int) -> None:
    T = int(OFFSETS[-1])
    q, k, v = random(1, T, K, D), random(2, T, K, D), random(3, T, H, D)
    k /= np.linalg.norm(k, axis=2, keepdims=True)
    g, beta = -np.abs(random(4, T, H)) / 4, 1 / (1 + np.exp(random(5, T, H)))
    want = np.zeros((T, H, D))
    for text, h in itertools.product(texts(), range(H)):
        state, eye = np.zeros((D, D)), np.eye(D)
        for t in text:
            key, query = k[t, h % K].astype(np.float64), q[t, h % K].astype(np.float64)
            b = float(beta[t, h])
            state = math.exp(g[t, h]) * state @ (eye - b * np.outer(key, key)) + b * np.outer(v[t, h], key)
            want[t, h] = state @ query / math.sqrt(D)
    got = ops.gated_delta_rule(*as_(ops, q, k, v, g, beta), OFFSETS)
    close(got, want.reshape(T, -1), ops, times=4)


@pytest.mark.parametrize("one_a_head", [True, False])
@pytest.mark.parametrize(("H", "P", "G", "N"), [(1, 1, 1, 1), (4, 3, 2, 10), (6, 1, 3, 16), (3, 2, 1, 33)])
def test_the_scan_is_its_formula(ops: Ops, H: int, P: int, G: int, N: int, one_a_head: bool) -> None:
    """A channel's number of state n at t is the sum of what came in before, each faded by all steps since."""
    if not one_a_head and P > 1:
        pytest.skip("Mamba's heads have one channel each")
    T = int(OFFSETS[-1])
    x, dt, b, c = random(1, T, H, P), random(2, T, H), random(3, T, G, N), random(4, T, G, N)
    a = -np.exp(random(5, H, 1 if one_a_head else N))
    step, rates = np.log1p(np.exp(dt.astype(np.float64))), np.broadcast_to(a.astype(np.float64), (H, N))
    want = np.zeros((T, H, P))
    for text, h in itertools.product(texts(), range(H)):
        since = np.cumsum(step[text.start : text.stop, h])  # (n)
        for i, t in enumerate(text):
            fade = np.exp((since[i] - since[: i + 1])[:, None] * rates[h])  # (i + 1, N)
            came = slice(text.start, t + 1)
            share = (fade * b[came, h // (H // G)] * c[t, h // (H // G)]).sum(axis=1) * step[came, h]  # (i + 1)
            want[t, h] = share @ x[came, h]
    given, rows, columns, steps = as_(ops, x, b, c, dt)
    got = ops.selective_scan(given, steps, stored(a, "a"), rows, columns, G, OFFSETS)
    close(got, want.reshape(T, -1), ops, times=4)
    d = random(6, H)
    scaled = want.reshape(T, -1) + np.repeat(d, P).astype(np.float64) * x.reshape(T, -1)
    close(ops.add_scaled(want.reshape(T, -1).astype(ops.dtype), given, stored(d, "d")), scaled, ops)


@pytest.mark.parametrize(("H", "D"), [(1, 1), (2, 10), (3, 32)])
def test_rwkvs_state_is_its_formula(ops: Ops, H: int, D: int) -> None:
    T = int(OFFSETS[-1])
    r, k, v = (random(s, T, H, D) for s in (1, 2, 3))
    w, kk = np.exp(-np.abs(random(4, T, H, D))), random(5, T, H, D)
    kk /= np.linalg.norm(kk, axis=2, keepdims=True)
    a, b = -kk, kk / (1 + np.exp(random(6, T, H, D)))
    want = np.zeros((T, H, D))
    for text, h in itertools.product(texts(), range(H)):
        state = np.zeros((D, D))
        for t in text:
            moved = np.diag(w[t, h].astype(np.float64)) + np.outer(a[t, h].astype(np.float64), b[t, h])
            state = state @ moved + np.outer(v[t, h].astype(np.float64), k[t, h])
            want[t, h] = state @ r[t, h]
    got = ops.wkv7(*as_(ops, r, w, k, v, a, b), H, OFFSETS)
    close(got, want.reshape(T, -1), ops, times=4)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_bias_is_added_to_a_convolution(ops: Ops, ahead: int) -> None:
    x, w, bias = random(1, 150, 5), random(2, 5, 3), random(3, 5)
    (mine,), weight, added = as_(ops, x), stored(w, "w"), stored(bias, "bias")
    plain = ops.short_conv(mine, weight, OFFSETS, ahead)
    tap = at_layer(Recorder(), 0)
    for got in (ops.short_conv(mine, weight, OFFSETS, ahead, added),
                ops.short_conv(mine, weight, OFFSETS, ahead, added, tap, "conv")):  # fmt: skip
        close(got, plain.astype(np.float64) + bias, ops)
    assert np.array_equal(tap.tap.trace["conv-0"], plain)  # type: ignore[attr-defined]


def test_no_text_sees_another(ops: Ops) -> None:
    """Bits of a text alone, whatever comes with it."""
    x, dt, one = random(1, 150, 8), random(2, 150, 2), random(3, 150, 4)
    w, a, d = stored(random(4, 8, 4), "w"), stored(-np.abs(random(5, 2, 1)), "a"), np.abs(random(6, 150, 2))

    def run(rows: slice, offsets: Any) -> list[Any]:
        (given, step, part, gate) = as_(ops, x[rows], dt[rows], one[rows], d[rows])
        k = given / 8
        return [
            ops.short_conv(given, w, offsets),
            ops.gated_delta_rule(k, k, given, -gate, gate / (1 + gate), offsets),
            ops.selective_scan(given, step, a, part, part, 1, offsets),
            ops.wkv7(given, 1 / (1 + k * k), k, given, -k, k, 2, offsets),
        ]

    together = run(slice(0, 150), OFFSETS)
    for begin, end in itertools.pairwise(OFFSETS.tolist()):
        alone = run(slice(begin, end), np.array([0, end - begin]))
        assert [np.array_equal(y[begin:end], z) for y, z in zip(together, alone, strict=True)] == [True] * 4
