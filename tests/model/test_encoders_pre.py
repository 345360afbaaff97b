"""Encoders that normalize before each part, on small random models against live llama.cpp: every tensor, every option.

`ggml` gives llama.cpp's bits. With float32 weights `exact` and `fast` differ by rounding alone. Largest error of one
operation on llama.cpp's own inputs, over the largest value: measured 7.2e-7 (xllamacpp 2026.10.11549, AVX-512
CPU); of a whole run 7.1e-6. llama.cpp's RoPE multiplies angles up in float32, and its tanh form of GELU comes
from a table of float16 numbers: alone 1.6e-6 at place 40, and 7.6e-4, in whole runs 1.4e-3. With quantized
weights it rounds activations to 8 bits, which moves a product by up to 1.5e-2.

A model needs layers with a window and layers without, or llama.cpp aborts: it fills the masks of both kinds, and a mask
that no layer reads has no memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from refembed.gguf import open_gguf
from refembed.model import Model, load_model
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.replay import LocalDifference
from tests.model.bits import LENGTHS, TOGETHER, Bits, some_ids, unequal
from tests.model.family import Family
from tests.model.faults import Fault, broken
from tests.model.keys import (
    BASE,
    BASES,
    EVERY_BIAS,
    FACTORS,
    FUSED,
    FUSED_BIAS,
    IN_PART,
    LINEAR,
    LOOKS_BACK,
    NO_SCALING,
    PATTERN,
    QKV_BIAS,
    SEES_ALL,
    WIDE,
    YARN,
    Keys,
    activation,
    heads_kv,
)
from tests.model.live import Both

LOCAL, LOCAL_ROPE, LOCAL_GELU, LOCAL_8_BITS = 1e-6, 3e-6, 1.2e-3, 3e-2
ROPE_OF_512 = 1.5e-5  # of heads of 512 channels, whose angles are multiplied up 256 times: measured 7.2e-6 (EPYC)
WHOLE, WHOLE_GELU = 1.5e-5, 2e-3

FAST = ("gelu_accurate", "gelu_python_tanh", "gelu_pytorch_tanh", "swish", "gelu")
SLOW = ("gelu_erf", "gelu_python", "gelu_quick", "gelu_new", "gelu_fast", "swiglu", "GEGLU", "")
ACTIVATIONS = (*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))
ARCHS = ("eurobert", "gemma-embedding", "gemma-embedding2", "llama-embed", "modern-bert", "neo-bert")
LONGROPE = {
    "rope.scaling.type": ("longrope", "STRING"),
    "rope.scaling.original_context_length": (32, "UINT32"),
}
FLAGS = {PATTERN: ([False, True, True, False], "ARRAY[BOOL]")}
OTHER_FLAGS = {PATTERN: ([1, 0, 1], "ARRAY[UINT32]")}
EVERY_OTHER = {PATTERN: (2, "UINT32")}
UINT32, FLAGS_OF_4 = "UINT32", {PATTERN: ([1, 0, 1, 0], "ARRAY[UINT32]")}
SWA_WIDTHS = ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa")
OUT = {"embedding_length_out": (64, UINT32)}
HEAD = {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"}


def swa(width: int, turns: int | None = None) -> Keys:
    """Heads of that width where the window is, of which as many channels turn."""
    return dict.fromkeys(SWA_WIDTHS, (width, UINT32)) | {SWA_WIDTHS[2]: (turns or width, UINT32)}


# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "modern-bert":                         ("modern-bert", {"n_layer": 4, "keys": BASE | NO_SCALING}),
    "modern-bert, layer 0 normed":         ("modern-bert", {"optional": {"attn_norm.weight"}, "keys": BASES}),
    "modern-bert, swiglu, window 3":       ("modern-bert", {"window": 3, "keys": activation("silu")}),
    "modern-bert, geglu, every other":     ("modern-bert", {"window": 5, "keys": EVERY_OTHER | activation("geglu")}),
    "modern-bert, reglu, window over all": ("modern-bert", {"window": 400, "keys": activation("reglu") | LOOKS_BACK}),
    "modern-bert, no window, reranker":    ("modern-bert", {"window": 0, "n_layer": 2,
                                                            "optional": (HEAD | {"cls.norm.weight"}) - {"cls.bias"}}),
    "modern-bert, flags, yarn":            ("modern-bert", {"n_layer": 4, "C": 72, "H": 3, "keys": FLAGS | YARN}),
    "modern-bert, in part, linear":        ("modern-bert", {"keys": IN_PART | LINEAR | BASES, "window": 1}),
    "modern-bert, Q8_0":                   ("modern-bert", {**WIDE, "type_name": "Q8_0"}),
    "neo-bert":                            ("neo-bert", {"keys": NO_SCALING}),
    "neo-bert, grouped, reranker":         ("neo-bert", {"K": 2, "optional": HEAD, "keys": BASE | LOOKS_BACK}),
    "neo-bert, mqa, in part, linear":      ("neo-bert", {"C": 30, "H": 3, "K": 1, "keys": IN_PART | LINEAR}),
    "neo-bert, one head, yarn":            ("neo-bert", {"C": 24, "H": 1, "n_layer": 1, "keys": YARN}),
    "neo-bert, Q4_0":                      ("neo-bert", {**WIDE, "K": 1, "type_name": "Q4_0"}),
    "eurobert":                            ("eurobert", {"K": 3}),
    "eurobert, biases, yarn":              ("eurobert", {"C": 72, "H": 3, "K": 1, "optional": QKV_BIAS, "keys": YARN}),
    "eurobert, fused, in part":            ("eurobert", {"K": 2, "optional": FUSED, "keys": IN_PART | LOOKS_BACK}),
    "eurobert, fused with bias, linear":   ("eurobert", {"optional": FUSED_BIAS, "keys": LINEAR | BASE}),
    "eurobert, Q8_0":                      ("eurobert", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "gemma-embedding":                     ("gemma-embedding", {"K": 2, "n_layer": 7, "keys": BASE | LOOKS_BACK}),
    "gemma-embedding, mqa, window 1":      ("gemma-embedding", {"H": 3, "K": 1, "window": 1, "keys": EVERY_OTHER}),
    "gemma-embedding, flags, yarn":        ("gemma-embedding", {"D": 24, "H": 3, "keys": YARN | OTHER_FLAGS,
                                                                "optional": FUSED}),
    "gemma-embedding, bases, in part":     ("gemma-embedding", {"keys": BASES | EVERY_OTHER | IN_PART | LINEAR,
                                                                "optional": {"output.weight", *QKV_BIAS}}),
    "gemma-embedding, heads of 96":        ("gemma-embedding", {"H": 2, "K": 1, "D": 96, "keys": EVERY_OTHER}),
    "gemma-embedding, Q8_0":               ("gemma-embedding", {**WIDE, "K": 1, "keys": EVERY_OTHER,
                                                                "type_name": "Q8_0"}),
    "gemma-embedding2":                    ("gemma-embedding2", {"K": 2, "n_layer": 7, "keys": BASE | LOOKS_BACK}),
    "gemma-embedding2, heads by layer":    ("gemma-embedding2", {"n_layer": 4, "D": 14, "keys": FLAGS_OF_4 | BASES | OUT
                                                                 | swa(10, 8) | heads_kv(3, 2, 1, 3)}),
    "gemma-embedding2, mqa, window 1":     ("gemma-embedding2", {"H": 3, "K": 1, "E": 7, "window": 1,
                                                                 "keys": EVERY_OTHER | IN_PART | LINEAR | swa(16, 4)}),
    "gemma-embedding2, yarn":              ("gemma-embedding2", {"D": 24, "H": 3, "keys": YARN | EVERY_OTHER}),
    "gemma-embedding2, as published":      ("gemma-embedding2", {"n_layer": 2, "C": 64, "H": 4, "D": 512, "keys":
                                                                 EVERY_OTHER | swa(256) | heads_kv(2, 1)}),
    "gemma-embedding2, Q8_0":              ("gemma-embedding2", {**WIDE, "K": 1, "E": 32, "keys": EVERY_OTHER | OUT,
                                                                 "type_name": "Q8_0"}),
    "llama-embed":                         ("llama-embed", {"K": 2}),
    "llama-embed, sees all":               ("llama-embed", {"keys": SEES_ALL | LINEAR,
                                                            "optional": {*EVERY_BIAS, "output.weight"}}),
    "llama-embed, fused, factors":         ("llama-embed", {"H": 3, "K": 1, "D": 14, "keys": BASE,
                                                            "optional": FUSED_BIAS | {"rope_freqs.weight"}}),
    "llama-embed, yarn":                   ("llama-embed", {"D": 24, "H": 3, "keys": YARN | SEES_ALL}),
    "llama-embed, long factors":           ("llama-embed", {"P": 512, "keys": LONGROPE, "optional": FACTORS}),
    "llama-embed, experts":                ("llama-embed", {"K": 3, "X": 5, "keys": SEES_ALL}),
    "llama-embed, Q4_0":                   ("llama-embed", {**WIDE, "K": 1, "type_name": "Q4_0"}),
}
# fmt: on
def tanh_form(variant: str) -> bool:
    return "gemma" in variant or "geglu" in variant


@pytest.mark.oracle
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_names_of_activations_mean_what_they_mean_in_llama_cpp(name: str, tmp_path: Path) -> None:
    """GELU itself is meant by what llama.cpp does not know; its tanh form has names of its own."""
    path = synthetic(tmp_path / "m.gguf", "modern-bert", n_layer=2, keys=activation(name))
    with Both(path) as both:
        both.compare([1, 2, 3], "exact")  # tensors must have the same names: ffn_geglu, ffn_geglu_erf ...


@pytest.mark.oracle
def test_the_matrices_after_pooling_are_bound(tmp_path: Path) -> None:
    """dense_3 (dense_2 x) of EmbeddingGemma, applied by hand to the mean, is llama.cpp's vector."""
    sizes = {"dense_2_feat_in": 36, "dense_2_feat_out": 50, "dense_3_feat_in": 50, "dense_3_feat_out": 36}
    keys = EVERY_OTHER | {key: (n, "UINT32") for key, n in sizes.items()}
    path = synthetic(
        tmp_path / "m.gguf", "gemma-embedding", keys=keys, optional={"dense_2.weight", "dense_3.weight"}, window=4
    )
    bits = Bits(path)
    with bits.engine() as engine:
        (want,) = engine.embed([some_ids(33)])
    w, (pooled,) = bits.model.weights, bits.vectors([some_ids(33)])
    assert (w.dense_2.shape, w.dense_3.shape) == ((50, 36), (36, 50))
    got = bits.ops.linear(bits.ops.linear(pooled[None], w.dense_2), w.dense_3)
    assert unequal(got, want) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_a_file_can_make_llama_embed_look_back_and_no_other(arch: str, tmp_path: Path) -> None:
    """llama.cpp runs a model without memory as an encoder, whatever attention.causal says."""
    looks_back = load_model(open_gguf(synthetic(tmp_path / "m.gguf", arch, keys=LOOKS_BACK)))
    assert looks_back.hparams.causal == (arch == "llama-embed")


