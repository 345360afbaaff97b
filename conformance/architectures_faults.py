"""Faults planted in the files of architectures: each is found at the first tensor that then is not llama.cpp's.

Most stand with the tests of their architecture (tests/model/test_*.py); here are those of the architectures that are
tested with the decoders there, and of BERT. `planted` gathers all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from conformance.architectures import Variant, load_variants
from refembed.kernels.ops import AttentionMask

ELSEWHERE = (  # tests/model/test_*.py
    "dense_decoders", "encoders_post", "encoders_pre", "gemmas_phi_t5", "granite_lfm2", "mla", "moe_decoders",
    "recurrent",
)  # fmt: skip


class Fault(NamedTuple):
    """One piece of an architecture's file, written wrongly."""

    arch: str
    name: str
    variant: str  # of architectures.json: the model that shows it
    right: str  # stands once in the file
    wrong: str  # may use dataclasses.replace and AttentionMask
    first: str  # "name[k]", as in trace[name, k]


ROPE, ROPE_FACTORS = "rope_of(hp, il)", "rope_of(hp, il, factors)"
HEAD, ALL = "math.sqrt(hp.n_embd_head)", "math.sqrt(hp.n_embd)"
NO_BIAS = "Qkv(y, replace(blk, attn_v=blk.attn_v._replace(bias=None)), hp"

