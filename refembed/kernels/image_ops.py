"""Operations of vision towers: a part of `Ops`, which see."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor


class ImageOps(ABC):
    """What images need besides the operations of text. Planes of c channels are (c, height, width)."""

    @abstractmethod
    def conv_2d(self, x: Float, w: Tensor) -> Float:
        """Convolution whose stride is its kernel's size: each patch of an image through one matrix (ViT).

            y[:, n] = W patch_n      patches of P x P pixels, row by row; a rest at the right and below is not read

        Dosovitskiy et al. 2020, section 3.1. llama.cpp: ggml_conv_2d, which rounds pixels and weights to float16.

        x        (c, height, width)
        w        (C, c, P, P)
        returns  (C, N)  N = height//P width//P

        >>> from refembed.kernels.numerics import load_ops
        >>> x = np.arange(8.0).reshape(1, 2, 4)  # two patches: 0 1 4 5 and 2 3 6 7
        >>> load_ops("exact").conv_2d(x, Tensor.of([[[[1, 1], [1, 1]]], [[[0, 0], [0, 1]]]]))
        array([[10., 18.],
               [ 5.,  7.]])
        """

    @abstractmethod
    def interpolate(self, x: Float, height: int, width: int) -> Float:
        """Bilinear interpolation of planes, corners on corners (ggml_interpolate with GGML_SCALE_FLAG_ALIGN_CORNERS).

            y = a (1 - dx) (1 - dy) + b dx (1 - dy) + c (1 - dx) dy + d dx dy      of the four numbers around

        x        (C, h, w)
        returns  (C, height, width)

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").interpolate(np.array([[[0.0, 10.0]]]), 1, 3)
        array([[[ 0.,  5., 10.]]])
        """

    @abstractmethod
    def gelu_quick(self, x: Float) -> Float:
        """GELU by a sigmoid (Hendrycks & Gimpel 2016, section 2).

            y = x / (1 + e^(-1.702 x))

        x  any shape; so is y

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").gelu_quick(np.array([[0.0, 1.0]])).round(6)
        array([[0.      , 0.845796]])
        """

    def pool_2d(self, x: Float, k: int) -> Float:
        """Average pooling: the mean of each k x k square of each plane (ggml_pool_2d).

        x        (C, height, width)
        returns  (C, height//k, width//k)

        >>> from refembed.kernels.numerics import load_ops
        >>> load_ops("exact").pool_2d(np.arange(8.0).reshape(1, 2, 4), 2)  # (0 + 1 + 4 + 5) / 4 and (2 + 3 + 6 + 7) / 4
        array([[[2.5, 4.5]]])
        """
        ny, nx = x.shape[1] // k, x.shape[2] // k
        total = np.zeros((len(x), ny, nx), x.dtype)
        for i in range(k):
            for j in range(k):
                total = total + x[:, i : ny * k : k, j : nx * k : k]
        return total / x.dtype.type(k * k)
