"""Kernels of `cupy` on drawn sizes: ragged texts, one token, odd widths, every mask; rows and texts stand alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.exact import rope as rotary
from refembed.kernels.ops import AttentionMask, AttentionSpec, Rope
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.fast.test_attention import MASKS, formula
from tests.kernels.longhand import chain, close, random, stored

few = settings(max_examples=30)
lengths = st.lists(st.integers(1, 70), min_size=1, max_size=4)
masks = st.one_of(
    st.sampled_from(MASKS),
    st.builds(AttentionMask, st.booleans(), st.integers(0, 40), st.sampled_from(["standard", "chunked", "symmetric"])),
    st.builds(
        lambda window, a, b, c: AttentionMask(True, window, spans=((a, a + b), (a + b, a + c))),
        st.sampled_from([0, 0, 20]), st.integers(0, 40), st.integers(1, 40), st.integers(41, 60),
    ),  # two images, one behind the other
)  # fmt: skip


@few
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 70), st.booleans())
def test_a_product_is_one_chain_of_multiply_adds_for_each_element(
    built: Path, T: int, K: int, N: int, biased: bool
) -> None:
    """To the bit, with tiles of 16 rows and of 64."""
    x, w, b = random(1, T, K), random(2, N, K), random(3, N)
    want = chain(x, w.T, fused=True)
    got = Cupy(OnCpu(built)).linear(x, stored(w), stored(b, "b") if biased else None)
    assert np.array_equal(got, want + b if biased else want)


@few
@given(
    lengths, st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]), st.integers(1, 140), masks, st.sampled_from([0, 4.0])
)
def test_attention_is_its_formula_and_texts_stand_alone(
    built: Path, lengths: list[int], heads: tuple[int, int], D: int, mask: AttentionMask, cap: float
) -> None:
    (H, K), offsets = heads, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    T, longest, ops = int(offsets[-1]), max(lengths), Cupy(OnCpu(built))
    q, k, v = random(1, T, H * D), random(2, T, K * D), random(3, T, K * D)
    bias, sinks = random(4, H, longest, longest), random(5, H, scale=2)
    spec = AttentionSpec(H, K, D**-0.5, mask, cap)
    for table, sink in ((None, None), (bias, sinks)):
        more: Any = {"bias": table, "sinks": None if sink is None else stored(sink, "sinks")}
        got = np.asarray(ops.attention(q, k, v, spec, offsets, **more))
        close(got, formula(q, k, v, H, K, offsets, D**-0.5, mask, cap, table, sink), ops, times=2)
        for begin, end in itertools.pairwise(offsets):
            one = np.array([0, end - begin])
            alone = ops.attention(q[begin:end], k[begin:end], v[begin:end], spec, one, **more)
            assert alone.tobytes() == got[begin:end].tobytes()


@few
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40), st.integers(0, 5), st.sampled_from(["norm", "neox"]))
def test_rope_turns_pairs_of_channels_and_leaves_the_rest(
    built: Path, T: int, H: int, half: int, rest: int, pairs: Any
) -> None:
    """With the definition's own angles; each channel is two products and a sum."""
    x, pos, ops = random(1, T, H, 2 * half + rest), np.arange(T)[::-1] * 7, Cupy(OnCpu(built))
    rope = Rope(2 * half, pairs, 10_000.0, freq_scale=0.5)
    ops.rope(x[:1], np.array([0]), rope)  # a table of angles for short texts, which the next is longer than
    got = np.asarray(ops.rope(x, pos, rope))
    close(got, rotary.rope(x.astype(np.float64), pos, rope), ops)
    assert np.array_equal(got[:, :, 2 * half :], x[:, :, 2 * half :])


