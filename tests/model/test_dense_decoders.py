"""Dense decoders from GPT-2 to GLM-4, on small random models against live llama.cpp: every tensor, every option.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
Largest error of one operation on llama.cpp's own inputs, over the largest value: measured 5.3e-7 (xllamacpp
2026.10.11549, AVX-512 CPU), of RoPE, whose angles llama.cpp multiplies up in float32, 1.2e-6, of GELU, from a table of
float16 numbers, 6.4e-4; of a whole run 4.7e-6, with GELU 3.2e-3, of 64 layers 2.4e-3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import EngineError, RefembedError
from refembed.gguf import open_gguf
from refembed.model import gpt2, llama, load_model, qwen2
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.replay import LocalDifference
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied, with_keys
from tests.model.bits import Apart, some_ids, unequal
from tests.model.facts import neither_runs_it
from tests.model.family import Family
from tests.model.faults import Fault
from tests.model.keys import (
    BASE,
    BASES,
    FUSED,
    FUSED_BIAS,
    HEADS_OF_8,
    IN_PART,
    LINEAR,
    LOOKS_BACK,
    PATTERN,
    QKV_BIAS,
    SEES_ALL,
    WIDE,
    YARN,
    floats,
    kv,
    sections,
)

LOCAL, LOCAL_ROPE, LOCAL_GELU = 1e-6, 3e-6, 1.2e-3
WHOLE, WHOLE_GELU, WHOLE_DEEP = 1.5e-5, 5e-3, 5e-3

ARCHS = (
    "bloom", "chatglm", "cohere2", "command-r", "dream", "ernie4_5", "exaone", "exaone4", "falcon", "glm4", "gpt2",
    "gptneox", "hunyuan-dense", "internlm2", "llada", "mpt", "nemotron", "olmo2", "phi2", "seed_oss", "stablelm",
    "starcoder2",
)  # fmt: skip
GELU = ("bloom", "falcon", "gpt2", "gptneox", "mpt", "phi2", "starcoder2")
OUT, FREQS = {"output.weight"}, {"rope_freqs.weight"}
FFN_BIAS = {"attn_output.bias", "ffn_up.bias", "ffn_down.bias"}
NORM_BIAS = {"attn_norm.bias", "ffn_norm.bias", "output_norm.bias"}
NORM_2 = {"attn_norm_2.weight", "attn_norm_2.bias"}
HEAD_NORMS = {"attn_q_norm.weight", "attn_k_norm.weight"}
FFN_NORM = {"ffn_norm.weight", "ffn_norm.bias"}
IN_TURN = {"use_parallel_residual": (False, "BOOL")}
FLAGS = {PATTERN: ([False, True, True], "ARRAY[BOOL]")}
ALIBI, CLAMP = floats(attention__max_alibi_bias=8.0), floats(attention__clamp_kqv=0.7)
ALPHA = floats(rope__scaling__alpha=1000.0)
ONE_EXPERT = {"expert_count": (1, "UINT32"), "expert_used_count": (1, "UINT32")}
DEEP: dict[str, Any] = {"n_layer": 64, "C": 24, "H": 3, "F": 8}

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom":                       ("bloom", {}),
    "bloom, mqa, sees all":        ("bloom", {"C": 35, "H": 5, "K": 1, "keys": SEES_ALL, "optional": OUT}),
    "bloom, Q8_0":                 ("bloom", {**WIDE, "type_name": "Q8_0"}),
    "chatglm":                     ("chatglm", {"K": 2, "keys": IN_PART, "optional": FUSED_BIAS}),
    "chatglm, separate, yarn":     ("chatglm", {"C": 72, "H": 3, "K": 1, "keys": YARN | BASE,
                                                 "optional": QKV_BIAS | OUT}),
    "chatglm, Q4_0":               ("chatglm", {**WIDE, "K": 1, "type_name": "Q4_0"}),
    "cohere2":                     ("cohere2", {"K": 2, "n_layer": 4}),
    "cohere2, flags, base, yarn":  ("cohere2", {"C": 72, "H": 3, "window": 5, "keys": YARN | FLAGS | BASES,
                                                 "optional": FUSED}),
    "cohere2, all turn, in part":  ("cohere2", {"keys": {PATTERN: (0, "UINT32")} | IN_PART | SEES_ALL,
                                                 "optional": QKV_BIAS}),
    "cohere2, Q8_0":               ("cohere2", {**WIDE, "K": 1, "n_layer": 4, "type_name": "Q8_0"}),
    "command-r":                   ("command-r", {"K": 2}),
    "command-r, 64 layers":        ("command-r", {**DEEP, "K": 1, "keys": BASE}),
    "command-r, biases, in part":  ("command-r", {"optional": QKV_BIAS, "keys": IN_PART | LINEAR}),
    "command-r, Q8_0":             ("command-r", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "dream":                       ("dream", {"K": 2, "keys": BASE, "optional": QKV_BIAS}),
    "dream, looks back, says it":  ("dream", {"keys": LOOKS_BACK,
                                               "optional": {*FUSED, "output.weight", "output.bias"}}),
    "dream, Q8_0":                 ("dream", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "ernie4_5":                    ("ernie4_5", {"K": 2, "keys": BASE, "optional": {"attn_output.bias"}}),
    "ernie4_5, biases, linear":    ("ernie4_5", {"H": 5, "K": 1, "keys": LINEAR, "optional": QKV_BIAS | OUT}),
    "exaone":                      ("exaone", {"K": 2, "keys": BASE, "optional": FREQS}),
    "exaone, fused, plain":        ("exaone", {"H": 5, "K": 1, "keys": LINEAR, "optional": FUSED_BIAS | OUT}),
    "exaone4":                     ("exaone4", {"K": 2, "keys": BASE, "optional": FREQS}),
    "exaone4, 64 layers":          ("exaone4", {**DEEP, "keys": BASES}),
    "exaone4, 64, flags, factors": ("exaone4", {**DEEP, "keys": LINEAR | {PATTERN: ([True, False] * 32, "ARRAY[BOOL]")},
                                                "optional": FUSED | FREQS}),
    "exaone4, a window it lacks":  ("exaone4", {"window": 3, "optional": QKV_BIAS | OUT}),
    "falcon":                      ("falcon", {"K": 1}),
    "falcon, two norms":           ("falcon", {"K": 2, "optional": NORM_2 | OUT, "keys": LINEAR}),
    "falcon, two, no bias":        ("falcon", {"optional": {"attn_norm_2.weight"}}),
    "falcon, Q8_0":                ("falcon", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "glm4":                        ("glm4", {"K": 2, "keys": {"rope.dimension_count": (6, "UINT32")}}),
    "glm4, biases":                ("glm4", {"H": 5, "K": 1, "keys": LINEAR | BASE, "optional": QKV_BIAS | OUT}),
    "glm4, fused, yarn":           ("glm4", {"D": 24, "H": 3, "keys": YARN, "optional": FUSED_BIAS}),
    "glm4, Q8_0":                  ("glm4", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "gpt2":                        ("gpt2", {}),
    "gpt2, mqa, one layer":        ("gpt2", {"C": 35, "H": 5, "K": 1, "n_layer": 1, "optional": OUT}),
    "gpt2, F16":                   ("gpt2", {**WIDE, "type_name": "F16"}),
    "gptneox":                     ("gptneox", {"keys": IN_PART}),
    "gptneox, one after the other": ("gptneox", {"K": 2, "keys": IN_TURN | BASE}),
    "gptneox, yarn":               ("gptneox", {"C": 72, "H": 3, "keys": YARN}),
    "gptneox, Q8_0":               ("gptneox", {**WIDE, "type_name": "Q8_0"}),
    "hunyuan-dense":               ("hunyuan-dense", {"K": 2, "keys": ALPHA | ONE_EXPERT}),
    "hunyuan-dense, fused":        ("hunyuan-dense", {"H": 5, "K": 1, "keys": LINEAR, "optional": FUSED_BIAS | OUT}),
    "internlm2":                   ("internlm2", {"K": 2, "keys": BASE}),
    "internlm2, biases, linear":   ("internlm2", {"optional": QKV_BIAS, "keys": LINEAR}),
    "llada":                       ("llada", {"K": 2, "keys": BASE}),
    "llada, what it does not use": ("llada", {"keys": LOOKS_BACK,
                                               "optional": FFN_BIAS | FREQS | OUT | {"ffn_gate.bias"}}),
    "llada, fused":                ("llada", {"H": 5, "K": 1, "keys": LINEAR, "optional": FUSED_BIAS}),
    "mpt":                         ("mpt", {"keys": ALIBI}),
    "mpt, every bias, clamped":    ("mpt", {"C": 35, "H": 5, "keys": CLAMP | floats(attention__max_alibi_bias=3.0),
                                            "optional": FFN_BIAS | NORM_BIAS | OUT | {"attn_qkv.bias"}}),
    "mpt, places, clamped, gqa":   ("mpt", {"K": 2, "keys": CLAMP, "optional": {"position_embd.weight"}}),
    "mpt, Q8_0":                   ("mpt", {**WIDE, "keys": ALIBI, "type_name": "Q8_0"}),
    "nemotron":                    ("nemotron", {"K": 2, "keys": IN_PART}),
    "nemotron, every bias":        ("nemotron", {"keys": LINEAR, "optional": QKV_BIAS | FFN_BIAS}),
    "nemotron, fused, Q8_0":       ("nemotron", {**WIDE, "K": 1, "optional": FUSED, "type_name": "Q8_0"}),
    "olmo2":                       ("olmo2", {"K": 2, "window": 0, "keys": BASE}),
    "olmo2, window, yarn":         ("olmo2", {"C": 72, "H": 3, "K": 1, "n_layer": 5, "keys": YARN | BASES}),
    "olmo2, biases, flags":        ("olmo2", {"keys": FLAGS | LINEAR, "optional": QKV_BIAS}),
    "olmo2, fused":                ("olmo2", {"K": 3, "window": 0, "optional": FUSED_BIAS}),
    "olmo2, Q8_0":                 ("olmo2", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "phi2":                        ("phi2", {"keys": IN_PART, "optional": QKV_BIAS}),
    "phi2, fused, yarn":           ("phi2", {"C": 72, "H": 3, "K": 1, "keys": YARN, "optional": FUSED_BIAS}),
    "phi2, Q8_0":                  ("phi2", {**WIDE, "type_name": "Q8_0"}),
    "seed_oss":                    ("seed_oss", {"K": 2, "keys": BASE, "optional": QKV_BIAS}),
    "seed_oss, fused":             ("seed_oss", {"H": 5, "K": 1, "keys": LINEAR | SEES_ALL, "optional": FUSED | OUT}),
    "stablelm":                    ("stablelm", {"keys": IN_PART, "optional": FFN_NORM | QKV_BIAS}),
    "stablelm, side by side":      ("stablelm", {"K": 2, "keys": IN_PART | BASE, "optional": HEAD_NORMS}),
    "stablelm, fused, no bias":    ("stablelm", {"C": 72, "H": 3, "keys": YARN,
                                                 "optional": FUSED_BIAS | HEAD_NORMS | {"ffn_norm.weight"}}),
    "stablelm, Q8_0":              ("stablelm", {**WIDE, "K": 1, "optional": FFN_NORM, "type_name": "Q8_0"}),
    "starcoder2":                  ("starcoder2", {"K": 2, "keys": BASE, "optional": QKV_BIAS}),
    "starcoder2, fused, no bias":  ("starcoder2", {"C": 40, "H": 5, "K": 1, "keys": LINEAR, "optional": FUSED | OUT}),
    "starcoder2, Q8_0":            ("starcoder2", {**WIDE, "K": 1, "type_name": "Q8_0"}),
}
# fmt: on
ORDINARY = {*ARCHS, "stablelm, side by side", "falcon, two norms"}

ROPE, HEAD, ALL = "rope_of(hp, il)", "math.sqrt(hp.n_embd_head)", "math.sqrt(hp.n_embd)"
HALVES, NEIGHBORS = (f"replace(rope_of(hp, il), pairs='{pairs}')" for pairs in ("neox", "norm"))
WHOLE_HEADS = "replace(rope_of(hp, il), n_dims=hp.n_embd_head)"
CAUSAL = "qwen2.forward(w, replace(hp, causal=True),"
ALL_WIDE = ("scores scaled by all channels", HEAD, ALL, "kq_soft_max-0[0]")
BEHIND = ("the residual is taken behind the norm", "ops.add(a, x)", "ops.add(a, y)", "ffn_inp-0[0]")
EXCHANGED = ("up is the gate", "ops.swiglu(gate, up)", "ops.swiglu(up, gate)", "ffn_swiglu-0[0]")
SAME = "cached=False", "cached=True"


def fault(variant: str, name: str, right: str, wrong: str, first: str) -> Fault:
    """A fault, with the variant in front."""
    return Fault(name, variant, right, wrong, first)


# fmt: off
FAULTS = [
    fault("bloom", "embeddings are not normalized",
          "ops.layer_norm(x, *w.token_embd_norm, hp.norm_eps, at_layer(taps, 0))", "x", "inp_norm-0[0]"),
    fault("bloom", "half of ALiBi's exponent", "gpt2.layers, w, hp,",
          "gpt2.layers, w, replace(hp, max_alibi_bias=4.0),", "kq_soft_max-0[0]"),
    fault("bloom", "another epsilon", "hp.norm_eps, at_layer", "1e-3, at_layer", "norm-0[0]"),
    fault("chatglm", "whole heads turn", ROPE, WHOLE_HEADS, "Qcur-0[0]"),
    fault("chatglm", *EXCHANGED),
    fault("chatglm", *BEHIND),
    fault("cohere2", "every layer turns", "tap(\"Qcur\", ops.rope(q, batch.pos, rope)) if hp.swa_layers[il] else q",
          "tap(\"Qcur\", ops.rope(q, batch.pos, rope))", "kq-3[0]"),
    fault("cohere2", "every layer has the window", "attention_spec(hp, il", "attention_spec(hp, 0", "kq_soft_max-3[0]"),
    fault("cohere2", "halves turn together", "rope_of(hp, il, alike=True)", HALVES, "Qcur-0[1]"),
    fault("cohere2, flags, base, yarn", "a base of its own in a window", ", alike=True", "", "Qcur-1[0]"),
    fault("command-r", "the mean stays", "ops.layer_norm(x, blk.attn_norm, None, eps, tap)",
          "ops.rms_norm(x, blk.attn_norm, eps, tap)", "norm-0[0]"),
    fault("command-r", "halves turn together", ROPE, HALVES, "Qcur-0[1]"),
    fault("command-r", "feed-forward reads what is not normalized", "swiglu_mlp(y, ", "swiglu_mlp(x, ",
          "ffn_gate-0[0]"),
    fault("dream", "tokens look back only", "qwen2.forward(w, hp,", CAUSAL, "kq_soft_max-0[0]"),
    fault("dream", "keys are rounded as in a cache", *SAME, "kq-0[0]"),
    fault("exaone", "no frequency factors", "llama.forward(w, hp,", "llama.forward(replace(w, rope_freqs=None), hp,",
          "Qcur-0[1]"),
    fault("exaone4", "keys are not normed", "ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap)", "qkv.keys()",
          "Kcur_normed-0[0]"),
    fault("exaone4", "no norm behind attention", "ops.rms_norm(a, blk.post_attention_norm, eps, tap)", "a",
          "attn_post_norm-0[0]"),
    fault("exaone4, 64 layers", "every layer turns", "hp.swa_layers[il] or not hp.n_swa", "True", "Qcur-3[1]"),
    fault("exaone4, 64 layers", "a base of its own in a window", ", alike=True", "", "Qcur-0[1]"),
    fault("falcon, two norms", "feed-forward reads what attention does", "            y = tap(\"attn_norm\",",
          "            tap(\"attn_norm\",", "ffn_up-0[0]"),
    fault("falcon", *ALL_WIDE),
    fault("falcon", "neighbors turn together", ROPE, NEIGHBORS, "Qcur-0[0]"),
    fault("falcon", "the layer's input is lost", "ops.add(h, x)", "h", "l_out-0[0]"),
    fault("glm4", "no norm behind feed-forward", "ops.rms_norm(h, blk.post_ffw_norm, eps, tap)", "h",
          "post_mlp_norm-0[0]"),
    fault("glm4", "halves turn together", ROPE, HALVES, "Qcur-0[1]"),
    fault("glm4", *EXCHANGED),
    fault("gpt2", "places count from 1", "batch.pos)", "batch.pos + 1)", "pos_embd[0]"),
    fault("gpt2", *ALL_WIDE),
    fault("gpt2", *BEHIND),
    fault("gptneox", "feed-forward waits for attention", "if hp.parallel_residual:", "if False:", "norm-0[1]"),
    fault("gptneox", "whole heads turn", ROPE, WHOLE_HEADS, "Qcur-0[0]"),
    fault("gptneox", "attention is not added", "ops.add(x, a)", "x", "l_out-0[0]"),
    fault("hunyuan-dense", "RoPE's base as it is", ROPE, "replace(rope_of(hp, il), freq_base=1e4)", "Qcur-0[1]"),
    fault("hunyuan-dense", "queries do not turn", "ops.rope(qkv.queries(), batch.pos, rope)", "qkv.queries()",
          "Qcur-0[1]"),
    fault("hunyuan-dense", "keys are not normed", "ops.rms_norm(k, blk.attn_k_norm, eps, tap)", "k", "Kcur_norm-0[0]"),
    fault("llada", "tokens look back only", "qwen2.forward(w, hp,", CAUSAL, "kq_soft_max-0[0]"),
    fault("llada", "keys are rounded as in a cache", *SAME, "kq-0[0]"),
    fault("mpt, every bias, clamped", "nothing is held within a limit", "if hp.clamp_kqv > 0:", "if False:", "kq-0[0]"),
    fault("mpt", "no ALiBi", "attention_spec(hp, il", "attention_spec(replace(hp, max_alibi_bias=0.0), il",
          "kq_soft_max-0[0]"),
    fault("mpt", "keys for values", "q, k, v = ops.split", "q, v, k = ops.split", "kq-0[0]"),
    fault("nemotron", "ReLU is not squared", "ops.multiply(h, h)", "h", "ffn_sqr(relu)-0[0]"),
    fault("nemotron", "GELU for ReLU", "ops.relu(h)", "ops.gelu(h)", "ffn_relu-0[0]"),
    fault("nemotron", "whole heads turn", ROPE, WHOLE_HEADS, "Qcur-0[1]"),
    fault("olmo2", "no norm behind attention", "ops.rms_norm(a, blk.post_attention_norm, eps, tap)", "a",
          "attn_post_norm-0[0]"),
    fault("olmo2", "queries normalized head by head", "ops.rms_norm(q, blk.attn_q_norm, eps, tap)",
          "ops.rms_norm(heads(q, hp), None, eps, tap).reshape(q.shape) * blk.attn_q_norm.dequantize()",
          "Qcur_normed-0[0]"),
    fault("olmo2, window, yarn", "a window too wide by one", "attention_spec(hp, il",
          "attention_spec(replace(hp, n_swa=hp.n_swa + 1), il", "kq_soft_max-0[0]"),
    fault("olmo2, window, yarn", "YaRN where there is a window", "unscaled if hp.swa_layers[il] else rope_of(hp, il)",
          "rope_of(hp, il, alike=True)", "Qcur-0[1]"),
    fault("phi2", "feed-forward waits for attention", "gelu_mlp(y, ",
          "gelu_mlp(ops.layer_norm(a + x, *blk.attn_norm, eps), ", "ffn_up-0[0]"),
    fault("phi2", "whole heads turn", ROPE, WHOLE_HEADS, "Qcur-0[2]"),
    fault("phi2", "queries are not scaled", "ops.scale(q, scale)", "q", "Qcur_scaled-0[0]"),
    fault("seed_oss", "neighbors turn together", ROPE, NEIGHBORS, "Qcur-0[2]"),
    fault("seed_oss", *ALL_WIDE),
    fault("seed_oss", *BEHIND),
    fault("stablelm", "neighbors turn together", ROPE, NEIGHBORS, "Qcur-0[2]"),
    fault("stablelm, side by side", "keys are not normed",
          "k if blk.attn_k_norm is None else tap(\"Kcur\", ops.layer_norm(k, blk.attn_k_norm, None, eps, tap))", "k",
          "Kcur-0[1]"),
    fault("stablelm, side by side", "feed-forward reads what is not normalized",
          "is None:\n            h = swiglu_mlp(y, ", "is None:\n            h = swiglu_mlp(x, ", "ffn_gate-0[0]"),
    fault("starcoder2", "neighbors turn together", ROPE, NEIGHBORS, "Qcur-0[2]"),
    fault("starcoder2", *ALL_WIDE),
    fault("starcoder2", *BEHIND),
]
SHARED_FAULTS = [  # of architectures whose graph is another's: in that one's file
    (fault("bloom", *BEHIND), gpt2),
    (fault("dream", "neighbors turn together", ROPE, NEIGHBORS, "Qcur-0[2]"), qwen2),
    (fault("ernie4_5", "halves turn together", ROPE, HALVES, "Qcur-0[1]"), qwen2),
    (fault("ernie4_5", *ALL_WIDE), qwen2),
    (fault("ernie4_5", *BEHIND), qwen2),
    (fault("exaone", *ALL_WIDE), llama),
    (fault("exaone", *BEHIND), llama),
    (fault("internlm2", "halves turn together", ROPE, HALVES, "Qcur-0[1]"), qwen2),
    (fault("internlm2", *ALL_WIDE), qwen2),
    (fault("internlm2", *EXCHANGED), qwen2),
    (fault("llada", "halves turn together", ROPE, HALVES, "Qcur-0[1]"), qwen2),
]
# fmt: on


# files that test_refused.py tries: a tensor too few, sizes that go with nothing, keys that are not computed
TOO_FEW = [
    ("bloom", "token_embd_norm.bias"), ("chatglm", "blk.0.ffn_up.weight"), ("cohere2", "blk.0.attn_norm.weight"),
    ("command-r", "output_norm.weight"), ("dream", "blk.0.attn_v.weight"), ("ernie4_5", "blk.0.ffn_norm.weight"),
    ("exaone", "blk.1.ffn_gate.weight"), ("exaone4", "blk.0.attn_q_norm.weight"), ("falcon", "blk.0.attn_norm.bias"),
    ("glm4", "blk.2.post_attention_norm.weight"), ("gpt2", "position_embd.weight"), ("gptneox", "blk.0.attn_qkv.bias"),
    ("hunyuan-dense", "blk.1.attn_k_norm.weight"), ("internlm2", "output.weight"), ("llada", "blk.0.attn_k.weight"),
    ("mpt", "blk.0.attn_qkv.weight"), ("nemotron", "output.weight"), ("olmo2", "blk.1.post_ffw_norm.weight"),
    ("olmo2", "output.weight"), ("phi2", "output.bias"), ("seed_oss", "blk.0.post_attention_norm.weight"),
    ("stablelm", "output_norm.bias"), ("starcoder2", "blk.1.attn_output.bias"),
]  # fmt: skip
UNREAD = [
    ("command-r", "output.weight"), ("command-r", "blk.0.attn_q_norm.weight"), ("cohere2", "output.weight"),
    ("exaone", "rope_factors_long.weight"), ("exaone4", "blk.0.attn_norm.weight"), ("falcon", "blk.0.attn_qkv.bias"),
    ("gpt2", "blk.0.attn_q.weight"), ("internlm2", "blk.0.attn_output.bias"), ("seed_oss", "blk.0.ffn_norm.weight"),
]  # fmt: skip
IN_WHOLE = (
    "dream",
    "ernie4_5",
    "exaone",
    "exaone4",
    "falcon",
    "hunyuan-dense",
    "internlm2",
    "llada",
    "olmo2",
    "seed_oss",
    "starcoder2",
)
FILLED = ("chatglm", "dream", "exaone4", "gptneox", "internlm2", "olmo2", "phi2")
IMPOSSIBLE = [
    pytest.param(arch, sizes, message, marks=pytest.mark.slow if arch not in ("exaone4", "olmo2") else ())
    for archs, sizes, message in (
        (IN_WHOLE, {"D": 6, "keys": IN_PART}, "dimension_count is 4\n  hint: this architecture turns whole heads"),
        (FILLED, {"keys": HEADS_OF_8}, "6 heads of 8 channels do not make up 36"),
    )
    for arch in archs
]
ODD_KEYS: list[tuple[str, dict[str, Any], str]] = [
    ("cohere2", {"attention.sliding_window": (0, "UINT32")}, "sliding_window is 0"),
    ("olmo2", {PATTERN: ([True], "ARRAY[BOOL]")}, "has 1 flags for 3 layers"),
    ("stablelm", kv(4), "6 query heads cannot share 4 heads of keys evenly"),
    ("glm4", sections(2, 2, 1, 0), "places of pictures"),
    ("mpt", floats(attention__max_alibi_bias=-1.0), "max_alibi_bias is -1.0"),
    ("mpt", floats(attention__clamp_kqv=float("nan")), "clamp_kqv is nan"),
    ("hunyuan-dense", {"expert_count": (8, "UINT32"), "expert_used_count": (1, "UINT32")}, "a mixture of experts"),
]


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ["glm4", "exaone4"])
def test_a_layer_that_drafts_further_tokens_is_not_read(arch: str, tmp_path: Path) -> None:
    """GLM-OCR's files end with one, and so may EXAONE 4's: llama.cpp's vectors with it are those without."""
    plain = synthetic(tmp_path / "m.gguf", arch, K=2, pooling=3)
    last = {name: t for name, t in open_gguf(plain).tensors.items() if name.startswith("blk.2.")}
    drafts = {name.replace("blk.2.", "blk.3."): t.dequantize() for name, t in last.items()}
    drafts |= {"blk.3.nextn.eh_proj.weight": np.ones((36, 72), np.float32)}
    drafts |= {f"blk.3.nextn.{name}.weight": np.ones(36, np.float32) for name in ("enorm", "hnorm", "shared_head_norm")}
    more = copied(plain, tmp_path / "more.gguf", tensors=drafts)
    keys = {"block_count": (4, "UINT32"), "nextn_predict_layers": (1, "UINT32")}
    path = with_keys(more, tmp_path / "drafts.gguf", keys)
    ours = [Apart(p, "last").vectors([some_ids(33)])[0] for p in (plain, path)]
    assert unequal(*ours) == 0
    with LlamaCpp(path, pooling="last", flash_attn=False) as engine:
        assert unequal(ours[0], engine.embed([some_ids(33)])[0]) == 0


