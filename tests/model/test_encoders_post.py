"""Encoders that normalize after each part, on small random models against live llama.cpp: every tensor, every option.

`ggml` gives llama.cpp's bits. With float32 weights `exact` and `fast` differ by rounding alone. Largest error of one
operation on llama.cpp's own inputs, over the largest value: measured 6.4e-7 (xllamacpp 2026.10.11549, AVX-512 CPU); of
a whole run 2.5e-6. llama.cpp's GELU comes from a table of float16 numbers: alone 7.1e-4, in whole runs 2.5e-3. There it
may also turn round two experts that are nearly as likely.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.errors import ModelError
from refembed.gguf import GGUFWriter, open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model import ARCHITECTURES, load_model
from refembed.model import moe as moe_module
from refembed.model.moe import moe
from refembed.model.trace import Recorder, at_layer
from refembed.model.weights import bind
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.replay import LocalDifference
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.model.bits import Bits, some_ids, unequal
from tests.model.facts import (
    places_changed_by_token_20,
)
from tests.model.family import Family
from tests.model.faults import Fault
from tests.model.keys import FUSED, FUSED_BIAS, IN_PART, LINEAR, LOOKS_BACK, QKV_BIAS, YARN, every, kv

LOCAL, LOCAL_GELU = 1e-6, 1.2e-3
WHOLE, WHOLE_GELU = 8e-6, 4e-3

ARCHS = ("jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe")
TYPES, GATE, HEAD = {"token_types.weight"}, {"ffn_gate.weight"}, {"cls.weight", "cls.bias"}
UP_BIAS = {"ffn_up.bias"}
FFN_BIAS = {"ffn_up.bias", "ffn_down.bias"}
BIASES = FFN_BIAS | {"attn_output.bias"}
QK_NORM = {f"attn_{x}_norm.{part}" for x in "qk" for part in ("weight", "bias")}
NORM_2 = {"attn_norm_2.weight", "attn_norm_2.bias"}
BASE = {"rope.freq_base": (1e3, "FLOAT32")}
WIDE = {"C": 96, "F": 64, "H": 3}  # whole blocks of 32 weights in every row; heads fill C
WIDER = {"C": 256, "F": 256, "H": 4, "n_layer": 2, "X": 6, "optional": FUSED_BIAS}  # and of 256


# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nomic-bert":                       ("nomic-bert", {"optional": TYPES | FUSED, "keys": BASE}),
    "nomic-bert, biases, grouped":      ("nomic-bert", {"K": 2, "optional": QKV_BIAS | BIASES, "keys": LOOKS_BACK}),
    "nomic-bert, mqa, in part, linear": ("nomic-bert", {"C": 30, "H": 3, "K": 1, "keys": IN_PART | LINEAR,
                                                        "optional": FUSED_BIAS | TYPES}),
    "nomic-bert, one head, yarn":       ("nomic-bert", {"C": 24, "H": 1, "n_layer": 1, "keys": YARN}),
    "nomic-bert, Q8_0":                 ("nomic-bert", {**WIDE, "K": 1, "type_name": "Q8_0", "optional": TYPES}),
    "moe":                              ("nomic-bert-moe", {"X": 8, "n_layer": 4, "keys": BASE,
                                                            "optional": TYPES | FUSED_BIAS | BIASES}),
    "moe, one of five":                 ("nomic-bert-moe", {"X": 5, "n_used": 1, "K": 3, "optional": QKV_BIAS}),
    "moe, four of nineteen":            ("nomic-bert-moe", {"X": 19, "n_used": 4, "C": 30, "H": 5, "keys": IN_PART}),
    "moe, all of three":                ("nomic-bert-moe", {"X": 3, "n_used": 3, "F": 17, "keys": YARN}),
    "moe, every third layer":           ("nomic-bert-moe", {"X": 4, "n_layer": 5, "keys": every(3) | LINEAR}),
    "moe, every layer, that is none":   ("nomic-bert-moe", {"X": 4, "n_layer": 2, "keys": every(1)}),
    "moe, no experts":                  ("nomic-bert-moe", {"n_layer": 2, "optional": FFN_BIAS}),
    "moe, Q8_0":                        ("nomic-bert-moe", {**WIDE, "X": 6, "type_name": "Q8_0", "optional": FUSED}),
    "moe, Q4_0":                        ("nomic-bert-moe", {**WIDE, "X": 6, "type_name": "Q4_0"}),
    "moe, Q4_K":                        ("nomic-bert-moe", {**WIDER, "type_name": "Q4_K"}),
    "jina-bert-v2":                     ("jina-bert-v2", {"optional": GATE | QKV_BIAS}),
    "jina-bert-v2, for code":           ("jina-bert-v2", {"wide": True, "optional": QKV_BIAS | QK_NORM | NORM_2}),
    "jina-bert-v2, reranker, biases":   ("jina-bert-v2", {"wide": True, "optional": HEAD | FUSED_BIAS | UP_BIAS}),
    "jina-bert-v2, no gate, 12 heads":  ("jina-bert-v2", {"C": 48, "H": 12, "optional": UP_BIAS}),
    "jina-bert-v2, grouped, norms":     ("jina-bert-v2", {"K": 2, "keys": kv(2), "optional": GATE | UP_BIAS | {
                                          "attn_q_norm.weight", "attn_norm_2.weight"}}),
    "jina-bert-v2, k norm, odd heads":  ("jina-bert-v2", {"C": 35, "H": 5, "n_layer": 1, "optional": GATE | NORM_2 | {
                                          "attn_k_norm.weight"}}),
    "jina-bert-v2, Q4_0":               ("jina-bert-v2", {**WIDE, "type_name": "Q4_0", "optional": GATE | QKV_BIAS}),
    "jina-bert-v3":                     ("jina-bert-v3", {"optional": TYPES | FUSED_BIAS | BIASES, "keys": BASE}),
    "jina-bert-v3, no biases, linear":  ("jina-bert-v3", {"K": 2, "keys": LINEAR | LOOKS_BACK}),
    "jina-bert-v3, odd heads, yarn":    ("jina-bert-v3", {"C": 42, "H": 7, "K": 1, "keys": YARN, "optional": QKV_BIAS}),
    "jina-bert-v3, Q8_0":               ("jina-bert-v3", {**WIDE, "type_name": "Q8_0",
                                                          "optional": FUSED_BIAS | BIASES}),
}
# fmt: on
@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["F16", "BF16", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4"])
@pytest.mark.parametrize("repack", [False, True])
def test_experts_of_other_types_have_llama_cpps_bits(type_name: str, repack: bool, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "nomic-bert-moe", **WIDE, X=6, P=256, type_name=type_name)
    bits = Bits(path, repack=repack)
    with bits.engine() as engine:
        assert bits.differing(engine) == {}
        assert bits.wrong(engine.trace(some_ids(70))) == []


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ1_0", "TQ2_0"])
def test_experts_in_wide_blocks_have_llama_cpps_bits(type_name: str, tmp_path: Path) -> None:
    path = synthetic(tmp_path / "m.gguf", "nomic-bert-moe", **WIDER, P=256, type_name=type_name)
    bits = Bits(path)
    with bits.engine() as engine:
        assert bits.differing(engine) == {}
        assert bits.wrong(engine.trace(some_ids(70))) == []


@pytest.mark.oracle
@pytest.mark.parametrize("flash_attn", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_alibi_beyond_2048_tokens_is_rounded_as_llama_cpp_rounds_it(flash_attn: bool, tmp_path: Path) -> None:
    """Flash attention's mask is of float16, which has no odd numbers up there."""
    sizes = {"n_layer": 1, "C": 8, "H": 2, "F": 8, "P": 4096}
    bits = Bits(synthetic(tmp_path / "m.gguf", "jina-bert-v2", **sizes), "none", flash_attn=flash_attn)
    with LlamaCpp(bits.path, pooling="none", flash_attn=flash_attn, n_ctx=2560) as engine:
        (want,) = engine.embed([some_ids(2200)])
    assert unequal(bits.vectors([some_ids(2200)])[0], want) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_every_token_sees_every_other(arch: str, tmp_path: Path) -> None:
    assert places_changed_by_token_20(synthetic(tmp_path / "m.gguf", arch, n_layer=1)) == list(range(40))


