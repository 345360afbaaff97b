"""Decoders in the `ggml` numerics: vectors and tensors of every variant have llama.cpp's bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refembed.testing.synthetic import synthetic
from tests.model.bits import Bits, some_ids
from tests.model.test_decoders import VARIANTS

pytestmark = pytest.mark.oracle

QUANTIZED: dict[str, tuple[str, dict[str, Any]]] = {
    f"{arch}, {kind}": (arch, {"type_name": kind, "C": 64, "H": 2, "K": 1, "D": 32, "F": 96})
    for arch in ("llama", "qwen2", "qwen3", "gemma3")
    for kind in ("F16", "Q8_0", "Q4_0")
} | {
    f"{arch}, {kind}": (arch, {"type_name": kind, "C": 256, "H": 4, "K": 2, "D": 64, "F": 512, "n_layer": 2})
    for arch in ("llama", "gemma3")
    for kind in ("Q4_K", "Q6_K", "IQ4_XS")
}
WIDE: dict[str, tuple[str, dict[str, Any]]] = {"gemma3, heads of 96": ("gemma3", {"C": 48, "H": 2, "D": 96})}
SWITCHES = [("mean", False, False), ("last", True, True)]  # pooling, flash attention, interleaved weights


@pytest.mark.parametrize("switches", SWITCHES, ids=["plain", "flash-repack"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS | QUANTIZED | WIDE if "62 layers" not in v])
def test_vectors_have_llama_cpp_s_bits(variant: str, switches: tuple[str, bool, bool], tmp_path: Path) -> None:
    """Texts of 1 to 131 tokens, and four in one batch."""
    arch, sizes = (VARIANTS | QUANTIZED | WIDE)[variant]
    bits = Bits(synthetic(tmp_path / "m.gguf", arch, seed=len(variant), **{**sizes, "P": 512}), *switches)
    with bits.engine() as engine:
        assert bits.differing(engine) == {}


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3, reranker, yarn", "gemma3, flags, yarn", "gemma3, Q8_0"])
def test_every_tensor_has_llama_cpp_s_bits(variant: str, tmp_path: Path) -> None:
    """Each operation on llama.cpp's own inputs."""
    arch, sizes = (VARIANTS | QUANTIZED)[variant]
    for switches in SWITCHES:
        bits = Bits(synthetic(tmp_path / "m.gguf", arch, seed=1, **{**sizes, "P": 512}), *switches)
        with bits.engine() as engine:
            assert [bits.wrong(engine.trace(some_ids(n))) for n in (1, 33, 70)] == [[], [], []]
