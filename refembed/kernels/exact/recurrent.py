"""Layers that keep a state from token to token: the definitions. Each text begins with a state of zeros.

Mirrors ggml_gated_delta_net, ggml_ssm_scan and ggml_rwkv_wkv7. Time and memory grow with the length of a text, not with
its square: all that a token sees of those before it is the state.
"""

from __future__ import annotations

import itertools

import numpy as np

from refembed.arrays import I64, Float


def softplus(x: Float) -> Float:
    """ln(1 + e^x): x where x is large, 0 where it is very negative.

    x  any shape; so is the result

    >>> softplus(np.array([0.0, 100.0])).round(6)  # ln 2, and 100 + ln(1 + e^-100)
    array([  0.693147, 100.      ])
    """
    return np.logaddexp(x, 0).astype(x.dtype, copy=False)


def sigmoid(x: Float) -> Float:
    """The logistic function.

        y = 1 / (1 + e^-x)

    x  any shape; so is y

    >>> sigmoid(np.log([1.0, 3.0]))  # 1 / (1 + 1), 1 / (1 + 1/3)
    array([0.5 , 0.75])
    """
    e = np.exp(-np.abs(x))  # no power that overflows
    return np.where(x < 0, e, 1) / (1 + e)


def gated_delta_rule(q: Float, k: Float, v: Float, g: Float, beta: Float, offsets: I64) -> Float:
    """Linear attention whose state forgets, and replaces what it holds under a key (Yang, Kautz & Hatamizadeh 2024).

        S_t = e^g_t S_(t-1) (I - beta_t k_t k_tᵀ) + beta_t v_t k_tᵀ      (D, D); equation 10, with alpha = e^g
        y_t = S_t q_t / sqrt(D)

    q, k     (T, K, D)  heads of keys; head h of values goes with head h mod K
    v        (T, H, D)
    g        (T, H)     logarithm of the decay: at most 0
    beta     (T, H)     how far the value under a key is replaced, 0 to 1
    offsets  (S+1)      text s is rows offsets[s]:offsets[s+1]
    returns  (T, H, D)

    One head of one channel. S is 2, then 2/2 = 1 of which the key 1 takes half away and puts half of 8 in its place:

    >>> one = np.ones((2, 1, 1))
    >>> v, g, beta = np.array([[[2.0]], [[8.0]]]), np.log([[1.0], [0.5]]), np.array([[1.0], [0.5]])
    >>> gated_delta_rule(one, one, v, g, beta, np.array([0, 2])).ravel()  # 2, 1 - 0.5 + 4
    array([2. , 4.5])
    """
    _, H, D = v.shape
    own = np.arange(H) % k.shape[1]  # head of keys of each head of values
    out = np.empty_like(v)
    for begin, end in itertools.pairwise(offsets):
        S = np.zeros((H, D, D), v.dtype)  # S[h, j, i]: channel j of the value, i of the key
        for t in range(begin, end):
            key, query = k[t, own][:, None], q[t, own][:, None]  # (H, 1, D)
            S *= np.exp(g[t])[:, None, None]
            held = (S * key).sum(axis=2)  # (H, D)
            S += (beta[t][:, None] * (v[t] - held))[:, :, None] * key
            out[t] = (S * query).sum(axis=2)
    return out / np.sqrt(v.dtype.type(D))


def selective_scan(x: Float, dt: Float, a: Float, b: Float, c: Float, offsets: I64) -> tuple[Float, Float]:
    """A state space model whose step and matrices depend on the token (Gu & Dao 2023; Dao & Gu 2024: one a per head).

        s   = softplus(dt_t)
        h_t = e^(s a) h_(t-1) + s x_t b_tᵀ      (P, N)
        y_t = h_t c_t

    x        (T, H, P)
    dt       (T, H)     the step, before softplus
    a        (H, N), or (H, 1) for all of a head's states; negative
    b, c     (T, G, N)  each shared by H/G neighboring heads
    offsets  (S+1)      text s is rows offsets[s]:offsets[s+1]
    returns  y (T, H, P), and the state behind the last token of each text (S, H, P, N)

    One head, one channel, one state; e^dt - 1 = e, so s = 1; a halves the state at each step:

    >>> x, one, dt = np.array([[[4.0]], [[1.0]]]), np.ones((2, 1, 1)), np.full((2, 1), np.log(np.e - 1))
    >>> y, state = selective_scan(x, dt, np.log([[0.5]]), one, 10 * one, np.array([0, 2]))
    >>> y.ravel(), state.ravel()  # 4, then 4/2 + 1; each times c = 10
    (array([40., 30.]), array([3.]))
    """
    _, H, P = x.shape
    N, group = b.shape[2], H // b.shape[1]
    y, states = np.empty_like(x), np.zeros((len(offsets) - 1, H, P, N), x.dtype)
    for h, (begin, end) in zip(states, itertools.pairwise(offsets), strict=True):  # (H, P, N)
        for t in range(begin, end):
            step = softplus(dt[t])[:, None]  # (H, 1)
            h *= np.exp(step * a)[:, None]
            h += (step * x[t])[:, :, None] * np.repeat(b[t], group, axis=0)[:, None]
            y[t] = (h * np.repeat(c[t], group, axis=0)[:, None]).sum(axis=2)
    return y, states


def wkv7(r: Float, w: Float, k: Float, v: Float, a: Float, b: Float, offsets: I64) -> tuple[Float, Float]:
    """RWKV-7's state: it decays channel by channel, and takes out along a what b puts back (Peng et al. 2025).

        S_t = S_(t-1) (diag(w_t) + a_t b_tᵀ) + v_t k_tᵀ      (D, D); equation 17
        y_t = S_t r_t

    r w k v a b  (T, H, D)
    offsets      (S+1)      text s is rows offsets[s]:offsets[s+1]
    returns      y (T, H, D), and the state behind the last token of each text (S, H, D, D)

    One head of one channel: 2, then 2 (1/2 - 1 * 1/4) + 3 = 3.5.

    >>> one, v = np.ones((2, 1, 1)), np.array([[[2.0]], [[3.0]]])
    >>> wkv7(one, one / 2, one, v, -one, one / 4, np.array([0, 2]))[0].ravel()
    array([2. , 3.5])
    """
    _, H, D = v.shape
    y, states = np.empty_like(v), np.zeros((len(offsets) - 1, H, D, D), v.dtype)
    for S, (begin, end) in zip(states, itertools.pairwise(offsets), strict=True):  # (H, D, D)
        for t in range(begin, end):
            held = (S * a[t][:, None]).sum(axis=2)  # (H, D)
            S *= w[t][:, None]
            S += held[:, :, None] * b[t][:, None] + v[t][:, :, None] * k[t][:, None]
            y[t] = (S * r[t][:, None]).sum(axis=2)
    return y, states
