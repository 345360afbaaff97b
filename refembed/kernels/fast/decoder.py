"""Numba versions of what decoders need on top of llvm/jit.py: same names as their definitions, float32, compiled and
cached.

The rules are llvm/jit.py's: rows begin:end, no row reads another's, no fast-math.
"""

from __future__ import annotations

import math

import numpy as np

from refembed.kernels.llvm.jit import expf, njit

f32 = np.float32


@njit()
def gelu_erf(x, out, begin, end):
    """x Phi(x), erfc in double. x, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(x.shape[1]):
            a = np.float64(x[t, j])
            out[t, j] = f32(0.5 * a * math.erfc(-a * 0.7071067811865476))


@njit()
def silu(x, out, begin, end):
    """x / (1 + e^-x). x, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(x.shape[1]):
            a = x[t, j]
            out[t, j] = a / (f32(1) + expf(-a))


@njit()
def relu(x, out, begin, end):
    """max(x, 0). x, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(x.shape[1]):
            out[t, j] = x[t, j] if x[t, j] > f32(0) else f32(0)


@njit()
def swiglu(gate, up, out, begin, end):
    """silu(gate) up. gate, up, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(gate.shape[1]):
            a = gate[t, j]
            out[t, j] = a / (f32(1) + expf(-a)) * up[t, j]


@njit()
def swiglu_oai(gate, up, out, begin, end):
    """gpt-oss's: g sigmoid(1.702 g) (1 + u), g at most 7, u between -7 and 7. gate, up, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(gate.shape[1]):
            a, b = min(gate[t, j], f32(7)), max(f32(-7), min(up[t, j], f32(7)))
            out[t, j] = a / (f32(1) + expf(f32(-1.702) * a)) * (f32(1) + b)


@njit()
def geglu(gate, up, out, begin, end):
    """gelu(gate) up, the tanh form as in `jit.gelu`. gate, up, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(gate.shape[1]):
            a = gate[t, j]
            u = f32(0.7978845608028654) * a * (f32(1) + f32(0.044715) * a * a)
            out[t, j] = a / (f32(1) + expf(-(u + u))) * up[t, j]


@njit()
def rope(x, pos, turns, n_head, step, apart, out, begin, end):
    """Turn each head: channel step i with step i + apart; rows begin:end.

    x, out       (T, H D)
    turns        (2, P, n/2), cosines and sines of place pos[t] for row t; channels of a head beyond n stay
    step, apart  2, 1 for neighbors ("norm"); 1, n/2 for halves ("neox")
    """
    D = x.shape[1] // n_head
    for t in range(begin, end):
        c, s = turns[0, pos[t]], turns[1, pos[t]]
        for first in range(0, n_head * D, D):
            for d in range(first + 2 * len(c), first + D):
                out[t, d] = x[t, d]
            for i in range(len(c)):
                j = first + step * i
                a, b = x[t, j], x[t, j + apart]
                out[t, j] = a * c[i] - b * s[i]
                out[t, j + apart] = a * s[i] + b * c[i]


@njit()
def add(x, y, out, begin, end):
    """x + y. x, y, out (T, C); rows begin:end."""
    for t in range(begin, end):
        for c in range(x.shape[1]):
            out[t, c] = x[t, c] + y[t, c]


@njit()
def multiply(x, y, out, begin, end):
    """x y, element by element. x, y, out (T, C); rows begin:end."""
    for t in range(begin, end):
        for c in range(x.shape[1]):
            out[t, c] = x[t, c] * y[t, c]


@njit()
def scale(x, factor, out, begin, end):
    """factor x. x, out (T, C); rows begin:end."""
    for t in range(begin, end):
        for c in range(x.shape[1]):
            out[t, c] = x[t, c] * factor


@njit()
def columns(x, first, out, begin, end):
    """Columns first:first+n of x (T, C). out (T, n); rows begin:end."""
    for t in range(begin, end):
        for c in range(out.shape[1]):
            out[t, c] = x[t, first + c]


@njit()
def sigmoid(x, out, begin, end):
    """1 / (1 + e^-x). x, out (T, C); rows begin:end."""
    for t in range(begin, end):
        for c in range(x.shape[1]):
            out[t, c] = f32(1) / (f32(1) + expf(-x[t, c]))


@njit()
def add_bias(x, bias, out, begin, end):
    """x + bias. x, out (T, C); bias (C); rows begin:end."""
    for t in range(begin, end):
        for c in range(x.shape[1]):
            out[t, c] = x[t, c] + bias[c]
