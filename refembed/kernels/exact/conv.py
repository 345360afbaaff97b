"""Short convolution along a text: the definition, which serves every numerics that sums in order.

Mirrors ggml_ssm_conv on the padded input of llama.cpp's src/models/lfm2.cpp.
"""

from __future__ import annotations

import itertools

import numpy as np

from refembed.arrays import I64, Float


def short_conv(x: Float, w: Float, offsets: I64, ahead: int = 0) -> Float:
    """Convolve each channel of each sequence with its own few weights.

        y_t = w_0 x_(t-n+1+ahead) + ... + w_(n-1) x_(t+ahead)      what lies outside the sequence is 0

    x        (T, C)
    w        (C, n)
    offsets  (S+1)   sequence s is rows offsets[s]:offsets[s+1]
    ahead            how many of the n tokens are after t; 0 looks back only
    returns  (T, C)
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
