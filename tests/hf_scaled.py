"""Tiny folders whose RoPE is stretched for texts longer than the model was first trained on, in each way there is.

Each is one of the folders in tests/data/converter-models.json with another config.json, the same bytes everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.hf_heads import headed

THETA = {"rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.25], "long_factor": [1.5, 6.0],
        "original_max_position_embeddings": 16, "partial_rotary_factor": 0.5}  # fmt: skip
TABLES: dict[str, tuple[str, dict[str, Any]]] = {  # base, and what goes over its config.json
    "qwen2-yarn": ("qwen2", {"rope_parameters": THETA | YARN}),
    "qwen3-yarn": ("qwen3", {"rope_parameters": THETA | YARN | {"beta_fast": 32, "beta_slow": 1}}),
    "smollm3-yarn": ("smollm3", {"rope_parameters": THETA | YARN}),
    "llama-linear": ("llama", {"rope_parameters": THETA | {"rope_type": "linear", "factor": 4.0}}),
    "qwen3-older-yarn": (  # as files of transformers 4 spell it
        "qwen3", {"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": YARN | {"type": "yarn"}},
    ),
    "gemma3-linear": ("gemma3", {"rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": THETA | {"rope_type": "default"},
    }}),
    "gemma-embedding-linear": ("gemma-embedding", {"rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": THETA | {"rope_type": "default"},
    }}),
    "exaone4-llama3": ("exaone4", {"rope_parameters": THETA | LLAMA3}),
    "mistral-llama3": ("mistral", {"rope_parameters": THETA | LLAMA3}),
    "mistral-dynamic": ("mistral", {"rope_parameters": THETA | {"rope_type": "dynamic", "factor": 2.0}}),
    "longrope": (
        "phi-mini", {"rope_parameters": THETA | LONG, "original_max_position_embeddings": 16},
    ),
    "hunyuan-alpha": ("hunyuan-dense", {
        "rope_parameters": THETA | {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0},
        "max_position_embeddings": 32768,
    }),
}  # fmt: skip


def build(name: str, parent: Path, **rope: Any) -> Path:
    """Write the folder of that name below `parent`; `rope` goes over its rope_parameters."""
    parent.mkdir(parents=True, exist_ok=True)
    base, config = TABLES[name]
    if rope:
        config = config | {"rope_parameters": config["rope_parameters"] | rope}
    return headed(base, parent / name, config, {})
