"""Encoders whose code is their own repository's: Nomic BERT, Jina BERT 2 and 3, NeoBERT; and text parts of Qwen-VL.

Names of tensors and keys of config.json are those of modeling_hf_nomic_bert.py (nomic-ai), modeling_bert.py of
jina-bert-implementation and jina-bert-v2-qk-post-norm, xlm-roberta-flash-implementation (jinaai), and model.py of
NeoBERT (chandar-lab). Mirrors llama.cpp's conversion/bert.py, qwenvl.py and qwen3vl.py.
"""

from __future__ import annotations

from refembed.convert.checkpoint import DECODER_DEFAULTS, GELUS, NO, SILU, STRETCHED, WHOLE_HEADS, Checkpoint
from refembed.convert.own_keys import (
    FEED_FORWARD,
    FILE_TYPE,
    HEADS,
    LAYERS,
    UNSCALED,
    WIDTH,
    count,
    flag,
    real,
    rms_epsilon,
)
from refembed.convert.recipes import ALWAYS, DECODER, ENCODER, HEAD, HEAD_NORMS, NORMS, QKV, Recipe, Row

EMBEDDINGS: tuple[Row, ...] = (
    ("token_embd", "V C", "embeddings.word_embeddings", ""),
    ("token_types", "types C", "embeddings.token_type_embeddings", ""),
)


def flash(mixer: str) -> tuple[Row, ...]:
    """A BERT as FlashAttention's authors lay it out, without its feed-forward part."""
    return (
        *EMBEDDINGS,
        ("token_embd_norm", "C", "emb_ln", ""),
        ("blk.{}.attn_qkv", "3C C", f"{{}}.{mixer}.Wqkv", ""),
        ("blk.{}.attn_output", "C C", f"{{}}.{mixer}.out_proj", ""),
        ("blk.{}.attn_output_norm", "C", "{}.norm1", ""),
        ("blk.{}.layer_output_norm", "C", "{}.norm2", ""),
    )


def gated(width: int) -> dict[str, int]:
    """A feed-forward part of so many channels, and its matrix that makes two halves."""
    return {"F": width, "2F": 2 * width}


