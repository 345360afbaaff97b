"""Every optional tensor of BERT, there and not there, on small random models against live llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, ModelError
from refembed.verify.compare.align import align
from refembed.verify.compare.replay import replay
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import without
from tests.tiny import VOCAB, tiny_bert

pytestmark = pytest.mark.oracle

# largest error of one operation on llama.cpp's own inputs, over the largest value: measured 4.4e-7 (xllamacpp
# 2026.10.11549, AVX-512 CPU); GELU comes from a table of float16 numbers, 2^-11 in and 2^-11 out: measured 5.6e-4
LOCAL, LOCAL_GELU = 1e-6, 1e-3
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fused qkv": {"fused_qkv": True},
    "no biases": {"biases": False},
    "fused qkv, no biases": {"fused_qkv": True, "biases": False},
    "no token types": {"token_types": False},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "odd sizes": {"C": 36, "F": 50, "n_head": 3, "P": 41},
    "large eps": {"eps": 0.5},
    "cls pooling": {"pooling": 2},
    "no pooling key": {"pooling": None},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_of_every_variant_is_llama_cpps(variant: str, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "t.gguf", seed=len(variant), **VARIANTS[variant])
    e = Embedder.load(path)
    rng = np.random.default_rng(1)
    for length in (1, 7, min(40, e.info.n_ctx)):
        ids = [int(i) for i in rng.integers(0, len(VOCAB), length)]
        with LlamaCpp(path, flash_attn=False, extra_buffer_types=False) as engine:
            theirs = engine.trace(ids)
        ours = e.trace(ids)
        found = align(ours, theirs)
        assert not found.ours_only, [ours.tensors[i].name for i in found.ours_only]
        assert not found.theirs_only, [theirs.tensors[i].name for i in found.theirs_only]
        for d in replay(lambda tap, ids=ids: e.trace(ids, tap=tap), theirs):  # type: ignore[misc]
            bound = LOCAL_GELU if "gelu" in d.name else LOCAL
            assert d.difference.rel_peak <= bound, f"{d.name} ({length} tokens): {d.difference}"


def test_llama_cpp_refuses_what_we_refuse(tmp_path: Path) -> None:
    """A file with a tensor too few is no model to either."""
    path = tiny_bert(tmp_path / "t.gguf")
    less = without(path, tmp_path / "less.gguf", "blk.1.ffn_down.weight", "blk.1.ffn_down.bias")
    with pytest.raises(EngineError):
        LlamaCpp(less).embed([[1, 2]])
    with pytest.raises(ModelError, match=r"missing    blk.1.ffn_down.weight"):
        Embedder.load(less)
