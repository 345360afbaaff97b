"""The models that verify's faults are planted in: MiniLM, and small decoders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed import Embedder
from refembed.gguf import GGUFWriter, open_gguf
from refembed.testing.synthetic import synthetic

IN_PART = {"rope.dimension_count": (4, "UINT32")}
EVERY_OTHER = {"attention.sliding_window_pattern": (2, "UINT32"), "rope.freq_base": (1e6, "FLOAT32")}
GROUPS = {f"expert_{name}_count": (n, "UINT32") for name, n in (("group", 4), ("group_used", 2), ("shared", 1))}
WEIGHED = {"expert_weights_norm": (True, "BOOL"), "expert_weights_scale": (2.5, "FLOAT32")}
YARN = {
    "rope.scaling.type": ("yarn", "STRING"), "rope.scaling.factor": (4.0, "FLOAT32"),
    "rope.scaling.original_context_length": (64, "UINT32"), "rope.scaling.yarn_log_multiplier": (0.0707, "FLOAT32"),
}  # fmt: skip
NORM_GROUPS = {"attention.group_norm_groups": (4, "UINT32")}
BUSY = ("exp_probs_b.bias",)
OF_VALUES = ("attn_gate.weight", "attn_v_gate.bias", *BUSY)
SHARED_KV = {"attention.shared_kv_layers": (3, "UINT32"), "rope.freq_base": (1e6, "FLOAT32")}
DECODERS: dict[str, dict[str, Any]] = {  # architecture -> arguments of `synthetic`
    "gemma3": {"K": 2, "n_layer": 6, "window": 8},
    # layers that are built otherwise
    "bloom": {},
    "cohere2": {"K": 2, "n_layer": 4},
    "exaone4": {"K": 2},
    "gpt2": {},
    "gptneox": {"keys": IN_PART},
    "mpt": {"keys": {"attention.clamp_kqv": (0.7, "FLOAT32"), "attention.max_alibi_bias": (8.0, "FLOAT32")}},
    "nemotron": {"K": 2, "keys": IN_PART},
    "olmo2": {"K": 2, "window": 0},
    "phi2": {"keys": IN_PART},
    # experts, per-layer inputs, layers of two kinds
    "gpt-oss": {"K": 2, "X": 5, "window": 8, "n_layer": 4, "optional": ("attn_q.bias", "attn_k.bias", "attn_v.bias")},
    "qwen3moe": {"K": 2, "X": 6, "n_used": 3},
    "qwen2moe": {"K": 2, "X": 5},
    "lfm2moe": {"K": 2, "X": 5, "n_used": 3, "n_layer": 4, "optional": BUSY},
    "deepseek2": {"X": 8, "n_used": 3, "optional": BUSY, "keys": GROUPS | WEIGHED | YARN},
    "k2-horizon": {"K": 2, "X": 6, "n_used": 3, "optional": OF_VALUES, "keys": WEIGHED | NORM_GROUPS},
    "gemma-embedding2": {"K": 2, "n_layer": 4, "window": 8, "keys": EVERY_OTHER},
    "gemma3n": {"K": 2, "n_layer": 2},
    "gemma4": {"K": 2, "n_layer": 6, "window": 8, "optional": ("attn_v.weight",), "keys": SHARED_KV},
    # layers that keep a state
    "qwen35": {"K": 2, "n_layer": 4, "conv": 4},
    "mamba2": {"n_layer": 2, "conv": 4},
    "rwkv7": {"C": 64, "n_layer": 2},
}


def models(folder: Path) -> dict[str, Embedder]:
    """What is broken, by the name that a fault has for it."""
    size: dict[str, Any] = {"P": 256, "pooling": 3, "V": 300}
    minilm = Embedder.load("minilm", numerics="fast")
    qwen3 = cased(synthetic(folder / "qwen3.gguf", "qwen3", K=2, **size), folder / "qwen3-cased.gguf")
    paths = {arch: synthetic(folder / f"{arch}.gguf", arch, **size | more) for arch, more in DECODERS.items()}
    decoders = {n: Embedder.load(p, numerics="fast") for n, p in ({"qwen3": qwen3} | paths).items()}
    return {"minilm": minilm, "minilm-512": minilm, **decoders}


def cased(path: Path, target: Path) -> Path:
    """The file with a tokenizer that knows capitals from small letters."""
    f = open_gguf(path)
    w = GGUFWriter(f.metadata.string("general.architecture"))
    w.copy_keys(f.metadata)
    w.add("tokenizer.ggml.normalizer.lowercase", False, "BOOL")
    for t in f.tensors.values():
        w.add_tensor(t.name, t.dequantize(), t.shape, "F32")
    w.write(target)
    return target
