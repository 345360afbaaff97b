"""Decoders with RMS norm and gates, next to those of recipes.py: Mistral, Phi-3, Granite, GLM, Cohere 2, Gemma 2 ...

Mirrors llama.cpp's conversion/llama.py, phi.py, granite.py, chatglm.py, glm.py, hunyuan.py, command_r.py and gemma.py.
"""

from __future__ import annotations

from typing import Any

from refembed.convert.checkpoint import (
    DECODER_DEFAULTS,
    EITHER,
    NO,
    SILU,
    STRETCHED,
    TANH_GELUS,
    WHOLE_HEADS,
    Checkpoint,
)
from refembed.convert.own_keys import (
    CONTEXT,
    FEED_FORWARD,
    FILE_TYPE,
    HEAD_WIDTHS,
    HEADS,
    KV_HEADS,
    LAYERS,
    NO_BOS,
    OTHER_THETA,
    THETA,
    TURNED,
    UNSCALED,
    VOCAB,
    WIDTH,
    count,
    flag,
    real,
    rms_epsilon,
)
from refembed.convert.recipes import (
    DECODER,
    GEMMA,
    HEAD,
    LLAMA,
    LLAMA_BIASES,
    NORMS,
    QKV,
    Key,
    Recipe,
    Row,
    changed,
)

FUSED: tuple[Row, ...] = (
    *DECODER[:2],
    ("blk.{}.attn_qkv", "HD+2KD C", "{}.self_attn.qkv_proj", ""),
    *DECODER[5:6],
    ("blk.{}.ffn_up", "2F C", "{}.mlp.gate_up_proj", ""),
    *DECODER[8:],
    *NORMS,
    *HEAD,
)
GLM: tuple[Row, ...] = (*DECODER[:6], *FUSED[4:])
GLM4: tuple[Row, ...] = (
    *GLM,
    ("blk.{}.post_attention_norm", "C", "{}.post_self_attn_layernorm", ""),
    ("blk.{}.post_ffw_norm", "C", "{}.post_mlp_layernorm", ""),
)
GEMMA2: tuple[Row, ...] = tuple(row for row in GEMMA if not row[0].endswith(("attn_q_norm", "attn_k_norm")))
GEMMA2 = tuple((a, shape, b, "" if a == "token_embd" else how) for a, shape, b, how in GEMMA2)
GEMMA1: tuple[Row, ...] = changed(DECODER + NORMS, output_norm="+1", attn_norm="+1", ffn_norm="+1")
HUNYUAN: tuple[Row, ...] = (
    *DECODER,
    ("blk.{}.attn_q_norm", "D", "{}.self_attn.query_layernorm", ""),
    ("blk.{}.attn_k_norm", "D", "{}.self_attn.key_layernorm", ""),
    *NORMS,
    *HEAD,
)
GLM_BIASES = dict.fromkeys(QKV, "attention_bias")
ATTENTION_BIASES = dict.fromkeys((*QKV, "attn_output"), "attention_bias")

ROPE_WIDTH = count("rope.dimension_count", lambda c: c.sizes["D"])
MULTIPLIERS = (
    real("attention.scale", lambda c: c.number("attention_multiplier")),
    real("embedding_scale", lambda c: c.number("embedding_multiplier")),
    real("residual_scale", lambda c: c.number("residual_multiplier")),
    real("logit_scale", lambda c: c.number("logits_scaling")),
)
NTK_CONTEXT = 1 << 18  # which llama.cpp's converter gives HunYuan where RoPE's base is stretched
STRETCHED_BASE: tuple[Key, ...] = (
    real("rope.freq_base", lambda c: c.stretched_base),
    ("rope.scaling.type", "STRING", lambda c: c.stretched_base and "none"),
    real("rope.scaling.factor", lambda c: c.stretched_base and 1.0),
    count("rope.scaling.original_context_length", lambda c: c.stretched_base and NTK_CONTEXT),
    count("context_length", lambda c: c.stretched_base and NTK_CONTEXT),
)
GRANITE_COMPUTED = {"hidden_act": SILU, "attention_bias": NO, "mlp_bias": NO, **WHOLE_HEADS}
GRANITE_DEFAULTS = DECODER_DEFAULTS | {
    "vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048, "embedding_multiplier": 1.0,
    "logits_scaling": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0,
}  # fmt: skip
GLM_DEFAULTS = {
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07, "attention_bias": True,
}  # fmt: skip


