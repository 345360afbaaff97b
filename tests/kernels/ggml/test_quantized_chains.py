"""The definitions of `chains` are what compiled kernels do and what llama.cpp does; blocks unpack to the weights."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from refembed.gguf.quants import BY_NAME
from refembed.kernels.ggml import blocks, chains, quantized
from refembed.kernels.ggml.chains import fma
from refembed.kernels.ggml.codes import quantize
from refembed.kernels.ggml.profile import load_profile
from tests.kernels.ggml.quantized_cases import TYPES, activations, answers, cases, differing, tensor, weights

EIGHTH = np.float32(0.125)

# a kernel, or several put together, and its definition
DEFINED = {
    quantized.lanes: chains.lanes,
    quantized.lanes_by_turns: chains.lanes_by_turns,
    quantized.lanes_nested: chains.lanes_nested,
    quantized.one_nested: chains.one_nested,
    quantized.lanes_offsets: lambda x, w: chains.lanes(x, w) + chains.offsets(x, w),
    quantized.lanes_four_mins: lambda x, w: chains.lanes(x, w) + chains.mins_apart(x, w, 4),
    quantized.lanes_one_min: lambda x, w: chains.lanes(x, w) + chains.mins_apart(x, w, 1),
    quantized.lanes_one_delta: lambda x, w: chains.lanes(x, w) + EIGHTH * chains.mins_apart(x, w, 1),
    quantized.lanes_deltas: lambda x, w: chains.lanes(x, w) + EIGHTH * chains.lanes(x, w, w.deltas),
    quantized.lanes_and_mins: chains.lanes_and_mins,
    quantized.lanes_less_mins: chains.lanes_less_mins,
    quantized.tiled: chains.tiled,
    quantized.one: chains.one,
}
FRACTION = {"IQ2_XXS": 8, "IQ2_XS": 8, "IQ2_S": 8, "IQ3_XXS": 4}  # what a whole number is divided by


def both(case, recipe):
    """The definition's product and the kernel's."""
    how, chain = recipe
    x, w = activations(case), blocks.unpack(weights(case), how)
    packed = quantized.unpacked(tensor(case), how)
    y = chain(quantized.quantized(x, BY_NAME[case.type].dot), packed)[: case.n, : case.m]
    return DEFINED[chain](quantize(x, BY_NAME[case.type].dot), w), y


def small(type):
    """Cases the definitions are quick enough for."""
    return [c for c in cases(type) if c.n * c.m * c.k < 150_000]


@pytest.mark.parametrize("type", [t for t in TYPES if quantized.RECIPES[t][1] in DEFINED])
def test_a_kernel_of_vec_dot_is_its_definition(type):
    """Bit for bit; 0 of 2^29 sums may differ, by the definition's second rounding, and none here does."""
    for case in small(type):
        assert differing(*both(case, quantized.RECIPES[type])) == 0, case