NOMIC: tuple[Row, ...] = (
    *flash("attn"),
    ("blk.{}.ffn_up", "F C", "{}.mlp.fc11", ""),
    ("blk.{}.ffn_gate", "F C", "{}.mlp.fc12", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.fc2", ""),
)
NOMIC_MOE: tuple[Row, ...] = (
    *flash("attn"),
    ("blk.{}.ffn_up", "F C", "{}.mlp.fc1", "dense"),
    ("blk.{}.ffn_down", "C F", "{}.mlp.fc2", "dense"),
    ("blk.{}.ffn_gate_inp", "X C", "{}.mlp.router.layer", "routed"),
    ("blk.{}.ffn_up_exps.weight", "XF C", "={}.mlp.experts.mlp.w1", "routed: by expert"),
    ("blk.{}.ffn_down_exps.weight", "XF C", "={}.mlp.experts.mlp.w2", "routed: by expert, columns first"),
)
JINA_V3: tuple[Row, ...] = (
    *flash("mixer"),
    ("blk.{}.ffn_up", "F C", "{}.mlp.fc1", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.fc2", ""),
)
JINA_V2: tuple[Row, ...] = (  # the model for code has norms of queries and keys, and one norm more
    *EMBEDDINGS,
    ("token_embd_norm", "C", "embeddings.LayerNorm", ""),
    ("blk.{}.attn_q", "C C", "{}.attention.self.query", ""),
    ("blk.{}.attn_k", "C C", "{}.attention.self.key", ""),
    ("blk.{}.attn_v", "C C", "{}.attention.self.value", ""),
    ("blk.{}.attn_q_norm", "C", "{}.attention.self.layer_norm_q", "?"),
    ("blk.{}.attn_k_norm", "C", "{}.attention.self.layer_norm_k", "?"),
    ("blk.{}.attn_output", "C C", "{}.attention.output.dense", ""),
    ("blk.{}.attn_output_norm", "C", "{}.attention.output.LayerNorm", ""),
    ("blk.{}.attn_norm_2", "C", "{}.layer_norm_1", "?"),
    ("blk.{}.ffn_up", "2F C", "{}.mlp.gated_layers|up_gated_layer", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.wo|down_layer", ""),
    ("blk.{}.layer_output_norm", "C", "{}.mlp.layernorm", ""),
    ("blk.{}.layer_output_norm", "C", "{}.layer_norm_2", ""),
)
NEO: tuple[Row, ...] = (
    ("token_embd", "V C", "encoder", ""),
    ("enc.output_norm", "C", "layer_norm", ""),
    ("blk.{}.attn_norm", "C", "{}.attention_norm", ""),
    ("blk.{}.attn_qkv", "3C C", "{}.qkv", ""),
    ("blk.{}.attn_output", "C C", "{}.wo", ""),
    ("blk.{}.ffn_norm", "C", "{}.ffn_norm", ""),
    ("blk.{}.ffn_up", "2F C", "{}.ffn.w12", ""),
    ("blk.{}.ffn_down", "C F", "{}.ffn.w3", ""),
)
NORMED = dict.fromkeys(("token_embd_norm", "attn_output_norm", "layer_output_norm"), ALWAYS)
FLASH_DROPPED = ("pooler.dense.", "cls.predictions.", "cls.seq_relationship.")
QKV_BIASES = dict.fromkeys(("attn_qkv", "attn_output"), "qkv_proj_bias")
NOMIC_COMPUTED = {
    "causal": NO, "is_decoder": NO, "prenorm": NO, "parallel_block": NO, "use_rms_norm": NO,
    "rotary_emb_fraction": (1, 1.0), "rotary_emb_interleaved": NO, "rotary_emb_scale_base": (),
    "rotary_scaling_factor": (), "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": NO,
    "n_positions": (8192, 2048), "max_trained_positions": (2048,), "last_layer_subset": NO,
}  # fmt: skip
NOMIC_DEFAULTS = {
    "layer_norm_epsilon": 1e-12, "type_vocab_size": 2, "n_positions": 8192, "max_trained_positions": 2048,
}  # fmt: skip
NO_BIASES = {"qkv_proj_bias": NO, "mlp_fc1_bias": NO, "mlp_fc2_bias": NO}
BIASES = {"qkv_proj_bias": (True,), "mlp_fc1_bias": (True,), "mlp_fc2_bias": (True,)}
# Of n_positions a quarter is what the models were trained on, and what llama.cpp's converter writes
TRAINED = count("context_length", lambda c: c.raw.get("max_position_embeddings") or c.size("n_positions") // 4)
VL_DROPPED = ("visual.",)
VL_PREFIXES = ("model.language_model.", "model.")
QWEN2_VL = Recipe(
    "qwen2vl", DECODER + NORMS + HEAD, prefixes=VL_PREFIXES, dropped=VL_DROPPED, biases=QKV, extras=("sections",)
)
QWEN2_VL_DEFAULTS = {
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
}  # fmt: skip

ENCODERS: dict[str, Checkpoint] = {
    "NomicBert": Checkpoint(
        Recipe("nomic-bert", NOMIC, "encoder.layers.", ("bert.",), FLASH_DROPPED, NORMED, ("encoder",),
               extras=ENCODER, more_keys=(TRAINED,)),
        ("Model",), "nomic_bert",
        computed=NOMIC_COMPUTED | NO_BIASES
        | {"activation_function": ("swiglu",), "hidden_act": SILU, "moe_every_n_layers": (0,)},
        defaults=NOMIC_DEFAULTS,
    ),
    "NomicBertMoe": Checkpoint(  # a NomicBertModel whose config.json has moe_every_n_layers
        Recipe("nomic-bert-moe", NOMIC_MOE, "encoder.layers.", ("bert.",), FLASH_DROPPED,
               NORMED | QKV_BIASES | {"ffn_up": "mlp_fc1_bias", "ffn_down": "mlp_fc2_bias"}, ("encoder",),
               extras=(*ENCODER, "every-n", "top-k"), more_keys=(TRAINED,),
               sizes=lambda c: {"XF": c.experts * c.size("n_inner")}),
        (), "nomic_bert",
        computed=NOMIC_COMPUTED | BIASES
        | {"activation_function": ("gelu",), "moe_normalize_expert_weights": NO, "expert_choice_router": NO,
           "num_shared_experts": (0,), "ffn_div": (1,)},
        defaults=NOMIC_DEFAULTS,
    ),
    "JinaBertV3": Checkpoint(  # an XLMRobertaModel whose config.json has lora_adaptations
        Recipe("jina-bert-v3", JINA_V3, "encoder.layers.", ("roberta.",), FLASH_DROPPED,
               NORMED | dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), ALWAYS), ("encoder",),
               extras=ENCODER, parametrized=True),
        (), "xlm-roberta",
        computed={"hidden_act": GELUS, "is_decoder": NO, "position_embedding_type": ("rotary",),
                  "load_trained_adapters": (True,)},
        defaults={"layer_norm_eps": 1e-5, "type_vocab_size": 1, "pad_token_id": 1},
    ),
    "JinaBert": Checkpoint(
        Recipe("jina-bert-v2", JINA_V2, "encoder.layer.", ("bert.",), FLASH_DROPPED,
               NORMED | QKV | dict.fromkeys(("attn_q_norm", "attn_k_norm", "attn_norm_2", "attn_output", "ffn_down"),
                                            ALWAYS),
               ("encoder",), pre="jina-v2-de", extras=ENCODER),
        ("Model", "ForMaskedLM"), "bert",
        computed={"hidden_act": GELUS, "is_decoder": NO, "add_cross_attention": NO, "pruned_heads": ({},),
                  "position_embedding_type": ("alibi",), "feed_forward_type": ("geglu",)},
        defaults={"layer_norm_eps": 1e-12, "type_vocab_size": 2},
        theta=None,
    ),
    "NeoBERT": Checkpoint(
        Recipe("neo-bert", NEO, "transformer_encoder.", dropped=("decoder.",), vocabs=("encoder",),
               keys=(LAYERS, count("context_length", lambda c: c.size("max_position_embeddings", "max_length")), WIDTH,
                     FEED_FORWARD, HEADS, rms_epsilon("norm_eps"), FILE_TYPE, flag("attention.causal", lambda c: False),
                     real("rope.freq_base", lambda c: 10000.0), UNSCALED, count("pooling_type", lambda c: 2)),
               sizes=lambda c: gated(2 * c.size("intermediate_size") // 3)),
        ("", "LMHead"), "neobert",
        computed={"hidden_act": ("SwiGLU", "swiglu"), "rope": (True,), "rms_norm": (True,), "ngpt": NO},
        defaults={"norm_eps": 1e-6, "max_length": 1024, "type_vocab_size": 1},
    ),
    "Qwen2VL": Checkpoint(
        QWEN2_VL, ("ForConditionalGeneration",), "qwen2_vl|qwen2_vl_text", computed={"hidden_act": SILU, **WHOLE_HEADS},
        defaults=QWEN2_VL_DEFAULTS, theta=1e6, scalings=STRETCHED, nested=True,
    ),
    "Qwen2_5_VL": Checkpoint(
        QWEN2_VL, ("ForConditionalGeneration",), "qwen2_5_vl|qwen2_5_vl_text",
        computed={"hidden_act": SILU, **WHOLE_HEADS},
        defaults=QWEN2_VL_DEFAULTS, theta=1e6, scalings=STRETCHED, nested=True,
    ),
    "Qwen3VL": Checkpoint(
        Recipe("qwen3vl", DECODER + HEAD_NORMS + NORMS + HEAD, prefixes=VL_PREFIXES, dropped=VL_DROPPED,
               extras=("pooling", "rerank", "deepstack", "sections")),
        ("ForConditionalGeneration",), "qwen3_vl|qwen3_vl_text",
        computed={"hidden_act": SILU, "attention_bias": NO, **WHOLE_HEADS},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 151936, "intermediate_size": 22016, "head_dim": 128, "num_key_value_heads": 32,
           "max_position_embeddings": 128000},
        theta=500000.0, scalings=STRETCHED, nested=True,
    ),
}  # fmt: skip