@pytest.mark.oracle
@pytest.mark.parametrize(("arch", "key"), [("cohere2", "logit_scale"), ("gptneox", "use_parallel_residual")])
def test_neither_engine_does_without_a_key(arch: str, key: str, tmp_path: Path) -> None:
    path = copied(synthetic(tmp_path / "m.gguf", arch), tmp_path / "less.gguf", {f"{arch}.{key}": None})
    with pytest.raises(RefembedError, match=f"{arch}.{key}"):
        load_model(open_gguf(path))
    with pytest.raises(EngineError):
        LlamaCpp(path)


@pytest.mark.oracle
def test_mpts_norms_of_queries_are_refused_by_both(tmp_path: Path) -> None:
    """llama.cpp loads them, and aborts: it reshapes a view."""
    norms = {f"blk.{il}.attn_{x}_norm.weight": np.ones(36, np.float32) for il in range(3) for x in "qk"}
    path = copied(synthetic(tmp_path / "m.gguf", "mpt"), tmp_path / "more.gguf", tensors=norms)
    neither_runs_it(path, "unexpected blk.0.attn_q_norm.weight")


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation."""
    return {"ROPE": LOCAL_ROPE, "GELU": LOCAL_GELU}.get(d.op, LOCAL)


def whole_of(variant: str) -> float:
    """Of a whole run: GELU's table rounds more, and rounding grows from layer to layer."""
    arch, sizes = VARIANTS[variant]
    return WHOLE_DEEP if sizes.get("n_layer") == 64 else WHOLE_GELU if arch in GELU else WHOLE


FAMILY = Family(
    ARCHS,
    VARIANTS,
    bound_of,
    whole_of,
    [(f, None) for f in FAULTS] + SHARED_FAULTS,
    slow=set(VARIANTS) - ORDINARY,
    traced="last",
    poolings=("mean",),
    small=lambda arch: {"n_layer": 4, "P": 128},
)
