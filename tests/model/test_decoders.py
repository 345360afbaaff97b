"""Decoders on small random models against live llama.cpp: every tensor, every optional one there and not there.

With float32 weights and a float32 cache only rounding is left. Largest error of one operation on llama.cpp's own
inputs, over the largest value: measured 5.5e-7 (xllamacpp 2026.10.11549, AVX-512 CPU); of a whole run 6.5e-6. Its RoPE
multiplies angles up in float32: 1.5e-6 at place 40. Its GELU comes from a table of float16 numbers, 2^-11 in and 2^-11
out: alone 9.1e-4, in whole runs 6.7e-4 (in a deep one more: rounding grows from layer to layer).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model import load_model
from refembed.model.batch import pack
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.replay import LocalDifference
from tests.model.family import Family
from tests.model.keys import BASE, EVERY_BIAS, FACTORS, LINEAR, NO_SCALING, PATTERN, QKV_BIAS, SEES_ALL, YARN

LOCAL, LOCAL_ROPE, LOCAL_GELU = 1e-6, 3e-6, 1.2e-3
WHOLE, WHOLE_GELU = 1.5e-5, 1.5e-3

LONGROPE = {"rope.scaling.type": ("longrope", "STRING")}
LOCAL_BASE = {"rope.freq_base_swa": (5e2, "FLOAT32")}
STRETCHED = {"rope.scaling.original_context_length": (32, "UINT32")}
FLAGS = {PATTERN: ([False, True, True], "ARRAY[BOOL]")}

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama":                       ("llama", {"K": 2}),
    "llama, mqa, three heads":     ("llama", {"H": 3, "K": 1, "D": 14, "optional": {"output.weight"}}),
    "llama, one head, one layer":  ("llama", {"H": 1, "n_layer": 1, "D": 8}),
    "llama, fused qkv":            ("llama", {"K": 3, "optional": {"attn_qkv.weight"}}),
    "llama, fused qkv with bias":  ("llama", {"K": 3, "optional": {"attn_qkv.weight", "attn_qkv.bias"}}),
    "llama, every bias":           ("llama", {"optional": EVERY_BIAS}),
    "llama, frequency factors":    ("llama", {"optional": {"rope_freqs.weight"}, "keys": BASE}),
    "llama, linear":               ("llama", {"keys": LINEAR}),
    "llama, old linear key":       ("llama", {"keys": {"rope.scale_linear": (2.0, "FLOAT32")}}),
    "llama, a factor, but none":   ("llama", {"keys": NO_SCALING}),
    "llama, yarn":                 ("llama", {"keys": YARN, "D": 24}),
    "llama, yarn that shrinks":    ("llama", {"keys": YARN | {"rope.scaling.factor": (0.5, "FLOAT32")}}),
    "llama, yarn, magnitude":      ("llama", {"keys": YARN | {"rope.scaling.attn_factor": (1.3, "FLOAT32")},
                                              "optional": {"rope_freqs.weight"}}),
    "llama, long factors":         ("llama", {"keys": LONGROPE | STRETCHED, "optional": FACTORS}),
    "llama, short factors":        ("llama", {"keys": LONGROPE, "optional": FACTORS}),
    "llama, sees all":             ("llama", {"keys": SEES_ALL}),
    "qwen2":                       ("qwen2", {"K": 2, "D": 6, "optional": QKV_BIAS}),
    "qwen2, no biases, linear":    ("qwen2", {"D": 6, "keys": LINEAR | BASE}),
    "qwen2, sees all":             ("qwen2", {"K": 3, "D": 6, "keys": SEES_ALL,
                                              "optional": {*QKV_BIAS, "output.weight", "output.bias"}}),
    "qwen3":                       ("qwen3", {"K": 2, "keys": BASE}),
    "qwen3, fused qkv, odd heads": ("qwen3", {"H": 5, "K": 1, "D": 12, "optional": {"attn_qkv.weight"}}),
    "qwen3, reranker, yarn":       ("qwen3", {"H": 7, "keys": YARN, "optional": {"cls.output.weight", *QKV_BIAS}}),
    "gemma3":                      ("gemma3", {"K": 2, "n_layer": 7, "keys": BASE}),
    "gemma3, mqa, window 1":       ("gemma3", {"H": 3, "K": 1, "window": 1}),
    "gemma3, a window over all":   ("gemma3", {"window": 200, "optional": {"output.weight"}}),
    "gemma3, no window":           ("gemma3", {"window": 0, "keys": BASE}),
    "gemma3, every other layer":   ("gemma3", {"keys": {PATTERN: (2, "UINT32")} | LINEAR | BASE}),
    "gemma3, pattern 0, base":     ("gemma3", {"keys": {PATTERN: (0, "UINT32")} | LOCAL_BASE}),
    "gemma3, flags, yarn":         ("gemma3", {"keys": YARN | FLAGS, "D": 24, "optional": {"attn_qkv.weight"}}),
    "gemma3, heads turn in part":  ("gemma3", {"keys": {"rope.dimension_count": (6, "UINT32")}}),
    "gemma3, sees all":            ("gemma3", {"keys": SEES_ALL}),
    "gemma3, 62 layers":           ("gemma3", {"n_layer": 62, "C": 30, "H": 3, "D": 4, "F": 8}),
}
# fmt: on


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
TRACED = ("llama", "qwen2", "qwen3, reranker, yarn", "gemma3, flags, yarn", "gemma3, Q8_0")  # every tensor's bits


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation."""
    return {"ROPE": LOCAL_ROPE, "GEGLU": LOCAL_GELU}.get(d.op, LOCAL)


def whole_of(variant: str) -> float:
    """Of a whole run: rounding grows from layer to layer, and GELU's table rounds more."""
    return math.inf if "62 layers" in variant else WHOLE_GELU if "gemma3" in variant else WHOLE


FAMILY = Family(
    ("gemma3", "llama", "qwen2", "qwen3"),
    VARIANTS | QUANTIZED | WIDE,
    bound_of,
    whole_of,
    classic="mean",
    flash="last",
    poolings=("none", "mean", "cls", "last"),
    small=lambda arch: {"K": 2, "D": 6, "n_layer": 6},
    P=512,
    lengths=lambda variant, flash: (1, 33, 70) if variant in TRACED else (),
)


def test_the_table_of_tokens_is_never_decoded_whole(tmp_path: Path) -> None:
    """262,144 rows of Gemma 3 would take 670 MB: rows are decoded when a token asks for them."""
    for arch in ("gemma3", "llama", "qwen2", "qwen3"):
        model = load_model(open_gguf(synthetic(tmp_path / f"{arch}.gguf", arch, D=6, optional={"output.weight"})))
        for ops in (load_ops("exact"), load_ops("fast")):
            model.forward(pack([[5, 6]]), ops)
            decoded = {w.name for w in ops.decoded}  # type: ignore[attr-defined]
            assert "output_norm.weight" in decoded
            assert not {"token_embd.weight", "output.weight"} & decoded