@few
@given(st.integers(1, 40), st.integers(1, 300), st.booleans(), st.floats(1e-9, 1.0), st.floats(-100, 100))
def test_norms_are_their_formulas_on_rows_of_any_length(
    built: Path, rows: int, n: int, biased: bool, eps: float, offset: float
) -> None:
    x, w, b, ops = random(1, rows, n) + np.float32(offset), random(2, n), random(3, n), Cupy(OnCpu(built))
    exact = x.astype(np.float64)
    centered = exact - exact.mean(axis=1, keepdims=True)
    want = centered / np.sqrt((centered**2).mean(axis=1, keepdims=True) + eps) * w + (b if biased else 0)
    got = np.asarray(ops.layer_norm(x, stored(w), stored(b, "b") if biased else None, eps))
    # the mean is rounded to float32 once, as the definition does in float32
    slack = np.abs(offset) * 6e-8 / np.sqrt((centered**2).mean(axis=1, keepdims=True) + eps) * np.abs(w)
    assert (np.abs(got - want) <= 4e-7 * np.abs(want).max() + slack).all()
    want = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + eps) * w
    close(ops.rms_norm(x, stored(w), eps), want, ops)
    assert ops.rms_norm(x[-1:], stored(w), eps).tobytes() == np.asarray(ops.rms_norm(x, stored(w), eps))[-1:].tobytes()


@few
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 70))
def test_norms_of_heads_have_weights_of_their_own(built: Path, T: int, G: int, n: int) -> None:
    """Head g of every token those of row g; or all heads the same."""
    x, w, ops = random(1, T, G, n), random(2, G, n), Cupy(OnCpu(built))
    exact = x.astype(np.float64)
    centered = exact - exact.mean(axis=2, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(axis=2, keepdims=True) + 1e-3)
    squared = exact / np.sqrt((exact**2).mean(axis=2, keepdims=True) + 1e-3)
    for weight, name in ((w, "each"), (w[0], "same")):
        close(ops.layer_norm(x, stored(weight, name), None, 1e-3), normed * weight, ops, times=2)
        close(ops.rms_norm(x, stored(weight, name), 1e-3), squared * weight, ops)