@pytest.mark.oracle
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("X", "n_used"), [(8, 2), (5, 3), (4, 1)])
def test_experts_of_a_decoder_have_llama_cpps_bits(X: int, n_used: int, gated: bool, tmp_path: Path) -> None:
    """Gated by SiLU, weights made to add up to 1: what llama and granite ask of `moe`, on their own inputs."""
    path = mixtral(tmp_path / "m.gguf", X, n_used, gated)
    f, ops = open_gguf(path), load_ops("ggml", flash_attn=False, repack=False)
    with LlamaCpp(path, pooling="last", flash_attn=False) as engine:
        theirs = engine.trace(some_ids(29))
    router, up, down = (f.tensors[f"blk.0.{name}.weight"] for name in ("ffn_gate_inp", "ffn_up_exps", "ffn_down_exps"))
    gate = f.tensors["blk.0.ffn_gate_exps.weight"] if gated else None
    seen = Recorder()
    layer_tap = at_layer(seen, 0)
    moe(theirs["ffn_norm-0"], router, up, down, n_used, "silu", ops, layer_tap, gate=gate, norm_weights=True)
    names = {name for name in theirs if name.startswith("ffn_moe") and "(" not in name and "topk" not in name}
    assert names == {tap.name for tap in seen.trace.tensors} - {"ffn_moe_sum-0"}
    for tap in seen.trace.tensors:
        if "sum-0" not in tap.name:
            assert unequal(tap.array, theirs[tap.name].astype(np.float32)) == 0, tap.name


