"""Gemma, Gemma 2, Phi-3 and T5's encoder, on small random models against live llama.cpp: every tensor, every option.

`ggml` gives llama.cpp's bits. With float32 weights and a float32 cache `exact` and `fast` differ by rounding alone.
Largest error of one operation on llama.cpp's own inputs, over the largest value: measured 8.7e-7 (xllamacpp
2026.10.11549, AVX-512 CPU); of a whole run 6.6e-6. llama.cpp's RoPE multiplies angles up in float32: 1.8e-6 at 40.
Its GELU comes from a table of float16 numbers: alone 9.8e-4, in whole runs 3.0e-3, and 5.9e-3 in a very deep one.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.kernels.ops import AttentionSpec
from refembed.model import Model
from refembed.model.t5encoder import buckets
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.replay import LocalDifference
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied
from tests.model.bits import Bits, some_ids, unequal
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
    NO_SCALING,
    PATTERN,
    QKV_BIAS,
    SEES_ALL,
    WIDE,
    YARN,
)

LOCAL, LOCAL_ROPE, LOCAL_GELU = 1e-6, 3e-6, 1.2e-3
WHOLE, WHOLE_GELU, WHOLE_DEEP = 1.5e-5, 5e-3, 1e-2

ARCHS = ("gemma", "gemma2", "phi3", "t5encoder")
WINDOW = "attention.sliding_window"
LONGROPE = {"rope.scaling.type": ("longrope", "STRING"), "rope.scaling.attn_factor": (1.19, "FLOAT32")}
STRETCHED = LONGROPE | {"rope.scaling.original_context_length": (256, "UINT32")}
FLAGS = {PATTERN: ([False, True, True], "ARRAY[BOOL]")}
CAP = {"attn_logit_softcapping": (1.5, "FLOAT32"), "final_logit_softcapping": (7.0, "FLOAT32")}
GATE, OWN_BIAS = {"ffn_gate.weight"}, {"attn_rel_b.weight"}

# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma":                         ("gemma", {"K": 2, "keys": {WINDOW: (4, "UINT32")}}),  # which it does not read
    "gemma, heads of 96":            ("gemma", {"H": 2, "K": 1, "D": 96, "n_layer": 2, "keys": BASE}),
    "gemma, fused, in part, yarn":   ("gemma", {"H": 5, "K": 1, "D": 12, "keys": IN_PART | YARN,
                                                "optional": FUSED_BIAS}),
    "gemma, biases, sees all":       ("gemma", {"optional": QKV_BIAS, "keys": SEES_ALL | LINEAR}),
    "gemma, Q8_0":                   ("gemma", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "gemma2":                        ("gemma2", {"K": 2, "n_layer": 4, "keys": BASE}),
    "gemma2, cap, window 1, mqa":    ("gemma2", {"H": 3, "K": 1, "window": 1, "keys": CAP}),
    "gemma2, 46 layers":             ("gemma2", {"n_layer": 46, "C": 32, "H": 3, "D": 4, "F": 8, "keys": BASES}),
    "gemma2, linear":                ("gemma2", {"window": 20, "keys": LINEAR, "optional": FUSED}),
    "gemma2, a factor, but none":    ("gemma2", {"keys": NO_SCALING | BASES, "n_layer": 2}),
    "gemma2, flags, yarn, sees all": ("gemma2", {"D": 24, "H": 3, "keys": YARN | FLAGS | SEES_ALL,
                                                 "optional": QKV_BIAS}),
    "gemma2, all have it, in part":  ("gemma2", {"keys": {PATTERN: (0, "UINT32")} | IN_PART | BASE}),
    "gemma2, Q8_0":                  ("gemma2", {**WIDE, "K": 1, "type_name": "Q8_0"}),
    "phi3":                          ("phi3", {"K": 2, "optional": {*FUSED, *FACTORS}, "keys": STRETCHED}),
    "phi3, short factors":           ("phi3", {"K": 3, "optional": FUSED_BIAS | FACTORS, "keys": LONGROPE}),
    "phi3, one set of factors":      ("phi3", {"optional": {*FUSED, "rope_factors_short.weight"}, "keys": STRETCHED}),
    "phi3, separate, window":        ("phi3", {"K": 1, "optional": {"output.weight"},
                                               "keys": {WINDOW: (4, "UINT32")} | BASE}),
    "phi3, biases, in part, yarn":   ("phi3", {"C": 72, "H": 3, "optional": QKV_BIAS, "keys": YARN | IN_PART}),
    "phi3, sees all, linear":        ("phi3", {"C": 30, "H": 3, "optional": FUSED, "keys": SEES_ALL | LINEAR}),
    "phi3, heads of 96":             ("phi3", {"C": 192, "H": 2, "n_layer": 2, "optional": FUSED}),
    "phi3, Q4_0":                    ("phi3", {**WIDE, "K": 1, "type_name": "Q4_0", "optional": FUSED}),
    "t5encoder":                     ("t5encoder", {}),
    "t5encoder, gate, sees all":     ("t5encoder", {"D": 5, "keys": SEES_ALL, "optional": GATE}),
    "t5encoder, a bias a layer":     ("t5encoder", {"H": 3, "n_buckets": 13, "keys": LOOKS_BACK,
                                                    "optional": {*OWN_BIAS, "output.weight"}}),
    "t5encoder, one head":           ("t5encoder", {"H": 1, "D": 7, "n_layer": 1, "n_buckets": 4, "optional": GATE}),
    "t5encoder, F16":                ("t5encoder", {**WIDE, "type_name": "F16"}),
    "t5encoder, Q8_0":               ("t5encoder", {**WIDE, "keys": SEES_ALL, "type_name": "Q8_0", "optional": GATE}),
}
# fmt: on
RARE = {  # the slow tier's
    "gemma",
    "gemma2, 46 layers",
    "gemma, biases, sees all",
    "gemma2, flags, yarn, sees all",
    "gemma2, all have it, in part",
    "gemma2, a factor, but none",
    "phi3, one set of factors",
    "phi3, biases, in part, yarn",
    "phi3, heads of 96",
    "phi3, sees all, linear",
    "t5encoder, F16",
    "t5encoder, one head",
}


def has_gelu(variant: str) -> bool:
    return "gemma" in variant or "gate" in variant or "one head" in variant


# -- T5 ----------------------------------------------------------------------------------------------------------------

BUCKETS = """
import ctypes, json, pathlib, sys, xllamacpp
lib = ctypes.CDLL(str(pathlib.Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
f = lib["_Z30llama_relative_position_bucketiimb"]
f.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_bool]
n, counts = json.loads(sys.argv[1])
print(json.dumps([[f(r, 0, count, True) for r in range(1 - n, n)] for count in counts]))
"""


@pytest.mark.oracle
@pytest.mark.parametrize(
    "counts", [[4, 5, 7, 13, 32, 64, 100, 511], pytest.param([*range(4, 512)], marks=pytest.mark.slow)]
)
def test_a_distance_is_in_llama_cpps_bucket(counts: list[int]) -> None:
    """Every distance up to 700, either way, against llama_relative_position_bucket itself."""
    n = 700
    command = [sys.executable, "-c", BUCKETS, json.dumps([n, counts])]
    want = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=100).stdout)
    for count, expected in zip(counts, want, strict=True):
        b = buckets(n, count)
        assert [*b[-1].tolist(), *b[0, 1:].tolist()] == expected, count
        assert (b[1:, 1:] == b[:-1, :-1]).all()  # nothing but the distance counts


@pytest.mark.oracle
def test_t5_looks_back_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    """As llama_decode has it: what is absent is true. The published encoder sees all: --attention non-causal there."""
    silent = synthetic(tmp_path / "silent.gguf", "t5encoder")
    flagged = synthetic(tmp_path / "flagged.gguf", "t5encoder", keys=SEES_ALL)
    ids = some_ids(30)
    back, both_ways = (Bits(path).vectors([ids])[0] for path in (silent, flagged))
    assert unequal(back, both_ways) > 0
    for path, causal, want in ((silent, None, back), (silent, False, both_ways), (flagged, None, both_ways)):
        with LlamaCpp(path, pooling="mean", causal=causal) as engine:
            assert unequal(engine.embed([ids])[0], want) == 0


# -- Phi-3 -------------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_phi3s_factors_go_by_the_context_and_ours_is_the_models_own(tmp_path: Path) -> None:
    """The same weights with a context of 512 and of 256, where 256 is the original one; one short text."""
    long, short = (
        synthetic(tmp_path / f"{P}.gguf", "phi3", P=P, optional={*FUSED, *FACTORS}, keys=STRETCHED) for P in (512, 256)
    )
    ids = some_ids(12)
    ours = {path: Bits(path).vectors([ids])[0] for path in (long, short)}
    assert unequal(ours[long], ours[short]) > 0
    for n_ctx, like in ((512, long), (256, short)):
        with LlamaCpp(long, pooling="mean", n_ctx=n_ctx) as engine:
            assert unequal(engine.embed([ids])[0], ours[like]) == 0


# -- Gemma 2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.slow
def test_gemma_2s_window_is_4096_where_the_file_names_none(tmp_path: Path) -> None:
    """The state of the last of 4,200 tokens knows; one head, one layer."""
    sizes: dict[str, Any] = {"P": 4352, "H": 1, "D": 8, "n_layer": 1, "F": 16, "C": 16}
    path = synthetic(tmp_path / "m.gguf", "gemma2", **sizes)
    path = copied(path, tmp_path / "silent.gguf", {f"gemma2.{WINDOW}": None})
    bits = Bits(path, "last", flash_attn=True)
    assert bits.model.hparams.n_swa == 4096
    with LlamaCpp(path, pooling="last", flash_attn=True, n_ctx=4352, n_seq_max=1) as engine:
        assert unequal(bits.vectors([some_ids(4200)])[0], engine.embed([some_ids(4200)])[0]) == 0
    bits.model = Model(dataclasses.replace(bits.model.hparams, n_swa=4097), bits.model.weights, bits.model.module)
    with LlamaCpp(path, pooling="last", flash_attn=True, n_ctx=4352, n_seq_max=1) as engine:
        assert unequal(bits.vectors([some_ids(4200)])[0], engine.embed([some_ids(4200)])[0]) > 0


# -- texts longer than a micro-batch (docs/differences.md) -------------------------------------------------------------

PIECES = """
import json, sys
from refembed.verify.engines import llamacpp_worker

class Session(llamacpp_worker.Session):
    def context_params(self, watched):
        params = super().context_params(watched)
        params.n_ubatch = 256
        return params

options, ids = json.loads(sys.argv[1])
print(json.dumps(Session(options).embed([ids], False)[0].tolist()))
"""


def in_pieces_of_256(engine: LlamaCpp, ids: list[int]) -> Any:
    """The vector that llama.cpp gives with n_ubatch = 256: a session like the engine's, in a process of its own."""
    command = [sys.executable, "-c", PIECES, json.dumps([engine.options, ids])]
    done = subprocess.run(command, capture_output=True, check=True, timeout=100, cwd=Path(__file__).parents[2])
    return np.array(json.loads(done.stdout), np.float32)


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["gemma2", "t5encoder"])
def test_llama_cpp_pools_the_last_piece_of_a_text_longer_than_a_micro_batch(arch: str, tmp_path: Path) -> None:
    """Which has seen what stood before it only where there is a cache; ours is one piece."""
    path, ids = synthetic(tmp_path / "m.gguf", arch, P=512), some_ids(300)
    with LlamaCpp(path, pooling="none", n_seq_max=1) as engine:
        alone = engine.embed([ids[256:] if arch == "t5encoder" else ids])[0][-44:]
        whole = engine.embed([ids])[0]
    for pooling, ours, theirs in (
        ("mean", whole.mean(0), alone.mean(0)),
        ("cls", whole[0], alone[0]),
        ("last", whole[-1], alone[-1]),
    ):
        with LlamaCpp(path, pooling=pooling, n_seq_max=1) as engine:
            assert np.abs(in_pieces_of_256(engine, ids) - theirs).max() < 1e-5
            assert np.abs(Bits(path, pooling).vectors([ids])[0] - ours).max() < 1e-5
        assert (np.abs(ours - theirs).max() < 1e-5) == (arch == "gemma2" and pooling == "last")