@few
@given(st.integers(1, 9), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_split_copies_columns(built: Path, T: int, widths: list[int]) -> None:
    x, ends = random(1, T, sum(widths)), np.cumsum(widths)
    for part, width, end in zip(Cupy(OnCpu(built)).split(x, widths), widths, ends, strict=True):
        assert np.array_equal(part, x[:, end - width : end])


@few
@given(lengths, st.integers(1, 6), st.integers(1, 5), st.data())
def test_a_convolution_stays_within_its_text(built: Path, lengths: list[int], C: int, n: int, data: Any) -> None:
    ahead = data.draw(st.integers(0, n - 1))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    x, w, ops = random(1, int(offsets[-1]), C), random(2, C, n), Cupy(OnCpu(built))
    want = np.zeros(x.shape)
    for begin, end in itertools.pairwise(offsets):
        for t, i in itertools.product(range(begin, end), range(n)):
            if begin <= (u := t - n + 1 + ahead + i) < end:
                want[t] += w[:, i].astype(np.float64) * x[u]
    close(ops.short_conv(x, stored(w), offsets, ahead), want, ops)


@few
@given(lengths, st.integers(1, 50))
def test_the_mean_has_the_bits_of_the_definition(built: Path, lengths: list[int], n: int) -> None:
    """Added in double, in order, rounded once."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    x, ops = random(1, int(offsets[-1]), n), Cupy(OnCpu(built))
    want = [np.add.accumulate(x[a:b], axis=0, dtype=np.float64)[-1] / (b - a) for a, b in itertools.pairwise(offsets)]
    assert np.array_equal(ops.mean(x, offsets), np.array(want).astype(np.float32))


@few
@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9))
def test_arrays_on_the_device_are_operands_of_numpy(built: Path, a: int, b: int, c: int, seed: int) -> None:
    """Sums, products and shapes as NumPy has them, whichever side the device's array is on."""
    ops, x, y = Cupy(OnCpu(built)), random(seed, a, b, c), random(seed + 1, a, b, c)
    device: Any = ops.on_device(x)
    others = [y, y[:1], y[:, :1], y[0], y[0, 0], y[:1, :1], y[..., :1], np.float32(2), 3.0, ops.on_device(y), y[None]]
    for other in others:
        host = np.asarray(other) if not isinstance(other, float) else other
        for ours, theirs in ((device + other, x + host), (other + device, host + x), (device * other, x * host),
                             (other * device, host * x), (device - other, x - host), (other - device, host - x),
                             (-device, -x)):  # fmt: skip
            assert ours.shape == theirs.shape
            assert np.array_equal(ours, theirs)
    assert np.array_equal(device.reshape(-1, c), x.reshape(-1, c))
    assert np.array_equal(device[a - 1], x[a - 1])
    assert np.array_equal(device[1:], x[1:])
    assert np.array_equal(device[-1], x[-1])
    assert np.array_equal(device[:, 0], x[:, 0])
    assert np.array_equal(np.stack([device, device]), np.stack([x, x]))
    assert np.array_equal(np.argsort(-device, axis=1), np.argsort(-x, axis=1))
    assert np.array_equal(np.ascontiguousarray(device.transpose(1, 0, 2)), x.transpose(1, 0, 2))
    assert np.array_equal(np.sqrt(device * device), np.sqrt(x * x))
    assert [row.shape for row in device] == [(b, c)] * a


@few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_axes_are_turned_cut_and_joined_on_the_device(built: Path, shape: list[int], chance: Any) -> None:
    """As NumPy does it, and without a copy to the host in between."""
    ops, x = Cupy(OnCpu(built)), random(1, *shape)
    device: Any = ops.on_device(x)
    reads: list[int] = []
    true, ops.device.read = ops.device.read, lambda *_: reads.append(1)  # type: ignore[method-assign]
    order, axis = chance.sample(range(len(shape)), len(shape)), chance.randrange(len(shape))
    begin, place = chance.randint(0, shape[axis]), chance.randrange(shape[axis])
    whole = (slice(None),) * axis
    pairs = [
        (device.transpose(*order), x.transpose(order)), (device.transpose(order), x.transpose(order)), (device.T, x.T),
        (device[(*whole, slice(begin, None))], x[(*whole, slice(begin, None))]),
        (device[(*whole, slice(-1, 9))], x[(*whole, slice(-1, 9))]),
        (np.concatenate([device, device * 2], axis=axis), np.concatenate([x, x * 2], axis=axis)),
        (np.concatenate([device, device]), np.concatenate([x, x])),
        (np.stack([device, device * 2], axis=axis), np.stack([x, x * 2], axis=axis)),
        (np.stack([device, device * 2], axis=-1), np.stack([x, x * 2], axis=-1)),
        (np.clip(device, -0.5, np.float32(0.25)), np.clip(x, -0.5, np.float32(0.25))),
    ]  # fmt: skip
    if len(shape) > 1:
        pairs += [(device[(*whole, place)], x[(*whole, place)]), (device[(*whole, -1)], x[(*whole, -1)])]
    assert reads == []
    ops.device.read = true  # type: ignore[method-assign]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert np.array_equal(np.asarray(ours), theirs)


def test_what_the_device_has_not_is_numpys(ops: Cupy) -> None:
    """Shapes that do not fit are NumPy's errors; arrays of both sides are joined on the host."""
    x = random(1, 2, 3)
    device: Any = ops.on_device(x)
    assert np.array_equal(np.concatenate([device, x]), np.concatenate([x, x]))
    assert np.array_equal(np.clip(device, x * 0, 1), np.clip(x, 0, 1))
    assert np.array_equal(np.maximum.accumulate(device, axis=1), np.maximum.accumulate(x, axis=1))
    assert np.array_equal(np.take_along_axis(device, np.array([[1], [2]]), axis=1), [[x[0, 1]], [x[1, 2]]])
    assert np.array_equal(device[:, [0, 2]], x[:, [0, 2]])
    assert np.array_equal(device[:, ::-1], x[:, ::-1])
    assert np.array_equal(device[None], x[None])
    assert device.astype(np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="must match exactly"):
        np.concatenate([device, device[:, :1]])
    with pytest.raises(IndexError):
        device[:, 3]
    with pytest.raises(ValueError, match="repeated axis"):
        device.transpose(0, 0)