# fmt: off
FAULTS = [
    Fault("neighbors turn together", "nomic-bert", "rope_of(hp, il)", "replace(rope_of(hp, il), pairs='norm')",
          "Qcur-0[0]"),
    Fault("the usual base", "nomic-bert", "rope_of(hp, il)", "replace(rope_of(hp, il), freq_base=1e4)", "Qcur-0[0]"),
    Fault("up is the gate", "nomic-bert", "ops.swiglu(gate, up)", "ops.swiglu(up, gate)", "ffn_swiglu-0[0]"),
    Fault("the residual is taken behind the norm", "nomic-bert",
          "ops.add_layer_norm(a, x, *blk.attn_output_norm, eps, tap)",
          "ops.layer_norm(a, *blk.attn_output_norm, eps, tap) + x", "norm-0[1]"),
    Fault("kind 1", "nomic-bert", "w.token_types, [0]", "w.token_types, [1]", "inp_embd[0]"),
    Fault("a bias that llama.cpp leaves unused", "nomic-bert, biases, grouped", "ops.linear(y, blk.ffn_up.weight)",
          "ops.linear(y, *blk.ffn_up)", "ffn_up-0[0]"),
    Fault("tokens look back only", "nomic-bert", "attention_spec(hp, il", "attention_spec(replace(hp, causal=True), il",
          "kq_soft_max-0[0]"),
    Fault("weights that add up to 1", "moe", '"gelu", ops, tap)', '"gelu", ops, tap, norm_weights=True)',
          "ffn_moe_weighted-1[0]"),
    Fault("one expert fewer", "moe", "hp.n_expert_used,", "hp.n_expert_used - 1,", "ffn_moe_out-1[0]"),
    Fault("SiLU", "moe", '"gelu", ops', '"silu", ops', "ffn_moe_down-1[0]"),
    Fault("no bias", "moe", "ops.linear(h, *blk.ffn_down", "ops.linear(h, blk.ffn_down.weight, None", "ffn_out-0[0]"),
    Fault("heads look equally far", "jina-bert-v2", "max_bias=8.0", "max_bias=4.0", "kq_soft_max-0[0]"),
    Fault("positions do not matter", "jina-bert-v2", "n_embd_head), ALIBI)", "n_embd_head), AttentionMask())",
          "kq_soft_max-0[0]"),
    Fault("up is the gate", "jina-bert-v2", "ops.geglu(gate, up)", "ops.geglu(up, gate)", "ffn_geglu-0[0]"),
    Fault("the second half is the gate, as published", "jina-bert-v2, for code", "gate, up = ops", "up, gate = ops",
          "ffn_geglu-0[0]"),
    Fault("the layer's input is added once", "jina-bert-v2, for code", "ops.add_layer_norm(y, x, *blk.attn_norm_2",
          "ops.layer_norm(y, *blk.attn_norm_2", "norm-0[4]"),
    Fault("RMS norm for layer norm", "jina-bert-v2, for code", "ops.layer_norm(q, *blk.attn_q_norm, eps, tap)",
          "ops.rms_norm(q, blk.attn_q_norm.weight, eps, tap)", "norm-0[1]"),
    Fault("keys are not normed", "jina-bert-v2, for code", "ops.layer_norm(k, *blk.attn_k_norm, eps, tap)", "k",
          "kq-0[0]"),
    Fault("scores scaled by all channels", "jina-bert-v2", "math.sqrt(hp.n_embd_head)", "math.sqrt(hp.n_embd)",
          "kq_soft_max-0[0]"),
    Fault("no gate, but SiLU", "jina-bert-v2, no gate, 12 heads", "ops.gelu(up)", "ops.silu(up)", "ffn_gelu-0[0]"),
    Fault("neighbors turn together", "jina-bert-v3", "rope_of(hp, il)", "replace(rope_of(hp, il), pairs='norm')",
          "Qcur-0[0]"),
    Fault("GELU itself", "jina-bert-v3", "ops.gelu(h)", "ops.gelu_erf(h)", "ffn_gelu-0[0]"),
    Fault("keys stay where they are", "jina-bert-v3", "ops.rope(qkv.keys(), batch.pos, rope)", "qkv.keys()",
          "Kcur-0[0]"),
    Fault("another epsilon", "jina-bert-v3", "token_embd_norm, hp.norm_eps", "token_embd_norm, 1e-5", "norm-0[0]"),
]

