"""Short convolution against ggml's own operation, bit for bit, and against the formula."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from refembed.kernels.exact import conv as definition
from refembed.kernels.ggml import conv
from tests.kernels.ggml.live import run
from tests.kernels.ggml.test_floats import differ


def ours(x, w, offsets, ahead=0):
    """Each text of x (T, C) by the kernel."""
    out = np.full_like(x, np.nan)
    for begin, end in pairwise(offsets):
        conv.short_conv(x, w, begin, end, ahead, out)
    return out


@pytest.mark.oracle
def test_the_kernel_is_ggml_ssm_conv():
    """Of every width from 2 to 21: groups of four weights and what is left of them; and of texts shorter than it."""
    rng = np.random.default_rng(1)
    calls, found = [], []
    for n in range(2, 22):
        for T, C, ahead in ((50, 7, 0), (1, 5, 0), (n // 2, 3, 0), (33, 6, (n - 1) // 2)):
            x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((T, C), (C, n)))
            padded = np.pad(x, ((n - 1 - ahead, ahead), (0, 0)))  # as lfm2.cpp pads
            calls.append(("ggml_ssm_conv", [np.ascontiguousarray(padded.T), w]))
            found.append(ours(x, w, (0, T), ahead))
    theirs = run(calls)
    assert [differ(x, y.reshape(x.shape)) for x, y in zip(found, theirs, strict=True)] == [0] * len(calls)


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_both_are_the_convolution(n, ahead):
    """Of each text by itself, in double within 1e-15 of NumPy's own; ahead of nothing, of a part, of all."""
    if ahead >= n:
        pytest.skip("a token is one of those that it is the sum of")
    rng, lengths = np.random.default_rng(n), (9, 1, 4, n, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    x, w = rng.standard_normal((sum(lengths), 3)), rng.standard_normal((3, n))
    want = np.empty_like(x)
    for begin, end in pairwise(offsets):
        for c in range(3):
            whole = np.convolve(x[begin:end, c], w[c, ::-1])
            want[begin:end, c] = whole[ahead : ahead + end - begin]
    np.testing.assert_allclose(definition.short_conv(x, w, offsets, ahead), want, rtol=0, atol=1e-14)
    single = ours(x.astype(np.float32), w.astype(np.float32), offsets, ahead)
    np.testing.assert_allclose(single, want, rtol=0, atol=3e-6)