HEAD_BY_HEAD = "(qkv.reshape(len(qkv), -1, 3, D)[:, :, i].copy().reshape(len(qkv), -1) for i in range(3))"
BLOCKS = "ops.split(qkv, [hp.n_embd, KD, KD])"
HALVES = "gate, up = ops.split({}"
OTHER_PAIRS = "replace(rope_of(hp, il), pairs='{}')"

# fmt: off
FAULTS = [
    Fault("a window too wide by one", "modern-bert", "window=hp", "window=2 + hp", "kq_soft_max-1[0]"),
    Fault("a window that looks back", "modern-bert", '"symmetric")', '"standard")', "kq_soft_max-1[0]"),
    Fault("the last of each period sees all", "modern-bert", "hp.swa_layers[il]", "il % 3 < 2", "kq_soft_max-0[0]"),
    Fault("one base for all layers", "modern-bert", "rope_of(hp, il)", "rope_of(hp, 0)", "Qcur-1[0]"),
    Fault("neighbors turn together", "modern-bert", "rope_of(hp, il)", OTHER_PAIRS.format("norm"), "Qcur-0[0]"),
    Fault("the second half is the gate", "modern-bert", HALVES.format("x"),
          "up, gate = ops.split(x", "ffn_geglu_erf-0[0]"),
    Fault("GELU's tanh form", "modern-bert", "ops.gelu_erf(gate)", "ops.gelu(gate)", "ffn_geglu_erf-0[0]"),
    Fault("RMS norm for layer norm", "modern-bert", "ops.layer_norm(x, w.output_norm, None, eps, taps)",
          "ops.rms_norm(x, w.output_norm, eps, taps)", "norm[0]"),
    Fault("the residual is taken behind the norm", "modern-bert", "ops.add(a, x)", "ops.add(a, y)", "ffn_inp-1[0]"),
    Fault("scores scaled by all channels", "modern-bert", "math.sqrt(hp.n_embd_head)", "math.sqrt(hp.n_embd)",
          "kq_soft_max-0[0]"),
    Fault("the residual of the embeddings", "modern-bert", '("inp_norm-0", ', '("inp_norm-0", x + ', "inp_norm-0[0]"),
    Fault("QKV cut head by head, as published", "neo-bert", BLOCKS, HEAD_BY_HEAD, "Qcur-0[0]"),
    Fault("halves turn together", "neo-bert", "rope_of(hp, il)", OTHER_PAIRS.format("neox"), "Qcur-0[0]"),
    Fault("the second half is the gate", "neo-bert", HALVES.format("up"),
          "up, gate = ops.split(up", "ffn_swiglu-0[0]"),
    Fault("layer norm for RMS norm", "neo-bert", "ops.rms_norm(x, blk.ffn_norm, eps, tap)",
          "ops.layer_norm(x, blk.ffn_norm, None, eps, tap)", "norm-0[1]"),
    Fault("a bias is missing", "eurobert, biases, yarn", "Qkv(y, blk, hp",
          "Qkv(y, replace(blk, attn_v=blk.attn_v._replace(bias=None)), hp", "v_cont-0[0]"),
    Fault("tokens look back only", "eurobert", "math.sqrt(hp.n_embd_head))",
          "math.sqrt(hp.n_embd_head), AttentionMask(causal=True))", "kq_soft_max-0[0]"),
    Fault("up is the gate", "eurobert", "ops.swiglu(gate, up)", "ops.swiglu(up, gate)", "ffn_swiglu-0[0]"),
    Fault("YaRN without its magnitude", "eurobert, biases, yarn", "rope_of(hp, il)",
          "replace(rope_of(hp, il), attn_factor=0.9)", "Qcur-0[2]"),
    Fault("embeddings are not scaled", "gemma-embedding", "taps, math.sqrt(hp.n_embd))", "taps, 1.0)", "inp_scaled[0]"),
    Fault("the first of each period sees all", "gemma-embedding", "hp.swa_layers[il]", "il % 6", "kq_soft_max-0[0]"),
    Fault("one base for all layers", "gemma-embedding", "rope_of(hp, il)", "rope_of(hp, 0)", "Qcur-5[1]"),
    Fault("the scale rounded once", "gemma-embedding, heads of 96", "ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd_head))",
          "ops.dtype(1 / math.sqrt(hp.n_embd_head))", "Qcur_scaled-0[0]"),
    Fault("the residual is taken behind the norm", "gemma-embedding", "ops.add(a, x)", "ops.add(a, y)", "sa_out-0[0]"),
    Fault("GELU itself", "gemma-embedding", "ops.geglu(gate, up)", "ops.gelu_erf(gate) * up", "ffn_geglu-0[0]"),
    Fault("embeddings are not scaled", "gemma-embedding2", "taps, math.sqrt(hp.n_embd))", "taps, 1.0)",
          "inp_scaled[0]"),
    Fault("values are not normed", "gemma-embedding2", "ops.rms_norm(v, None, eps)", "v", "Vcur_normed-0[0]"),
    Fault("scores scaled by the width of a head", "gemma-embedding2", "n_head_kv_of(il), 1.0",
          "n_head_kv_of(il), 1 / math.sqrt(hp.n_embd_head_of(il))", "kq_soft_max-0[0]"),
    Fault("a window that looks back", "gemma-embedding2", 'kind="symmetric"', 'kind="standard"', "kq_soft_max-0[0]"),
    Fault("the first of each period sees all", "gemma-embedding2", "hp.swa_layers[il]", "il % 6", "kq_soft_max-0[0]"),
    Fault("as many channels turn in all layers", "gemma-embedding2, heads by layer", "rope_of(hp, il)",
          "replace(rope_of(hp, il), n_dims=8)", "Qcur_pos-1[0]"),
    Fault("the first layer's per-layer input in all", "gemma-embedding2", "per_layer[il]", "per_layer[0]",
          "per_layer_gated-1[0]"),
    Fault("per-layer inputs are not scaled", "gemma-embedding2", "ops.scale(e, scale)", "e", "inp_per_layer_scaled[0]"),
    Fault("per-layer inputs projected from the layer's own input", "gemma-embedding2", "per_layer_inputs(embeddings, w",
          "per_layer_inputs(x, w", "inp_per_layer_proj[0]"),
    Fault("layers are not scaled", "gemma-embedding2", "ops.scale(x, blk.layer_output_scale.dequantize()[0])", "x",
          "l_out-0[0]"),
    Fault("tokens see all", "llama-embed", "w, hp, batch", "w, replace(hp, causal=False), batch", "kq_soft_max-0[0]"),
    Fault("halves turn together", "llama-embed", "w, hp,", "w, replace(hp, rope_pairs='neox'),", "Qcur-0[1]"),
    Fault("no epsilon", "llama-embed", "w, hp, batch", "w, replace(hp, norm_eps=0.0), batch", "norm-0[0]"),
]
# fmt: on


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation; llama.cpp rounds what it multiplies with quantized weights to 8 bits."""
    if FAMILY.rounds_to_8_bits(variant) and d.op == "MUL_MAT" and d.name.split("-")[0] not in ("kq", "kqv"):
        return LOCAL_8_BITS
    if d.op == "ROPE" and "as published" in variant:
        return ROPE_OF_512
    return {"ROPE": LOCAL_ROPE, "GEGLU": LOCAL_GELU, "GELU": LOCAL_GELU}.get(d.op, LOCAL)


def whole_of(variant: str) -> float:
    """Of a whole run."""
    tanh_form = "gemma" in variant or "geglu" in variant
    return math.inf if FAMILY.rounds_to_8_bits(variant) else WHOLE_GELU if tanh_form else WHOLE


FAMILY = Family(
    ARCHS,
    VARIANTS,
    bound_of,
    whole_of,
    [(fault, None) for fault in FAULTS],
    cached=False,
    quantized=True,
    pooling="cls",
    classic="cls",
    poolings=("none", "last"),
    small=lambda arch: {"keys": EVERY_OTHER if arch.startswith("gemma-embedding") else {}, "window": 6},
)


@pytest.mark.oracle
def test_a_cache_would_be_found(tmp_path: Path) -> None:
    """llama-embed's keys and values are not rounded to float16."""
    bits = Bits(synthetic(tmp_path / "m.gguf", "llama-embed", P=256))
    module = broken(bits.model.module, "cached=False", "cached=True")
    bits.model = Model(bits.model.hparams, bits.model.weights, module)
    with bits.engine() as engine:
        assert len(bits.differing(engine)) == len(LENGTHS) + len(TOGETHER)