def newer_mistral(raw: dict[str, Any]) -> str:
    """Which text model stands next to Mistral 3's eye."""
    text = raw.get("text_config")
    return "Ministral3" if isinstance(text, dict) and text.get("model_type") == "ministral3" else "Mistral3"


DENSE: dict[str, Checkpoint] = {
    "Mistral": Checkpoint(
        Recipe("llama", LLAMA, vocabs=("spm", "bpe"), more_keys=(VOCAB, ROPE_WIDTH)),
        ("Model", "ForCausalLM"), "mistral",
        computed={"hidden_act": SILU, **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
           "max_position_embeddings": 131072, "sliding_window": 4096},
        scalings=(*STRETCHED, "llama3"),
    ),
    "Mistral3": Checkpoint(  # Mistral Small 3.1 and later, its text part
        Recipe("mistral3", LLAMA, dropped=("vision_tower.", "multi_modal_projector."), vocabs=("spm", "bpe"),
               prefixes=("model.language_model.", "language_model.model.", "language_model.", "model."),
               more_keys=(VOCAB, ROPE_WIDTH)),
        ("ForConditionalGeneration",), "mistral|mistral3", computed={"hidden_act": SILU, **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8,
           "max_position_embeddings": 131072},
        nested=True,
        instead=newer_mistral,
    ),
    "Ministral3": Checkpoint(  # and of later ones
        Recipe("mistral3", LLAMA, dropped=("vision_tower.", "multi_modal_projector."), vocabs=("spm", "bpe"),
               prefixes=("model.language_model.", "language_model.model.", "language_model.", "model."),
               more_keys=(VOCAB, ROPE_WIDTH,
                          real("rope.scaling.yarn_log_multiplier", lambda c: c.yarn_growth),
                          real("attention.temperature_scale",
                               lambda c: c.number_of("rope_parameters", "llama_4_scaling_beta")))),
        ("ForCausalLM",), "ministral3|mistral3", computed={"hidden_act": SILU, "sliding_window": (), **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 131072, "intermediate_size": 14336, "num_hidden_layers": 34, "num_key_value_heads": 8,
           "head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": 1e-5},
        theta=1e6, scalings=("yarn",), latent_yarn=True,
    ),
    "LlamaBidirectional": Checkpoint(  # llama-embed-nemotron, whose code is not in `transformers`
        Recipe("llama-embed", LLAMA, biases=LLAMA_BIASES, vocabs=("spm", "bpe"), more_keys=(VOCAB, ROPE_WIDTH)),
        ("Model",), "llama_bidirec",
        computed={"hidden_act": SILU, "attention_bias": EITHER, "mlp_bias": EITHER, **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
        scalings=("llama3",),
        remark="tokens look back only, as llama.cpp runs it; `--semantics original` lets them see the whole text, "
        "as published (docs/differences.md)",
    ),
    "Dream": Checkpoint(  # whose code is not in `transformers`
        Recipe("dream", (*DECODER, *NORMS, *HEAD), biases=QKV, vocabs=("spm", "bpe"),
               more_keys=(flag("attention.causal", lambda c: False),
                          count("tokenizer.ggml.mask_token_id", lambda c: c.raw.get("mask_token_id")))),
        ("Model",), "Dream", computed={"hidden_act": SILU, **WHOLE_HEADS},
    ),
    "SmolLM3": Checkpoint(
        Recipe("smollm3", LLAMA, biases=LLAMA_BIASES, more_keys=(VOCAB, ROPE_WIDTH)),
        ("Model", "ForCausalLM"), "smollm3",
        computed={"hidden_act": SILU, "attention_bias": EITHER, "mlp_bias": EITHER, "use_sliding_window": NO,
                  "no_rope_layer_interval": (4,), **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
           "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
           "tie_word_embeddings": True},
        theta=2e6, scalings=STRETCHED,
    ),
    "Granite": Checkpoint(
        Recipe("granite", LLAMA, vocabs=("bpe",), more_keys=(VOCAB, ROPE_WIDTH, *MULTIPLIERS),
               head_width=False),
        ("Model", "ForCausalLM"), "granite",
        computed=GRANITE_COMPUTED, defaults=GRANITE_DEFAULTS,
    ),
    "Phi3": Checkpoint(
        Recipe(
            "phi3", FUSED, vocabs=("sentencepiece", "bpe"),
            keys=(CONTEXT, count("rope.scaling.original_context_length", lambda c: c.original_context), WIDTH,
                  FEED_FORWARD, LAYERS, HEADS, KV_HEADS, rms_epsilon("rms_norm_eps"), TURNED, THETA, FILE_TYPE,
                  count("attention.sliding_window", lambda c: c.raw.get("sliding_window") or 0)),
        ),
        ("Model", "ForCausalLM"), "phi3",
        computed={"hidden_act": SILU},
        defaults={
            "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
            "num_attention_heads": 32, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
        turns=1.0, scalings=("longrope",),
    ),
    "Glm": Checkpoint(
        Recipe(
            "chatglm", GLM, vocabs=("glm",), biases=GLM_BIASES,
            keys=(count("context_length", lambda c: c.size("seq_length", default=c.sizes["C"])), WIDTH, FEED_FORWARD,
                  LAYERS, HEADS, KV_HEADS, rms_epsilon("rms_norm_eps"), FILE_TYPE, TURNED, NO_BOS,
                  THETA),
        ),
        ("ForCausalLM",), "glm",
        computed={"hidden_act": SILU, "attention_bias": EITHER},
        defaults=GLM_DEFAULTS, turns=0.5,
    ),
    "Glm4": Checkpoint(
        Recipe("glm4", GLM4, vocabs=("glm",), pre="glm4", biases=GLM_BIASES, more_keys=(TURNED,)),
        ("ForCausalLM",), "glm4",
        computed={"hidden_act": SILU, "attention_bias": EITHER},
        defaults=GLM_DEFAULTS, turns=0.5,
    ),
    "HunYuanDenseV1": Checkpoint(
        Recipe("hunyuan-dense", HUNYUAN, vocabs=("hunyuan",), biases=ATTENTION_BIASES, more_keys=STRETCHED_BASE),
        ("ForCausalLM",), "hunyuan_v1_dense",
        computed={"hidden_act": SILU, "attention_bias": NO, **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 290943, "intermediate_size": 11008, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
           "eod_token_id": 3},
        scalings=("dynamic",),
    ),
    "Cohere2": Checkpoint(
        Recipe(
            "cohere2", (*DECODER, *NORMS[:1]), dropped=("lm_head.",), pre="command-r",
            more_keys=(real("logit_scale", lambda c: c.needed_number("logit_scale")),
                       count("attention.sliding_window", lambda c: c.size("sliding_window")), VOCAB, TURNED, UNSCALED),
        ),
        ("Model", "ForCausalLM"), "cohere2",
        computed={"hidden_act": SILU, "attention_bias": NO, "tie_word_embeddings": (True,)},
        defaults={
            "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
            "num_attention_heads": 64, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
            "sliding_window": 4096, "tie_word_embeddings": True,
        },
        turns=1.0, period=4,
    ),
    "Gemma2": Checkpoint(
        Recipe(
            "gemma2", GEMMA2, dropped=("lm_head.",), vocabs=("gemma", "bpe"),
            keys=(CONTEXT, WIDTH, LAYERS, FEED_FORWARD, HEADS, KV_HEADS, rms_epsilon("rms_norm_eps"), *HEAD_WIDTHS,
                  FILE_TYPE, real("attn_logit_softcapping", lambda c: c.needed_number("attn_logit_softcapping")),
                  real("final_logit_softcapping", lambda c: c.needed_number("final_logit_softcapping")),
                  count("attention.sliding_window", lambda c: c.size("sliding_window")), OTHER_THETA),
        ),
        ("Model", "ForCausalLM"), "gemma2",
        computed={"hidden_activation": TANH_GELUS, "attention_bias": NO, "tie_word_embeddings": (True,),
                  "use_bidirectional_attention": NO, **WHOLE_HEADS},
        defaults={
            "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, "tie_word_embeddings": True,
        },
        period=2,
    ),
    "Gemma": Checkpoint(
        Recipe(
            "gemma", GEMMA1, dropped=("lm_head.",), vocabs=("gemma1",),
            keys=(CONTEXT, WIDTH, LAYERS, FEED_FORWARD, HEADS, KV_HEADS, rms_epsilon("rms_norm_eps"), *HEAD_WIDTHS,
                  FILE_TYPE, OTHER_THETA),
        ),
        ("ForCausalLM",), "gemma",
        computed={"hidden_act": (*TANH_GELUS, "gelu"), "attention_bias": NO, "tie_word_embeddings": (True,),
                  "use_bidirectional_attention": NO, **WHOLE_HEADS},
        defaults={
            "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
