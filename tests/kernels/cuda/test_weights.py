"""Decoding on the device: every type, bit for bit as the definitions, which have ggml's bits; rows; a memory budget."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import RequestError
from refembed.gguf import QUANT_TYPES, Tensor
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.quant.dequant import dequantize
from refembed.kernels.quant.row_blocks import row_blocks
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.longhand import random, stored
from tests.kernels.quant.test_dequant import differ, random_blocks, swapped

TYPES = {t.name: t for t in QUANT_TYPES}


def tensor(name: str, rows: int, blocks: int, raw: Any, byteorder: Any = "<") -> Tensor:
    """A matrix of that type."""
    return Tensor("w", (rows, blocks * TYPES[name].weights), TYPES[name], raw, 0, byteorder)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_decoded_to_the_definitions_bits(ops: Cupy, built: Path, name: str) -> None:
    """Random bytes: every scale is met, subnormal, infinite and NaN ones included. 30 blocks, and rows of them."""
    raw = random_blocks(name, 30)
    with np.errstate(all="ignore"):
        want = dequantize(raw, TYPES[name]).reshape(5, -1)
    w = tensor(name, 5, 6, raw)
    assert differ(np.asarray(ops.weight(w)), want) == 0
    picked = np.asarray(Cupy(OnCpu(built)).get_rows(w, [4, 0, 4]))
    assert differ(picked, want[[4, 0, 4]]) == 0
    other = tensor(name, 5, 6, swapped(raw, name), ">")
    assert differ(np.asarray(Cupy(OnCpu(built)).weight(other)), want) == 0


@pytest.mark.parametrize("name", ["F32", "Q8_0", "IQ2_S"])
def test_a_memory_budget_changes_no_bits(built: Path, name: str) -> None:
    """A matrix of two parts, decoded once, or each time it is used."""
    k = 256 * 8
    rows = row_blocks(10_000, k)[0][1] + 5
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 256, rows * k // TYPES[name].weights * TYPES[name].nbytes, np.uint8)
    if name == "F32":
        raw = random(1, rows, k).view(np.uint8).reshape(-1)
    else:  # scales near 1
        blocks = raw.view(TYPES[name].block)
        blocks["d"] = rng.uniform(0.5, 2, len(blocks))
    w, bias, x = Tensor("w", (rows, k), TYPES[name], raw, 0, "<"), stored(random(2, rows), "b"), random(3, 1, k)
    kept, mapped = (Cupy(OnCpu(built), memory_budget=budget) for budget in (4 * rows * k, "mapped"))
    first = np.asarray(kept.linear(x, w, bias))
    assert first.tobytes() == np.asarray(mapped.linear(x, w, bias)).tobytes()
    assert np.isfinite(first).all()
    assert (w in kept.weights.decoded, w in mapped.weights.decoded) == (True, False)
    assert kept.weights.budget.room == 0


def test_a_matrix_that_is_gone_gives_its_room_back(built: Path) -> None:
    """The second and third are kept as the first was, though the budget has room for one."""
    x = random(1, 2, 32)
    ops = Cupy(OnCpu(built), memory_budget=4 * 64 * 32)
    for i in range(3):
        w = stored(random(i, 64, 32), f"w{i}")
        ops.linear(x, w)
        assert w in ops.weights.decoded
        assert ops.weights.budget.room == 0
        del w
        gc.collect()
        assert ops.weights.budget.room == 4 * 64 * 32


def test_a_budget_that_is_none_is_refused(built: Path) -> None:
    with pytest.raises(RequestError, match="memory budget -1"):
        Cupy(OnCpu(built), memory_budget=-1)
