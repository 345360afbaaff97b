"""Attention inside real graphs: llama.cpp's own inputs go in, its own tensors come out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.kernels.ggml.attention import attention
from refembed.kernels.ggml.profile import load_profile
from refembed.kernels.ops import BIDIRECTIONAL, AttentionMask, AttentionSpec
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.kernels.ggml.graph_cases import Shown, used
from tests.kernels.ggml.graph_tiny import MODELS, tiny
from tests.kernels.ggml.graph_trace import layers, traced_together

pytestmark = pytest.mark.oracle


def wrong(
    trace: Any,
    masks: tuple[AttentionMask, ...],
    D: int,
    scale: float,
    flash: bool,
    offsets: tuple[int, ...] | None = None,
    **options: Any,
) -> dict[str, int]:
    """Of each tensor of each layer's attention, how many elements have other bits than ours; those with any."""
    ends, profile = np.array(offsets or (0, len(trace.meta["tokens"]))), load_profile(flash_attn=flash)
    found, count = {}, 0
    for il, (q, k, v, shown) in enumerate(layers(trace)):
        got, spec = Shown(), AttentionSpec(q.shape[1] // D, k.shape[1] // D, scale, masks[il], **options)
        got["kqv_out"] = attention(q, k, v, spec, ends, got, profile=profile)
        assert set(got) == set(shown)
        for name, want in used(shown, len(q)).items():
            bits = [np.ascontiguousarray(x, np.float32).view(np.uint32).ravel() for x in (want, got[name])]
            found[f"{name}-{il}"] = int((bits[0] != bits[1]).sum())
            count += 1
    assert count == len(masks) * (1 if flash else len(shown))
    return {name: n for name, n in found.items() if n}


@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
@pytest.mark.parametrize("arch", MODELS)
def test_tiny_models_of_every_kind_of_mask(tmp_path: Path, arch: str, flash: bool) -> None:
    cached = arch == "gemma2"
    options = {"cached": True, "soft_cap": 5.0} if cached else {}
    with LlamaCpp(tiny(tmp_path / "tiny.gguf", arch), flash_attn=flash, pooling="none") as engine:
        for T in (300, 1, 5, 40, 70):  # the long text first: it leaves its keys in the cache
            trace = engine.trace([i * i % 50 for i in range(T)])
            assert wrong(trace, MODELS[arch][1], 16, 1.0 if cached else 0.25, flash, **options) == {}


@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
@pytest.mark.parametrize("arch", MODELS)
def test_several_texts_in_one_ubatch(tmp_path: Path, arch: str, flash: bool) -> None:
    cached = arch == "gemma2"
    options = {"cached": True, "soft_cap": 5.0} if cached else {}
    path = tiny(tmp_path / "tiny.gguf", arch)
    for ends in ((0, 5, 30, 31), (0, 40, 130, 270)):
        texts = [[(7 * i + begin) % 50 for i in range(end - begin)] for begin, end in pairwise(ends)]
        trace = traced_together(path, flash, texts)
        assert wrong(trace, MODELS[arch][1], 16, 1.0 if cached else 0.25, flash, ends, **options) == {}


@pytest.mark.parametrize("flash", [False, True], ids=["classic", "flash"])
def test_minilm(minilm: Path, flash: bool) -> None:
    with LlamaCpp(minilm, flash_attn=flash) as engine:
        for text in ("hello", "The cat sat on the mat. " * 4, "Rain falls on green hills. " * 20):
            assert wrong(engine.trace(text), (BIDIRECTIONAL,) * 6, 32, 32**-0.5, flash) == {}
