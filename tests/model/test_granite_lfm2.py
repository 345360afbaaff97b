"""Granite, MiniCPM, Mistral 3, SmolLM 3, Qwen3-VL's text, LFM2, and Llama with experts, against live llama.cpp.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
Largest error of one operation on llama.cpp's own inputs, over the largest value: measured 4.6e-7 (xllamacpp
2026.10.11549, AVX-512 CPU), of RoPE, whose angles llama.cpp multiplies up in float32, 1.6e-6; of a whole run 6.0e-6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.gguf import open_gguf
from refembed.kernels.exact.rope import angles
from refembed.model import load_model
from refembed.model.blocks import rope_of
from refembed.model.qwen3vl import still
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.bits import Apart, some_ids, unequal
from tests.model.facts import (
    places_changed_by_token_20,
)
from tests.model.family import Family
from tests.model.faults import Fault
from tests.model.keys import (
    BASE,
    EVERY_BIAS,
    FACTORS,
    FUSED_BIAS,
    QKV_BIAS,
    SEES_ALL,
    WIDE,
    floats,
    heads_kv,
    sections,
)

LOCAL, LOCAL_ROPE, WHOLE = 1e-6, 3e-6, 1.5e-5

ARCHS = ("granite", "granitemoe", "lfm2", "minicpm", "mistral3", "qwen3vl", "smollm3")
GATED = {"ffn_gate_exps.weight"}


SCALES = floats(embedding_scale=12.0, residual_scale=0.22, attention__scale=0.3)
NO_ROPE = {"rope.scaling.finetuned": (False, "BOOL")}
LINEAR = {"rope.scaling.type": ("linear", "STRING")} | floats(rope__scaling__factor=4.0)
TRAINED = {"rope.scaling.original_context_length": (32, "UINT32")}
YARN = {"rope.scaling.type": ("yarn", "STRING")} | floats(rope__scaling__factor=12.0) | TRAINED  # 1 is 1 - 2^-24
BETAS = floats(rope__scaling__yarn_beta_fast=8.0, rope__scaling__yarn_beta_slow=2.0)
LOG_MUL = floats(rope__scaling__yarn_log_multiplier=0.7)
TEMPERATURE = floats(attention__temperature_scale=0.1)
LONGROPE = {"rope.scaling.type": ("longrope", "STRING")} | TRAINED
SHARED = {"expert_shared_feed_forward_length": (30, "UINT32")}
LABELS = {"classifier.output_labels": (["no"], "ARRAY[STRING]")}

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "granite":                       ("granite", {"K": 2}),
    "granite, scales":               ("granite", {"K": 3, "keys": SCALES | BASE, "optional": EVERY_BIAS}),
    "granite, no rope, fused":       ("granite", {"H": 5, "K": 1, "keys": SCALES | NO_ROPE, "optional": FUSED_BIAS}),
    "granite, factors, sees all":    ("granite", {"optional": {"rope_freqs.weight", "output.weight"},
                                                  "keys": SEES_ALL | floats(residual_scale=0.5)}),
    "granite, long factors":         ("granite", {"keys": LONGROPE, "optional": FACTORS}),
    "granite, Q8_0":                 ("granite", {**WIDE, "K": 1, "keys": SCALES, "type_name": "Q8_0"}),
    "granite, experts, shared":      ("granite", {"X": 5, "n_used": 3, "keys": SCALES | SHARED, "optional": GATED}),
    "granitemoe":                    ("granitemoe", {"X": 4, "K": 2, "keys": SCALES | NO_ROPE, "optional": GATED}),
    "granitemoe, shared, Q8_0":      ("granitemoe", {**WIDE, "X": 6, "n_used": 1, "optional": GATED,
                                                     "type_name": "Q8_0", "keys": SCALES |
                                                     {"expert_shared_feed_forward_length": (32, "UINT32")}}),
    "minicpm":                       ("minicpm", {"K": 2}),
    "minicpm, its own scales":       ("minicpm", {"n_layer": 5, "keys": SCALES | NO_ROPE, "optional": EVERY_BIAS}),
    "minicpm, none, yarn":           ("minicpm", {"D": 24, "H": 3, "keys": YARN |
                                                  floats(embedding_scale=0.0, residual_scale=0.0)}),
    "minicpm, experts":              ("minicpm", {"X": 3, "keys": SHARED, "optional": GATED}),
    "minicpm, Q4_0":                 ("minicpm", {**WIDE, "type_name": "Q4_0"}),
    "mistral3":                      ("mistral3", {"K": 2, "keys": BASE}),
    "mistral3, yarn, temperature":   ("mistral3", {"D": 24, "H": 3, "keys": YARN | TEMPERATURE}),
    "mistral3, betas, log mul":      ("mistral3", {"D": 24, "H": 3, "K": 1, "optional": EVERY_BIAS | {"output.weight"},
                                                   "keys": YARN | BETAS | LOG_MUL | TEMPERATURE}),
    "mistral3, yarn that shrinks":   ("mistral3", {"D": 24, "H": 3, "optional": FUSED_BIAS | {"rope_freqs.weight"},
                                                   "keys": YARN | LOG_MUL | floats(rope__scaling__factor=0.5)}),
    "mistral3, betas without yarn":  ("mistral3", {"keys": BETAS | LOG_MUL | LINEAR}),
    "mistral3, experts":             ("mistral3", {"X": 4, "optional": GATED, "keys": TEMPERATURE | TRAINED}),
    "mistral3, Q8_0":                ("mistral3", {**WIDE, "K": 1, "keys": YARN, "type_name": "Q8_0"}),
    "smollm3":                       ("smollm3", {"K": 2, "n_layer": 5}),
    "smollm3, biases, yarn":         ("smollm3", {"D": 24, "H": 3, "n_layer": 4, "keys": YARN,
                                                  "optional": QKV_BIAS | {"output.weight"}}),
    "smollm3, fused, sees all":      ("smollm3", {"H": 7, "K": 1, "n_layer": 4, "optional": FUSED_BIAS,
                                                  "keys": LINEAR | SEES_ALL | BASE}),
    "smollm3, Q8_0":                 ("smollm3", {**WIDE, "K": 1, "n_layer": 4, "type_name": "Q8_0"}),
    "qwen3vl":                       ("qwen3vl", {"K": 2, "keys": BASE}),
    "qwen3vl, pairs that rest":      ("qwen3vl", {"D": 32, "H": 3, "K": 1, "optional": QKV_BIAS, "keys":
                                                  sections(8, 4, 4, 0) | {"n_deepstack_layers": (2, "UINT32")}}),
    "qwen3vl, a fourth stream":      ("qwen3vl", {"D": 24, "keys": sections(1, 2, 0, 4) | YARN | LABELS,
                                                  "optional": {"cls.output.weight", "attn_qkv.weight"}}),
    "qwen3vl, Q8_0":                 ("qwen3vl", {**WIDE, "keys": sections(6, 5, 5, 0), "type_name": "Q8_0"}),
    "lfm2":                          ("lfm2", {"K": 2, "window": 0}),
    "lfm2, window":                  ("lfm2", {"K": 1, "window": 5, "keys": BASE | floats(rope__freq_base_swa=50.0)}),
    "lfm2, sees all":                ("lfm2", {"window": 0, "conv": 5, "keys": SEES_ALL, "n_layer": 2}),
    "lfm2, sees all in a window":    ("lfm2", {"window": 7, "keys": SEES_ALL | LINEAR, "optional": {"output.weight"}}),
    "lfm2, attention at both ends":  ("lfm2", {"C": 40, "H": 5, "n_layer": 4, "conv": 4, "optional": FUSED_BIAS,
                                               "keys": heads_kv(1, 0, 0, 1), "K": 1}),
    "lfm2, conv 9, in part, yarn":   ("lfm2", {"C": 96, "H": 4, "K": 2, "conv": 9, "optional": QKV_BIAS, "window": 0,
                                               "keys": YARN | {"rope.dimension_count": (14, "UINT32")}}),
    "lfm2, conv 2":                  ("lfm2", {"conv": 2, "window": 200}),
    "lfm2, Q8_0":                    ("lfm2", {**WIDE, "K": 1, "type_name": "Q8_0", "window": 0}),
    "llama, experts":                ("llama", {"X": 8, "K": 2, "optional": GATED}),
    "llama, experts without gates":  ("llama", {"X": 3, "n_used": 3, "optional": {"attn_output.bias"}}),
    "llama, one expert":             ("llama", {"X": 1, "n_used": 1, "optional": GATED}),
    "llama, experts, Q4_0":          ("llama", {**WIDE, "X": 4, "optional": GATED, "type_name": "Q4_0"}),
    "llama-embed, gated experts":          ("llama-embed", {"X": 4, "optional": GATED, "keys": SEES_ALL}),
}
# fmt: on
SLOW = {  # what others show in part
    "granite, factors, sees all",
    "granite, long factors",
    "granitemoe, shared, Q8_0",
    "minicpm, none, yarn",
    "minicpm, experts",
    "minicpm, Q4_0",
    "mistral3, yarn that shrinks",
    "mistral3, betas without yarn",
    "mistral3, experts",
    "smollm3, fused, sees all",
    "lfm2, sees all in a window",
    "lfm2, conv 9, in part, yarn",
    "lfm2, conv 2",
    "llama, experts without gates",
    "llama, one expert",
    "llama-embed, gated experts",
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("pooling", ["none", "mean"])
@pytest.mark.parametrize("bias", [False, True], ids=["matrix", "matrix and bias"])
def test_lfm2s_matrix_after_pooling_is_applied(bias: bool, pooling: str, tmp_path: Path) -> None:
    """dense_2 on the pooled vector, or on each token's (ColBERT): llama.cpp's bits through the public path."""
    optional = {"dense_2.weight", "dense_2.bias"} if bias else {"dense_2.weight"}
    keys = {"embedding_length_out": (17, "UINT32")}
    number = {"none": 0, "mean": 1}[pooling]
    path = synthetic(tmp_path / "m.gguf", "lfm2", keys=keys, optional=optional, pooling=number)
    e = Embedder.load(path, numerics="ggml")
    with LlamaCpp(path, flash_attn=True) as engine:
        (want,) = engine.embed([some_ids(33)])
    (got,) = e.embed([some_ids(33)], normalize=-1)
    assert got.shape[-1] == e.info.n_embd_out == 17
    assert unequal(got, want) == 0


@pytest.mark.parametrize(
    ("keys", "conv", "reach"),
    [
        (heads_kv(0, 0, 2), 3, range(20, 28)),  # twice 2 by convolution, 4 - 1 by attention
        (heads_kv(0, 0, 2), 5, range(20, 32)),
        (heads_kv(0, 0, 2) | SEES_ALL, 3, range(26)),
        (heads_kv(2, 0, 0), 3, range(20, 28)),
    ],
)
def test_a_token_reaches_as_far_as_convolutions_and_windows(keys: Any, conv: int, reach: range, tmp_path: Path) -> None:
    """A window looks back only; what all see, where they do, reaches the first token too."""
    path = synthetic(tmp_path / "m.gguf", "lfm2", K=2, window=4, conv=conv, keys=keys)
    assert places_changed_by_token_20(path) == list(reach)


def test_equal_positions_are_plain_rope_where_no_pair_is_the_fourth_streams() -> None:
    """Of Qwen3-VL's 64 pairs two are: 61 and 62 stand still in llama.cpp, where the published model turns all."""
    assert still((2, 2, 2, 0), 5) is None
    factors = still((24, 20, 20, 0), 64)
    assert factors is not None
    assert np.flatnonzero(np.isinf(factors.dequantize())).tolist() == [61, 62]