# -- faults ------------------------------------------------------------------------------------------------------------

ROPE = "rope_of(hp, il)"
RAW_SCALE = "ops.dtype(1) / np.sqrt(ops.dtype({}))"
POST = "ops.{}_norm(a, blk.post_attention_norm, {}eps, tap)"
HALVES = "gate, up = ops.split"

# fmt: off
FAULTS = [
    Fault("embeddings are not scaled", "gemma", "x * math.sqrt(hp.n_embd)", "x", "inp_scaled[0]"),
    Fault("neighbors turn together", "gemma", ROPE, "replace(rope_of(hp, il), pairs='norm')", "Qcur-0[1]"),
    Fault("the residual is taken behind the norm", "gemma", "ops.add(a, x)", "ops.add(a, y)", "sa_out-0[0]"),
    Fault("GELU itself", "gemma", "ops.geglu(gate, up)", "ops.gelu_erf(gate) * up", "ffn_geglu-0[0]"),
    Fault("up is the gate", "gemma", "ops.geglu(gate, up)", "ops.geglu(up, gate)", "ffn_geglu-0[0]"),
    Fault("the scale rounded once", "gemma, heads of 96", RAW_SCALE.format("hp.n_embd_head"),
          "ops.dtype(1 / math.sqrt(hp.n_embd_head))", "Qcur_scaled-0[0]"),
    Fault("a window too wide by one", "gemma2", "attention_spec(hp", "attention_spec(replace(hp, n_swa=hp.n_swa + 1)",
          "kq_soft_max-0[0]"),
    Fault("odd layers have the window", "gemma2", "attention_spec(hp, il", "attention_spec(hp, 1 - il % 2",
          "kq_soft_max-0[0]"),
    Fault("scores are not capped", "gemma2", "soft_cap=hp.soft_cap", "soft_cap=0.0", "kq_soft_max-0[0]"),
    Fault("scores are capped as logits are", "gemma2", "soft_cap=hp.soft_cap", "soft_cap=30.0", "kq_scaled_1-0[0]"),
    Fault("another base where there is a window", "gemma2", ROPE,
          "rope_of(replace(hp, rope_freq_base_swa=10000.0), il)", "Qcur-0[1]"),
    Fault("no scaling where there is a window", "gemma2, linear", ROPE,
          "rope_of(replace(hp, rope_factor_swa=1.0), il)", "Qcur-0[0]"),
    Fault("the 27B model's scale is that of others", "gemma2, 46 layers", "N_LAYER_27B = 46", "N_LAYER_27B = 0",
          "Qcur_scaled-0[0]"),
    Fault("its width is not a whole number", "gemma2, 46 layers", "hp.n_embd // hp.n_head", "hp.n_embd / hp.n_head",
          "Qcur_scaled-0[0]"),
    Fault("layer norm for RMS norm", "gemma2", POST.format("rms", ""), POST.format("layer", "None, "), "norm-0[1]"),
    Fault("the second half is the gate", "phi3", HALVES, "up, gate = ops.split", "ffn_swiglu-0[0]"),
    Fault("the short factors", "phi3", "factors_of(hp, None, w.rope_factors_long, ", "factors_of(hp, None, None, ",
          "Qcur-0[0]"),
    Fault("no magnitude", "phi3", "rope_of(hp, il, factors)", "replace(rope_of(hp, il, factors), attn_factor=1.0)",
          "Qcur-0[0]"),
    Fault("queries are not scaled", "phi3", "ops.scale(q, scale)", "q", "Qcur-0[1]"),
    Fault("the window is obeyed", "phi3, separate, window", "attention_spec(hp",
          "attention_spec(replace(hp, n_swa=4, swa_layers=(True,) * hp.n_layer)", "kq_soft_max-0[0]"),
    Fault("a bias is missing", "phi3, short factors", "Qkv(y, blk, hp",
          "Qkv(y, replace(blk, attn_qkv=blk.attn_qkv._replace(bias=None)), hp", "Qcur-0[0]"),
    Fault("scores are scaled", "t5encoder", "hp.n_head, 1.0, ", "hp.n_head, hp.n_embd_head**-0.5, ",
          "kq_soft_max-0[0]"),
    Fault("tokens see all", "t5encoder", "AttentionMask(causal=hp.causal)", "AttentionMask()", "kq_soft_max-0[0]"),
    Fault("keys in front for keys behind", "t5encoder", "np.where(j > i", "np.where(j < i", "pos_bias[0]"),
    Fault("distances share buckets too soon", "t5encoder", "MAX_DISTANCE = 128", "MAX_DISTANCE = 64", "pos_bias[0]"),
    Fault("a bucket for each distance", "t5encoder", "n_buckets // 4", "n_buckets // 2 - 1", "pos_bias[0]"),
    Fault("layer 0's bias for all", "t5encoder, a bias a layer",
          "biases(blk.attn_rel_b, bucket, ops) if il and blk.attn_rel_b else shared", "shared", "pos_bias[1]"),
    Fault("no bias", "t5encoder", ", bias=bias)", ")", "kq_soft_max-0[0]"),
    Fault("GELU for ReLU", "t5encoder", "ops.relu(tap(", "ops.gelu(tap(", "ffn_relu-0[0]"),
    Fault("the norm's epsilon is 0", "t5encoder", "eps, last = hp.norm_eps,", "eps, last = 0.0,", "norm-0[0]"),
]
# fmt: on


