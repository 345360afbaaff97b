"""Architectures that `transformers` can build: hidden states of tiny random models in float64, layer for layer.

Converted by refembed, computed by refembed as published, and by PyTorch in float64. What is left in `exact` is what
PyTorch keeps in float32: RoPE's angles, RMS norms, the logarithms of T5's distances. RoBERTa has none of these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.convert.folder import convert
from tests.peers.folders import MODELS, build

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

# Largest error of numbers up to 2.7 to 6.6, exact and fast: about three times what was measured on an AMD EPYC
BOUNDS = {
    "qwen2": (1e-5, 2e-5),
    "qwen3": (3e-6, 2e-5),
    "llama": (6e-6, 2e-5),
    "olmo2": (3e-6, 1e-5),
    "seed_oss": (7e-6, 2.5e-5),
    "command-r": (6e-6, 1.5e-5),
    "ernie4_5": (1.2e-5, 1.7e-5),
    "qwen2moe": (1.3e-5, 3.4e-5),
    "qwen3moe": (4.5e-6, 1.7e-5),
    "olmoe": (6e-6, 2.2e-5),
    "exaone4": (2e-6, 8e-6),
    "starcoder2": (5e-7, 7e-6),
    "gpt2": (3e-11, 5e-6),
    "gemma3": (2e-6, 4e-6),
    "gemma-embedding": (2e-6, 4e-6),
    "modern-bert": (5e-6, 2e-5),
    "eurobert": (1e-5, 4e-5),
    "xlm-roberta": (1e-14, 5e-6),
    "roberta": (1e-14, 5e-6),
    "t5encoder": (2e-5, 4e-5),
    "t5encoder-gated": (3e-5, 9e-5),
    "llama3": (5e-6, 1.6e-5),
    "mistral": (7e-6, 2e-5),
    "smollm3": (5e-6, 1.4e-5),
    "granite": (3e-6, 5e-6),
    "phi-mini": (9e-6, 1.8e-5),
    "chatglm": (6e-6, 2.1e-5),
    "glm4": (7e-6, 1.7e-5),
    "hunyuan-dense": (4e-6, 9e-6),
    "cohere2": (4e-6, 1.5e-5),
    "gemma": (2e-6, 5e-6),
    "gemma2": (1.5e-6, 4e-6),
    "gptneox": (6e-7, 6e-6),
    "gptneox-serial": (4e-7, 8e-6),
    "bloom": (1.2e-6, 5e-6),
    "falcon": (1e-6, 9e-6),
    "falcon-two-norms": (8e-7, 6e-6),
    "mpt": (1.4e-6, 1.1e-5),
    "phi2": (5e-7, 6e-6),
    "stablelm": (5e-7, 1.9e-5),
    "stablelm-parallel": (4e-7, 8e-6),
    "stablelm-normed": (3e-7, 8e-6),
    "nemotron": (1.6e-5, 9e-5),
    "mamba": (1.5e-5, 4.3e-5),
    "mamba2": (4e-6, 1.2e-5),
    "falcon-h1": (1.3e-5, 2.3e-5),
    "granitemoe": (7e-6, 9e-6),
    "granitehybrid": (1.3e-5, 1.4e-5),
    "granitehybrid-dense": (5e-6, 9e-6),
    "lfm2": (5e-6, 1.7e-5),
    "qwen3next": (4e-5, 1.3e-4),
    "qwen35": (6e-5, 5e-5),
    "gpt-oss": (4.5e-6, 1e-5),
    "gpt-oss-yarn": (5.4e-6, 1.6e-5),
    "qwen35moe": (5.7e-5, 7e-5),
    "mixtral": (1.1e-5, 3e-5),
    "deepseek2": (3e-5, 9e-5),
    "deepseek3": (9.6e-6, 2.9e-5),
    "lfm2moe": (8.7e-6, 1e-5),
    "granite-micro": (1.4e-6, 4.5e-6),
    "granite-experts": (2.4e-6, 5.7e-6),
    "mistral3": (1e-5, 1.7e-5),
    "ministral3": (1.1e-5, 2.7e-5),
    "gemma3-images": (2e-6, 3.6e-6),
    "gemma4": (2.6e-6, 1.1e-5),
    "gemma4-experts": (3e-6, 9e-6),
    "gemma-embedding2": (1.3e-5, 3.3e-5),  # of numbers up to 22
}
GELU = ("gptneox", "gptneox-serial", "falcon", "falcon-two-norms", "mpt")  # itself; llama.cpp's is by tanh
DIFFER = (*GELU, "xlm-roberta", "roberta", "t5encoder", "t5encoder-gated")  # in its graph: docs/differences.md
TEXTS = [[5], [7, 30], list(range(20, 53)), [11, 11, 99, 4, 5, 6, 3]]


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import torch

    model = build(name, tmp_path)
    path = convert(tmp_path, tmp_path / "model.gguf")
    exact, fast = (Embedder.load(path, numerics=numerics, semantics="original") for numerics in ("exact", "fast"))
    graph, far = Embedder.load(path, numerics="exact"), 0.0
    for ids in TEXTS:
        with torch.no_grad():
            wanted: Any = model.base_model(torch.tensor([ids])).last_hidden_state[0].numpy()
        for e, bound in zip((exact, fast), BOUNDS[name], strict=True):
            error = np.abs(e.forward([ids]) - wanted).max()
            assert error < bound, (e.info.numerics, len(ids), error)
        far = max(far, np.abs(graph.forward([ids]) - wanted).max())
    assert (far > 1e-4) == (name in DIFFER), far
