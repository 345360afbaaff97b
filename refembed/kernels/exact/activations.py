"""Activation functions: the definitions. Numba versions of the same name are in llvm/jit.py."""

from __future__ import annotations

import math

import numpy as np

from refembed.arrays import Float

SQRT_2_OVER_PI = 0.79788456080286535587989211986876
OAI_SLOPE, OAI_LIMIT = 1.702, 7.0  # swiglu_oai's


def gelu(x: Float) -> Float:
    """The tanh form of the Gaussian error linear unit, which llama.cpp uses for BERT.

        y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))      Hendrycks & Gimpel 2016, section 2

    x        any shape
    returns  x's shape and dtype

    BERT was trained with the erf form, from which this one differs by up to 4.7e-4. llama.cpp's CPU backend looks it up
    in a table of float16 (x rounded to float16, y rounded to float16), which is coarser still: docs/numerics.md.

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(6)  # of 1: (1 + tanh(0.797885 * 1.044715)) / 2 = (1 + 0.682384) / 2
    array([-0.158808,  0.      ,  0.841192])
    """
    return 0.5 * x * (1 + np.tanh(SQRT_2_OVER_PI * x * (1 + 0.044715 * x * x)))


def gelu_erf(x: Float) -> Float:
    """The Gaussian error linear unit itself: x times the share of a normal distribution that lies below x.

        y = x Phi(x) = x/2 erfc(-x / sqrt(2))      Hendrycks & Gimpel 2016

    x        any shape
    returns  x's shape and dtype

    erfc, not 1 + erf: for x below -4 the sum would cancel.

    >>> gelu_erf(np.array([-1.0, 0.0, 1.0])).round(6)  # 84.1345 % of a normal distribution lie below one deviation
    array([-0.158655,  0.      ,  0.841345])
    """
    tails = np.frompyfunc(math.erfc, 1, 1)(x * -math.sqrt(0.5))  # NumPy has no erfc; Python objects, one a number
    return 0.5 * x * np.asarray(tails, np.float64).astype(x.dtype)


def silu(x: Float) -> Float:
    """The sigmoid linear unit.

        y = x / (1 + e^-x)      Elfwing, Uchibe & Doya 2017; "swish" with beta = 1

    x        any shape
    returns  x's shape and dtype

    Where e^-x is infinite, y is -0, the limit.

    >>> silu(np.log([1.0, 3.0])).round(6)  # of ln 3: ln 3 / (1 + 1/3) = 1.098612 * 3/4
    array([0.      , 0.823959])
    """
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def gelu_quick(x: Float) -> Float:
    """GELU by a sigmoid: x / (1 + e^(-1.702 x)).      Hendrycks & Gimpel 2016, section 2

    x        any shape
    returns  the same shape

    >>> gelu_quick(np.array([0.0, 1.0])).round(6)  # 1 / (1 + 0.182319)
    array([0.      , 0.845796])
    """
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(x.dtype.type(-1.702) * x))


def geglu(gate: Float, up: Float) -> Float:
    """A gated linear unit with GELU, the tanh form: gelu(gate) * up.      Shazeer 2020

    gate, up  (T, F)
    returns   (T, F)

    >>> geglu(np.array([[0.0, 1.0]]), np.array([[5.0, 2.0]])).round(6)  # 0 * 5, 0.841192 * 2
    array([[0.      , 1.682384]])
    """
    return gelu(gate) * up


def swiglu(gate: Float, up: Float) -> Float:
    """A gated linear unit with SiLU: silu(gate) * up.      Shazeer 2020

    gate, up  (T, F)
    returns   (T, F)

    >>> swiglu(np.log([[1.0, 3.0]]), np.array([[5.0, 4.0]])).round(6)  # 0 * 5, 0.823959 * 4
    array([[0.      , 3.295837]])
    """
    return silu(gate) * up


def swiglu_oai(gate: Float, up: Float) -> Float:
    """The gated linear unit of gpt-oss: g = min(gate, 7), u = up between -7 and 7.

        y = g / (1 + e^(-1.702 g)) (1 + u)      OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card"; ggml_swiglu_oai

    gate, up  (T, F)
    returns   (T, F)

    >>> swiglu_oai(np.array([[0.0, 1.0]]), np.array([[5.0, 9.0]])).round(6)  # 0 * 6, 0.845796 * (1 + 7)
    array([[0.      , 6.766366]])
    """
    g, u = np.minimum(gate, OAI_LIMIT), np.clip(up, -OAI_LIMIT, OAI_LIMIT)
    with np.errstate(over="ignore"):
        return g / (1 + np.exp(-OAI_SLOPE * g)) * (1 + u)
