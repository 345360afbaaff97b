"""Decoders with experts, and the families around them, against live llama.cpp: Qwen with experts, gpt-oss, Gemma 4 ...

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
Largest error of one operation on llama.cpp's own inputs, over the largest value: measured 6.2e-7 (xllamacpp
2026.10.11549, AVX-512 CPU), of RoPE 1.4e-6, of GELU from llama.cpp's table 8.8e-4; of a whole run 1.3e-5, with GELU
5.4e-3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refembed.model.qwen2vl import still
from refembed.verify.compare.replay import LocalDifference
from tests.model.family import Family
from tests.model.faults import Fault
from tests.model.keys import (
    BASE,
    BASES,
    FACTORS,
    FUSED,
    FUSED_BIAS,
    IN_PART,
    LINEAR,
    LOOKS_BACK,
    PATTERN,
    QKV_BIAS,
    SEES_ALL,
    WIDE,
    YARN,
    Keys,
    heads_kv,
    sections,
)

LOCAL, LOCAL_ROPE, LOCAL_GELU, WHOLE, WHOLE_GELU = 1e-6, 3e-6, 1.2e-3, 2e-5, 1e-2
# 25 layers of random weights turn the rounding of GELU's table into other attention: a whole run differs by 1.2
WHOLE_DEEP = math.inf
ROPE_OF_512 = 1.5e-5  # of heads of 512 channels, whose angles are multiplied up 256 times: measured 5.7e-6
ONE_NUMBER = 1e-5  # of a token's only number, over itself: measured 3.4e-6, where 1.0e-7 was off in one of 0.03

ARCHS = ("gemma3n", "gemma4", "gpt-oss", "llada-moe", "olmoe", "phimoe", "qwen2moe", "qwen2vl", "qwen3moe")
UINT32 = "UINT32"
LONGROPE = {"rope.scaling.type": ("longrope", "STRING"), "rope.scaling.original_context_length": (32, UINT32)}
VALUES, OUTPUT = {"attn_v.weight"}, {"output.weight"}
SCALES = {"layer_output_scale.weight", "ffn_down_exps.scale"}
ONE_MATRIX = {"ffn_gate_up_exps.weight"}
NO_PER_LAYER = {"embedding_length_per_layer_input": (0, UINT32)}
WINDOWS_OF_6 = {PATTERN: ([True, True, False] * 2, "ARRAY[BOOL]")}
EVERY_OTHER_OF_4 = {PATTERN: ([True, False] * 2, "ARRAY[BOOL]")}


def experts(width: int, shared: int = 0) -> Keys:
    """Feed-forward width of each expert, and of the one that every token takes."""
    keys: Keys = {"expert_feed_forward_length": (width, UINT32)}
    return keys | ({"expert_shared_feed_forward_length": (shared, UINT32)} if shared else {})


def shared_kv(n: int) -> Keys:
    """So many last layers read the keys and values of earlier ones."""
    return {"attention.shared_kv_layers": (n, UINT32)}


def swa(width: int, turns: int | None = None) -> Keys:
    """Heads of that width where the window is, of which as many channels turn."""
    names = ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa")
    return dict.fromkeys(names, (width, UINT32)) | {names[2]: (turns or width, UINT32)}


def widths(*F: int) -> Keys:
    """Feed-forward width of each layer."""
    return {"feed_forward_length": (list(F), "ARRAY[UINT32]")}


# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3moe":                     ("qwen3moe", {"K": 2, "X": 6, "keys": BASE}),
    "qwen3moe, narrow, biases":     ("qwen3moe", {"K": 3, "n_used": 3, "keys": experts(14) | YARN, "D": 24, "H": 3,
                                                  "optional": QKV_BIAS | OUTPUT}),
    "qwen3moe, fused, sees all":    ("qwen3moe", {"H": 5, "K": 1, "X": 3, "n_used": 1, "optional": FUSED_BIAS,
                                                  "keys": SEES_ALL | LINEAR}),
    "qwen3moe, Q8_0":               ("qwen3moe", {**WIDE, "K": 1, "type_name": "Q8_0", "keys": experts(32)}),
    "gpt-oss":                      ("gpt-oss", {"K": 2, "X": 5, "n_layer": 4, "optional": QKV_BIAS,
                                                 "keys": YARN, "D": 24, "H": 4}),
    "gpt-oss, no biases":           ("gpt-oss", {"K": 3, "n_used": 1, "window": 5, "keys": BASES}),
    "gpt-oss, fused, sees all":     ("gpt-oss", {"H": 5, "K": 1, "n_used": 4, "optional": FUSED_BIAS, "window": 3,
                                                 "keys": SEES_ALL | {PATTERN: (3, UINT32)}}),
    "gpt-oss, MXFP4":               ("gpt-oss", {**WIDE, "K": 1, "type_name": "MXFP4", "optional": QKV_BIAS,
                                                 "keys": experts(32)}),
    "gpt-oss, Q8_0":                ("gpt-oss", {**WIDE, "K": 3, "type_name": "Q8_0", "keys": experts(64)}),
    "gemma3n":                      ("gemma3n", {"K": 2, "n_layer": 6, "keys": BASE}),
    "gemma3n, shared keys":         ("gemma3n", {"H": 3, "K": 1, "C": 24, "F": 30, "n_layer": 25, "window": 5,
                                                 "optional": QKV_BIAS | OUTPUT, "keys": BASES}),
    "gemma3n, fused, sees all":     ("gemma3n", {"H": 3, "K": 3, "D": 14, "optional": FUSED_BIAS,
                                                 "keys": SEES_ALL | LINEAR | {PATTERN: (2, UINT32)}}),
    "gemma3n, Q8_0":                ("gemma3n", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "gemma4":                       ("gemma4", {"K": 2, "n_layer": 6, "optional": VALUES | SCALES,
                                                "keys": BASE | WINDOWS_OF_6 | shared_kv(3)}),
    "gemma4, experts":              ("gemma4", {"K": 3, "X": 5, "D": 14, "n_layer": 4, "optional": SCALES | ONE_MATRIX,
                                                "keys": EVERY_OTHER_OF_4 | NO_PER_LAYER | swa(10, 8) |
                                                BASES | heads_kv(3, 1, 2, 1)}),
    "gemma4, experts, two matrices": ("gemma4", {"X": 4, "n_used": 3, "optional": VALUES, "window": 3,
                                                 "keys": IN_PART | SEES_ALL}),
    "gemma4, widths by layer":      ("gemma4", {"H": 3, "K": 1, "n_layer": 4, "E": 7, "optional": FUSED | OUTPUT,
                                                "keys": EVERY_OTHER_OF_4 | shared_kv(2) | widths(50, 40, 90, 20)}),
    "gemma4, as published":         ("gemma4", {"n_layer": 3, "C": 64, "H": 4, "D": 512, "optional": SCALES | VALUES,
                                                "keys": swa(256) | heads_kv(2, 2, 1) | NO_PER_LAYER}),
    "gemma4, Q8_0":                 ("gemma4", {**WIDE, "K": 1, "E": 32, "X": 4, "optional": SCALES,
                                                "keys": experts(32), "type_name": "Q8_0"}),
    "qwen2moe":                     ("qwen2moe", {"C": 40, "H": 4, "K": 2, "X": 5, "n_used": 3, "optional": QKV_BIAS}),
    "qwen2moe, widths of its own":  ("qwen2moe", {"C": 36, "H": 6, "K": 1,
                                                  "keys": experts(14, shared=30) | LINEAR}),
    "qwen2moe, fused, sees all":    ("qwen2moe", {"K": 3, "n_used": 1, "optional": FUSED_BIAS,
                                                  "keys": SEES_ALL | BASE}),
    "qwen2moe, Q8_0":               ("qwen2moe", {**WIDE, "K": 1, "type_name": "Q8_0", "keys": experts(32)}),
    "olmoe":                        ("olmoe", {"X": 6, "n_used": 3, "keys": BASE}),
    "olmoe, biases, yarn":          ("olmoe", {"C": 72, "H": 3, "optional": QKV_BIAS, "keys": YARN}),
    "olmoe, fused, sees all":       ("olmoe", {"C": 40, "H": 5, "n_used": 1, "optional": FUSED_BIAS,
                                            "keys": SEES_ALL}),
    "olmoe, Q8_0":                  ("olmoe", {**WIDE, "type_name": "Q8_0"}),
    "qwen2vl":                      ("qwen2vl", {"C": 40, "H": 4, "K": 2, "keys": BASE, "optional": QKV_BIAS}),
    "qwen2vl, pairs that rest":     ("qwen2vl", {"C": 96, "H": 3, "K": 1, "optional": OUTPUT | {"output.bias"},
                                                 "keys": sections(3, 2, 1, 4) | YARN}),
    "qwen2vl, fused, sees all":     ("qwen2vl", {"C": 72, "H": 3, "optional": FUSED_BIAS,
                                                 "keys": sections(2, 0, 1, 1) | SEES_ALL | LINEAR}),
    "qwen2vl, Q8_0":                ("qwen2vl", {**WIDE, "keys": sections(4, 6, 6, 0), "type_name": "Q8_0"}),
    "phimoe":                       ("phimoe", {"C": 40, "H": 4, "K": 2, "X": 6, "keys": BASE}),
    "phimoe, long factors":         ("phimoe", {"C": 36, "H": 6, "K": 3, "optional": FACTORS | QKV_BIAS,
                                                "keys": LONGROPE}),
    "phimoe, fused, sees all":      ("phimoe", {"H": 6, "K": 1, "n_used": 1, "optional": FUSED_BIAS,
                                                "keys": SEES_ALL | {"rope.dimension_count": (4, UINT32)}}),
    "phimoe, Q8_0":                 ("phimoe", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "llada-moe":                    ("llada-moe", {"C": 40, "H": 4, "K": 2, "X": 6, "keys": BASE | LOOKS_BACK}),
    "llada-moe, narrow, biases":    ("llada-moe", {"C": 72, "H": 3, "K": 1, "n_used": 1, "optional": QKV_BIAS,
                                                   "keys": experts(14) | YARN}),
    "llada-moe, fused":             ("llada-moe", {"K": 3, "n_used": 3, "optional": FUSED_BIAS, "keys": LINEAR}),
    "llada-moe, Q8_0":              ("llada-moe", {**WIDE, "type_name": "Q8_0", "keys": experts(32)}),
}
# fmt: on
SLOW = {  # what others show in part
    "qwen3moe, narrow, biases",
    "qwen3moe, fused, sees all",
    "gpt-oss, no biases",
    "gpt-oss, fused, sees all",
    "gpt-oss, Q8_0",
    "gemma3n, shared keys",
    "gemma3n, fused, sees all",
    "gemma3n, Q8_0",
    "gemma4, experts, two matrices",
    "gemma4, as published",
    "gemma4, Q8_0",
    "qwen2moe, widths of its own",
    "qwen2moe, fused, sees all",
    "qwen2moe, Q8_0",
    "olmoe, biases, yarn",
    "olmoe, fused, sees all",
    "olmoe, Q8_0",
    "qwen2vl, fused, sees all",
    "qwen2vl, Q8_0",
    "phimoe, fused, sees all",
    "phimoe, Q8_0",
    "llada-moe, narrow, biases",
    "llada-moe, fused",
    "llada-moe, Q8_0",
}


def test_sections_are_blocks_of_pairs_of_which_the_fourth_rests() -> None:
    """Of Qwen2-VL's 64 pairs none: its sections are 16, 24, 24 and 0."""
    assert still((16, 24, 24, 0), 64) is None
    factors = still((2, 1, 0, 2), 8)
    assert factors is not None
    assert np.flatnonzero(np.isinf(factors.dequantize())).tolist() == [3, 4]


