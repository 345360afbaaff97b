"""Decoders with LayerNorm, of the years 2021 to 2024: GPT-NeoX, Falcon, BLOOM, MPT, Phi-2, StableLM, Nemotron.

Mirrors llama.cpp's conversion/gptneox.py, falcon.py, bloom.py, mpt.py, phi.py, stablelm.py and nemotron.py. Where
queries, keys and values of a head stand next to each other, all queries come first in the file, then all keys, then all
values.
"""

from __future__ import annotations

from refembed.convert.checkpoint import EITHER, GELUS, NO, SILU, Checkpoint
from refembed.convert.own_keys import (
    CONTEXT,
    FEED_FORWARD,
    FILE_TYPE,
    HEADS,
    KV_HEADS,
    LAYERS,
    NO_BOS,
    OTHER_THETA,
    TURNED,
    UNSCALED,
    VOCAB,
    WIDTH,
    count,
    epsilon,
    flag,
    real,
    word,
)
from refembed.convert.recipes import ALWAYS, DECODER, HEAD, NORM_BIASES, NORMS, QKV, Recipe, Row

WIDE: tuple[Row, ...] = (
    ("blk.{}.ffn_up", "F C", "{}.mlp.dense_h_to_4h", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.dense_4h_to_h", ""),
)
NEOX: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_in", ""),
    ("output_norm", "C", "final_layer_norm", ""),
    *NORMS,
    ("blk.{}.attn_qkv", "3C C", "{}.attention.query_key_value", "qkv by head"),
    ("blk.{}.attn_output", "C C", "{}.attention.dense", ""),
    *WIDE,
    ("output", "V C", "embed_out|lm_head", ""),
)
BLOOM: tuple[Row, ...] = (
    ("token_embd", "V C", "word_embeddings", ""),
    ("token_embd_norm", "C", "word_embeddings_layernorm", ""),
    ("output_norm", "C", "ln_f", ""),
    *NORMS,
    ("blk.{}.attn_qkv", "3C C", "{}.self_attention.query_key_value", "qkv by head"),
    ("blk.{}.attn_output", "C C", "{}.self_attention.dense", ""),
    *WIDE,
)
FALCON: tuple[Row, ...] = (
    ("token_embd", "V C", "word_embeddings", ""),
    ("output_norm", "C", "ln_f", ""),
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", "one norm"),
    ("blk.{}.attn_norm", "C", "{}.ln_mlp", "two norms"),
    ("blk.{}.attn_norm_2", "C", "{}.ln_attn", "two norms"),
    ("blk.{}.attn_qkv", "HD+2KD C", "{}.self_attention.query_key_value", "qkv by group"),
    ("blk.{}.attn_output", "C C", "{}.self_attention.dense", ""),
    *WIDE,
    *HEAD,
)
MPT: tuple[Row, ...] = (
    ("token_embd", "V C", "wte", ""),
    ("output_norm", "C", "norm_f", ""),
    ("blk.{}.attn_norm", "C", "{}.norm_1", ""),
    ("blk.{}.attn_qkv", "HD+2KD C", "{}.attn.Wqkv", ""),
    ("blk.{}.attn_output", "C C", "{}.attn.out_proj", ""),
    ("blk.{}.ffn_norm", "C", "{}.norm_2", ""),
    ("blk.{}.ffn_up", "F C", "{}.ffn.up_proj", ""),
    ("blk.{}.ffn_down", "C F", "{}.ffn.down_proj", ""),
)
PHI2: tuple[Row, ...] = (
    *DECODER[:1],
    ("output_norm", "C", "final_layernorm", ""),
    *NORMS[:1],
    *DECODER[2:5],
    ("blk.{}.attn_output", "C HD", "{}.self_attn.dense", ""),
    ("blk.{}.ffn_up", "F C", "{}.mlp.fc1", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.fc2", ""),
    ("output", "V C", "lm_head", ""),
)
STABLELM: tuple[Row, ...] = (
    *DECODER,
    *NORMS[:1],
    ("blk.{}.ffn_norm", "C", "{}.post_attention_layernorm", "one after the other"),
    ("blk.{}.attn_q_norm", "H D", "{}.self_attn.q_layernorm.norms.#", "norms of heads"),
    ("blk.{}.attn_k_norm", "K D", "{}.self_attn.k_layernorm.norms.#", "norms of heads"),
    ("output", "V C", "lm_head", ""),
)
NEMOTRON: tuple[Row, ...] = tuple(
    (a, shape, b, "+1" if a.endswith("norm") else how)
    for a, shape, b, how in (*DECODER[:6], *DECODER[7:], *NORMS, ("output", "V C", "lm_head", ""))
)

MATRICES = dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), ALWAYS)
TOP = (CONTEXT, WIDTH)
PARALLEL = flag("use_parallel_residual", lambda c: c.raw["use_parallel_residual"])
MPT_CHECKPOINT = Checkpoint(
    Recipe(
        "mpt", MPT, "blocks.", ("transformer.",), dropped=("lm_head.",), pre="mpt",
        keys=(
            *TOP, LAYERS, FEED_FORWARD, HEADS,
            real("attention.layer_norm_epsilon", lambda c: 1e-5),
            real("attention.clamp_kqv", lambda c: c.number_of("attn_config", "clip_qkv")),
            real("attention.max_alibi_bias", lambda c: c.number_of("attn_config", "alibi_bias_max", 8.0)),
        ),
    ),
    ("ForCausalLM",), "mpt",
    computed={
        "no_bias": (True,), "expansion_ratio": (4,), "layer_norm_epsilon": (1e-5,), "embedding_fraction": (1, 1.0),
        "attn_config.alibi": (True,), "attn_config.attn_type": ("multihead_attention",), "attn_config.prefix_lm": NO,
        "attn_config.qk_ln": NO, "attn_config.softmax_scale": (), "attn_config.kv_n_heads": (),
        "logit_scale": (), "norm_type": ("low_precision_layernorm",), "tie_word_embeddings": (True,),
    },
    defaults={
        "vocab_size": 50368, "d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048,
        "tie_word_embeddings": True,
    },
    theta=None,
)  # fmt: skip

