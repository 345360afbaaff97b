"""Convolutions: along a text, the definition, which serves every numerics that sums in order; and an image's patches.

`short_conv` mirrors ggml_ssm_conv on the padded input of llama.cpp's src/models/lfm2.cpp, `patches` ggml_im2col.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

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
    return replace(w, shape=(w.shape[0], int(np.prod(w.shape[1:]))))