# fmt: off
FAULTS = [
    Fault("weights of experts as they are", "qwen3moe", "norm_weights=norm_weights", "norm_weights=False",
          "ffn_moe_weighted-0[0]"),
    Fault("one norm for queries and keys", "qwen3moe", "blk.attn_k_norm, eps", "blk.attn_q_norm, eps",
          "Kcur_normed-0[0]"),
    Fault("up is the gate", "qwen3moe", "blk.ffn_gate_inp, blk.ffn_up_exps", "blk.ffn_gate_inp, blk.ffn_gate_exps",
          "ffn_moe_up-0[0]"),
    Fault("an expert fewer", "qwen3moe", "blk.ffn_down_exps, hp.n_expert_used", "blk.ffn_down_exps, 1",
          "ffn_moe_weights_sum-0[0]"),
    Fault("no sinks", "gpt-oss", "ops, tap, blk.attn_sinks)", "ops, tap)", "kq_soft_max-0[0]"),
    Fault("softmax before the choice, too", "gpt-oss", "scores, hp.n_expert_used",
          "ops.softmax(scores), hp.n_expert_used", "ffn_moe_weights-0[0]"),
    Fault("SwiGLU", "gpt-oss", '"swiglu_oai"', '"silu"', "ffn_moe_down-0[0]"),
    Fault("experts without biases", "gpt-oss", "*experts, ", "*(e._replace(bias=None) for e in experts), ",
          "ffn_moe_swiglu_oai-0[0]"),
    Fault("RoPE is not scaled in a window", "gpt-oss", "rope_of(hp, il)",
          "rope_of(replace(hp, rope_factor_swa=1.0), il)", "Qcur-0[2]"),
    Fault("the first of each pair of layers sees all", "gpt-oss", "attention_spec(hp, il,",
          "attention_spec(hp, (il + 1) % 4,", "kq_soft_max-0[0]"),
    Fault("streams are as long as they come", "gemma3n", "scaled / length(y, taps)", "scaled / (length(y, taps) + 1)",
          "altup_added[0]"),
    Fault("gates are not cut off", "gemma3n", "top(gate, tap) if il < SPARSE_LAYERS else gate", "gate",
          "ffn_gelu-0[0]"),
    Fault("attention alone, no product of low rank", "gemma3n", "ops.add(z, y)", "y", "laurel_out-0[0]"),
    Fault("corrections without 1", "gemma3n", "coefs + ops.dtype(1)", "coefs", "all_coefs-0[1]"),
    Fault("a population's deviation", "gemma3n", "one(gate.shape[1] - 1)", "one(gate.shape[1])", "gate_variance-0[0]"),
    Fault("the first stream's per-layer input", "gemma3n", "np.concatenate([s[:1], rest])",
          "np.concatenate([s[:1] + e, rest])", "l_out-0[0]"),
    Fault("the last layer's keys", "gemma3n, shared keys", "len(kept) - 1 - hp.swa_layers[il]", "len(kept) - 1",
          "kq-20[0]"),
    Fault("values are not normed", "gemma4", "ops.rms_norm(heads(v, hp, il), None, eps)", "heads(v, hp, il)",
          "Vcur_normed-0[0]"),
    Fault("the last layer's keys", "gemma4", "len(kept) - 1 - swa", "len(kept) - 1", "kq-3[0]"),
    Fault("factors of RoPE in every layer", "gemma4", "None if swa else w.rope_freqs", "w.rope_freqs", "Qcur_pos-0[0]"),
    Fault("layers are not scaled", "gemma4", "x = ops.scale(x, blk.layer_output_scale.dequantize()[0])", "pass",
          "l_out-0[0]"),
    Fault("per-layer inputs of the embeddings alone", "gemma4", "ops.add(projected, rows.reshape(T, L, E))",
          "projected", "inp_per_layer_sum[0]"),
    Fault("the per-layer input of the first layer", "gemma4", "per_layer[il]", "per_layer[0]", "per_layer_gated-1[0]"),
    Fault("values are keys with their norm", "gemma4, experts", "        return k, k\n",
          "        return k, ops.rms_norm(k.reshape(len(k), -1, blk.attn_k_norm.shape[0]), blk.attn_k_norm, 1e-6)\n",
          "Vcur_normed-0[0]"),
    Fault("the router reads the normed input", "gemma4, experts", "route(x, blk, hp, ops, tap)  # (T, k)",
          "route(ops.rms_norm(x, blk.ffn_norm, eps), blk, hp, ops, tap)", "router_norm-0[0]"),
    Fault("the router's input is not scaled", "gemma4, experts",
          "y * blk.router_scale.dequantize().astype(x.dtype)", "y", "router_weighted-0[0]"),
    Fault("experts have no numbers of their own", "gemma4, experts", "h * scale[:, :, None]", "h",
          "ffn_moe_down_scaled-0[0]"),
    Fault("experts alone", "gemma4, experts", "ops.add(h, experts)", "experts", "ffn_moe_combined-0[0]"),
    Fault("the shared expert without its gate", "qwen2moe", "s * shared_gate(y, blk, ops, tap)",
          "s + 0 * shared_gate(y, blk, ops, tap)", "ffn_shexp_out-0[0]"),
    Fault("no shared expert", "qwen2moe", "h + s)", "h)", "ffn_out-0[0]"),
    Fault("weights of experts add up to 1", "qwen2moe", "gate=blk.ffn_gate_exps)", "gate=blk.ffn_gate_exps, "
          "norm_weights=True)", "ffn_moe_weighted-0[0]"),
    Fault("queries are normed head by head", "olmoe", "q.reshape(len(q), -1), blk.attn_q_norm, eps, tap)",
          "q, None, eps).reshape(len(q), -1) * blk.attn_q_norm.dequantize()", "Qcur_normed-0[0]"),
    Fault("neighbors turn together", "olmoe", "rope_of(hp, il)", "replace(rope_of(hp, il), pairs='norm')", "Qcur-0[1]"),
    Fault("weights of experts add up to 1", "olmoe", "gate=blk.ffn_gate_exps)", "gate=blk.ffn_gate_exps, "
          "norm_weights=True)", "ffn_moe_weighted-0[0]"),
    Fault("all pairs turn", "qwen2vl, pairs that rest", "still(hp.rope_sections, hp.n_rot // 2)", "None", "Qcur-0[1]"),
    Fault("sections in turn", "qwen2vl, pairs that rest", "np.arange(half) % sum(sections)",
          "(7 * np.arange(half)) % sum(sections)", "Qcur-0[1]"),
    Fault("the file's epsilon", "qwen2vl", "eps, scale = hp.norm_eps,", "eps, scale = 1e-6,", "norm-0[0]"),
    Fault("norms without biases", "phimoe", "y if norm.bias is None else", "y if norm else", "attn_norm-0[0]"),
    Fault("queries are not scaled", "phimoe", "ops.scale(q, scale)", "q", "Qcur-0[2]"),
    Fault("the short factors", "phimoe, long factors", "w.rope_factors_long, ", "None, ", "Qcur-0[2]"),
    Fault("weights of experts as they are", "phimoe", "norm_weights=True", "norm_weights=False",
          "ffn_moe_weighted-0[0]"),
    Fault("tokens look back", "llada-moe", "w, hp, batch", "w, replace(hp, causal=True), batch", "kq_soft_max-0[0]"),
    Fault("weights of experts add up to 1", "llada-moe", "norm_weights=False", "norm_weights=True",
          "ffn_moe_weighted-0[0]"),
    Fault("a cache", "llada-moe", "cached=False", "cached=True", "kq-0[0]"),
]
# fmt: on


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation; llama.cpp takes GELU from a table of float16 numbers."""
    if d.op == "ROPE" and "as published" in variant:
        return ROPE_OF_512
    if d.name.startswith("ffn_shexp_gate_inp"):
        return ONE_NUMBER
    return {"ROPE": LOCAL_ROPE, "GEGLU": LOCAL_GELU, "GELU": LOCAL_GELU}.get(d.op, LOCAL)


def whole_of(variant: str) -> float:
    """Of a whole run."""
    if variant == "gemma3n, shared keys":
        return WHOLE_DEEP
    return WHOLE_GELU if variant.startswith("gemma") else WHOLE


def small(arch: str) -> dict[str, Any]:
    """A model of four layers."""
    sizes: dict[str, Any] = {"K": 2, "D": 6, "n_layer": 4, "X": 4, "window": 6}
    return sizes | ({"K": 6} if arch == "olmoe" else {"X": 0} if arch in ("gemma3n", "qwen2vl") else {})


FAMILY = Family(ARCHS, VARIANTS, bound_of, whole_of, [(fault, None) for fault in FAULTS], slow=SLOW, traced="last",
                small=small)  # fmt: skip
