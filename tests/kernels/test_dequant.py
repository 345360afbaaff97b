"""Decoding blocks, little-endian and big-endian, against gguf-py's quantisers and numbers known by construction."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest

from refembed.errors import ModelError
from refembed.gguf import BY_NAME, QUANT_TYPES
from refembed.kernels.dequant import dequantize

DECODED = [t for t in QUANT_TYPES if t.name not in ("Q8_1", "Q8_K", "Q1_0", "Q2_0", "I8", "I16", "I32", "I64")]


def swapped(raw: Any, name: str) -> Any:
    """The same blocks with each field's bytes in the other order, as a big-endian file has them."""
    t = BY_NAME[name].block
    out = np.zeros(raw.size // t.itemsize, t.newbyteorder(">"))
    out[:] = raw.view(t)
    return out.view(np.uint8)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64", "Q8_0", "Q4_0", "Q5_1"])
def test_numbers_that_a_type_holds_come_back(name: str) -> None:
    """Small whole numbers are exact in every float type; blocks of -127 to 127 step 1 are exact in Q8_0 alone."""
    x = np.tile(np.arange(-8, 8, dtype=np.float32), 8)  # 128 = 4 blocks of 32
    if name == "F64":
        raw = x.astype("<f8").view(np.uint8)
    else:
        raw = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).view(np.uint8).reshape(-1)
    got = dequantize(raw, BY_NAME[name])
    assert got.dtype == np.float32
    step = {"Q8_0": 8 / 127, "Q4_0": 1.0, "Q5_1": 15 / 31}.get(name, 0)
    assert np.abs(got - x).max() <= step / 2 + 1e-3 * bool(step)


@pytest.mark.parametrize("name", [t.name for t in DECODED])
def test_a_big_endian_file_decodes_to_the_same_numbers(name: str) -> None:
    rng = np.random.default_rng(len(name))
    raw = rng.integers(0, 256, 4 * BY_NAME[name].nbytes, np.uint8)
    with np.errstate(all="ignore"):
        little, big = dequantize(raw, BY_NAME[name], "<"), dequantize(swapped(raw, name), BY_NAME[name], ">")
    assert np.array_equal(little, big, equal_nan=True)


@pytest.mark.parametrize("name", ["Q8_1", "Q1_0", "I32"])
def test_a_type_without_a_decoder_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"tensor type {name} .* has no decoder"):
        dequantize(np.zeros(BY_NAME[name].nbytes, np.uint8), BY_NAME[name])
