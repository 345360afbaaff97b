"""Codes, scales and minima of quantized weights are the weights that ggml decodes."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.gguf import BY_NAME, Tensor
from refembed.kernels.quant.codes import HALVES, MIDDLE, MINIMA, SCALES, codes_of, group_of, has_codes, scales_of
from refembed.kernels.quant.dequant import FAMILY

N, C = 12, 512


def any_blocks(name: str, byteorder: str = "<") -> Tensor:
    """Random bytes as a matrix of that type, less blocks with numbers that are not finite."""
    type_ = BY_NAME[name]
    rng = np.random.default_rng(len(name))
    raw = rng.integers(0, 256, (4 * N * C // type_.weights, type_.nbytes), np.uint8)
    decoded = Tensor(name, (len(raw), type_.weights), type_, raw.reshape(-1), 0, byteorder).dequantize()  # type: ignore[arg-type]
    keep = np.isfinite(decoded).all(axis=1) & (np.abs(decoded).max(axis=1) < 1e30)
    blocks = raw[keep][: N * C // type_.weights]
    return Tensor(name, (N, C), type_, np.ascontiguousarray(blocks).reshape(-1), 0, byteorder)  # type: ignore[arg-type]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("name", SCALES)
def test_codes_times_scales_are_the_decoded_weights(name: str, byteorder: str) -> None:
    """To the bit; with a minimum, whose sum ggml rounds, too: it is rounded here likewise."""
    w = any_blocks(name, byteorder)
    u, (s, m) = codes_of(w)
    group = group_of(w.type)
    assert s.shape == (N, C // group)
    signed = u.astype(np.float32) - (MIDDLE if m is None else 0)
    with np.errstate(all="ignore"):
        value = signed * np.repeat(s, group, axis=1) + (0 if m is None else np.repeat(m, group, axis=1))
    assert np.array_equal(value, w.dequantize())
    assert len(np.unique(u)) > 2 or name == "Q1_0"


@pytest.mark.parametrize("name", SCALES)
def test_rows_have_scales_of_their_own(name: str) -> None:
    w = any_blocks(name)
    whole, some = scales_of(w, 0, N), scales_of(w, 3, 7)
    for a, b in zip(whole, some, strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a[3:7], b)


def test_every_type_that_is_quantized_has_codes() -> None:
    """Q8_1 and Q8_K are for activations; ggml decodes neither."""
    assert set(FAMILY) - set(SCALES) == {"F16", "BF16", "Q8_1", "Q8_K"}
    assert set(SCALES) >= HALVES | MINIMA


def test_what_is_no_matrix_of_whole_blocks_has_none() -> None:
    w = any_blocks("Q8_0")
    assert has_codes(w)
    assert not has_codes(Tensor("v", (N * C,), w.type, w.raw, 0, "<"))
    assert not has_codes(Tensor.of(np.zeros((2, 32))))


def test_a_scale_of_zero_has_the_code_of_zero() -> None:
    b = np.zeros(1, BY_NAME["Q4_K"].block)
    b["dmin"], b["scales"][0, 4] = 0.25, 2
    u, (_, m) = codes_of(Tensor("w", (1, 256), BY_NAME["Q4_K"], b.view(np.uint8), 0, "<"))
    assert (u == 0).all()
    assert m is not None
    assert m[0, 0] == -0.5
