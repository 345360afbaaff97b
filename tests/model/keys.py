"""Keys, without their architecture, and optional tensors that tests of several architectures ask `synthetic` for."""

from __future__ import annotations

from typing import Any, TypeAlias

Keys: TypeAlias = "dict[str, tuple[Any, str]]"  # key -> value and type, as `synthetic` takes them

PATTERN = "attention.sliding_window_pattern"
LINEAR = {"rope.scaling.type": ("linear", "STRING"), "rope.scaling.factor": (8.0, "FLOAT32")}
NO_SCALING = LINEAR | {"rope.scaling.type": ("none", "STRING")}
YARN = {
    "rope.scaling.type": ("yarn", "STRING"),
    "rope.scaling.factor": (4.0, "FLOAT32"),
    "rope.scaling.original_context_length": (32, "UINT32"),
}
BASE = {"rope.freq_base": (1e6, "FLOAT32")}
BASES = BASE | {"rope.freq_base_swa": (5e2, "FLOAT32")}
IN_PART = {"rope.dimension_count": (4, "UINT32")}
SEES_ALL, LOOKS_BACK = ({"attention.causal": (causal, "BOOL")} for causal in (False, True))
WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
HEADS_OF_8 = dict.fromkeys(WIDTHS, (8, "UINT32"))

QKV_BIAS = {"attn_q.bias", "attn_k.bias", "attn_v.bias"}
EVERY_BIAS = QKV_BIAS | {"attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias"}
FUSED, FUSED_BIAS = {"attn_qkv.weight"}, {"attn_qkv.weight", "attn_qkv.bias"}
FACTORS = {"rope_factors_long.weight", "rope_factors_short.weight"}
WIDE = {"C": 96, "F": 64, "H": 3, "D": 32}  # sizes: whole blocks of 32 weights in every row


def floats(**keys: float) -> Keys:
    """Keys with FLOAT32 values; __ stands for a dot."""
    return {key.replace("__", "."): (value, "FLOAT32") for key, value in keys.items()}


def heads_kv(*counts: int) -> Keys:
    """Heads of keys, a number for each layer."""
    return {"attention.head_count_kv": (list(counts), "ARRAY[UINT32]")}


def kv(n: int) -> Keys:
    """Heads of keys, the same number in all layers."""
    return {"attention.head_count_kv": (n, "UINT32")}


def sections(*counts: int) -> Keys:
    """Pairs of each of the four streams of positions (Qwen3-VL)."""
    return {"rope.dimension_sections": (list(counts), "ARRAY[INT32]")}


def every(n: int) -> Keys:
    """Experts in every n-th layer."""
    return {"moe_every_n_layers": (n, "UINT32")}


def activation(name: str) -> Keys:
    """ModernBERT's activation function."""
    return {"hidden_activation": (name, "STRING")}