def test_pairs_that_rest_have_no_angle(tmp_path: Path) -> None:
    path = FAMILY.write("qwen3vl, pairs that rest", tmp_path)
    hp = load_model(open_gguf(path)).hparams
    theta = angles(np.arange(100), rope_of(hp, 0, still(hp.rope_sections, hp.n_rot // 2)))  # (100, 16)
    assert np.flatnonzero((theta[1:] == 0).all(axis=0)).tolist() == [13, 14]


OTHER_PAIRS = "replace(rope_of(hp, il, factors), pairs='neox')"

# fmt: off
FAULTS = [
    Fault("embeddings are not scaled", "granite, scales", 'taps("inp_rows", x) * hp.embedding_scale',
          'taps("inp_rows", x)', "embd[0]"),
    Fault("attention is not scaled before it is added", "granite, scales", "ops.scale(a, hp.residual_scale)", "a",
          "attn_scaled-0[0]"),
    Fault("feed-forward is not scaled before it is added", "granite, scales", "ops.scale(h, hp.residual_scale)", "h",
          "ffn_scaled-0[0]"),
    Fault("the sum is scaled", "granite, scales", 'tap("ffn_inp", ops.add(a, x))', 'tap("ffn_inp", (a + x) * 0.22)',
          "ffn_inp-0[0]"),
    Fault("the usual scale of scores", "granite, scales", "hp.attention_scale or 1", "1", "kq_soft_max-0[0]"),
    Fault("halves turn together", "granite, scales", "rope_of(hp, il, factors)", OTHER_PAIRS, "Qcur-0[2]"),
    Fault("heads turn nevertheless", "granite, no rope, fused", "if hp.rope_finetuned else q", "", "Qcur-0[0]"),
    Fault("no expert is shared", "granite, experts, shared", "h + shared_expert(y, blk, ops, tap)", "h",
          "ffn_out-0[0]"),
    Fault("no shares of 12", "minicpm", "EMBEDDING_SCALE = 12.0", "EMBEDDING_SCALE = 1.0", "embd[0]"),
    Fault("one scale for any depth", "minicpm", "/ np.sqrt(np.float32(n_layer))", "", "attn_scaled-0[0]"),
    Fault("granite's scale of scores", "minicpm, its own scales", "attention_scale=0.0, ", "", "kq_soft_max-0[0]"),
    Fault("granite's switch for RoPE", "minicpm, its own scales", "rope_finetuned=True, ", "", "kq-0[0]"),
    Fault("YaRN's usual betas", "mistral3, betas, log mul",
          ", beta_fast=hp.yarn_beta_fast, beta_slow=hp.yarn_beta_slow", "", "Qcur-0[2]"),
    Fault("YaRN without the multiple", "mistral3, betas, log mul", "rope_of(hp, il, factors)",
          "rope_of(replace(hp, yarn_log_mul=0.0), il, factors)", "Qcur-0[2]"),
    Fault("a place late", "mistral3, yarn, temperature", "np.floor(pos / n_ctx", "np.floor((pos + 1) / n_ctx",
          "Qcur_attn_temp_scaled-0[0]"),
    Fault("the first layer of four does not turn", "smollm3", "(il + 1) %", "il %", "kq-0[0]"),
    Fault("every layer turns", "smollm3", "_STEP != 0", "_STEP != 9", "kq-3[0]"),
    Fault("all pairs turn", "qwen3vl, pairs that rest", "still(hp.rope_sections, hp.n_rot // 2)", "None", "Qcur-0[2]"),
    Fault("sections one after the other", "qwen3vl, a fourth stream", "sector < 3 * np.array(sections)[sector % 3]",
          "sector < sum(sections[:3])", "Qcur-0[0]"),
    Fault("one norm for queries and keys", "qwen3vl", "blk.attn_k_norm", "blk.attn_q_norm", "Kcur_normed-0[0]"),
    Fault("gates change places", "lfm2", "b, c, u = ", "c, b, u = ", "conv_gated-0[0]"),
    Fault("the convolution sees a token ahead", "lfm2", "0 if hp.causal", "1 if hp.causal",
          "model.layers.{}.conv.conv-0[0]"),
    Fault("the convolution looks back only", "lfm2, sees all", "0 if hp.causal else", "0 if True else",
          "model.layers.{}.conv.conv-0[0]"),
    Fault("a window too wide by one", "lfm2, window", "window=hp.n_swa", "window=hp.n_swa + 1", "kq_soft_max-1[0]"),
    Fault("a base of its own in a window", "lfm2, window", "rope_of(hp, 0)", "replace(rope_of(hp, 0), freq_base=50.0)",
          "Qcur_roped-1[0]"),
    Fault("the residual is taken behind the norm", "lfm2", "ops, tap) + x)", "ops, tap) + y)", "ffn_inp-0[0]"),
    Fault("up is the gate", "lfm2", "ops.swiglu(gate, up)", "ops.swiglu(up, gate)", "ffn_swiglu-0[0]"),
    Fault("weights of experts as they are", "llama, experts", "norm_weights=True", "norm_weights=False",
          "ffn_moe_weighted-0[0]"),
    Fault("experts without their gates", "llama, experts", "gate=blk.ffn_gate_exps", "gate=None", "ffn_moe_down-0[0]"),
]
# fmt: on


FAMILY = Family(
    ARCHS,
    VARIANTS,
    lambda variant, d: LOCAL_ROPE if d.op == "ROPE" else LOCAL,
    lambda variant: WHOLE,
    [(fault, None) for fault in FAULTS],
    slow=SLOW,
    traced="last",
    small=lambda arch: {"K": 2, "D": 6, "n_layer": 4} | ({"X": 4, "optional": GATED} if arch == "granitemoe" else {}),
    bits=Apart,
)


@pytest.mark.oracle
def test_texts_of_one_call_lie_behind_each_other_in_the_cache(tmp_path: Path) -> None:
    """LFM2's texts run apart; that a later one begins behind the earlier ones' cells moves its sums to other lanes."""
    bits = Apart(synthetic(tmp_path / "m.gguf", "lfm2", P=256, window=0), "last")
    texts = [some_ids(n) for n in (100, 5, 40, 1, 90, 70)]
    with bits.engine() as engine:
        theirs = engine.embed(texts, batched=True)
    assert [unequal(x, y) for x, y in zip(bits.vectors(texts), theirs, strict=True)] == [0] * 6
    alone = [unequal(bits.vectors([text])[0], y) for text, y in zip(texts, theirs, strict=True)]
    assert alone[0] == 0
    assert sum(alone) > 0
