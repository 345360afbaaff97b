"""Rotary position embedding: the definition. Its Numba version is in fast/decoder.py.

    theta_i = pos * freq_base^(-2i/n_dims)             Su et al. 2021, section 3.4.2: pair i of n_dims/2
    (a, b)  -> (a cos theta - b sin theta, a sin theta + b cos theta)

and what was added to it since, as llama.cpp has it (ggml_rope_ext, ops.cpp: rope_yarn):

    frequency factors   theta_i is divided by `rope_freqs.weight[i]` first                     Llama 3.1
    linear scaling      theta_i * freq_scale                                                   Chen et al. 2023
    YaRN                pairs that turn fast keep theta_i, slow ones get theta_i * freq_scale,
                        a ramp mixes those between; the vector grows by 1 + 0.1 ln(1/freq_scale)   Peng et al. 2023

llama.cpp finds theta_i by repeated multiplication in float32, which strays from the formula by about 3e-8 pos.
"""

from __future__ import annotations

import math

import numpy as np

from refembed.arrays import F64, I64, Float
from refembed.kernels.ops import Rope


def rope(x: Float, pos: I64, rope: Rope) -> Float:
    """Turn the first n_dims channels of every head by its token's position; the rest stays.

    x        (T, H, D)
    pos      (T)        places in the text, from 0
    returns  (T, H, D), x's dtype

    Four channels at position 1: pair 0 turns by 1 radian (cos 0.5403, sin 0.8415), pair 1 by 100^(-2/4) = 0.1 radian
    (cos 0.9950, sin 0.0998). "neox" pairs channels 0 and 2, 1 and 3; "norm" pairs 0 and 1, 2 and 3:

    >>> from refembed.kernels.ops import Rope
    >>> rope(np.array([[[1.0, 2.0, 0.0, 0.0]]]), np.array([1]), Rope(n_dims=4, pairs="neox", freq_base=100)).round(4)
    array([[[0.5403, 1.99  , 0.8415, 0.1997]]])
    >>> rope(np.array([[[1.0, 0.0, 2.0, 0.0]]]), np.array([1]), Rope(n_dims=4, pairs="norm", freq_base=100)).round(4)
    array([[[0.5403, 0.8415, 1.99  , 0.1997]]])
    """
    cos, sin = (turn.astype(x.dtype)[:, None] for turn in turns(pos, rope))  # (T, 1, n_dims/2)
    first, second = pairs(rope)
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def pairs(rope: Rope) -> tuple[slice, slice]:
    """Which channels turn together: the first and the second of each pair.

    >>> from refembed.kernels.ops import Rope
    >>> pairs(Rope(n_dims=4, pairs="neox", freq_base=1e4))  # 0 with 2, 1 with 3
    (slice(0, 2, None), slice(2, 4, None))
    >>> pairs(Rope(n_dims=4, pairs="norm", freq_base=1e4))  # 0 with 1, 2 with 3
    (slice(0, 4, 2), slice(1, 4, 2))
    """
    n = rope.n_dims
    if rope.pairs == "norm":
        return slice(0, n, 2), slice(1, n, 2)
    return slice(0, n // 2), slice(n // 2, n)


def turns(pos: I64, rope: Rope) -> tuple[F64, F64]:
    """Cosine and sine of every angle, times the magnitude: pos (T) -> 2 x (T, n_dims/2).

    >>> from refembed.kernels.ops import Rope
    >>> cos, sin = turns(np.array([0, 1]), Rope(n_dims=2, pairs="neox", freq_base=1e4))  # cos 0 and 1, sin 0 and 1
    >>> cos.round(4).tolist(), sin.round(4).tolist()
    ([[1.0], [0.5403]], [[0.0], [0.8415]])
    """
    theta = angles(pos, rope)
    return np.cos(theta) * magnitude(rope), np.sin(theta) * magnitude(rope)


def angles(pos: I64, rope: Rope) -> F64:
    """theta (T, n_dims/2), scaled.

    >>> from refembed.kernels.ops import Rope
    >>> angles(np.array([0, 1, 2]), Rope(n_dims=4, pairs="neox", freq_base=100))  # pos 100^0, pos 100^(-1/2)
    array([[0. , 0. ],
           [1. , 0.1],
           [2. , 0.2]])
    >>> angles(np.array([2]), Rope(n_dims=4, pairs="neox", freq_base=100, freq_scale=0.25))  # linear scaling by 4
    array([[0.5 , 0.05]])
    """
    i = np.arange(rope.n_dims // 2)
    theta = pos[:, None] * rope.freq_base ** (-2.0 * i / rope.n_dims)  # (T, n_dims/2)
    if rope.factors is not None:
        theta = theta / rope.factors.dequantize()[: len(i)].astype(np.float64)
    stretched = theta * rope.freq_scale
    if rope.ext_factor == 0:
        return stretched
    keep = ramp(rope) * rope.ext_factor  # (n_dims/2)
    return stretched * (1 - keep) + theta * keep


def ramp(rope: Rope) -> F64:
    """YaRN: how much of its own angle each pair keeps, from 1 (turns often in n_ctx_orig tokens) to 0 (seldom).

    Pair 0.99 turns 32 times in 628 tokens and pair 4 once (`pair_that_turns`), so the ramp goes down from 1 at pair 0
    (0.99 rounded down) to 0 at pair 3 (4, but no further than n_dims - 1). Of the two pairs there are:

    >>> from refembed.kernels.ops import Rope
    >>> ramp(Rope(n_dims=4, pairs="neox", freq_base=10, n_ctx_orig=628)).round(4)  # 1 - 0/3, 1 - 1/3
    array([1.    , 0.6667])
    """
    low = max(0, math.floor(pair_that_turns(rope.beta_fast, rope)))
    high = min(rope.n_dims - 1, math.ceil(pair_that_turns(rope.beta_slow, rope)))
    i = np.arange(rope.n_dims // 2)
    return 1 - np.clip((i - low) / max(0.001, high - low), 0, 1)


def pair_that_turns(times: float, rope: Rope) -> float:
    """The pair (a fraction) that turns so many times in n_ctx_orig tokens (ggml_rope_yarn_corr_dim).

    >>> from refembed.kernels.ops import Rope
    >>> round(pair_that_turns(1.0, Rope(n_dims=4, pairs="neox", freq_base=10, n_ctx_orig=628)), 2)  # 2 log10(628/2pi)
    4.0
    """
    return rope.n_dims * math.log(rope.n_ctx_orig / (times * 2 * math.pi)) / (2 * math.log(rope.freq_base))


def magnitude(rope: Rope) -> float:
    """What the turned channels are multiplied by.

    >>> from refembed.kernels.ops import Rope
    >>> round(magnitude(Rope(n_dims=4, pairs="neox", freq_base=1e4, freq_scale=0.25, ext_factor=1)), 6)  # 1 + 0.1 ln 4
    1.138629
    """
    return rope.attn_factor * (1.0 if rope.ext_factor == 0 else 1 + 0.1 * math.log(1 / rope.freq_scale))
