"""DeepSeek's latent attention and K2 Horizon's routed values against live llama.cpp.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
Largest error of one operation on llama.cpp's own inputs, over the largest value: measured 4.2e-7 (xllamacpp
2026.10.11549, AMD EPYC), of RoPE 2.6e-7, in 26 layers 8.9e-7; of a whole run 1.3e-5, in 26 layers 8.4e-5.
"""

from __future__ import annotations

from typing import Any

from refembed.model import routed
from refembed.verify.compare.replay import LocalDifference
from tests.model.family import Family, Planted
from tests.model.faults import Fault
from tests.model.keys import BASE, IN_PART, LINEAR, SEES_ALL, WIDE, YARN, Keys, floats

LOCAL, LOCAL_ROPE, WHOLE, WHOLE_DEEP = 2e-6, 8e-7, 4e-5, 3e-4
ONE_SCORE = 2.5e-5  # of a token's only score, over itself: measured 7.6e-6, and in a whole run 5.0e-5

ARCHS = ("deepseek2", "k2-horizon")
UINT32 = "UINT32"
OLDER, BUSY, ONE_MATRIX = {"attn_kv_b.weight"}, {"exp_probs_b.bias"}, {"ffn_gate_up_exps.weight"}
SOFTMAX: Keys = {"expert_gating_func": (1, UINT32)}
WEIGHED: Keys = {"expert_weights_norm": (True, "BOOL")} | floats(expert_weights_scale=2.5)
LOG_MUL = floats(rope__scaling__yarn_log_multiplier=0.0707)
GROWING = floats(attention__temperature_scale=0.5) | {"attention.temperature_length": (8, UINT32)}


def groups(n: int, used: int) -> Keys:
    """Experts in groups, of which each token takes some."""
    return {"expert_group_count": (n, UINT32), "expert_group_used_count": (used, UINT32)}


def latent(key: int, value: int, rot: int, rank: int, rank_q: int) -> Keys:
    """Widths of latent attention."""
    widths = {"key_length_mla": key, "value_length_mla": value, "key_length": rank + rot, "value_length": rank}
    widths |= {"q_lora_rank": rank_q, "kv_lora_rank": rank}
    return {f"attention.{name}": (n, UINT32) for name, n in widths.items()} | {"rope.dimension_count": (rot, UINT32)}


def experts(width: int, shared: int, dense: int = 1) -> Keys:
    """Width of an expert, how many are shared, and how many layers have none."""
    keys = {"feed_forward_length": width, "shared_count": shared}
    return {f"expert_{key}": (n, UINT32) for key, n in keys.items()} | {"leading_dense_block_count": (dense, UINT32)}


def value_experts(n: int, used: int) -> Keys:
    """Experts that make values, and how many of them a token takes."""
    return {"attention.value_expert_count": (n, UINT32), "attention.value_expert_used_count": (used, UINT32)}


