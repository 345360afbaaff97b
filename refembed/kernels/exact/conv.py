"""Convolutions: along a text, the definition, which serves every numerics that sums in order; and an image's patches.

`short_conv` mirrors ggml_ssm_conv on the padded input of llama.cpp's src/models/lfm2.cpp, `patches` ggml_im2col.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor


def short_conv(x: Float, w: Float, offsets: I64, ahead: int = 0) -> Float:
    """Convolve each channel of each sequence with its own few weights.

        y_t = w_0 x_(t-n+1+ahead) + ... + w_(n-1) x_(t+ahead)      what lies outside the sequence is 0

    x        (T, C)
    w        (C, n)
    offsets  (S+1)   sequence s is rows offsets[s]:offsets[s+1]
    ahead            how many of the n tokens are after t; 0 looks back only
    returns  (T, C)

    >>> x, w, offsets = np.array([[1.0], [2.0], [3.0]]), np.array([[10.0, 1.0]]), np.array([0, 3])
    >>> short_conv(x, w, offsets).T  # 10*0 + 1, 10*1 + 2, 10*2 + 3
    array([[ 1., 12., 23.]])
    >>> short_conv(x, w, offsets, ahead=1).T  # 10*1 + 2, 10*2 + 3, 10*3 + 0
    array([[12., 23., 30.]])
    """
    n, out = w.shape[1], np.zeros_like(x)
    for begin, end in itertools.pairwise(offsets):
        text, y = x[begin:end], out[begin:end]
        for i in range(n):
            back = n - 1 - ahead - i  # negative: forward
            first, last = max(0, back), len(text) + min(0, back)  # rows whose token i is in the text
            if first < last:
                y[first:last] += w[:, i] * text[first - back : last - back]
    return out


def patches(x: Float, size: int) -> Float:
    """An image's patches as rows: planes (c, height, width) -> (N, c size²), a plane after the other.

    N = height//size width//size patches, row by row; what is left at the right and below is cut off.

    >>> patches(np.arange(10.0).reshape(1, 2, 5), 2)
    array([[0., 1., 5., 6.],
           [2., 3., 7., 8.]])
    """
    c, ny, nx = len(x), x.shape[1] // size, x.shape[2] // size
    grid = x[:, : ny * size, : nx * size].reshape(c, ny, size, nx, size)
    return np.ascontiguousarray(grid.transpose(1, 3, 0, 2, 4)).reshape(ny * nx, c * size * size)


def as_matrix(w: Tensor) -> Tensor:
    """A kernel (C, c, P, P) as the matrix (C, c P²) that patches are multiplied with.

    >>> as_matrix(Tensor.of(np.zeros((4, 3, 2, 2)))).shape
    (4, 12)
    """
    return w.reshape(w.shape[0], math.prod(w.shape[1:]))


def neighbors(n_in: int, n_out: int, dtype: type[np.floating[Any]]) -> tuple[I64, I64, Float]:
    """Of n_out places between the first and the last of n_in, the one below, the one above, and how far from below.

    >>> low, high, share = neighbors(2, 3, np.float64)
    >>> low.tolist(), high.tolist(), share.tolist()
    ([0, 0, 1], [1, 1, 1], [0.0, 0.5, 0.0])
    """
    f = dtype
    scale = f(n_out - 1) / f(n_in - 1) if n_out > 1 and n_in > 1 else f(n_out) / f(n_in)
    at = np.arange(n_out, dtype=f) / scale
    low = np.clip(np.floor(at).astype(np.int64), 0, n_in - 1)
    high = np.clip(np.floor(at).astype(np.int64) + 1, 0, n_in - 1)
    return low, high, np.clip(at - low.astype(f), f(0), f(1))


def interpolate(x: Float, height: int, width: int) -> Float:
    """Bilinear interpolation of planes (C, h, w), corners on corners: (C, height, width).

    >>> interpolate(np.array([[[0.0, 10.0], [20.0, 30.0]]]), 3, 2)
    array([[[ 0., 10.],
            [10., 20.],
            [20., 30.]]])
    """
    y0, y1, shares = neighbors(x.shape[1], height, x.dtype.type)
    x0, x1, dx = neighbors(x.shape[2], width, x.dtype.type)
    dy = shares[:, None]
    above, below = x[:, y0], x[:, y1]  # (C, height, w)
    a, b, c, d = above[:, :, x0], above[:, :, x1], below[:, :, x0], below[:, :, x1]
    return a * (1 - dx) * (1 - dy) + b * dx * (1 - dy) + c * (1 - dx) * dy + d * dx * dy
