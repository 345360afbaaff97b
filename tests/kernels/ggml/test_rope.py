"""Rotary embedding has the bits of ggml_rope_ext."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from refembed.gguf import GGUFWriter, open_gguf
from refembed.kernels.ggml.rope import rope
from refembed.kernels.ops import Rope
from tests import libm
from tests.kernels.ggml.graph_cases import ROPES, checksum, different, noise, recorded, rope_inputs
from tests.kernels.ggml.graph_ops import Graphs


@pytest.fixture(scope="module")
def ggml() -> Iterator[Graphs]:
    """The pinned wheel."""
    with Graphs() as graphs:
        yield graphs


@pytest.mark.oracle
@pytest.mark.parametrize("how", ROPES.values(), ids=ROPES)
def test_it_has_the_bits_of_ggml(ggml: Graphs, how: Rope) -> None:
    x, pos = rope_inputs(how)
    assert different(rope(x, pos, how), ggml.rope(x, pos, how)) == 0


@pytest.mark.oracle
@pytest.mark.parametrize("pairs", ["norm", "neox"])
def test_it_divides_angles_by_the_files_factors(ggml: Graphs, tmp_path: Path, pairs: Literal["norm", "neox"]) -> None:
    factors = 1 + 7 * np.abs(noise(5, 32))
    w = GGUFWriter("llama")
    w.add_tensor("rope_freqs.weight", factors, factors.shape, "F32")
    w.write(tmp_path / "factors.gguf")
    tensor = open_gguf(tmp_path / "factors.gguf").tensors["rope_freqs.weight"]
    how = Rope(64, pairs, 5e5, freq_scale=0.5)
    x, pos = rope_inputs(how)
    want = ggml.rope(x, pos, how, factors)
    assert different(rope(x, pos, replace(how, factors=tensor)), want) == 0
    assert different(rope(x, pos, how), want) > 0


@pytest.mark.parametrize("name", ROPES)
def test_it_has_the_bits_recorded_of_an_avx512_build(name: str) -> None:
    libm.need("powf", "logf", "cosf", "sinf")
    assert checksum(rope(*rope_inputs(ROPES[name]), ROPES[name])) == recorded()[f"rope {name}"]


def test_position_0_turns_nothing() -> None:
    x = noise(6, 1, 2, 64)
    assert different(rope(x, np.array([0]), Rope(64, "neox", 1e4)), x) == 0


def test_channels_behind_n_dims_stay() -> None:
    x, pos = rope_inputs(ROPES["a part, neox"])
    y = rope(x, pos, ROPES["a part, neox"])
    assert different(y[..., 32:], x[..., 32:]) == 0
    assert different(y[1:, :, :32], x[1:, :, :32]) > 0


def test_it_leaves_its_input_alone() -> None:
    x, pos = rope_inputs(ROPES["norm"])
    before = x.copy()
    rope(x, pos, ROPES["norm"])
    assert different(x, before) == 0
