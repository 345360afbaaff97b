"""Layers that keep a state against ggml's own operations, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.gguf import Tensor
from refembed.kernels.numerics import load_ops
from refembed.kernels.taps import NO_TAP
from tests.kernels.ggml.live import run
from tests.kernels.ggml.test_floats import differ

f32 = np.float32


class Last:
    """A tap that keeps what it was shown last under each name."""

    active = True

    def __init__(self) -> None:
        self.seen: dict[str, np.ndarray] = {}

    def __call__(self, name, x):
        self.seen[name] = x
        return x


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(f32)


@pytest.mark.oracle
def test_the_delta_rule_is_ggml_gated_delta_net():
    """Of heads of whole registers and of what is left of them; heads of keys shared, and not; one token, and many."""
    rng, ops, calls, found = np.random.default_rng(1), load_ops("ggml"), [], []
    for T, K, H, D in ((1, 2, 2, 32), (20, 2, 4, 10), (33, 1, 3, 7), (9, 3, 3, 128), (70, 2, 6, 35), (5, 1, 1, 1)):
        q, k, v = normal(rng, T, K, D), normal(rng, T, K, D), normal(rng, T, H, D)
        q, k = (x / np.linalg.norm(x, axis=2, keepdims=True) for x in (q, k))
        g, beta = -np.abs(normal(rng, T, H)), rng.random((T, H)).astype(f32)
        arrays = [q[None], k[None], v[None], g[None, :, :, None], beta[None, :, :, None], np.zeros((1, H, D, D), f32)]
        calls.append(("ggml_gated_delta_net", [*map(np.ascontiguousarray, arrays), np.int64(1)]))
        flat = [x.reshape(T, -1) for x in (q, k, v)]
        found.append(ops.gated_delta_rule(*flat, g, beta, np.array([0, T])))
    theirs = [y.reshape(-1)[: x.size].reshape(x.shape) for x, y in zip(found, run(calls), strict=True)]
    assert [differ(x, y) for x, y in zip(found, theirs, strict=True)] == [0] * len(calls)


@pytest.mark.oracle
@pytest.mark.parametrize("one_a_head", [True, False], ids=["mamba2", "mamba"])
def test_the_scan_is_ggml_ssm_scan(one_a_head):
    """Its outputs and the state behind the last token."""
    rng, ops, calls, found = np.random.default_rng(2), load_ops("ggml"), [], []
    for T, H, P, G, N in ((1, 4, 3, 2, 32), (20, 6, 5, 2, 10), (33, 2, 7, 1, 128), (9, 3, 1, 3, 35), (40, 8, 1, 1, 16)):
        x, dt, b, c = normal(rng, T, H, P), normal(rng, T, H), normal(rng, T, G, N), normal(rng, T, G, N)
        a = -np.exp(normal(rng, H, 1 if one_a_head else N))
        arrays = [np.zeros((1, H, P, N), f32), x[None], dt[None], a, b[None], c[None], np.zeros(1, np.int32)]
        calls.append(("ggml_ssm_scan", [*map(np.ascontiguousarray, arrays), np.int64(1)]))
        tap = Last()
        flat = [y.reshape(T, -1) for y in (x, b, c)]
        given = (flat[0], dt, Tensor.of(a, f"a{len(calls)}"), *flat[1:], G)
        ops.selective_scan(*given, np.array([0, T]), tap)
        found.append(tap.seen["ssm_scan"])
    theirs = run(calls)
    assert [differ(x, y.reshape(-1)) for x, y in zip(found, theirs, strict=True)] == [0] * len(calls)


@pytest.mark.oracle
def test_the_state_is_ggml_rwkv_wkv7():
    """Its outputs and the state behind the last token."""
    rng, ops, calls, found = np.random.default_rng(3), load_ops("ggml"), [], []
    for T, H, D in ((1, 2, 32), (20, 3, 64), (33, 1, 96)):
        r, k, v = (normal(rng, T, H, D) for _ in range(3))
        w = np.exp(-rng.random((T, H, D))).astype(f32)
        kk = normal(rng, T, H, D)
        kk /= np.linalg.norm(kk, axis=2, keepdims=True)
        given = [r, w, k, v, -kk, kk * f32(0.5)]
        calls.append(("ggml_rwkv_wkv7", [*given, np.zeros((1, H * D * D), f32)]))
        tap = Last()
        ops.wkv7(*(x.reshape(T, -1) for x in given), H, np.array([0, T]), tap)
        found.append(tap.seen["wkv"])
    theirs = run(calls)
    assert [differ(x, y.reshape(-1)) for x, y in zip(found, theirs, strict=True)] == [0] * len(calls)


@pytest.mark.oracle
def test_gates_are_ggmls():
    """The logistic function, softplus, and the exponential function, of small numbers and of large ones."""
    ops, x = load_ops("ggml"), np.concatenate([np.linspace(-90, 90, 4001), [20, 20.0001, 1e-8, 0]]).astype(f32)[None]
    zero, one = Tensor.of(np.zeros(x.shape[1]), "zero"), Tensor.of(np.ones(x.shape[1]), "one")
    names = ("ggml_sigmoid", "ggml_softplus", "ggml_exp")
    theirs = run([(name, [x]) for name in names])
    ours = [ops.sigmoid(x), ops.log_decay(x, zero, one, NO_TAP), ops.exp(np.minimum(x, f32(88)))]
    theirs[2] = np.where(x > 88, ours[2], theirs[2])
    assert [differ(a, b.reshape(a.shape)) for a, b in zip(ours, theirs, strict=True)] == [0, 0, 0]
