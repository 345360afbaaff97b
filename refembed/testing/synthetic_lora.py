"""Small LoRA adapters with random weights, for any model file.

synthetic_lora("task.gguf", "tiny.gguf", rank=4, alpha=8.0)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refembed.gguf import GGUFWriter, open_gguf
from refembed.model.lora import EMBEDDING, A, B
from refembed.testing.synthetic import add_tensor


def synthetic_lora(
    path: str | Path,
    model: str | Path,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = 8.0,
    names: Collection[str] | None = None,
    keys: Mapping[str, tuple[Any, str]] | None = None,
    type_name: str = "F32",
) -> Path:
    """Write an adapter for a model file and return its path.

    rank, alpha  r, and adapter.lora.alpha; None leaves the key out
    names        which of the model's tensors get one; None: token_embd and every matrix of the layers
    keys         more keys, or others: {"adapter.type": ("other", "STRING")}
    type_name    of factors whose rows are whole blocks of it; the rest is F32
    """
    f = open_gguf(model)
    arch = f.metadata.string("general.architecture")
    facts: dict[str, tuple[Any, str]] = {"general.type": ("adapter", "STRING"), "adapter.type": ("lora", "STRING")}
    if alpha is not None:
        facts["adapter.lora.alpha"] = (alpha, "FLOAT32")
    facts |= dict(keys or {})
    w = GGUFWriter(facts.pop("general.architecture", (arch, ""))[0])
    for key, (value, kind) in facts.items():
        w.add(key, value, kind)
    rng = np.random.default_rng(seed)
    for name, t in f.tensors.items():
        if name in names if names is not None else name == EMBEDDING or ("blk." in name and len(t.shape) > 1):
            *experts, N, C = t.shape if len(t.shape) > 1 else (1, *t.shape)
            a, b = ((N, rank), (C, rank)) if name == EMBEDDING else ((*experts, rank, C), (*experts, N, rank))
            for end, shape in ((A, a), (B, b)):
                x = rng.standard_normal(shape) * (1 if name == EMBEDDING and end == A else 0.5 / math.sqrt(shape[-1]))
                add_tensor(w, name + end, x.astype(np.float32), type_name)
    return w.write(path)