MOE_FAULTS = [  # in moe.py
    Fault("the least likely experts", "moe", "np.argsort(-p,", "np.argsort(p,", "ffn_moe_argsort-1[0]"),
    Fault("logarithms of probabilities", "moe", "np.take_along_axis(p,", "np.take_along_axis(np.log(p),",
          "ffn_moe_weights-1[0]"),
    Fault("no softmax", "moe", "ops.softmax(logits)", "logits", "ffn_moe_probs-1[0]"),
    Fault("experts weighed twice", "moe", "y * weights[:, :, None]", "y * weights[:, :, None] ** 2",
          "ffn_moe_weighted-1[0]"),
    Fault("down takes the experts backwards", "moe", "project(h, down, chosen,", "project(h, down, chosen[:, ::-1],",
          "ffn_moe_down-1[0]"),
    Fault("added from the other end", "moe, four of nineteen", "y[:, rank]", "y[:, -rank]", "ffn_moe_sum-1[0]"),
    Fault("the first expert alone", "moe", "out + y", "out + 0 * y", "ffn_moe_out-1[0]"),
]
# fmt: on


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation."""
    return LOCAL_GELU if d.op in ("GEGLU", "GELU") else LOCAL


FAMILY = Family(
    ARCHS,
    VARIANTS,
    bound_of,
    lambda variant: WHOLE if variant.startswith("nomic") else WHOLE_GELU,
    [*((fault, None) for fault in FAULTS), *((fault, moe_module) for fault in MOE_FAULTS)],
    cached=False,
    unordered="argsort",
    pooling="cls",
    classic="cls",
    small=lambda arch: {"X": 6 if "moe" in arch else 0},
)


def test_a_bias_has_as_many_numbers_as_its_weight_has_rows(tmp_path: Path) -> None:
    """Where rows may be F or 2 F."""
    path = synthetic(tmp_path / "m.gguf", "jina-bert-v2", wide=True, optional=UP_BIAS, n_layer=1)
    f = open_gguf(path)
    tensors = dict(f.tensors) | {"blk.0.ffn_up.bias": f.tensors["blk.0.ffn_up.bias"]}
    bias = tensors["blk.0.ffn_up.bias"]
    tensors["blk.0.ffn_up.bias"] = replace(bias, shape=(50,), raw=bias.raw[:200])
    hp = load_model(f).hparams
    with pytest.raises(ModelError, match=r"mis-shaped blk.0.ffn_up.bias: \(50,\), but the metadata ask for \(2F\)"):
        bind(ARCHITECTURES["jina-bert-v2"].Weights, tensors, hp.sizes, 1, "m.gguf", hp.layers)


def mixtral(path: Path, X: int, n_used: int, gated: bool) -> Path:
    """A llama of one layer whose feed-forward part is a mixture of experts."""
    C, F, H, rng = 32, 24, 2, np.random.default_rng(X)
    like = open_gguf(synthetic(path.with_suffix(".dense"), "llama", n_layer=1, C=C, F=F, H=H, D=16))
    w = GGUFWriter("llama")
    w.copy_keys(like.metadata)
    w.add("llama.expert_count", X, "UINT32")
    w.add("llama.expert_used_count", n_used, "UINT32")
    for t in like.tensors.values():
        if "ffn_" not in t.name or "norm" in t.name:
            w.add_tensor(t.name, t.raw, t.shape, t.type.name)
    shapes = {"ffn_gate_inp": (X, C), "ffn_up_exps": (X, F, C), "ffn_gate_exps": (X, F, C), "ffn_down_exps": (X, C, F)}
    for name, shape in shapes.items():
        if gated or name != "ffn_gate_exps":
            x = rng.standard_normal(shape).astype(np.float32) / np.float32(4)
            w.add_tensor(f"blk.0.{name}.weight", x, shape, "F32")
    return w.write(path)