HEAD_NORMS, VALUES = {"attn_q_norm.weight", "attn_k_norm.weight"}, {"attn_v_gate.bias"}
NORM_GROUPS = {"attention.group_norm_groups": (4, UINT32)}
BLOCKS = {"C": 96, "F": 64, "H": 3}
IN_BLOCKS = latent(64, 32, 32, 64, 32) | experts(32, 2)
# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek2":               ("deepseek2", {"X": 8, "n_used": 3, "optional": BUSY,
                                              "keys": groups(4, 2) | WEIGHED | BASE}),
    "deepseek2, older file":   ("deepseek2", {"X": 5, "H": 3, "D": 14, "optional": OLDER | {"output.weight"},
                                              "keys": SOFTMAX | YARN | LOG_MUL | GROWING}),
    "deepseek2, yarn":         ("deepseek2", {"H": 5, "n_used": 1, "optional": ONE_MATRIX,
                                              "keys": YARN | LOG_MUL | GROWING | SOFTMAX | experts(14, 3)}),
    "deepseek2, no multiplier": ("deepseek2", {"H": 1, "optional": OLDER, "keys": YARN | WEIGHED | experts(20, 1, 0)}),
    "deepseek2, lite":         ("deepseek2", {"n_layer": 26, "H": 2, "C": 20, "F": 24, "keys": LINEAR | SEES_ALL |
                                              SOFTMAX | experts(14, 2, 24)}),
    "deepseek2, F16":          ("deepseek2", {**BLOCKS, "type_name": "F16", "keys": IN_BLOCKS | WEIGHED}),
    "deepseek2, Q8_0":         ("deepseek2", {**BLOCKS, "type_name": "Q8_0", "keys": IN_BLOCKS, "optional": BUSY}),
    "deepseek2, older, Q8_0":  ("deepseek2", {**BLOCKS, "D": 64, "type_name": "Q8_0", "optional": OLDER, "keys":
                                              experts(32, 1) | {"attention.value_length": (32, UINT32),
                                              "attention.kv_lora_rank": (32, UINT32),
                                              "attention.q_lora_rank": (64, UINT32)}}),
    "k2-horizon":              ("k2-horizon", {"K": 2, "optional": HEAD_NORMS | {"attn_gate.weight"}, "keys": BASE}),
    "k2-horizon, experts":     ("k2-horizon", {"K": 3, "X": 6, "n_used": 3, "optional": HEAD_NORMS | BUSY | VALUES |
                                               {"output.weight"}, "keys": WEIGHED}),
    "k2-horizon, softmax":     ("k2-horizon", {"H": 5, "C": 40, "K": 1, "X": 3, "n_used": 1, "keys": SOFTMAX | YARN |
                                               experts(14, 0, 0) | IN_PART | value_experts(3, 2) | NORM_GROUPS}),
    "k2-horizon, one value":   ("k2-horizon", {"X": 4, "optional": {"attn_gate.weight"}, "keys": LINEAR | SEES_ALL |
                                               value_experts(0, 0) | experts(20, 3)}),
    "k2-horizon, Q8_0":        ("k2-horizon", {**WIDE, "C": 96, "X": 5, "K": 1, "type_name": "Q8_0", "optional":
                                               VALUES | {"attn_gate.weight"}, "keys": experts(32, 1)}),
}
# fmt: on
SLOW = {
    "deepseek2, yarn",
    "deepseek2, no multiplier",
    "deepseek2, lite",
    "deepseek2, F16",
    "deepseek2, older, Q8_0",
}

TOO_FEW = [
    ("deepseek2", "blk.0.attn_k_b.weight"),
    ("deepseek2", "blk.1.attn_v_b.weight"),
    ("deepseek2", "blk.2.attn_q_a_norm.weight"),
    ("deepseek2", "blk.0.attn_kv_a_mqa.weight"),
    ("deepseek2", "blk.0.ffn_gate.weight"),
    ("deepseek2", "blk.1.ffn_down_shexp.weight"),
    ("k2-horizon", "blk.1.attn_v.weight"),
    ("k2-horizon", "blk.0.ffn_gate.weight"),
    ("k2-horizon", "output_norm.weight"),
]


def odd(**keys: int) -> dict[str, Any]:
    """Keys that a model's tensors do not follow; __ stands for a dot."""
    return {"odd": {key.replace("__", "."): (n, UINT32) for key, n in keys.items()}}


IMPOSSIBLE = [
    ("deepseek2", odd(attention__key_length_mla=4), "4 of 4 channels of a key turn"),
    ("deepseek2", odd(attention__head_count_kv=2), "2 heads of keys of 18"),
    ("deepseek2", odd(attention__key_length=13), "1 heads of keys of 13"),
    ("deepseek2", {"optional": OLDER, **odd(attention__head_count_kv=3)}, "head_count_kv is 3\n  hint: without"),
    ("deepseek2", {"X": 8, "odd": groups(3, 2)}, "2 groups of 3, of 8 experts"),
    ("deepseek2", {"X": 8, "odd": groups(4, 4)}, "4 groups of 4, of 8 experts"),
    ("deepseek2", {"odd": floats(attention__temperature_scale=0.5)}, "without a temperature_length"),
    ("k2-horizon", {"odd": {"attention.group_norm_groups": (5, UINT32)}}, "group_norm_groups is 5"),
    ("k2-horizon", {"X": 4, "odd": value_experts(4, 5)}, "5 value experts of 4"),
    ("k2-horizon", {"X": 4, "odd": value_experts(4, 0)}, "0 value experts of 4"),
]

