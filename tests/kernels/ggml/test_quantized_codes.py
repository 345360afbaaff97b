"""Activations become the codes that llama.cpp's own from_float makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.gguf.quants import BY_NAME
from refembed.kernels.ggml import chains_jit
from refembed.kernels.ggml.codes import BLOCK_LENGTHS, quantize
from refembed.kernels.ggml.quantized import quantized
from tests.kernels.ggml.oracle_mul_mat import conversions
from tests.kernels.ggml.quantized_cases import Case, activations, noise


def inputs():
    """Rows (n, 2048): mixed sizes, ties, zeros; equal extremes of both signs; very small and very large numbers."""
    mixed = np.vstack([activations(Case("Q8_0", n, 8, 2048, fill)) for n in (9, 33) for fill in ("", "flat")])
    both = noise("both", 8 * 2048, "<i2").reshape(8, 2048).astype(np.float32)
    both[:, 5::32], both[:, 6::32] = 32768, -32768
    both[4:] *= -1
    halves = np.tile(np.arange(-127, 129, dtype=np.float32) / 2, (1, 8))  # every code and a half
    tiny = mixed[1:5] * np.float32(2.0**-120)
    return np.vstack(
        [mixed, both, halves, tiny, np.full((1, 2048), 1e-40, np.float32), mixed[1:5] * np.float32(2.0**12)]
    )


@pytest.mark.oracle
@pytest.mark.parametrize("kind", BLOCK_LENGTHS)
def test_codes_and_scales_have_the_bits_of_the_wheel(kind):
    """Codes, d, and the sums, where d is not 0: what stands next to a 0 counts for nothing."""
    x, t = inputs(), BY_NAME[kind]
    nbytes = 2048 // t.weights * t.nbytes
    live = np.stack(conversions([(t.id, row, nbytes) for row in x])).view(t.block)  # (n, nb)
    mine, some = quantize(x, kind), live["d"] != 0
    np.testing.assert_array_equal(mine.d.view(np.uint32), live["d"].astype(np.float32).view(np.uint32))
    np.testing.assert_array_equal(mine.codes[some], live["qs"][some])
    if kind == "Q8_1":
        np.testing.assert_array_equal(mine.sums[some][:, 0], live["s"][some].astype(np.float32))
    if kind == "Q8_K":
        np.testing.assert_array_equal(mine.sums[some], live["bsums"][some].astype(np.float32))
    assert some.any()
    assert not some.all()


@pytest.mark.parametrize("kind", BLOCK_LENGTHS)
def test_the_compiled_twin_is_the_definition(kind):
    """Same codes, scales and sums, four rows side by side and lane by lane."""
    x = inputs()
    n, mine, fast = len(x), quantize(x, kind), quantized(x, kind)
    nb, B = mine.codes.shape[1:]
    codes = fast.codes.transpose(0, 4, 1, 2, 3).reshape(-1, nb, 8, B // 32, 4)  # (4 Q, nb, lane, group, 4)
    np.testing.assert_array_equal(codes.transpose(0, 1, 3, 2, 4).reshape(-1, nb, B)[:n], mine.codes)
    np.testing.assert_array_equal(fast.d.transpose(0, 2, 1).reshape(-1, nb)[:n], mine.d)
    sums = fast.sums.transpose(0, 3, 1, 2).reshape(len(fast.d) * 4, nb, mine.sums.shape[2])
    np.testing.assert_array_equal(sums[:n], mine.sums)


def test_rows_that_are_not_there_are_zeros():
    """Quads are filled up."""
    fast = quantized(inputs()[:5], "Q8_1")
    assert fast.d.shape == (2, 64, chains_jit.QUAD)
    assert not fast.codes[1, ..., 1:].any()
    assert not fast.d[1, :, 1:].any()
    assert not fast.sums[1, ..., 1:].any()
