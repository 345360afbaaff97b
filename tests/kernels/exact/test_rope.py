"""RoPE in each numerics against the papers' formulas, written out one pair at a time, and what they imply."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from refembed.kernels.exact import rope as definition
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import Ops, Rope
from tests.kernels.longhand import BOUND, close, random, stored


@pytest.fixture(scope="module", params=["exact", "fast"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return load_ops(request.param)


FACTORS = [1.0, 1.5, 2.0, 8.0]
ROPES = {
    "halves": Rope(8, "neox", 10000.0),
    "neighbors": Rope(8, "norm", 10000.0),
    "part of a head": Rope(6, "neox", 10000.0),
    "neighbors, part of a head": Rope(4, "norm", 500.0),
    "another base": Rope(8, "neox", 1e6),
    "linear": Rope(8, "norm", 10000.0, freq_scale=0.125),
    "factors": Rope(8, "norm", 5e5, factors=stored(FACTORS, "rope_freqs.weight")),
    "factors and linear": Rope(8, "neox", 1e4, freq_scale=0.5, factors=stored(FACTORS, "rope_freqs.weight")),
    "magnitude": Rope(8, "neox", 1e4, attn_factor=1.25),
    "yarn": Rope(8, "neox", 1e4, freq_scale=0.25, n_ctx_orig=64, ext_factor=1.0),
    "half a yarn": Rope(8, "norm", 1e4, freq_scale=0.1, n_ctx_orig=4096, ext_factor=0.5, attn_factor=0.9),
}


def plain(x: Any, pos: Any, r: Rope) -> Any:
    """Each pair turned by its angle: Su et al. 2021; YaRN as Peng et al. 2023 give it in section 3.

    There r(i) = n_ctx_orig / wavelength(i) counts the turns of pair i in the original context, and pairs between the
    two betas are mixed. llama.cpp mixes evenly in i, between whole i, not evenly in r.
    """
    out, half = np.array(x, np.float64), r.n_dims // 2
    for t, h, i in np.ndindex(x.shape[0], x.shape[1], half):
        a, b = (2 * i, 2 * i + 1) if r.pairs == "norm" else (i, i + half)
        theta = float(pos[t]) / r.freq_base ** (2 * i / r.n_dims)
        theta /= FACTORS[i] if r.factors is not None else 1.0
        m = r.attn_factor
        if r.ext_factor:
            at = [
                r.n_dims / 2 * math.log(r.n_ctx_orig / (2 * math.pi * beta)) / math.log(r.freq_base)
                for beta in (r.beta_fast, r.beta_slow)
            ]
            low, high = max(math.floor(at[0]), 0), min(math.ceil(at[1]), r.n_dims - 1)
            slow = min(max((i - low) / max(high - low, 0.001), 0), 1)  # 0: a fast pair, kept; 1: a slow one, stretched
            own = (1 - slow) * r.ext_factor
            theta = theta * r.freq_scale * (1 - own) + theta * own
            m *= 1 - 0.1 * math.log(r.freq_scale)
        else:
            theta *= r.freq_scale
        u, v = float(x[t, h, a]), float(x[t, h, b])
        out[t, h, a] = m * (u * math.cos(theta) - v * math.sin(theta))
        out[t, h, b] = m * (u * math.sin(theta) + v * math.cos(theta))
    return out


@pytest.mark.parametrize("name", ROPES)
def test_every_pair_turns_by_its_angle(ops: Ops, name: str) -> None:
    x, pos = random(1, 7, 3, 8), np.array([0, 1, 2, 5, 0, 40, 1000])
    got = ops.rope(x.astype(ops.dtype), pos, ROPES[name])
    want = plain(x, pos, ROPES[name])
    # 1e-13: of an angle of 1000 the last bit of a double is worth 1e-13
    assert np.abs(got - want).max() <= (3e-13 if ops.name == "exact" else BOUND["fast"]) * np.abs(want).max()


def test_place_zero_stays(ops: Ops) -> None:
    x = random(2, 2, 2, 8).astype(ops.dtype)
    assert np.array_equal(ops.rope(x, np.array([0, 0]), ROPES["halves"]), x)


def test_channels_beyond_stay(ops: Ops) -> None:
    x = random(3, 5, 2, 8).astype(ops.dtype)
    got = ops.rope(x, np.arange(5), ROPES["part of a head"])
    assert np.array_equal(got[..., 6:], x[..., 6:])
    assert not np.array_equal(got[1:, :, :6], x[1:, :, :6])


def test_only_the_distance_of_two_places_matters(ops: Ops) -> None:
    """The paper's reason for it: <R(m) q, R(n) k> depends on m - n alone."""
    q, k = random(4, 1, 1, 8).astype(ops.dtype), random(5, 1, 1, 8).astype(ops.dtype)
    products = []
    for m, n in ((7, 3), (104, 100), (4, 0)):
        a, b = (ops.rope(x, np.array([p]), ROPES["neighbors"])[0, 0] for x, p in ((q, m), (k, n)))
        products.append(float(a @ b))
    assert np.ptp(products) <= 40 * BOUND[ops.name] * np.abs(q).max() * np.abs(k).max() * 8


def test_a_rotation_keeps_lengths(ops: Ops) -> None:
    x = random(6, 9, 2, 8).astype(ops.dtype)
    close(np.linalg.norm(ops.rope(x, np.arange(9), ROPES["factors"]), axis=-1), np.linalg.norm(x, axis=-1), ops, 2)


def test_a_place_gives_the_same_bits_whatever_places_came_before(ops: Ops) -> None:
    """`fast` keeps a table of places and makes a longer one when a longer text comes."""
    x, fresh = random(7, 1, 1, 8).astype(ops.dtype), load_ops(ops.name)
    first = fresh.rope(x, np.array([3]), ROPES["halves"])
    fresh.rope(x, np.array([5000]), ROPES["halves"])
    assert fresh.rope(x, np.array([3]), ROPES["halves"]).tobytes() == first.tobytes()


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    """Peng et al. 2023: what turns more than 32 times keeps its angle, what turns less than once is interpolated."""
    r = Rope(64, "neox", 1e4, freq_scale=0.25, n_ctx_orig=4096, ext_factor=1.0)
    plainly = definition.angles(np.array([1]), Rope(64, "neox", 1e4))[0]
    ratio = definition.angles(np.array([1]), r)[0] / plainly
    turned = 4096 / (2 * math.pi) * plainly
    np.testing.assert_allclose(ratio[turned > 40], 1.0, rtol=1e-12)
    np.testing.assert_allclose(ratio[turned < 0.75], 0.25, rtol=1e-12)
    assert np.all(np.diff(ratio) <= 1e-12)