# fmt: off
FAULTS: list[tuple[Fault, Planted]] = [
    (Fault("scores scaled by the width of the shared key", "deepseek2", "f32(mla.n_key))",
           "f32(mla.n_lora_kv + mla.n_rot))", "kq_soft_max-0[0]"), None),
    (Fault("YaRN leaves scores alone", "deepseek2, older file", "length * length / np", "f32(1) / np",
           "kq_soft_max-0[0]"), None),
    (Fault("the latent vector is not normed", "deepseek2", "ops.rms_norm(c, blk.attn_kv_a_norm, eps, tap)", "c",
           "kv_cmpr-0[0]"), None),
    (Fault("queries' short vector is not normed", "deepseek2", "ops.rms_norm(q, blk.attn_q_a_norm, eps, tap)", "q",
           "q-0[1]"), None),
    (Fault("the front of each query turns", "deepseek2", "(q[:, :, : Dk - rot], q[:, :, Dk - rot :])",
           "(q[:, :, rot:], q[:, :, :rot])", "q_pe-0[0]"), None),
    (Fault("what turns comes first", "deepseek2", "[c[:, None], k_pe]", "[k_pe, c[:, None]]", "Kcur-0[0]"), None),
    (Fault("heads are decompressed with the first one's matrix", "deepseek2", "ops.per_head(a.reshape(T, H, -1), blk",
           "ops.per_head(np.repeat(a.reshape(T, H, -1)[:, :1], H, axis=1), blk", "kqv_mla-0[0]"), None),
    (Fault("neighbors do not turn together", "deepseek2, older file", "rope = rope_of(hp, 0)",
           "rope = replace(rope_of(hp, 0), pairs='neox')", "k_pe-0[0]"), None),
    (Fault("queries do not grow", "deepseek2, older file", "q * factor[:, None, None]", "q",
           "Qcur_attn_temp_scaled-0[0]"), None),
    (Fault("the best expert of a group counts alone", "deepseek2", "[:, :, -2:].sum(axis=2)", "[:, :, -1]",
           "ffn_moe_probs_masked-1[0]"), routed),
    (Fault("weights with the bias", "deepseek2", "np.take_along_axis(p, chosen", "np.take_along_axis(suited, chosen",
           "ffn_moe_weights-1[0]"), routed),
    (Fault("weights are not scaled", "deepseek2", "ops.scale(weights, how.scale)", "weights",
           "ffn_moe_weights_scaled-1[0]"), routed),
    (Fault("one norm of all channels", "k2-horizon", "hp.n_norm_group, -1)", "1, -1)", "attn_norm-0[0]"), None),
    (Fault("a gate to the base of e", "k2-horizon", "ops.linear(y, w)), math.log(2))", "ops.linear(y, w)), 1.0)",
           "out_gate_ln2-0[0]"), None),
    (Fault("attention's output is not gated", "k2-horizon", "ops.multiply(a, output_gate(y, blk.attn_gate, ops, tap))",
           "a + 0 * output_gate(y, blk.attn_gate, ops, tap)", "attn_out_gated-0[0]"), None),
    (Fault("neighbors turn together", "k2-horizon", "rope_of(hp, 0), beta", "rope_of(hp, 0), pairs='norm', beta",
           "Qcur-0[0]"), None),
    (Fault("values without SiLU", "k2-horizon, experts", "ops.silu(v.reshape(T * k, KD)).reshape(v.shape)", "v",
           "v_moe_silu-1[0]"), None),
    (Fault("value experts are taken by score alone", "k2-horizon, experts", "np.argsort(-suited", "np.argsort(-p",
           "v_moe_argsort-1[0]"), None),
    (Fault("values' weights are not scaled", "k2-horizon, experts", "ops.scale(weights, how.scale)", "weights",
           "v_moe_weights-1[0]"), None),
]
# fmt: on


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation."""
    if variant == "deepseek2, no multiplier" and d.name.startswith("kq-"):
        return ONE_SCORE
    return LOCAL_ROPE if d.op == "ROPE" else LOCAL


def whole_of(variant: str) -> float:
    """Of a whole run."""
    return WHOLE_DEEP if variant in ("deepseek2, lite", "deepseek2, no multiplier") else WHOLE


def small(arch: str) -> dict[str, Any]:
    """A model of four layers."""
    return {"D": 6, "n_layer": 4, "X": 4}


FAMILY = Family(ARCHS, VARIANTS, bound_of, whole_of, FAULTS, slow=SLOW, traced="last",
                small=small)  # fmt: skip
