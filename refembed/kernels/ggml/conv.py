"""Short convolution to the last bit of ggml_ssm_conv (ggml-cpu/ops.cpp): one chain of fused products a number.

Its Numba twin of `refembed.kernels.conv` rounds once a weight, from the first to the last. What lies outside the text
is 0 there too and adds nothing.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.ggml.lanes import fma
from refembed.kernels.jit import njit


@njit()
def short_conv(x, w, begin, end, ahead, out):
    """y_t = w_0 x_(t-n+1+ahead) + ... + w_(n-1) x_(t+ahead) of the text that is rows begin:end. x, out (T, C); w (C, n)."""
    n = w.shape[1]
    for t in range(begin, end):
        for c in range(x.shape[1]):
            y = np.float32(0)
            for i in range(n):
                s = t - n + 1 + ahead + i
                if begin <= s < end:
                    y = fma(x[s, c], w[c, i], y)
            out[t, c] = y
