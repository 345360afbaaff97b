"""Products with quantized weights equal live llama.cpp's to the last bit."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.gguf.quants import BY_NAME, QUANT_TYPES
from refembed.kernels.ggml.profile import load_profile
from refembed.kernels.ggml.quantized import RECIPES, mul_mat
from tests.kernels.ggml.quantized_cases import (
    RECORDED,
    REPACKED,
    TYPES,
    Case,
    activations,
    answers,
    cases,
    checksum,
    described,
    differing,
    ours,
    recorded_cases,
    tensor,
)

AVX2, REPACK = load_profile("avx2"), load_profile("avx2", repack=True)


def by_type(some, live):
    found = defaultdict(list)
    for case, y in zip(some, live, strict=True):
        found[case.type].append((case, y))
    return found


@pytest.fixture(scope="module")
def plain():
    """Type -> cases and what the wheel makes of them."""
    some = [c for t in TYPES for c in cases(t)]
    return by_type(some, answers(some))


@pytest.fixture(scope="module")
def repacked():
    """The same with interleaved weights."""
    some = [c for t in REPACKED for c in cases(t) if c.m % 8 == 0]
    return by_type(some, answers(some, repack=True))


@pytest.mark.oracle
@pytest.mark.parametrize("type", TYPES)
def test_a_product_has_the_bits_of_the_wheel(type, plain):
    """Every type, one row and many, at every border where llama.cpp changes its kernel."""
    different = {case.seed: differing(ours(case, AVX2), y) for case, y in plain[type]}
    assert not any(different.values()), different


@pytest.mark.oracle
@pytest.mark.parametrize("type", REPACKED)
def test_interleaved_weights_have_the_bits_of_the_wheel(type, repacked):
    """Rows in fours by one kernel, the rest by another."""
    different = {case.seed: differing(ours(case, REPACK), y) for case, y in repacked[type]}
    assert not any(different.values()), different


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("type", TYPES)
def test_a_product_of_a_real_size_has_the_bits_of_the_wheel(type):
    """Where the work is shared among cores, here and there, and llama.cpp takes a matrix in several tiles."""
    some = [Case(type, 200, 391, 1536), Case(type, 128, 1536, 512), Case(type, 70, 64, 4096), Case(type, 3, 999, 1024)]
    different = {c.seed: differing(ours(c, AVX2), y) for c, y in zip(some, answers(some), strict=True)}
    assert not any(different.values()), different
    some = [c for c in some if c.m % 8 == 0] if type in REPACKED else []
    different = {c.seed: differing(ours(c, REPACK), y) for c, y in zip(some, answers(some, repack=True), strict=True)}
    assert not any(different.values()), different


@pytest.mark.oracle
def test_the_answers_are_numbers_and_kernels_do_differ(plain, repacked):
    """The cases above try something: nothing is infinite, little is zero, and interleaving shows."""
    everything = [y for found in (plain, repacked) for pairs in found.values() for _, y in pairs]
    assert all(np.isfinite(y).all() for y in everything)
    assert np.mean([(y != 0).mean() for y in everything]) > 0.7
    for type in REPACKED:
        assert any(differing(ours(case, AVX2), y) for case, y in repacked[type])


@pytest.mark.parametrize("type", TYPES)
def test_avx512_has_the_recorded_bits(type):
    """The profile avx512: node-llama-cpp's ggml 0.25.1, which has no tiled kernel."""
    recorded = dict(reversed(line.split(" ", 1)) for line in RECORDED.read_text().splitlines())
    mine = {
        described(case, repack): checksum(ours(case, load_profile("avx512", repack=repack)))
        for case, repack in recorded_cases()
        if case.type == type
    }
    assert {name: recorded[name] for name in mine} == mine


def test_interleaving_leaves_other_weights_alone():
    """Types that are not interleaved (Q2_K: with AVX-512 only), and rows that do not come in eights."""
    for case in cases("Q8_0") + cases("Q2_K") + [c for c in cases("Q4_0") if c.m % 8]:
        assert differing(ours(case, AVX2), ours(case, REPACK)) == 0


def test_rows_do_not_touch_each_other():
    """Each row of eight and more is what it is alone among eight others."""
    for type in ("Q8_0", "Q4_K"):
        case = next(c for c in cases(type) if c.n == 33)
        x, w = activations(case), tensor(case)
        whole = mul_mat(x, w, AVX2, {})
        for i in (0, 9, 32):
            others = np.vstack([x[i : i + 1], x[:9]])
            assert differing(mul_mat(others, w, AVX2, {})[:1], whole[i : i + 1]) == 0


def test_what_is_kept_serves_the_next_call():
    """With the weights unpacked already, whatever the number of rows."""
    kept, w = {}, Tensor("w", (24, 768), BY_NAME["Q6_K"], tensor(cases("Q6_K")[0]).raw, 0, "<")
    for case in (c for c in cases("Q6_K") if c.m == 24):
        assert differing(mul_mat(activations(case), w, AVX2, kept), mul_mat(activations(case), w, AVX2, {})) == 0
    assert {unpacker.__name__ for unpacker in kept[w]} == {"q6_k", "q6_k_apart"}


def test_a_large_tensor_is_unpacked_in_parts(monkeypatch):
    """To the same numbers."""
    case = next(c for c in cases("Q4_K") if c.m == 40)
    whole = ours(case, AVX2)
    monkeypatch.setattr("refembed.kernels.ggml.quantized.PART", 16 * case.k)
    assert differing(ours(case, AVX2), whole) == 0


def test_big_endian_weights_are_the_same_weights():
    """Fields of two bytes turned round."""
    for type in ("Q4_K", "IQ2_XXS", "IQ1_S", "IQ4_XS"):
        case = cases(type)[0]
        t, w = BY_NAME[type], tensor(case)
        turned = w.raw.view(t.block).astype(t.block.newbyteorder(">")).view(np.uint8)
        big = Tensor("w", w.shape, t, turned, 0, ">")
        assert differing(mul_mat(activations(case), big, AVX2, {}), ours(case, AVX2)) == 0


def test_no_rows_give_no_rows():
    """Of activations, or of weights."""
    w = tensor(cases("Q8_0")[0])
    assert mul_mat(np.empty((0, 768), np.float32), w, AVX2, {}).shape == (0, 24)
    none = Tensor("w", (0, 768), BY_NAME["Q8_0"], np.empty(0, np.uint8), 0, "<")
    assert mul_mat(np.ones((3, 768), np.float32), none, AVX2, {}).shape == (3, 0)


def test_every_type_llama_cpp_multiplies_by_is_there():
    """The column `dot` of the type table, less the floats."""
    assert set(RECIPES) == {t.name for t in QUANT_TYPES if t.dot} - {"F32", "F16", "BF16"}


def test_a_type_without_a_dot_product_is_refused():
    """By name, in one sentence."""
    w = Tensor("blk.0.x", (1, 256), BY_NAME["Q8_K"], np.zeros(292, np.uint8), 0, "<")
    with pytest.raises(ModelError, match=r"blk\.0\.x: llama\.cpp cannot multiply by Q8_K weights"):
        mul_mat(np.ones((1, 256), np.float32), w, AVX2, {})


def test_rows_of_another_length_are_refused():
    """Before a kernel reads past an end."""
    w = tensor(cases("Q8_0")[0])
    with pytest.raises(ModelError, match=r"^w: its shape is \(24, 768\); the activations' is \(1, 512\)$"):
        mul_mat(np.ones((1, 512), np.float32), w, AVX2, {})
