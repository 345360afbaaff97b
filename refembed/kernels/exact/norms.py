"""Normalization layers: the definitions. Numba versions of the same name are in llvm/jit.py."""

from __future__ import annotations

import numpy as np

from refembed.arrays import Float


def layer_norm(x: Float, eps: float) -> Float:
    """Give each token's vector mean 0 and variance 1.

        y = (x - E[x]) / sqrt(Var[x] + eps)      Ba, Kiros & Hinton 2016, without the affine part

    x        (T, C)
    eps      GGUF `{arch}.attention.layer_norm_epsilon`; inside the root
    returns  (T, C), x's dtype

    The variance is the biased one (divided by C). llama.cpp: ggml_compute_forward_norm_f32.

    >>> layer_norm(np.array([[1.0, 2.0, 6.0]]), eps=0).round(6)  # mean 3, variance (4 + 1 + 9)/3: divided by sqrt(14/3)
    array([[-0.92582, -0.46291,  1.38873]])
    >>> layer_norm(np.array([[1.0, 3.0]]), eps=3)  # mean 2, variance 1: divided by sqrt(1 + 3)
    array([[-0.5,  0.5]])
    """
    mean = x.mean(axis=-1, keepdims=True, dtype=np.float64)  # (T, 1)
    centered = x - mean.astype(x.dtype)  # (T, C)
    var = np.square(centered).mean(axis=-1, keepdims=True, dtype=np.float64)  # (T, 1)
    scale = (1 / np.sqrt(var + eps)).astype(x.dtype)  # (T, 1)
    return centered * scale  # (T, C)


def rms_norm(x: Float, eps: float) -> Float:
    """Divide each vector by its root mean square; its mean stays where it is.

        y = x / sqrt(E[x^2] + eps)      Zhang & Sennrich 2019, without the weight

    x        (..., C)
    eps      GGUF `{arch}.attention.layer_norm_rms_epsilon`; inside the root
    returns  (..., C), x's dtype

    llama.cpp: ggml_compute_forward_rms_norm_f32.

    >>> rms_norm(np.array([[1.0, 7.0]]), eps=0)  # mean square (1 + 49)/2 = 25: divided by 5
    array([[0.2, 1.4]])
    >>> rms_norm(np.array([[1.0, 7.0]]), eps=75)  # divided by sqrt(25 + 75)
    array([[0.1, 0.7]])
    """
    mean = np.square(x, dtype=np.float64).mean(axis=-1, keepdims=True)  # (..., 1)
    return x * (1 / np.sqrt(mean + eps)).astype(x.dtype)  # (..., C)
