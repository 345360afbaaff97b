"""What T5 and gpt-oss ask of attention, and tanh, against ggml's own operations, bit for bit."""

import itertools

import numpy as np
import pytest

from refembed.kernels.ggml.attention_flash import flash
from refembed.kernels.ggml.attention_scores import Scoring
from refembed.kernels.ggml.ops import Ggml
from refembed.kernels.ggml.profile import load_profile
from refembed.kernels.ops import AttentionMask, AttentionSpec
from refembed.model.trace import Recorder
from tests.kernels.ggml.live import run
from tests.kernels.ggml.test_floats import differ


@pytest.mark.oracle
def test_tanh_is_ggmls():
    """Over all magnitudes, signs, zeros, infinities and numbers too small to be normal."""
    rng = np.random.default_rng(0)
    x = (
        rng.standard_normal((7, 5001)).astype(np.float32)
        * np.float32(10) ** np.arange(-5, 2, dtype=np.float32)[:, None]
    )
    x[0, :6] = 0, -0.0, np.inf, -np.inf, 1e-40, -1e-40
    (want,) = run([("ggml_tanh", [x])])
    assert differ(Ggml().tanh(x), want) == 0
    assert differ(Ggml().tanh(x.T), want.T) == 0


@pytest.mark.oracle
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("mask", [AttentionMask(), AttentionMask(causal=True)])
def test_a_bias_is_added_to_the_scores_in_a_step_of_its_own(mask, flash_attn):
    """Three texts of 5, 9 and 1 tokens: product, bias by places in a text, softmax, product; no flash attention."""
    H, D, lengths = 3, 10, (5, 9, 1)
    T, offsets = sum(lengths), np.cumsum([0, *lengths])
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((T, H * D)).astype(np.float32) for _ in range(3))
    bias = rng.standard_normal((H, 9, 9)).astype(np.float32)
    spread, hidden = np.zeros((H, T, T), np.float32), np.full((T, T), -np.inf, np.float32)
    for begin, end in itertools.pairwise(offsets):
        n = end - begin
        spread[:, begin:end, begin:end] = bias[:, :n, :n]
        hidden[begin:end, begin:end] = np.where(np.tri(n, dtype=bool) | (not mask.causal), 0, -np.inf)
    seen, ops = Recorder(), Ggml(load_profile(flash_attn=flash_attn))
    out = ops.attention(q, k, v, AttentionSpec(H, H, 1.0, mask), offsets, seen, bias=bias)
    ours = seen.trace
    assert list(ours) == ["v_cont", "kq", "kq_plus_kq_b", "kq_soft_max", "kqv"]
    (kq,) = run([("ggml_mul_mat", [heads(k, H), heads(q, H)])])
    assert differ(ours["kq"], kq) == 0
    own = np.isfinite(hidden)  # the places of other texts are not seen
    (added,) = run([("ggml_add", [kq, spread])])
    assert differ(ours["kq_plus_kq_b"][:, own], added[:, own]) == 0
    (shares,) = run([("ggml_soft_max_ext", [added, hidden, 1.0, 0.0])])
    assert differ(ours["kq_soft_max"], shares) == 0
    (kqv,) = run([("ggml_mul_mat", [np.ascontiguousarray(heads(v, H).transpose(0, 2, 1)), shares])])
    assert differ(ours["kqv"], kqv) == 0
    assert differ(out, np.ascontiguousarray(kqv.transpose(1, 0, 2)).reshape(T, -1)) == 0


@pytest.mark.oracle
@pytest.mark.parametrize("T", [1, 33, 63, 64, 130])  # from 64 queries on by tiles
def test_flash_attention_has_ggmls_bits_where_heads_have_sinks(T):
    """Sinks below and above the largest score of most queries."""
    H, K, D = 4, 2, 24
    rng = np.random.default_rng(T)
    q, k, v = (rng.standard_normal((n, T, D)).astype(np.float32) for n in (H, K, K))
    k, v = (x.astype(np.float16) for x in (k, v))
    hidden = np.where(np.tri(T, dtype=bool), 0, -np.inf).astype(np.float32)
    sinks = np.array([-3, 0.1, 0.8, 4], np.float32)
    arguments = [q, k, v, hidden.astype(np.float16), 0.2, 0.0, 0.0, sinks]
    (want,) = run([("ggml_flash_attn_ext, ggml_flash_attn_ext_add_sinks", arguments)])
    hidden.flags.writeable = False
    scoring = Scoring(np.float32(0.2), np.float32(0), hidden, np.ones(H, np.float32), None, sinks)
    got = flash(q, k.astype(np.float32), v.astype(np.float32), scoring, load_profile(flash_attn=True))
    assert differ(got.reshape(T, H, D), want.reshape(T, H, D)) == 0


def heads(x, n_head):
    """(T, H D) -> (H, T, D)."""
    return np.ascontiguousarray(x.reshape(len(x), n_head, -1).transpose(1, 0, 2))