def bound_of(variant: str, d: LocalDifference) -> float:
    """Of one operation."""
    return {"ROPE": LOCAL_ROPE, "GEGLU": LOCAL_GELU}.get(d.op, LOCAL)


def whole_of(variant: str) -> float:
    """Of a whole run."""
    has_gelu = "gemma" in variant or "gate" in variant or "one head" in variant
    return (WHOLE_DEEP if "46" in variant else WHOLE_GELU) if has_gelu else WHOLE


def small(arch: str) -> dict[str, Any]:
    """Sizes of a small model with what its architecture alone reads; short factors in any context."""
    short = LONGROPE | {"rope.scaling.original_context_length": (4096, "UINT32")}
    return {"window": 6, "optional": OWN_BIAS if arch == "t5encoder" else FUSED | FACTORS, "keys": short}


FAMILY = Family(
    ARCHS,
    VARIANTS,
    bound_of,
    whole_of,
    [(fault, None) for fault in FAULTS],
    slow=RARE,
    classic="mean",
    flash="last",
    small=small,
    P=512,  # as long as the one that `Bits` asks llama.cpp for: Phi-3 goes by that
    lengths=lambda variant, flash: (33,) if flash else (1, 33, 70),
)


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ARCHS)
def test_t5_alone_has_no_flash_attention(arch: str, tmp_path: Path) -> None:
    """Its scores have a bias, so its graph has none, whatever was asked for."""
    with Bits(synthetic(tmp_path / "m.gguf", arch, P=512), "last", flash_attn=True).engine() as engine:
        assert ("kq_soft_max-0" in engine.trace(some_ids(5))) == (arch == "t5encoder")


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ARCHS)
def test_keys_and_values_are_rounded_where_llama_cpp_keeps_a_cache(arch: str, tmp_path: Path) -> None:
    """T5 has one, and does not use it."""
    bits = Bits(synthetic(tmp_path / "m.gguf", arch, P=512, n_layer=1))
    with bits.engine() as engine:
        (want,) = engine.embed([some_ids(20)])
    rounds = bits.ops.attention

    def swapped(q: Any, k: Any, v: Any, spec: AttentionSpec, *more: Any, **options: Any) -> Any:
        return rounds(q, k, v, replace(spec, cached=not spec.cached), *more, **options)

    bits.ops.attention = swapped  # type: ignore[method-assign]
    assert unequal(bits.vectors([some_ids(20)])[0], want) > 0
