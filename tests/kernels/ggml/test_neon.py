"""The profile `neon`: its orders of summation by hand, and vectors that llama.cpp computed on aarch64."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from conformance.models import model_path
from conformance.processors import FOLDER, MODELS
from refembed import Embedder
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from refembed.kernels.ggml import blocks as unpack
from refembed.kernels.ggml import chains, floats, quantized
from refembed.kernels.ggml.codes import quantize
from refembed.kernels.ggml.profile import load_profile
from refembed.kernels.ggml.rows import register_sum
from refembed.testing.synthetic import synthetic

NEON = load_profile("neon")
f32 = np.float32


def float_sum(order, products):
    """The sum of exact products in an order, each addition rounded to float32 by Python's own fractions."""
    acc = []
    for row in order.elements:
        total = f32(0)
        for i in row:
            if i >= 0:
                total = f32(float(Fraction(float(total)) + products[i]))
        acc.append(total)
    for a, b in order.tree:
        acc[a] = f32(acc[a] + acc[b])
    return acc[0]


@pytest.mark.parametrize(("n", "m", "k", "contiguous", "registers"), [
    (4, 8, 32, True, 1), (9, 4, 8, True, 1),  # tinyBLAS: one register of four
    (3, 8, 32, True, 4), (9, 6, 32, True, 4), (9, 8, 32, False, 4),  # vec_dot: four of them
])  # fmt: skip
def test_which_kernel_takes_a_float_product(n, m, k, contiguous, registers):
    order = floats.order_of("F32", n, (m, k), NEON, contiguous)
    assert order.elements.shape[0] == 4 * registers
    assert order.elements[:, 0].tolist() == list(range(4 * registers))


def test_a_register_is_added_neighbor_to_neighbor():
    """1, 2^-24, -1, 2^-24: FADDP has (1 + 2^-24) + (-1 + 2^-24) = 1 + (-1 + 2^-24), halves first would have 2^-23."""
    x = np.array([1, 2.0**-24, -1, 2.0**-24], f32)
    assert register_sum(x, 0, 4) == 2.0**-24
    assert (x[0] + x[2]) + (x[1] + x[3]) == 2.0**-23


def test_products_are_added_in_that_order():
    rng = np.random.default_rng(1)
    x, w = (rng.normal(size=(n, 32)).astype(f32) for n in (5, 8))
    found = floats.mul_mat(x, w, "F32", NEON)
    order = floats.order_of("F32", 5, (8, 32), NEON)
    for t in range(5):
        for j in range(8):
            products = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x[t], w[j], strict=True)]
            assert found[t, j] == float_sum(order, products)


def test_activations_meet_f16_weights_as_they_are():
    """tinyBLAS takes them in float32; a single row is rounded to float16 first."""
    x = np.full((4, 16), 1 + 2.0**-12, f32)
    w = np.ones((4, 16), f32)
    assert floats.mul_mat(x, w, "F16", NEON)[0, 0] == 16 * (1 + 2.0**-12)
    assert floats.mul_mat(x[:1], w, "F16", NEON)[0, 0] == 16


def test_codes_are_x_times_one_over_d():
    """amax 1.5: d is 1.5/127 in float32, and 1/d is not 127/1.5 in the last bit for some of these."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 32)).astype(f32)
    found = quantize(x, "Q8_0", by_scale=True)
    for row, codes in zip(x, found.codes[:, 0], strict=True):
        d = f32(np.abs(row).max() / f32(127))
        assert codes.tolist() == np.rint(row * f32(f32(1) / d)).tolist()
    assert np.array_equal(quantized.quantized(x, "Q8_0", True).d.transpose(0, 2, 1).reshape(-1, 1)[:64], found.d)


@pytest.fixture(scope="module")
def q8(tmp_path_factory):
    """A matrix of Q8_0."""
    f = open_gguf(synthetic(tmp_path_factory.mktemp("q8") / "m.gguf", "bert", C=96, D=16, F=96, type_name="Q8_0"))
    return f.tensors["blk.0.attn_q.weight"]


@pytest.mark.parametrize("n", [1, 3, 8])
def test_q8_0_compiled_is_the_definition(q8, n):
    x = np.random.default_rng(n).normal(size=(n, q8.shape[1])).astype(f32)
    codes = quantize(x, "Q8_0", by_scale=True)
    blocks = unpack.unpack(quantized.stored(q8), unpack.q8_0)
    theirs = chains.quarters_by_turns(codes, blocks, quantized.FUSED)
    assert np.array_equal(quantized.mul_mat(x, q8, NEON, {}), theirs)
    exact = np.einsum(
        "nbi,mbi->nm", codes.codes * codes.d[..., None].astype(np.float64), blocks.q * blocks.d.astype(np.float64)
    )
    assert theirs == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_other_quantized_types_are_refused_by_name(tmp_path):
    path = synthetic(tmp_path / "m.gguf", "bert", C=96, D=16, F=96, type_name="Q4_0")
    with pytest.raises(
        ModelError, match="the profile neon has no products with Q4_0 weights\n  hint: it has Q8_0, F32"
    ):
        Embedder.load(path, numerics="ggml", profile="neon").embed("a")


# -- what llama.cpp computed there -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "neon.npz") as z:
        return dict(z)


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_those_of_llamacpp_on_aarch64(recorded, model, flash):
    ids = np.split(recorded[f"{model}/ids"], recorded[f"{model}/ends"][:-1])
    theirs = recorded[f"{model}/{'flash' if flash else 'plain'}"]
    e = Embedder.load(model_path(model), numerics="ggml", profile="neon", flash_attn=flash)
    found = np.stack([e.embed([i.tolist()], normalize=-1)[0] for i in ids])
    assert (found.view(np.int32) != theirs.view(np.int32)).sum() == 0


def test_the_profile_of_x86_has_other_bits(recorded):
    ids = np.split(recorded["minilm-f32/ids"], recorded["minilm-f32/ends"][:-1])
    e = Embedder.load(model_path("minilm-f32"), numerics="ggml", flash_attn=False)
    found = np.stack([e.embed([i.tolist()], normalize=-1)[0] for i in ids])
    assert (found.view(np.int32) != recorded["minilm-f32/plain"].view(np.int32)).mean() > 0.5


def test_the_recording_says_where_it_comes_from(recorded):
    about = json.loads(str(recorded["about"]))
    assert about["profile"] == "neon"
    assert "NEON" in about["build"]["system_info"]
    assert {(r["model"], r["flash_attn"]) for r in about["rows"]} == {(m, f) for m in MODELS for f in (False, True)}
