"""Mixtures of experts: Mixtral, Phi-3.5-MoE, gpt-oss, DeepSeek V2 and V3, LFM2-MoE, LLaDA-MoE, Qwen3.5-MoE.

Others are in recipes.py and checkpoints_states.py. Mirrors llama.cpp's conversion/llama.py, phi.py, gpt_oss.py,
deepseek.py, lfm2.py, llada.py and qwen.py. Letters of shapes next to recipes.py's: rq and rkv the widths of latent
queries and keys, rot what turns of a head, nope what does not, Dv a head of values.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refembed.convert.checkpoint import DECODER_DEFAULTS, EITHER, NO, SILU, WHOLE_HEADS, Checkpoint
from refembed.convert.checkpoints_dense import ROPE_WIDTH
from refembed.convert.checkpoints_states import (
    DELTA_COMPUTED,
    DELTA_DEFAULTS,
    DELTA_KEYS,
    EXPERT_WIDTHS,
    LFM2,
    LFM2_DEFAULTS,
    QWEN35,
    SECTIONS,
    SOME_KV_HEADS,
    delta_sizes,
    placed,
)
from refembed.convert.own_keys import (
    CONTEXT,
    FEED_FORWARD,
    FILE_TYPE,
    HEADS,
    KV_HEADS,
    LAYERS,
    THETA,
    TURNED,
    VOCAB,
    WIDTH,
    count,
    flag,
    real,
    rms_epsilon,
)
from refembed.convert.recipes import (
    ALWAYS,
    ATTENTION,
    DECODER,
    EXPERTS,
    HEAD,
    HEAD_NORMS,
    LLAMA,
    NORM_BIASES,
    NORMS,
    QKV,
    SHARED_EXPERT,
    Recipe,
    Row,
)
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

if TYPE_CHECKING:
    from refembed.convert.config import Config

SPARSE: tuple[Row, ...] = (
    ("blk.{}.ffn_gate_inp", "X C", "{}.block_sparse_moe.gate", ""),
    ("blk.{}.ffn_gate_exps", "X F C", "{}.block_sparse_moe.experts.#.w1", ""),
    ("blk.{}.ffn_down_exps", "X C F", "{}.block_sparse_moe.experts.#.w2", ""),
    ("blk.{}.ffn_up_exps", "X F C", "{}.block_sparse_moe.experts.#.w3", ""),
)
MIXTRAL: tuple[Row, ...] = tuple(row for row in LLAMA if ".ffn_" not in row[0] or "norm" in row[0]) + SPARSE
PHIMOE: tuple[Row, ...] = (*ATTENTION, *NORMS, *SPARSE, ("output", "V C", "lm_head", ""))
GPT_OSS: tuple[Row, ...] = (
    *ATTENTION,
    ("blk.{}.attn_sinks.weight", "H", "={}.self_attn.sinks", ""),
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", ""),
    ("blk.{}.post_attention_norm", "C", "{}.post_attention_layernorm", ""),
    ("blk.{}.ffn_gate_inp", "X C", "{}.mlp.router", ""),
    ("blk.{}.ffn_gate_exps.weight", "X C 2F", "={}.mlp.experts.gate_up_proj", "even columns"),
    ("blk.{}.ffn_up_exps.weight", "X C 2F", "={}.mlp.experts.gate_up_proj", "odd columns"),
    ("blk.{}.ffn_down_exps.weight", "X F C", "={}.mlp.experts.down_proj", "columns"),
    ("blk.{}.ffn_gate_exps.bias", "X 2F", "={}.mlp.experts.gate_up_proj_bias", "even"),
    ("blk.{}.ffn_up_exps.bias", "X 2F", "={}.mlp.experts.gate_up_proj_bias", "odd"),
    ("blk.{}.ffn_down_exps.bias", "X C", "={}.mlp.experts.down_proj_bias", ""),
    ("output", "V C", "lm_head", ""),
)
SHARED_EXPERTS: tuple[Row, ...] = tuple(
    (a, shape, b.replace("shared_expert", "shared_experts"), how) for a, shape, b, how in SHARED_EXPERT[1:]
)
DEEPSEEK: tuple[Row, ...] = (
    *DECODER[:2],
    *NORMS,
    ("blk.{}.attn_q", "HDk C", "{}.self_attn.q_proj", "queries at once"),
    ("blk.{}.attn_q_a", "rq C", "{}.self_attn.q_a_proj", "queries through a rank"),
    ("blk.{}.attn_q_a_norm", "rq", "{}.self_attn.q_a_layernorm", "queries through a rank"),
    ("blk.{}.attn_q_b", "HDk rq", "{}.self_attn.q_b_proj", "queries through a rank"),
    ("blk.{}.attn_kv_a_mqa", "rkv+rot C", "{}.self_attn.kv_a_proj_with_mqa", ""),
    ("blk.{}.attn_kv_a_norm", "rkv", "{}.self_attn.kv_a_layernorm", ""),
    ("blk.{}.attn_k_b", "H(nope+Dv) rkv", "{}.self_attn.kv_b_proj", "keys of latent"),
    ("blk.{}.attn_v_b", "H(nope+Dv) rkv", "{}.self_attn.kv_b_proj", "values of latent"),
    ("blk.{}.attn_output", "C HDv", "{}.self_attn.o_proj", ""),
    *placed("leading", DECODER[6:]),
    *placed("trailing", EXPERTS),
    *placed("shared", SHARED_EXPERTS),
    *HEAD,
)
DEEPSEEK3: tuple[Row, ...] = (
    *DEEPSEEK,
    ("blk.{}.exp_probs_b.bias", "X", "={}.mlp.gate.e_score_correction_bias", "trailing"),
)
LFM2_MOE: tuple[Row, ...] = (
    *(row for row in LFM2 if row[0].rpartition(".")[2] not in ("ffn_gate", "ffn_up", "ffn_down")),
    *placed("leading", tuple(row for row in LFM2 if row[0].rpartition(".")[2] in ("ffn_gate", "ffn_up", "ffn_down"))),
    ("blk.{}.ffn_gate_inp", "X C", "{}.feed_forward.gate", "trailing"),
    ("blk.{}.ffn_gate_exps", "X exp C", "{}.feed_forward.experts.#.w1", "trailing"),
    ("blk.{}.ffn_down_exps", "X C exp", "{}.feed_forward.experts.#.w2", "trailing"),
    ("blk.{}.ffn_up_exps", "X exp C", "{}.feed_forward.experts.#.w3", "trailing"),
    ("blk.{}.exp_probs_b.bias", "X", "={}.feed_forward.expert_bias", "trailing"),
)
FUSED_EXPERTS: tuple[Row, ...] = (  # as they are published, where EXPERTS are as `transformers` saves them
    ("blk.{}.ffn_gate_exps.weight", "X 2exp C", "={}.mlp.experts.gate_up_proj", "first half"),
    ("blk.{}.ffn_up_exps.weight", "X 2exp C", "={}.mlp.experts.gate_up_proj", "second half"),
    ("blk.{}.ffn_down_exps.weight", "X C exp", "={}.mlp.experts.down_proj", ""),
)
LLADA_MOE: tuple[Row, ...] = (*ATTENTION, *HEAD_NORMS, *NORMS, *EXPERTS, ("output", "V C", "lm_head", ""))
QWEN35_MOE: tuple[Row, ...] = (*QWEN35[:-3], *EXPERTS, *FUSED_EXPERTS, *SHARED_EXPERT)


def latent_sizes(c: Config) -> dict[str, int]:
    """The letters of DeepSeek's rows."""
    H, rkv = c.size("num_attention_heads"), c.size("kv_lora_rank")
    nope, rot, Dv = (c.size(key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    exp = c.size("moe_intermediate_size")
    shared = c.size("n_shared_experts") * exp if c.raw.get("n_shared_experts") else 1
    return {
        "rq": c.size("q_lora_rank", default=1), "rkv": rkv, "rot": rot, "nope": nope, "Dv": Dv, "HDk": H * (nope + rot),
        "HDv": H * Dv, "rkv+rot": rkv + rot, "H(nope+Dv)": H * (nope + Dv), "exp": exp, "shexp": shared,
    }  # fmt: skip


def lfm2_moe_sizes(c: Config) -> dict[str, int]:
    return {"conv": c.size("conv_L_cache")}


def check_frequency(path: Path, raw: dict[str, Any]) -> None:
    """Refuse layers without experts, which llama.cpp's graph of LLaDA-MoE does not have."""
    every = raw.get("moe_layer_freq")
    if every is not None and (not isinstance(every, list) or any(n != 1 for n in every)):
        found = f"{path}: moe_layer_freq is {quote(str(every)[:60])}"
        raise ModelError(found, hint="llama.cpp computes this architecture with experts in every layer only")


def check_latent(path: Path, raw: dict[str, Any]) -> None:
    """Refuse queries at once in a model that llama.cpp does not take for a small one, by its number of layers."""
    layers, tokens = raw.get("num_hidden_layers"), raw.get("vocab_size")
    small = layers in LITE_LAYERS or (layers, tokens) == KANANA
    if (raw.get("q_lora_rank") is None) != small:
        found = f"{path}: q_lora_rank is {quote(str(raw.get('q_lora_rank')))} with {quote(str(layers))} layers"
        raise ModelError(found, hint="llama.cpp looks for q_lora_rank unless there are 26 or 27 layers")


LITE_LAYERS, KANANA = (26, 27), (48, 128256)
MASK = 156895  # <|mask|>: the converter takes it for granted
EXPERT_WIDTH = count("expert_feed_forward_length", lambda c: c.sizes["exp"])
WINDOW = count("attention.sliding_window", lambda c: c.size("sliding_window"))
DENSE_LAYERS = count("leading_dense_block_count", lambda c: c.dense_layers)
DEEPSEEK_KEYS = (
    count("attention.head_count_kv", lambda c: 1),  # that of the latent vector
    DENSE_LAYERS, VOCAB,
    count("attention.q_lora_rank", lambda c: c.raw.get("q_lora_rank")),
    count("attention.kv_lora_rank", lambda c: c.sizes["rkv"]),
    count("attention.key_length", lambda c: c.sizes["rkv+rot"]),
    count("attention.value_length", lambda c: c.sizes["rkv"]),
    count("attention.key_length_mla", lambda c: c.sizes["nope"] + c.sizes["rot"]),
    count("attention.value_length_mla", lambda c: c.sizes["Dv"]),
    EXPERT_WIDTH,
    count("expert_count", lambda c: c.experts),
    count("expert_shared_count", lambda c: c.raw.get("n_shared_experts") or 0),
    real("expert_weights_scale", lambda c: c.number("routed_scaling_factor")),
    flag("expert_weights_norm", lambda c: True if c.raw.get("norm_topk_prob") else None),
    count("rope.dimension_count", lambda c: c.sizes["rot"]),
    real("rope.scaling.yarn_log_multiplier", lambda c: c.yarn_growth and 0.1 * c.yarn_growth),
)  # fmt: skip
DEEPSEEK_COMPUTED = {"hidden_act": SILU, "attention_bias": NO, "mlp_bias": NO, "moe_layer_freq": (1,)}
DEEPSEEK_DEFAULTS = {
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "rms_norm_eps": 1e-6,
}  # fmt: skip

WITH_EXPERTS: dict[str, Checkpoint] = {
    "Mixtral": Checkpoint(
        Recipe("llama", MIXTRAL, vocabs=("spm", "bpe"), more_keys=(VOCAB, ROPE_WIDTH)),
        ("ForCausalLM",), "mixtral", computed={"hidden_act": SILU, **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
           "max_position_embeddings": 131072, "num_local_experts": 8, "num_experts_per_tok": 2},
        theta=1e6,
    ),
    "PhiMoE": Checkpoint(  # of `transformers` PhimoeForCausalLM
        Recipe(
            "phimoe", PHIMOE, vocabs=("sentencepiece", "bpe"),
            biases=NORM_BIASES | QKV | dict.fromkeys(("attn_output", "output"), ALWAYS),
            keys=(CONTEXT, count("rope.scaling.original_context_length", lambda c: c.original_context), WIDTH,
                  FEED_FORWARD, LAYERS, HEADS, KV_HEADS, rms_epsilon("rms_norm_eps"), TURNED, THETA, FILE_TYPE,
                  count("attention.sliding_window", lambda c: c.raw.get("sliding_window") or 0),
                  count("expert_used_count", lambda c: c.size("num_experts_per_tok")),
                  count("expert_count", lambda c: c.experts)),
        ),
        ("ForCausalLM",), "phimoe",
        computed={"hidden_act": SILU, "attention_bias": (True,), "lm_head_bias": (True,), **WHOLE_HEADS,
                  "num_experts_per_tok": (2,), "tie_word_embeddings": NO},
        defaults={
            "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_local_experts": 16,
            "num_experts_per_tok": 2,
        },
        theta=1e6,
        remark="vectors are not those of `transformers`: llama.cpp has RMS norm and a softmax for a router, where the "
        "published model has LayerNorm and SparseMixer (docs/differences.md)",
    ),
    "GptOss": Checkpoint(
        Recipe(
            "gpt-oss", GPT_OSS, more_keys=(WINDOW, count("expert_feed_forward_length", lambda c: c.sizes["F"])),
            biases=QKV | dict.fromkeys(("attn_output", "ffn_gate_inp"), ALWAYS),
        ),
        ("ForCausalLM",), "gpt_oss",
        computed={"hidden_act": SILU, "attention_bias": (True,), "swiglu_limit": (7, 7.0), "swiglu_alpha": (1.702,),
                  "tie_word_embeddings": NO, **WHOLE_HEADS},
        defaults={
            "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
        },
        theta=150000.0, period=2, scalings=("yarn",), packed=("mxfp4",),
    ),
    "DeepseekV2": Checkpoint(
        Recipe("deepseek2", DEEPSEEK, sizes=latent_sizes, more_keys=DEEPSEEK_KEYS),
        ("ForCausalLM",), "deepseek_v2",
        computed=DEEPSEEK_COMPUTED
        | {"topk_method": ("greedy",), "scoring_func": ("softmax",), "norm_topk_prob": NO},
        defaults=DECODER_DEFAULTS | DEEPSEEK_DEFAULTS
        | {"vocab_size": 102400, "intermediate_size": 11008, "max_position_embeddings": 2048,
           "num_key_value_heads": 32, "n_routed_experts": 64, "n_shared_experts": 2, "moe_intermediate_size": 1407,
           "num_experts_per_tok": 6, "routed_scaling_factor": 1.0},
        scalings=("yarn",), latent_yarn=True, check=check_latent,
    ),
    "DeepseekV3": Checkpoint(
        Recipe("deepseek2", DEEPSEEK3, sizes=latent_sizes, more_keys=DEEPSEEK_KEYS),
        ("ForCausalLM",), "deepseek_v3",
        computed=DEEPSEEK_COMPUTED
        | {"topk_method": ("noaux_tc",), "scoring_func": ("sigmoid",), "norm_topk_prob": EITHER,
           "rope_interleave": (True,)},
        defaults=DEEPSEEK_DEFAULTS
        | {"vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
           "num_attention_heads": 128, "num_key_value_heads": 128, "max_position_embeddings": 4096,
           "n_routed_experts": 256, "n_shared_experts": 1, "moe_intermediate_size": 2048, "num_experts_per_tok": 8,
           "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3,
           "norm_topk_prob": True, "scoring_func": "sigmoid"},
        scalings=("yarn",), latent_yarn=True, check=check_latent,
    ),
    "Lfm2Moe": Checkpoint(
        Recipe(
            "lfm2moe", LFM2_MOE, sizes=lfm2_moe_sizes, pre="lfm2",
            more_keys=(SOME_KV_HEADS, EXPERT_WIDTH, DENSE_LAYERS, count("expert_gating_func", lambda c: 2), VOCAB,
                       count("shortconv.l_cache", lambda c: c.sizes["conv"])),
        ),
        ("ForCausalLM",), "lfm2_moe",
        computed={"conv_bias": NO, "tie_word_embeddings": (True,), "use_expert_bias": (True,),
                  "norm_topk_prob": (True,), "routed_scaling_factor": (1, 1.0), **WHOLE_HEADS},
        defaults=LFM2_DEFAULTS
        | {"hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_dense_layers": 2,
           "num_experts_per_tok": 4, "num_experts": 32},
        theta=1e6, kinds=("conv",),
    ),
    "LLaDAMoE": Checkpoint(  # whose code is not in `transformers`
        Recipe(
            "llada-moe", LLADA_MOE, pre="llada-moe", dense=False,
            sizes=lambda c: {"exp": c.size("expert_intermediate_size")},
            more_keys=(EXPERT_WIDTH, count("tokenizer.ggml.mask_token_id", lambda c: MASK),
                       flag("attention.causal", lambda c: False), flag("diffusion.shift_logits", lambda c: False)),
        ),
        ("Model", "ModelLM"), "llada",
        computed={"hidden_act": SILU, "attention_bias": NO, "norm_topk_prob": NO, "qk_layernorm": (True,),
                  "moe_router_score_function": ("softmax",), "moe_router_enable_expert_bias": NO,
                  "shared_expert_intermediate_size": (), "router_num_group": (), "routed_scaling_factor": (1, 1.0),
                  "tie_word_embeddings": NO, **WHOLE_HEADS},
        check=check_frequency,
    ),
    "Qwen3_5Moe": Checkpoint(
        Recipe("qwen35moe", QWEN35_MOE, prefixes=("model.language_model.", "model."), dropped=("mtp.", "visual."),
               sizes=delta_sizes, more_keys=(*EXPERT_WIDTHS, *DELTA_KEYS, SECTIONS), dense=False),
        ("ForCausalLM", "ForConditionalGeneration"), "qwen3_5_moe_text|qwen3_5_moe", computed=DELTA_COMPUTED,
        defaults=DELTA_DEFAULTS
        | {"vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
           "num_key_value_heads": 2, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
           "num_experts_per_tok": 8, "num_experts": 256},
        turns=0.25, kinds=("linear_attention",), nested=True,
    ),
}  # fmt: skip