@pytest.mark.parametrize("type", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S"])
def test_the_tiled_kernel_is_its_definition(type):
    """With and without mins."""
    for case in small(type):
        assert differing(*both(case, quantized.TILED[type])) == 0, case


@pytest.mark.parametrize("type", ["Q4_0", "IQ4_NL", "MXFP4"])
def test_the_interleaved_kernel_is_its_definition(type):
    """One chain a block of 32."""
    for case in small(type):
        assert differing(*both(case, quantized.REPACKED[type][0])) == 0, case


@pytest.mark.parametrize(("type", "parts"), [("Q4_K", (4, 1)), ("Q2_K", (2, 1))])
def test_the_interleaved_kernel_with_mins_is_its_definition(type, parts):
    """Steps of 64, 128 or 256 weights."""
    for (how, chain), count in zip(quantized.REPACKED[type], parts, strict=True):
        for case in small(type):
            x, w = activations(case), blocks.unpack(weights(case), how)
            y = chain(quantized.quantized(x, "Q8_K"), quantized.unpacked(tensor(case), how))[: case.n, : case.m]
            assert differing(chains.one(quantize(x, "Q8_K"), w, count), y) == 0, case


@pytest.mark.oracle
@pytest.mark.parametrize("type", ["Q8_0", "Q5_1", "IQ4_NL", "Q2_0", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "IQ1_M"])
def test_a_definition_has_the_bits_of_the_wheel(type):
    """One row of activations, by NumPy alone."""
    some = [c for c in small(type) if c.n == 1]
    how, chain = quantized.RECIPES[type]
    for case, y in zip(some, answers(some), strict=True):
        x = quantize(activations(case), BY_NAME[type].dot)
        assert differing(DEFINED[chain](x, blocks.unpack(weights(case), how)), y) == 0, case


def as_weights(b, type, fraction):
    """d (q - min) / fraction, or d q - dmin min, in float64, (m, k)."""
    m, _, B = b.q.shape
    d = np.repeat(b.d.reshape(m, -1), b.q.size // b.d.size, axis=1).astype(np.float64)
    w = d * b.q.reshape(m, -1) / fraction
    if b.deltas.size:
        w += d * b.deltas.reshape(m, -1) / 8
    if type in ("Q4_1", "Q5_1"):
        w += np.repeat(b.dmin[..., 0], B, axis=1)
    elif b.mins.size:
        dmin = (b.dmin if b.dmin.size else b.d).astype(np.float64) / (8 if type == "IQ1_S" else 1)
        w -= np.repeat((dmin * b.mins).reshape(m, -1), 16, axis=1)
    return w


@pytest.mark.parametrize("type", [t for t in TYPES if t not in ("Q1_0", "Q2_0")])  # gguf-py decodes neither
def test_unpacked_blocks_are_the_weights(type):
    """What gguf-py decodes, which rounds to float32 thrice: within 4.9e-8 of the largest weight, measured."""
    case = next(c for c in cases(type) if c.m == 13)
    raw = weights(case)
    theirs = dequantize(raw.view(np.uint8).reshape(case.m, -1), GGMLQuantizationType(BY_NAME[type].id))
    for table, fraction in ((quantized.RECIPES, FRACTION), (quantized.TILED, {**FRACTION, "IQ1_S": 8, "IQ1_M": 8})):
        if type in table:
            mine = as_weights(blocks.unpack(raw, table[type][0]), type, fraction.get(type, 1))
            assert np.abs(mine - theirs).max() <= 6e-8 * np.abs(theirs).max()


def test_sums_of_the_full_cases_pass_what_float32_counts():
    """In a lane of Q6_K, whose codes are unsigned in vec_dot; in a block of Q4_K. Half of such sums are odd there."""
    for type, how, axes in (("Q6_K", blocks.q6_k_apart, ()), ("Q4_K", blocks.q4_k, (-1,))):
        case = next(c for c in cases(type) if c.fill == "full" and c.n == 8)
        sums = chains.lane_sums(quantize(activations(case), "Q8_K"), blocks.unpack(weights(case), how).q).sum(axis=axes)
        assert (np.abs(sums) > 2**24).all()
        assert (sums % 2 == 1).mean() > 0.4


def test_one_row_eight_rows_and_interleaving_differ():
    """The three ways of Q4_K are three: else the tests above would prove one thing thrice."""
    case = next(c for c in cases("Q4_K") if (c.n, c.m) == (8, 24))
    x, w = activations(case), tensor(case)
    one = np.vstack([quantized.mul_mat(x[i : i + 1], w, load_profile(), {}) for i in range(8)])
    eight, apart = (quantized.mul_mat(x, w, load_profile(repack=r), {}) for r in (False, True))
    assert differing(one, eight)
    assert differing(one, apart)
    assert differing(eight, apart)


def test_fma_rounds_once():
    """2^-24 is lost in 1 + 2^-23 only if the product is rounded first."""
    a = np.float32(1 + 2**-12)
    assert fma(a, a, np.float32(-1)) == np.float32(2**-11 + 2**-24)
    assert a * a - np.float32(1) != np.float32(2**-11 + 2**-24)
