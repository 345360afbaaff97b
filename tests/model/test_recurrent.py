"""Models whose layers keep a state from token to token, against live llama.cpp: delta nets, Mamba, RWKV, and hybrids.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
Largest error of one operation on llama.cpp's own inputs, over the largest value: measured 5.2e-7 (xllamacpp
2026.10.11549, AVX-512 CPU), of RoPE 2.5e-7; of a whole run 1.1e-5, and 1.2e-4 behind a delta net, whose outputs are
normalized however small they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.gguf import open_gguf
from refembed.model import delta_net, moe
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied, with_keys
from tests.model.bits import Apart, some_ids, unequal
from tests.model.facts import places_changed_by_token_20
from tests.model.family import Family, Planted
from tests.model.faults import Fault
from tests.model.keys import BASE, EVERY_BIAS, FUSED_BIAS, LINEAR, QKV_BIAS, SEES_ALL, YARN, floats, heads_kv

LOCAL, LOCAL_ROPE, WHOLE, WHOLE_DELTA = 1e-6, 3e-6, 4e-5, 3e-4

ARCHS = (*("falcon-h1", "granitehybrid", "lfm2moe", "mamba", "mamba2", "qwen35", "qwen35moe", "qwen3next", "rwkv7"),)

SCALES = floats(embedding_scale=12.0, residual_scale=0.22, attention__scale=0.3)
NO_ROPE = {"rope.scaling.finetuned": (False, "BOOL")}
NORMED = {"ssm.dt_b_c_rms": (True, "BOOL")}
PATTERN = {"attention.recurrent_layers": ([False, True, False, True], "ARRAY[BOOL]")}
INTERVAL_2 = {"full_attention_interval": (2, "UINT32")}
SECTIONS = {"rope.dimension_sections": ([8, 4, 4, 0], "ARRAY[INT32]")}
IN_PART = {"rope.dimension_count": (14, "UINT32")}
OUTPUT, GATE_UP = {"output.weight"}, {"ffn_gate_up_exps.weight"}
CLS_OUT, LONGER = {"cls.output.weight", "cls.output.bias"}, {"embedding_length_out": (50, "UINT32")}
SHARED = {"expert_shared_feed_forward_length": (30, "UINT32")}
WIDTHS_EXP = SHARED | {"expert_feed_forward_length": (14, "UINT32")}
GATING = {"expert_gating_func": (1, "UINT32"), "leading_dense_block_count": (0, "UINT32")}
BLOCKS = {"C": 96, "F": 64, "H": 3, "D": 32, "N": 32}  # sizes: whole blocks of 32 weights in every row

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen35":                        ("qwen35", {"K": 2, "conv": 4}),
    "qwen35, heads 32, biases":      ("qwen35", {"K": 1, "H": 3, "D": 32, "N": 32, "G": 1, "dt": 3, "n_layer": 4,
                                                 "keys": PATTERN | SECTIONS | BASE, "optional": QKV_BIAS | OUTPUT}),
    "qwen35, fused, sees all":       ("qwen35", {"H": 5, "G": 3, "dt": 3, "N": 7, "conv": 2, "optional": FUSED_BIAS,
                                                 "keys": SEES_ALL | YARN | IN_PART | INTERVAL_2, "D": 16}),
    "qwen35, a last product":        ("qwen35", {"K": 2, "keys": LONGER, "optional": CLS_OUT}),
    "qwen35, Q8_0":                  ("qwen35", {**BLOCKS, "K": 1, "type_name": "Q8_0", "dt": 3, "G": 3, "conv": 4}),
    "qwen35moe":                     ("qwen35moe", {"K": 2, "conv": 4, "X": 5, "n_used": 3}),
    "qwen35moe, one tensor, widths": ("qwen35moe", {"X": 6, "keys": WIDTHS_EXP, "optional": GATE_UP | FUSED_BIAS}),
    "qwen35moe, biases":             ("qwen35moe", {"K": 1, "keys": SHARED, "optional": QKV_BIAS | OUTPUT}),
    "qwen35moe, Q8_0":               ("qwen35moe", {**BLOCKS, "K": 1, "type_name": "Q8_0", "dt": 6, "G": 3}),
    "qwen3next":                     ("qwen3next", {"K": 2, "conv": 4, "X": 5, "n_used": 3}),
    "qwen3next, an older file":      ("qwen3next", {"N": 7, "dt": 6, "G": 2, "optional": {"ssm_in.weight"} | QKV_BIAS,
                                                    "keys": WIDTHS_EXP | BASE}),
    "qwen3next, as many heads":      ("qwen3next", {"D": 16, "dt": 3, "G": 3, "keys": YARN | IN_PART | SEES_ALL,
                                                    "optional": FUSED_BIAS | GATE_UP | OUTPUT}),
    "qwen3next, Q8_0":               ("qwen3next", {**BLOCKS, "K": 1, "type_name": "Q8_0", "dt": 6, "G": 3}),
    "lfm2moe":                       ("lfm2moe", {"K": 2, "X": 5, "n_used": 3, "n_layer": 4}),
    "lfm2moe, softmax, all experts": ("lfm2moe", {"conv": 5, "optional": FUSED_BIAS, "keys": SEES_ALL | GATING}),
    "lfm2moe, biases":               ("lfm2moe", {"K": 1, "optional": QKV_BIAS | OUTPUT}),
    "lfm2moe, Q8_0":                 ("lfm2moe", {**BLOCKS, "K": 1, "type_name": "Q8_0", "keys":
                                                  {"expert_feed_forward_length": (64, "UINT32")}}),
    "mamba":                         ("mamba", {"conv": 4}),
    "mamba, normed, 16 states":      ("mamba", {"N": 16, "dt": 3, "keys": NORMED, "optional": OUTPUT, "conv": 5}),
    "mamba, Q8_0":                   ("mamba", {**BLOCKS, "dt": 32, "type_name": "Q8_0"}),
    "mamba2":                        ("mamba2", {"conv": 4}),
    "mamba2, one group, 128 states": ("mamba2", {"N": 128, "G": 1, "dt": 9, "n_layer": 2, "optional": OUTPUT}),
    "mamba2, Q8_0":                  ("mamba2", {**BLOCKS, "dt": 6, "G": 3, "type_name": "Q8_0"}),
    "falcon-h1":                     ("falcon-h1", {"K": 2, "conv": 4, "optional": {"ssm_norm.weight"} | EVERY_BIAS}),
    "falcon-h1, no norm, fused":     ("falcon-h1", {"H": 5, "K": 1, "G": 1, "N": 32, "conv": 3,
                                                    "keys": LINEAR | SCALES,
                                                    "optional": FUSED_BIAS | {"rope_freqs.weight"}}),
    "falcon-h1, in part, yarn":      ("falcon-h1", {"D": 16, "H": 3, "keys": YARN | IN_PART | SEES_ALL,
                                                    "optional": {"output.weight"}}),
    "falcon-h1, Q8_0":               ("falcon-h1", {**BLOCKS, "dt": 6, "G": 3, "K": 1, "type_name": "Q8_0"}),
    "granitehybrid":                 ("granitehybrid", {"K": 2, "conv": 4}),
    "granitehybrid, scales, biases": ("granitehybrid", {"K": 3, "keys": SCALES | BASE, "optional": EVERY_BIAS}),
    "granitehybrid, no rope, fused": ("granitehybrid", {"H": 5, "K": 1, "G": 1, "N": 32, "n_layer": 4,
                                                        "keys": NO_ROPE | heads_kv(1, 0, 0, 1),
                                                        "optional": FUSED_BIAS | OUTPUT}),
    "granitehybrid, factors":        ("granitehybrid", {"optional": {"rope_freqs.weight"}, "keys": SEES_ALL}),
    "granitehybrid, experts":        ("granitehybrid", {"X": 5, "n_used": 3, "keys": SCALES | SHARED, "optional":
                                                        {"ffn_gate_exps.weight"}}),
    "granitehybrid, Q8_0":           ("granitehybrid", {**BLOCKS, "dt": 6, "G": 3, "K": 1, "type_name": "Q8_0"}),
    "rwkv7":                         ("rwkv7", {"C": 64}),
    "rwkv7, heads 64":               ("rwkv7", {"C": 128, "n_layer": 2, "keys": {"wkv.head_size": (64, "UINT32")}}),
    "rwkv7, Q8_0":                   ("rwkv7", {"C": 96, "F": 64, "type_name": "Q8_0"}),
}
# fmt: on
SLOW = {  # what others show in part
    "qwen35moe, one tensor, widths",
    "qwen3next, as many heads",
    "qwen3next, Q8_0",
    "lfm2moe, softmax, all experts",
    "lfm2moe, Q8_0",
    "granitehybrid, experts",
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

FAULTS: list[tuple[Fault, Planted]] = [
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
            "the other half is the gate",
            "qwen35moe, one tensor, widths",
            "gate, up = (np.ascontiguousarray",
            "up, gate = (np.ascontiguousarray",
            "ffn_moe_gate-0[0]",
        ),
        moe.gate_and_up,
    ),
    (
        Fault(
            "the shared expert's gate through SiLU",
            "qwen35moe",
            "ops.sigmoid(g)",
            "ops.silu(g)",
            "shared_expert_gate_sigmoid-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "weights of experts as they are",
            "qwen35moe",
            "norm_weights=True",
            "norm_weights=False",
            "ffn_moe_weighted-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "no expert is shared",
            "qwen35moe",
            'h + tap("ffn_shexp_gated", s * g)',
            'h + 0 * tap("ffn_shexp_gated", s * g)',
            "ffn_out-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "every G-th head shares keys",
            "qwen3next",
            "tap, interleaved=True)",
            "tap, interleaved=False)",
            "attn_output-0[0]",
        ),
        None,
    ),
    (Fault("alpha first, then beta", "qwen3next", "for i in (0, 1))", "for i in (1, 0))", "alpha_biased-0[0]"), None),
    (
        Fault(
            "heads side by side, not groups",
            "qwen3next",
            "(len(y), G, 2, H // G)",
            "(len(y), 1, 2, H)",
            "alpha_biased-0[0]",
        ),
        None,
    ),
    (
        Fault(
            "z first, then values",
            "qwen3next, an older file",
            "q, k, v, z = np.split",
            "q, k, z, v = np.split",
            "qkv_mixed-0[0]",
        ),
        None,
    ),
    (
        Fault("experts are taken by p alone", "lfm2moe", "np.argsort(-biased", "np.argsort(-p", "ffn_moe_argsort-1[0]"),
        None,
    ),
    (
        Fault(
            "weights with the bias",
            "lfm2moe",
            "np.take_along_axis(p, chosen",
            "np.take_along_axis(biased, chosen",
            "ffn_moe_weights-1[0]",
        ),
        None,
    ),
    (
        Fault(
            "experts share out 1", "lfm2moe", "ops.sigmoid(logits) if", "ops.softmax(logits) if", "ffn_moe_probs-1[0]"
        ),
        None,
    ),
    (
        Fault("the residual is taken behind the norm", "lfm2moe", "ops, tap) + x)", "ops, tap) + y)", "ffn_inp-0[0]"),
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
    lambda variant: WHOLE_DELTA if variant.startswith("qwen") else WHOLE,
    FAULTS,
    slow=SLOW,
    traced="last",
    small=lambda arch: {"K": 2, "D": 6, "n_layer": 4, "conv": 4} | ({"C": 64} if arch == "rwkv7" else {}),
    bits=Apart,
)


@pytest.mark.oracle
def test_a_layer_that_drafts_further_tokens_is_not_read(tmp_path: Path) -> None:
    """Qwen 3.5's files end with one (multi-token prediction): llama.cpp's bits with it, and those without."""
    plain = FAMILY.write("qwen35", tmp_path)
    last = {name: t for name, t in open_gguf(plain).tensors.items() if name.startswith("blk.2.")}
    drafts = {name.replace("blk.2.", "blk.3."): t.dequantize() for name, t in last.items()}
    drafts |= {"blk.3.nextn.eh_proj.weight": np.ones((36, 72), np.float32)}
    drafts |= {f"blk.3.nextn.{name}.weight": np.ones(36, np.float32) for name in ("enorm", "hnorm", "shared_head_norm")}
    more = copied(plain, tmp_path / "more.gguf", tensors=drafts)
    path = with_keys(
        more, tmp_path / "drafts.gguf", {"block_count": (4, "UINT32"), "nextn_predict_layers": (1, "UINT32")}
    )
    ours = [Apart(p, "last").vectors([some_ids(33)])[0] for p in (plain, path)]
    assert unequal(*ours) == 0
    with LlamaCpp(path, pooling="last", flash_attn=False) as engine:
        assert unequal(ours[0], engine.embed([some_ids(33)])[0]) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_a_token_changes_all_that_follow_and_nothing_before(arch: str, tmp_path: Path) -> None:
    """A state forgets nothing entirely."""
    small = FAMILY.small(arch)
    assert places_changed_by_token_20(synthetic(tmp_path / "m.gguf", arch, **small)) == list(range(20, 40))