# fmt: off
FAULTS = [
    Fault("bert", "kind 1", "plain", "w.token_types, [0]", "w.token_types, [1]", "inp_embd[0]"),
    Fault("bert", "places count from 1", "plain", "batch.pos))", "batch.pos + 1))", "inp_embd[0]"),
    Fault("bert", "another epsilon", "plain", "w.token_embd_norm, hp.norm_eps", "w.token_embd_norm, 1e-5",
          "norm-0[0]"),
    Fault("bert", "scores scaled by all channels", "plain", HEAD, ALL, "kq_soft_max-0[0]"),
    Fault("bert", "the residual is taken behind the norm", "plain",
          "ops.add_layer_norm(a, x, *blk.attn_output_norm, hp.norm_eps, tap)",
          "ops.layer_norm(a, *blk.attn_output_norm, hp.norm_eps, tap) + x", "norm-0[1]"),
    Fault("bert", "GELU itself", "plain", "ops.gelu(h)", "ops.gelu_erf(h)", "ffn_gelu-0[0]"),
    Fault("bert", "keys for values", "fused qkv", "q, k, v = ops.split", "q, v, k = ops.split", "v_cont-0[0]"),
    Fault("llama", "halves turn together", "plain", ROPE_FACTORS, "replace(rope_of(hp, il, factors), pairs='neox')",
          "Qcur-0[1]"),
    Fault("llama", "scores scaled by all channels", "plain", HEAD, ALL, "kq_soft_max-0[0]"),
    Fault("llama", "tokens see all", "plain", "attention_spec(hp, il", "attention_spec(replace(hp, causal=False), il",
          "kq_soft_max-0[0]"),
    Fault("llama", "up is the gate", "plain", "ops.swiglu(gate, up)", "ops.swiglu(up, gate)", "ffn_swiglu-0[0]"),
    Fault("llama", "the residual is taken behind the norm", "plain", "ops.add(a, x)", "ops.add(a, y)",
          "ffn_inp-0[0]"),
    Fault("llama", "the short factors", "long factors", "w.rope_factors_long, ", "None, ", "Qcur-0[1]"),
    Fault("qwen2", "neighbors turn together", "plain", ROPE, "replace(rope_of(hp, il), pairs='norm')", "Qcur-0[2]"),
    Fault("qwen2", "a bias is missing", "plain", "Qkv(y, blk, hp", NO_BIAS, "kqv-0[0]"),
    Fault("qwen2", "layer norm for RMS norm", "plain", "ops.rms_norm(x, blk.ffn_norm, eps, tap)",
          "ops.layer_norm(x, blk.ffn_norm, None, eps, tap)", "norm-0[1]"),
    Fault("qwen2", "scores scaled by all channels", "plain", HEAD, ALL, "kq_soft_max-0[0]"),
    Fault("qwen2", "the usual base", "no biases, linear", ROPE, "replace(rope_of(hp, il), freq_base=1e4)", "Qcur-0[1]"),
    Fault("qwen3", "keys are not normed", "plain", "ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap)", "qkv.keys()",
          "Kcur_normed-0[0]"),
    Fault("qwen3", "one norm for queries and keys", "plain", "blk.attn_k_norm", "blk.attn_q_norm", "Kcur_normed-0[0]"),
    Fault("qwen3", "neighbors turn together", "plain", ROPE, "replace(rope_of(hp, il), pairs='norm')", "Qcur-0[1]"),
    Fault("qwen3", "no epsilon", "plain", "eps, scale = hp.norm_eps,", "eps, scale = 0.0,", "norm-0[0]"),
    Fault("qwen3", "YaRN without its magnitude", "reranker, yarn", ROPE, "replace(rope_of(hp, il), attn_factor=0.9)",
          "Qcur-0[2]"),
    Fault("gemma3", "embeddings are not scaled", "plain", "taps, math.sqrt(hp.n_embd))", "taps, 1.0)", "inp_scaled[0]"),
    Fault("gemma3", "a window too wide by one", "plain", "attention_spec(hp, il",
          "attention_spec(replace(hp, n_swa=hp.n_swa + 1), il", "kq_soft_max-0[0]"),
    Fault("gemma3", "the first layer of six sees all", "plain", "attention_spec(hp, il",
          "attention_spec(hp, 5 - il % 6", "kq_soft_max-0[0]"),
    Fault("gemma3", "one base for all layers", "plain", ROPE, "rope_of(hp, 5)", "Qcur-0[1]"),
    Fault("gemma3", "the residual is taken behind the norm", "plain", "ops.add(a, x)", "ops.add(a, y)",
          "sa_out-0[0]"),
    Fault("gemma3", "no norm behind attention", "plain", "ops.rms_norm(a, blk.post_attention_norm, eps, tap)", "a",
          "attn_post_norm-0[0]"),
    Fault("gemma3", "the 27B model's scale is that of others", "62 layers", "N_LAYER_27B = 62", "N_LAYER_27B = 0",
          "Qcur_scaled-0[0]"),
    Fault("granitemoe", "RoPE can be turned off", "plain", "rope_finetuned=True", "", "kq-0[0]"),
    Fault("granitemoe", "one expert fewer", "plain", "hp, rope_finetuned",
          "hp, n_expert_used=hp.n_expert_used - 1, rope_finetuned", "ffn_moe_weights_sum-0[0]"),
    Fault("granitemoe", "the usual scale of scores", "plain", "hp, rope_finetuned",
          "hp, attention_scale=0.0, rope_finetuned", "kq_soft_max-0[0]"),
    Fault("granitemoe", "layers add all of what they compute", "plain", "hp, rope_finetuned",
          "hp, residual_scale=1.0, rope_finetuned", "attn_scaled-0[0]"),
    Fault("smollm3", "halves turn together", "plain", ROPE, "replace(rope_of(hp, il), pairs='neox')", "Qcur-0[1]"),
    Fault("smollm3", "the residual is taken behind the norm", "plain", "ops.add(a, x)", "ops.add(a, y)",
          "ffn_inp-0[0]"),
]
# fmt: on


def broken(module: ModuleType, fault: Fault) -> ModuleType:
    """A copy of an architecture's file with the fault in it."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert source.count(fault.right) == 1, fault
    copy = ModuleType(module.__name__)
    copy.__dict__.update(replace=dataclasses.replace, AttentionMask=AttentionMask)
    exec(compile(source.replace(fault.right, fault.wrong), "fault", "exec"), copy.__dict__)
    return copy


def variant_of(fault: Fault) -> Variant:
    """The model that shows it."""
    return next(v for v in load_variants() if (v.arch, v.name) == (fault.arch, fault.variant))


def planted() -> Iterator[tuple[str, str, str]]:
    """Architecture, fault, and the tensor where it is found; those of the tests too, which are outside this folder."""
    for f in FAULTS:
        yield f.arch, f.name, f.first
    for name in ELSEWHERE:
        module = import_module(f"tests.model.test_{name}")
        for f, _ in module.FAMILY.faults:
            yield module.VARIANTS[f.variant][0], f.name, f.first