CLASSIC: dict[str, Checkpoint] = {
    "GPTNeoX": Checkpoint(
        Recipe(
            "gptneox", NEOX, prefixes=("gpt_neox.",),
            biases=NORM_BIASES | dict.fromkeys(("ffn_up", "ffn_down"), ALWAYS)
            | dict.fromkeys(("attn_qkv", "attn_output"), "attention_bias"),
            keys=(*TOP, LAYERS, FEED_FORWARD, TURNED, HEADS, PARALLEL, epsilon("layer_norm_eps"),
                  OTHER_THETA),
        ),
        ("ForCausalLM",), "gpt_neox",
        computed={"hidden_act": GELUS, "attention_bias": (True,), "use_parallel_residual": EITHER,
                  "tie_word_embeddings": NO},
        defaults={
            "vocab_size": 50432, "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
            "intermediate_size": 24576, "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
            "use_parallel_residual": True, "attention_bias": True,
        },
        turns=0.25,
    ),
    "Bloom": Checkpoint(
        Recipe(
            "bloom", BLOOM, "h.", ("transformer.",), dropped=("lm_head.",), pre="bloom",
            biases=NORM_BIASES | MATRICES | {"token_embd_norm": ALWAYS},
            keys=(count("context_length", lambda c: c.size("seq_length", default=c.sizes["C"])), WIDTH, FEED_FORWARD,
                  LAYERS, HEADS, KV_HEADS, epsilon("layer_norm_epsilon"), FILE_TYPE),
        ),
        ("Model", "ForCausalLM"), "bloom",
        computed={"apply_residual_connection_post_layernorm": NO, "tie_word_embeddings": (True,)},
        defaults={"vocab_size": 250880, "hidden_size": 64, "n_layer": 2, "n_head": 8, "layer_norm_epsilon": 1e-5,
                  "tie_word_embeddings": True},
        theta=None,
    ),
    "Falcon": Checkpoint(
        Recipe(
            "falcon", FALCON, "h.", ("transformer.",), pre="falcon",
            biases=dict.fromkeys(("attn_norm", "attn_norm_2", "output_norm"), ALWAYS),
            keys=(count("context_length", lambda c: 2048), word("tensor_data_layout", "jploski"), WIDTH, FEED_FORWARD,
                  LAYERS, HEADS, KV_HEADS, epsilon("layer_norm_epsilon"), FILE_TYPE, OTHER_THETA),
        ),
        ("ForCausalLM",), "falcon",
        computed={
            "activation": GELUS, "alibi": NO, "bias": NO, "parallel_attn": (True,), "multi_query": EITHER,
            "new_decoder_architecture": EITHER, "num_ln_in_parallel_attn": (1, 2),
        },
        defaults={
            "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
            "layer_norm_epsilon": 1e-5, "multi_query": True, "tie_word_embeddings": True,
        },
    ),
    "MPT": MPT_CHECKPOINT,
    "Mpt": MPT_CHECKPOINT,
    "Phi": Checkpoint(
        Recipe(
            "phi2", PHI2, pre="phi-2",
            biases=NORM_BIASES | QKV | dict.fromkeys(("attn_output", "ffn_up", "ffn_down", "output"), ALWAYS),
            keys=(*TOP, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, epsilon("layer_norm_eps"), TURNED, FILE_TYPE,
                  NO_BOS, OTHER_THETA),
        ),
        ("ForCausalLM",), "phi",
        computed={"hidden_act": GELUS, "qk_layernorm": NO, "tie_word_embeddings": NO},
        defaults={
            "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32, "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
        },
        turns=0.5,
    ),
    "StableLm": Checkpoint(
        Recipe(
            "stablelm", STABLELM, biases=NORM_BIASES | dict.fromkeys(QKV, "use_qkv_bias"),
            keys=(*TOP, LAYERS, FEED_FORWARD, TURNED, HEADS, KV_HEADS, PARALLEL, epsilon("layer_norm_eps"), FILE_TYPE,
                  OTHER_THETA),
        ),
        ("ForCausalLM",), "stablelm",
        computed={"hidden_act": SILU, "use_qkv_bias": EITHER, "qk_layernorm": EITHER, "use_parallel_residual": EITHER,
                  "tie_word_embeddings": NO},
        defaults={
            "vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5, "use_parallel_residual": False,
        },
        turns=0.25,
    ),
    "Nemotron": Checkpoint(
        Recipe(
            "nemotron", NEMOTRON, biases=NORM_BIASES, vocabs=("nemotron",),
            more_keys=(VOCAB, epsilon("norm_eps"), TURNED, UNSCALED),
        ),
        ("ForCausalLM",), "nemotron",
        computed={"hidden_act": ("relu2",), "attention_bias": NO, "mlp_bias": NO, "tie_word_embeddings": NO},
        defaults={
            "vocab_size": 256000, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32,
            "num_attention_heads": 48, "max_position_embeddings": 4096, "norm_eps": 1e-5,
        },
        turns=0.5,
    ),
}  # fmt: skip
