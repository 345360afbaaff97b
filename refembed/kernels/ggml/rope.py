"""Rotary position embedding (Su et al. 2021) to the last bit of ggml_rope_ext (ggml-cpu/ops.cpp, F32).

    theta_0 = pos,  theta_i+1 = theta_i * base^(-2/n)     one multiplication after the other: its error grows with i
    a       = theta_i / factors_i
    y0, y1  = x0 cos a - x1 sin a,  x0 sin a + x1 cos a   the second product rounded, the first fused with the sum

GCC 13 turns neighboring channels (pairs "norm") two pairs at a time; in a last pair that is left over nothing is fused.

The drift of theta against the exact angle (3e-5 at position 1000) is llama.cpp's own and must be kept.
"""

from __future__ import annotations

import math

import numpy as np

from refembed.arrays import F32, I64
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd_math import fma
from refembed.kernels.ops import Rope

f32 = np.float32
PI = f32(math.pi)


def rope(x: F32, pos: I64, rope: Rope, in_twos: bool = False) -> F32:
    """Turn every head of x (T, H, D) by its token's position pos (T). in_twos: as GCC 13 does it, where pairs are."""
    half = rope.n_dims // 2
    factors = np.ones(half, np.float32) if rope.factors is None else rope.factors.dequantize().reshape(-1)[:half]
    theta_scale = f32(power(f32(rope.freq_base), f32(-2) / f32(rope.n_dims)))
    low, high = corrections(rope)
    numbers = [f32(n) for n in (rope.freq_scale, rope.ext_factor, rope.attn_factor)]
    cos, sin = angles(pos, theta_scale, factors, low, high, *numbers)
    y = np.array(x, np.float32, order="C")
    step, apart = (2, 1) if rope.pairs == "norm" else (1, half)
    fused = half - half % 2 if in_twos and step == 2 else half
    turn(y, cos, sin, step, apart, fused)
    return y


def corrections(rope: Rope) -> tuple[np.float32, np.float32]:
    """YaRN: between which two channels pairs pass from their own angle to the scaled one (ggml_rope_yarn_corr_dims)."""
    if rope.ext_factor == 0:
        return f32(0), f32(0)
    start = math.floor(turns(rope, f32(rope.beta_fast)))
    end = math.ceil(turns(rope, f32(rope.beta_slow)))
    return f32(max(0, start)), f32(min(rope.n_dims - 1, end))


def turns(rope: Rope, beta: np.float32) -> np.float32:
    """The channel that makes beta full turns over the original context, all in float32."""
    share = f32(logarithm(f32(rope.n_ctx_orig) / (beta * f32(2) * PI)))
    return f32(rope.n_dims) * share / (f32(2) * f32(logarithm(f32(rope.freq_base))))


@njit()
def power(base, exponent):
    """libm's powf."""
    return math.pow(f32(base), f32(exponent))


@njit()
def logarithm(x):
    """libm's logf."""
    return math.log(f32(x))


@njit()
def angles(pos, theta_scale, factors, low, high, freq_scale, ext_factor, attn_factor):
    """cos and sin of every position's angles, times the magnitude: (T, n_dims/2) each (rope_yarn)."""
    T, half = len(pos), len(factors)
    cos, sin = np.empty((T, half), np.float32), np.empty((T, half), np.float32)
    magnitude = attn_factor
    if ext_factor != 0:
        magnitude *= fma(f32(0.1), math.log(f32(1) / freq_scale), f32(1))
    for t in range(T):
        theta = f32(pos[t])
        for i in range(half):
            own = theta / factors[i]
            angle = freq_scale * own
            if ext_factor != 0:
                ramp = (f32(i) - low) / max(f32(0.001), high - low)
                mix = (f32(1) - min(f32(1), max(f32(0), ramp))) * ext_factor
                angle = fma(angle, f32(1) - mix, own * mix)
            cos[t, i] = math.cos(angle) * magnitude
            sin[t, i] = math.sin(angle) * magnitude
            theta *= theta_scale
    return cos, sin


@njit()
def turn(x, cos, sin, step, apart, fused):
    """Rotate pairs of x (T, H, D) in place, `fused` of them by FMA: pair i is channels `step` i, `step` i + `apart`."""
    for t in range(x.shape[0]):
        for h in range(x.shape[1]):
            for i in range(cos.shape[1]):
                c, s = cos[t, i], sin[t, i]
                x0, x1 = x[t, h, step * i], x[t, h, step * i + apart]
                if i < fused:
                    x[t, h, step * i] = fma(x0, c, -(x1 * s))
                    x[t, h, step * i + apart] = fma(x0, s, x1 * c)
                else:
                    x[t, h, step * i] = x0 * c - x1 * s
                    x[t, h, step * i + apart] = x0 * s + x1 * c
