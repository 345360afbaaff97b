"""Models whose layers keep a state from token to token, against live llama.cpp: delta nets, Mamba, RWKV, and hybrids.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from refembed.model import delta_net
from tests.model.bits import Apart
from tests.model.family import Family
from tests.model.faults import Fault
from tests.model.keys import BASE, EVERY_BIAS, FUSED, FUSED_BIAS, LINEAR, QKV_BIAS, SEES_ALL, YARN, floats, heads_kv

LOCAL, LOCAL_ROPE, WHOLE = 1e-6, 3e-6, 6e-5

ARCHS = ("falcon-h1", "granitehybrid", "mamba", "mamba2", "qwen35", "rwkv7")

SCALES = floats(embedding_scale=12.0, residual_scale=0.22, attention__scale=0.3)
NO_ROPE = {"rope.scaling.finetuned": (False, "BOOL")}
NORMED = {"ssm.dt_b_c_rms": (True, "BOOL")}
PATTERN = {"attention.recurrent_layers": ([False, True, False, True], "ARRAY[BOOL]")}
INTERVAL_2 = {"full_attention_interval": (2, "UINT32")}
SECTIONS = {"rope.dimension_sections": ([8, 4, 4, 0], "ARRAY[INT32]")}
IN_PART = {"rope.dimension_count": (14, "UINT32")}
OUTPUT = {"output.weight"}
BLOCKS = {"C": 96, "F": 64, "H": 3, "D": 32, "N": 32}  # sizes: whole blocks of 32 weights in every row

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen35":                        ("qwen35", {"K": 2, "conv": 4}),
    "qwen35, heads 32, biases":      ("qwen35", {"K": 1, "H": 3, "D": 32, "N": 32, "G": 1, "dt": 3, "n_layer": 4,
                                                 "keys": PATTERN | SECTIONS | BASE, "optional": QKV_BIAS | OUTPUT}),
    "qwen35, fused, sees all":       ("qwen35", {"H": 5, "G": 3, "dt": 3, "N": 7, "conv": 2, "optional": FUSED_BIAS,
                                                 "keys": SEES_ALL | YARN | IN_PART | INTERVAL_2, "D": 16}),
    "qwen35, Q8_0":                  ("qwen35", {**BLOCKS, "K": 1, "type_name": "Q8_0", "dt": 3, "G": 3, "conv": 4}),
    "mamba":                         ("mamba", {"conv": 4}),
    "mamba, normed, 16 states":      ("mamba", {"N": 16, "dt": 3, "keys": NORMED, "optional": OUTPUT, "conv": 5}),
    "mamba, Q8_0":                   ("mamba", {**BLOCKS, "dt": 32, "type_name": "Q8_0"}),
    "mamba2":                        ("mamba2", {"conv": 4}),
    "mamba2, one group, 128 states": ("mamba2", {"N": 128, "G": 1, "dt": 9, "n_layer": 2, "optional": OUTPUT}),
    "mamba2, Q8_0":                  ("mamba2", {**BLOCKS, "dt": 6, "G": 3, "type_name": "Q8_0"}),
    "falcon-h1":                     ("falcon-h1", {"K": 2, "conv": 4, "optional": {"ssm_norm.weight"} | EVERY_BIAS}),
    "falcon-h1, no norm, fused":     ("falcon-h1", {"H": 5, "K": 1, "G": 1, "N": 32, "conv": 3,
                                                    "keys": LINEAR | SCALES, "optional": FUSED | {"rope_freqs.weight"}}),
    "falcon-h1, in part, yarn":      ("falcon-h1", {"D": 16, "H": 3, "keys": YARN | IN_PART | SEES_ALL,
                                                    "optional": {"output.weight"}}),
    "falcon-h1, Q8_0":               ("falcon-h1", {**BLOCKS, "dt": 6, "G": 3, "K": 1, "type_name": "Q8_0"}),
    "granitehybrid":                 ("granitehybrid", {"K": 2, "conv": 4}),
    "granitehybrid, scales, biases": ("granitehybrid", {"K": 3, "keys": SCALES | BASE, "optional": EVERY_BIAS}),
    "granitehybrid, no rope, fused": ("granitehybrid", {"H": 5, "K": 1, "G": 1, "N": 32, "n_layer": 4,
                                                        "keys": NO_ROPE | heads_kv(1, 0, 0, 1),
                                                        "optional": FUSED_BIAS | OUTPUT}),
    "granitehybrid, factors":        ("granitehybrid", {"optional": {"rope_freqs.weight"}, "keys": SEES_ALL}),
    "granitehybrid, Q8_0":           ("granitehybrid", {**BLOCKS, "dt": 6, "G": 3, "K": 1, "type_name": "Q8_0"}),
    "rwkv7":                         ("rwkv7", {"C": 64}),
    "rwkv7, heads 64":               ("rwkv7", {"C": 128, "n_layer": 2, "keys": {"wkv.head_size": (64, "UINT32")}}),
    "rwkv7, Q8_0":                   ("rwkv7", {"C": 96, "F": 64, "type_name": "Q8_0"}),
}
# fmt: on
SLOW = {  # what others show in part
    "qwen35, fused, sees all",
    "mamba, Q8_0",
    "mamba2, one group, 128 states",
    "mamba2, Q8_0",
    "falcon-h1, no norm, fused",
    "falcon-h1, in part, yarn",
    "falcon-h1, Q8_0",
    "granitehybrid, scales, biases",
    "granitehybrid, no rope, fused",
    "granitehybrid, factors",
    "granitehybrid, Q8_0",
    "rwkv7, heads 64",
    "rwkv7, Q8_0",
}  # fmt: skip

ROPE = "rope_of(hp, il, factors)"

FAULTS: list[tuple[Fault, ModuleType | None]] = [
    (
        Fault(
            "the delta net's convolution sees a token ahead",
            "qwen35",
            "conv, batch.offsets)",
            "conv, batch.offsets, 1)",
            "conv_output_raw-0[0]",
        ),
        delta_net,
    ),
    (
        Fault(
            "keys are not made short",
            "qwen35",
            "heads = ops.scale(heads, ops",
            "heads = ops.scale(heads, 1.0 if which == 'k' else ops",
            "k_conv_predelta-0[0]",
        ),
        delta_net,
    ),
    (
        Fault(
            "the epsilon of other norms", "qwen35", "hp.norm_eps / ssm.n_state", "hp.norm_eps * 1e3", "q_normed-0[0]"
        ),
        delta_net,
    ),
    (
        Fault(
            "values are not let through by z",
            "qwen35",
            "ops.multiply(o.reshape(z.shape), gate.reshape(z.shape))",
            "o.reshape(z.shape)",
            "final_output-0[0]",
        ),
        delta_net,
    ),
    (Fault("beta through SiLU", "qwen35", 'ops.sigmoid(tap("beta"', 'ops.silu(tap("beta"', "beta_sigmoid-0[0]"), None),
    (
        Fault("the state does not fade", "qwen35", "v, g, beta, batch", "v, g * 0, beta, batch", "attn_output-0[0]"),
        None,
    ),
    (
        Fault(
            "every value replaces what is there",
            "qwen35",
            "v, g, beta, batch",
            "v, g, beta ** 0, batch",
            "attn_output-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "the decay without its bias",
            "qwen35",
            "alpha, blk.ssm_dt,",
            "alpha - ops.weight(blk.ssm_dt), blk.ssm_dt,",
            "alpha_biased-0[0]",
        ),
        None,
    ),
    (Fault("attention's output is not gated", "qwen35", "ops.multiply(a, gate)", "a", "attn_gated-2[0]"), None),
    (Fault("gates first, then queries", "qwen35", "q, gate = ops.split", "gate, q = ops.split", "norm-2[1]"), None),
    (Fault("scores scaled by all channels", "qwen35", "math.sqrt(D)", "math.sqrt(H * D)", "kq_soft_max-2[0]"), None),
    (
        Fault(
            "whole heads turn",
            "qwen35, fused, sees all",
            ROPE,
            "replace(rope_of(hp, il, factors), n_dims=16)",
            "Qcur-1[0]",
        ),
        None,
    ),
    (
        Fault(
            "the step is not raised by its bias",
            "mamba",
            "ops.linear(dt, *blk.ssm_dt, tap",
            "ops.linear(dt, blk.ssm_dt[0], None, tap",
            "ssm_scan-0[0]",
        ),
        None,
    ),
    (Fault("B and C change places", "mamba", "dt, b, c = ops.split", "dt, c, b = ops.split", "ssm_scan-0[0]"), None),
    (
        Fault(
            "nothing passes the state by",
            "mamba",
            "ops.add_scaled(scanned, x, blk.ssm_d, tap)",
            "scanned",
            "ssm_y-0[0]",
        ),
        None,
    ),
    (Fault("z and x change places", "mamba", "x, z = ops.split", "z, x = ops.split", "conv_input-0[0]"), None),
    (
        Fault(
            "what is read is not normed",
            "mamba, normed, 16 states",
            'tap("c_normed", ops.rms_norm(c, None, eps))',
            'tap("c_normed", c)',
            "c_normed-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "the gate is what the state gave",
            "mamba2",
            "ops.swiglu(z.reshape(-1, P), y.reshape(-1, P))",
            "ops.swiglu(y.reshape(-1, P), z.reshape(-1, P))",
            "ssm_swiglu-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "one norm over all groups",
            "mamba2",
            "y.reshape(len(y), ssm.n_group, -1), blk.ssm_norm, hp.norm_eps, tap)",
            "y.reshape(len(y), 1, -1), None, hp.norm_eps, tap).reshape(len(y), ssm.n_group, -1)",
            "ssm_normed-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "no bias behind the convolution",
            "mamba2",
            '0, bias, tap, "conv")',
            '0, None, tap, "conv")',
            "conv_silu-0[0]",
        ),
        None,
    ),
    (Fault("the step has no bias", "mamba2", "ops.add_bias(dt, blk.ssm_dt)", "dt", "dt_b-0[0]"), None),
    (
        Fault("the residual is taken behind the norm", "mamba2", "ops, tap)), x))", "ops, tap)), y))", "l_out-0[0]"),
        None,
    ),
    (Fault("attention alone goes on", "falcon-h1", "ops.add(a, s)", "a", "layer_out-0[0]"), None),
    (
        Fault(
            "a scale of scores in the file",
            "falcon-h1, no norm, fused",
            "1 / math.sqrt(hp.n_embd_head)",
            "hp.attention_scale",
            "kq_soft_max-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "attention's bias is read",
            "falcon-h1",
            "ops.linear(a, blk.attn_output.weight)",
            "ops.linear(a, *blk.attn_output)",
            "attn_out-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "neighbors turn together",
            "falcon-h1",
            "rope_of(hp, il), attention",
            "replace(rope_of(hp, il), pairs='norm'), attention",
            "Qcur-post-rope-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "what a mixer gives is not scaled",
            "granitehybrid, scales, biases",
            "ops.scale(a, hp.residual_scale)",
            "a",
            "attn_scaled-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "the usual scale of scores",
            "granitehybrid, scales, biases",
            "hp.attention_scale or 1",
            "1",
            "kq_soft_max-1[0]",
        ),
        None,
    ),
    (
        Fault(
            "heads turn nevertheless", "granitehybrid, no rope, fused", "if hp.rope_finetuned else q", "", "Qcur-0[0]"
        ),
        None,
    ),
    (
        Fault(
            "the norm of attention in front of feed-forward",
            "granitehybrid",
            "blk.ffn_norm",
            "blk.attn_norm",
            "ffn_norm-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "the token itself for the one before",
            "rwkv7",
            "out[begin + 1 : end] = x[begin : end - 1]",
            "out[begin:end] = x[begin:end]",
            "before-0[0]",
        ),
        None,
    ),
    (Fault("a faster decay", "rwkv7", "DECAY = -0.606531", "DECAY = -1.0", "w_scaled-0[0]"), None),
    (
        Fault(
            "values are not mixed with the first layer's",
            "rwkv7",
            'v + tap("v_added", other * share)',
            "v",
            "v_mixed-1[0]",
        ),
        None,
    ),
    (Fault("keys of any length", "rwkv7", "of_length_one(kk))", "kk)", "kk-0[0]"), None),
    (
        Fault("the state takes out what it puts in", "rwkv7", 'tap("kk_neg", -kk)', 'tap("kk_neg", kk)', "kk_neg-0[0]"),
        None,
    ),
    (
        Fault(
            "no gate",
            "rwkv7",
            'y * tap("g2", ops.linear(g, blk.time_mix_g2))',
            'y + 0 * tap("g2", ops.linear(g, blk.time_mix_g2))',
            "y_gated-0[0]",
        ),
        None,
    ),
    (Fault("the usual epsilon", "rwkv7", "None, None, GROUP_EPS", "None, None, hp.norm_eps", "wkv_normed-0[0]"), None),
]

FAMILY = Family(
    ARCHS,
    VARIANTS,
    lambda variant, d: LOCAL_ROPE if d.op == "ROPE" else LOCAL,
    lambda variant: WHOLE,
    FAULTS,
    slow=SLOW,
    traced="last",
    small=lambda arch: {"K": 2, "D": 6, "n_layer": 4, "conv": 4} | ({"C": 64} if arch == "rwkv7" else {}),
    bits=Apart,
)
