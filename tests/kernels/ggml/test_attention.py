"""Attention has the bits of ggml: of every tensor without flash attention, of the one node there is with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from refembed.kernels.ggml.attention_scores import kq_scale
from refembed.kernels.ggml.profile import Profile, load_profile
from refembed.kernels.ops import AttentionMask, AttentionSpec
from tests import libm
from tests.kernels.ggml.graph_cases import (
    LENGTHS,
    MASKS,
    WIDTHS,
    Case,
    asked,
    checksum,
    different,
    inputs,
    ours,
    recorded,
    recorded_cases,
)
from tests.kernels.ggml.graph_ops import Graphs


@pytest.fixture(scope="module")
def ggml() -> Iterator[Graphs]:
    """The pinned wheel."""
    with Graphs() as graphs:
        yield graphs


def profile(flash: bool, name: str = "avx2") -> Profile:
    return load_profile(name, flash_attn=flash)


def compare(ggml: Graphs, case: Case, flash: bool) -> None:
    """Every tensor that both show, and both show the same ones."""
    want, got = asked(ggml, case, flash), ours(case, profile(flash))
    assert list(want) == list(got)
    assert {name: different(want[name], got[name]) for name in want} == dict.fromkeys(want, 0), (case, flash)


@pytest.mark.oracle
@pytest.mark.parametrize("cached", [False, True], ids=["no cache", "cache"])
@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
@pytest.mark.parametrize("T", LENGTHS)
def test_every_length_and_head_width_has_ggmls_bits(ggml: Graphs, T: int, flash: bool, cached: bool) -> None:
    for D in WIDTHS:
        compare(ggml, Case(T, D, cached=cached, mask=AttentionMask(causal=cached)), flash)


@pytest.mark.oracle
@pytest.mark.parametrize("soft_cap", [0.0, 5.0], ids=["", "soft cap"])
@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_has_ggmls_bits(ggml: Graphs, mask: str, flash: bool, soft_cap: float) -> None:
    for T in (40, 90):
        for cached in (False, True):
            compare(ggml, Case(T, 32, 6, 2, MASKS[mask], soft_cap, cached, texts=2), flash)


@pytest.mark.oracle
@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
@pytest.mark.parametrize(("H", "K"), [(1, 1), (3, 3), (8, 2), (12, 1), (5, 5)])
def test_grouped_heads_and_slopes_of_any_count_have_ggmls_bits(ggml: Graphs, H: int, K: int, flash: bool) -> None:
    for T in (20, 70):
        compare(ggml, Case(T, 32, H, K, AttentionMask(max_bias=8.0)), flash)


@pytest.mark.oracle
@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
def test_texts_of_one_ubatch_stand_in_one_matrix(ggml: Graphs, flash: bool) -> None:
    for texts in (2, 3, 7):
        compare(ggml, Case(150, 32, texts=texts), flash)


@pytest.mark.oracle
@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
def test_weights_too_small_for_a_float_have_ggmls_bits(ggml: Graphs, flash: bool) -> None:
    """Scores 90 and more below the highest: exp is subnormal, then 0."""
    for T in (50, 80):
        compare(ggml, Case(T, 64, 2, 2, size=60.0), flash)


@pytest.mark.oracle
def test_alibis_distances_beyond_2048_are_rounded_to_float16_by_flash_attention(ggml: Graphs) -> None:
    far = AttentionMask(max_bias=11.0)  # the slope of one head is then 1/2048, so that far keys count
    compare(ggml, Case(2200, 32, 1, 1, far), flash=True)


@pytest.mark.oracle
def test_flash_attention_of_several_threads_has_the_same_bits(ggml: Graphs) -> None:
    q, k, v = (x.reshape(70, -1, 32) for x in inputs(Case(70, 32, 4, 4))[:3])
    one, two = (ggml.flash(q, k, v, np.zeros((70, 70)), 0.2, threads=n) for n in (1, 2))
    assert different(one, two) == 0


@pytest.mark.parametrize("name", recorded_cases())
def test_it_has_the_bits_recorded_of_an_avx512_build(name: str) -> None:
    case, flash = recorded_cases()[name]
    libm.need("expf", *["tanhf"] * bool(case.soft_cap), *["powf"] * bool(case.mask.max_bias))
    assert checksum(ours(case, profile(flash, "avx512"))["kqv_out"]) == recorded()[name]


@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
def test_who_listens_changes_nothing(flash: bool) -> None:
    from refembed.kernels.ggml.attention import attention

    case = Case(33, 32, 4, 2, soft_cap=20.0)
    q, k, v, offsets = inputs(case)
    spec = AttentionSpec(4, 2, 32**-0.5, case.mask, soft_cap=20.0)
    silent = attention(q, k, v, spec, offsets, profile=profile(flash))
    assert different(silent, ours(case, profile(flash))["kqv_out"]) == 0


def test_what_a_listener_hands_back_is_gone_on_with() -> None:
    from refembed.kernels.ggml.attention import attention

    class Uniform:
        active = True

        def __call__(self, name, x):
            return np.zeros_like(x) if name == "kq" else x

    q, k, v, offsets = inputs(Case(8, 32, 1, 1))
    out = attention(q, k, v, AttentionSpec(1, 1, 1.0), offsets, Uniform(), profile=profile(False))
    assert np.abs(out - v.mean(0)).max() < 1e-6


def test_the_usual_scale_is_rounded_twice() -> None:
    root = np.sqrt(np.float32(96))
    assert kq_scale(96**-0.5, 96) == np.float32(1) / root != np.float32(96**-0.5)
    assert kq_scale(1.0, 96) == 1
    assert kq_scale(0.1, 96) == np.float32(0.1)


@pytest.mark.oracle
@pytest.mark.slow
def test_random_cases_have_ggmls_bits(ggml: Graphs) -> None:
    """Sizes, masks, batches and magnitudes at random for a minute: 2600 cases, none differed."""
    rng, end = np.random.default_rng(0), time.monotonic() + 60
    kinds: list = ["standard", "chunked", "symmetric"]
    while time.monotonic() < end:
        K = int(rng.integers(1, 4))
        mask = AttentionMask(
            causal=bool(rng.integers(2)), window=int(rng.choice([0, 0, 3, 16])), kind=kinds[rng.integers(3)],
            max_bias=float(rng.choice([0.0, 8.0])),
        )  # fmt: skip
        T, D = int(rng.integers(1, rng.choice([70, 140, 600]))), 4 * int(rng.integers(1, 65))
        case = Case(T, D, K * int(rng.integers(1, 4)), K, mask, float(rng.choice([0, 5])), bool(rng.integers(2)))
        case = replace(case, texts=int(rng.integers(1, 4)), size=float(rng.choice([0.1, 1, 4, 30])))
        compare(ggml, case, flash=bool(rng.integers(2)))
