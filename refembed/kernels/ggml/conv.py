"""Short convolution to the last bit of ggml_ssm_conv (ggml-cpu/ops.cpp), as GCC compiles its plain loop for AVX2.

The Numba version of `refembed.kernels.exact.conv`, one sum after the other: products of whole groups of four weights
are rounded before they are added, those of the one to three weights behind them are fused with the sum. What lies
outside the text is 0 there and adds nothing.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd_math import fma


@njit()
def short_conv(x, w, begin, end, ahead, out):
    """y_t = w_0 x_(t-n+1+ahead) + ... + w_(n-1) x_(t+ahead) of rows begin:end, one text. x, out (T, C); w (C, n)."""
    n = w.shape[1]
    grouped = n // 4 * 4
    for t in range(begin, end):
        for c in range(x.shape[1]):
            y = np.float32(0)
            for i in range(n):
                s = t - n + 1 + ahead + i
                if begin <= s < end:
                    y = y + x[s, c] * w[c, i] if i < grouped else fma(x[s, c], w[c, i], y)
            out[t, c] = y


@njit()
def interpolate(x, y0, y1, dy, x0, x1, dx, out):
    """Planes x (C, h, w) between their corners: out (C, height, width) (ggml_compute_forward_upscale_f32)."""
    one = np.float32(1)
    for c in range(len(x)):
        for i in range(len(dy)):
            v = dy[i]
            for j in range(len(dx)):
                u = dx[j]
                total = fma(x[c, y0[i], x0[j]] * (one - u), one - v, x[c, y0[i], x1[j]] * u * (one - v))
                total = fma(x[c, y1[i], x0[j]] * (one - u), v, total)
                out[c, i, j] = fma(x[c, y1[i], x1[j]] * u, v, total)
