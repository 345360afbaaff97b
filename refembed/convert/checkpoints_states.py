"""Models with layers that keep a state: Mamba, Falcon-H1, Granite 4, LFM2, Qwen3-Next, Qwen3.5. And Granite's experts.

Mirrors llama.cpp's conversion/mamba.py, falcon_h1.py, granite.py, lfm2.py and qwen.py. Letters of shapes: I inner
channels of a mixer, N numbers of a state, G groups, dt heads of a mixer (Mamba: the rank of dt), conv taps of its
convolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refembed.convert.checkpoint import DECODER_DEFAULTS, EITHER, EVERY_LAYER, NO, SILU, WHOLE_HEADS, Checkpoint
from refembed.convert.checkpoints_dense import GRANITE_COMPUTED, GRANITE_DEFAULTS, MULTIPLIERS, ROPE_WIDTH
from refembed.convert.own_keys import (
    FEED_FORWARD,
    FILE_TYPE,
    HEAD_WIDTHS,
    HEADS,
    KV_HEADS,
    LAYERS,
    THETA,
    TURNED,
    VOCAB,
    WIDTH,
    count,
    flag,
    rms_epsilon,
)
from refembed.convert.recipes import (
    ALWAYS,
    DECODER,
    EXPERTS,
    HEAD,
    LLAMA,
    NORMS,
    SHARED_EXPERT,
    Key,
    Recipe,
    Row,
)

if TYPE_CHECKING:
    from refembed.convert.config import Config

ENDLESS = 1 << 20  # llama.cpp's converter writes it for models that have no longest text


def placed(place: str, rows: tuple[Row, ...], **changes: str) -> tuple[Row, ...]:
    """Rows that apply to some layers, with a change for some, by the last part of their GGUF name."""
    found = ((a, shape, b, changes.get(a.rsplit(".", 1)[-1], how)) for a, shape, b, how in rows)
    return tuple((a, shape, b, f"{place}: {how}" if how else place) for a, shape, b, how in found)


MIXER: tuple[Row, ...] = (  # of Mamba 2
    ("blk.{}.ssm_in", "2I+2GN+dt C", "{}.mixer.in_proj", ""),
    ("blk.{}.ssm_conv1d", "I+2GN 1 conv", "{}.mixer.conv1d", "squeezed"),
    ("blk.{}.ssm_a", "dt", "={}.mixer.A_log", "decay, a column"),
    ("blk.{}.ssm_d", "dt", "={}.mixer.D", "a column"),
    ("blk.{}.ssm_dt.bias", "dt", "={}.mixer.dt_bias", ""),
    ("blk.{}.ssm_norm", "I", "{}.mixer.norm", "by groups"),
    ("blk.{}.ssm_out", "C I", "{}.mixer.out_proj", ""),
)
IN_LAYERS: tuple[Row, ...] = tuple((a, shape, b.replace("mixer", "mamba"), how) for a, shape, b, how in MIXER)
BACKBONE: tuple[Row, ...] = (
    ("token_embd", "V C", "embeddings", ""),
    ("output_norm", "C", "norm_f", ""),
    ("blk.{}.attn_norm", "C", "{}.norm", ""),
    *HEAD,
)
MAMBA: tuple[Row, ...] = (
    *BACKBONE,
    ("blk.{}.ssm_in", "2I C", "{}.mixer.in_proj", ""),
    ("blk.{}.ssm_conv1d", "I 1 conv", "{}.mixer.conv1d", "squeezed"),
    ("blk.{}.ssm_x", "dt+2N I", "{}.mixer.x_proj", ""),
    ("blk.{}.ssm_dt", "I dt", "{}.mixer.dt_proj", ""),
    ("blk.{}.ssm_a", "I N", "={}.mixer.A_log", "decay"),
    ("blk.{}.ssm_d", "I", "={}.mixer.D", ""),
    ("blk.{}.ssm_out", "C I", "{}.mixer.out_proj", ""),
)
FALCON_H1: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_tokens", "times embedding_multiplier"),
    ("output_norm", "C", "final_layernorm", ""),
    *NORMS[:1],
    ("blk.{}.ffn_norm", "C", "={}.pre_ff_layernorm.weight", ""),
    ("blk.{}.attn_q", "HD C", "{}.self_attn.q_proj", "times attention_in_multiplier"),
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", "times key_multiplier attention_in_multiplier"),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", "times attention_in_multiplier"),
    ("blk.{}.attn_output", "C HD", "{}.self_attn.o_proj", "times attention_out_multiplier"),
    ("blk.{}.ffn_gate", "F C", "{}.feed_forward.gate_proj", "times mlp_multipliers.0"),
    ("blk.{}.ffn_up", "F C", "{}.feed_forward.up_proj", ""),
    ("blk.{}.ffn_down", "C F", "{}.feed_forward.down_proj", "times mlp_multipliers.1"),
    ("blk.{}.ssm_in", "2I+2GN+dt C", "{}.mamba.in_proj", "each part times ssm_multipliers"),
    *IN_LAYERS[1:5],
    ("blk.{}.ssm_norm", "I", "{}.mamba.norm", "normed mixers: by groups"),
    ("blk.{}.ssm_out", "C I", "{}.mamba.out_proj", "times ssm_out_multiplier"),
    ("output", "V C", "lm_head", "?: times lm_head_multiplier"),
)
GRANITE_EXPERTS: tuple[Row, ...] = (
    ("blk.{}.ffn_gate_inp", "X C", "{}.block_sparse_moe.router.layer", ""),
    ("blk.{}.ffn_gate_exps", "X 2F C", "{}.block_sparse_moe.input_linear", "first half"),
    ("blk.{}.ffn_up_exps", "X 2F C", "{}.block_sparse_moe.input_linear", "second half"),
    ("blk.{}.ffn_down_exps", "X C F", "{}.block_sparse_moe.output_linear", ""),
)
GRANITE_SHARED: tuple[Row, ...] = (
    ("blk.{}.ffn_gate_shexp", "2S C", "{}.shared_mlp.input_linear", "first half"),
    ("blk.{}.ffn_up_shexp", "2S C", "{}.shared_mlp.input_linear", "second half"),
    ("blk.{}.ffn_down_shexp", "C S", "{}.shared_mlp.output_linear", ""),
)
GRANITE_DENSE: tuple[Row, ...] = tuple((a.replace("_shexp", ""), *row) for a, *row in GRANITE_SHARED)  # type: ignore
GRANITE_TOP = (*DECODER[:2], *NORMS, *HEAD)
LLAMA_ATTENTION = LLAMA[2:6]
LFM2: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_tokens", ""),
    ("token_embd_norm", "C", "embedding_norm", ""),
    ("blk.{}.attn_norm", "C", "{}.operator_norm", ""),
    ("blk.{}.ffn_norm", "C", "{}.ffn_norm", ""),
    ("blk.{}.ffn_gate", "F C", "{}.feed_forward.w1", ""),
    ("blk.{}.ffn_down", "C F", "{}.feed_forward.w2", ""),
    ("blk.{}.ffn_up", "F C", "{}.feed_forward.w3", ""),
    *placed("attention", DECODER[2:5]),
    ("blk.{}.attn_output", "C HD", "{}.self_attn.out_proj", "attention"),
    ("blk.{}.attn_q_norm", "D", "{}.self_attn.q_layernorm", "attention"),
    ("blk.{}.attn_k_norm", "D", "{}.self_attn.k_layernorm", "attention"),
    ("blk.{}.shortconv.in_proj", "3C C", "{}.conv.in_proj", "recurrent"),
    ("blk.{}.shortconv.conv", "C 1 conv", "{}.conv.conv", "recurrent: squeezed"),
    ("blk.{}.shortconv.out_proj", "C C", "{}.conv.out_proj", "recurrent"),
    *HEAD,
)
QWEN_ATTENTION: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_tokens", ""),
    ("output_norm", "C", "norm", "+1"),
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", "+1"),
    ("blk.{}.post_attention_norm", "C", "{}.post_attention_layernorm", "+1"),
    ("blk.{}.attn_q", "2HD C", "{}.self_attn.q_proj", "attention"),
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", "attention"),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", "attention"),
    ("blk.{}.attn_output", "C HD", "{}.self_attn.o_proj", "attention"),
    ("blk.{}.attn_q_norm", "D", "{}.self_attn.q_norm", "attention: +1"),
    ("blk.{}.attn_k_norm", "D", "{}.self_attn.k_norm", "attention: +1"),
    ("blk.{}.ssm_norm", "Dv", "{}.linear_attn.norm", "recurrent"),
    *HEAD,
)
QWEN3_NEXT: tuple[Row, ...] = (
    *QWEN_ATTENTION,
    ("blk.{}.attn_qkv", "2I+2GN C", "{}.linear_attn.in_proj_qkvz", "recurrent: qkv of heads"),
    ("blk.{}.attn_gate", "2I+2GN C", "{}.linear_attn.in_proj_qkvz", "recurrent: z of heads"),
    ("blk.{}.ssm_ba", "2dt C", "{}.linear_attn.in_proj_ba", "recurrent"),
    ("blk.{}.ssm_conv1d", "I+2GN 1 conv", "{}.linear_attn.conv1d", "recurrent: squeezed"),
    ("blk.{}.ssm_a", "dt", "={}.linear_attn.A_log", "recurrent: decay"),
    ("blk.{}.ssm_dt.bias", "dt", "={}.linear_attn.dt_bias", "recurrent"),
    ("blk.{}.ssm_out", "C I", "{}.linear_attn.out_proj", "recurrent"),
    *EXPERTS,
    *SHARED_EXPERT,
)
QWEN35: tuple[Row, ...] = (
    *QWEN_ATTENTION,
    ("blk.{}.attn_qkv", "I+2GN C", "{}.linear_attn.in_proj_qkv", "recurrent: values in turn"),
    ("blk.{}.attn_gate", "I C", "{}.linear_attn.in_proj_z", "recurrent: heads in turn"),
    ("blk.{}.ssm_beta", "dt C", "{}.linear_attn.in_proj_b", "recurrent: heads in turn"),
    ("blk.{}.ssm_alpha", "dt C", "{}.linear_attn.in_proj_a", "recurrent: heads in turn"),
    ("blk.{}.ssm_conv1d", "I+2GN 1 conv", "{}.linear_attn.conv1d", "recurrent: squeezed, values in turn"),
    ("blk.{}.ssm_a", "dt", "={}.linear_attn.A_log", "recurrent: decay, heads in turn"),
    ("blk.{}.ssm_dt.bias", "dt", "={}.linear_attn.dt_bias", "recurrent: heads in turn"),
    ("blk.{}.ssm_out", "C I", "{}.linear_attn.out_proj", "recurrent: columns in turn"),
    *DECODER[6:],
)


def mixer_sizes(inner: int, state: int, groups: int, heads: int, conv: int) -> dict[str, int]:
    """The letters of a mixer's rows."""
    whole = inner + 2 * groups * state
    return {
        "I": inner, "2I": 2 * inner, "N": state, "G": groups, "dt": heads, "2dt": 2 * heads, "conv": conv,
        "I+2GN": whole, "2I+2GN": inner + whole, "2I+2GN+dt": inner + whole + heads,
    }  # fmt: skip


def mamba_sizes(c: Config) -> dict[str, int]:
    C = c.size("hidden_size")
    rank = -(-C // 16) if c.raw.get("time_step_rank") == "auto" else c.size("time_step_rank")
    sizes = mixer_sizes(c.size("expand") * C, c.size("state_size"), 1, rank, c.size("conv_kernel"))
    return sizes | {"dt+2N": rank + 2 * sizes["N"]}


def mamba2_sizes(c: Config) -> dict[str, int]:
    inner, heads = c.size("expand") * c.size("hidden_size"), c.size("num_heads")
    return mixer_sizes(inner, c.size("state_size"), c.size("n_groups"), heads, c.size("conv_kernel"))


def falcon_sizes(c: Config) -> dict[str, int]:
    inner = c.size("mamba_d_ssm", default=c.size("mamba_expand") * c.size("hidden_size"))
    return mixer_sizes(
        inner, c.size("mamba_d_state"), c.size("mamba_n_groups"), c.size("mamba_n_heads"), c.size("mamba_d_conv")
    )


def granite_sizes(c: Config) -> dict[str, int]:
    inner, shared = c.size("mamba_expand") * c.size("hidden_size"), c.size("shared_intermediate_size", default=1)
    sizes = mixer_sizes(
        inner, c.size("mamba_d_state"), c.size("mamba_n_groups"), c.size("mamba_n_heads"), c.size("mamba_d_conv")
    )
    return sizes | {"S": shared, "2S": 2 * shared}


def shared_sizes(c: Config) -> dict[str, int]:
    shared = c.size("shared_intermediate_size", default=1)
    return {"S": shared, "2S": 2 * shared}


def lfm2_sizes(c: Config) -> dict[str, int]:
    F = c.size("block_ff_dim", "intermediate_size")
    if c.raw["block_auto_adjust_ff_dim"]:
        F, multiple = 2 * F // 3, c.size("block_multiple_of")
        F = multiple * -(-int((c.number("block_ffn_dim_multiplier") or 1) * F) // multiple)
    return {"F": F, "conv": c.size("conv_L_cache")}


def delta_sizes(c: Config) -> dict[str, int]:
    width, heads = c.size("linear_value_head_dim"), c.size("linear_num_value_heads")
    groups, state = c.size("linear_num_key_heads"), c.size("linear_key_head_dim")
    sizes = mixer_sizes(width * heads, state, groups, heads, c.size("linear_conv_kernel_dim"))
    attention = c.size("num_attention_heads") * c.size("head_dim")
    return sizes | {"Dv": width, "2HD": 2 * attention}


CONV = count("ssm.conv_kernel", lambda c: c.sizes["conv"])
INNER = count("ssm.inner_size", lambda c: c.sizes["I"])
STATE = count("ssm.state_size", lambda c: c.sizes["N"])
RANK = count("ssm.time_step_rank", lambda c: c.sizes["dt"])
GROUPS = count("ssm.group_count", lambda c: c.sizes["G"])
NO_TEXT_IS_TOO_LONG = count("context_length", lambda c: ENDLESS)
SOME_KV_HEADS: Key = (
    "attention.head_count_kv", "ARRAY[INT32]",
    lambda c: [c.sizes["K"] if il in c.attention_layers else 0 for il in range(c.layers)],
)  # fmt: skip
MAMBA_TOP = (
    NO_TEXT_IS_TOO_LONG, WIDTH, count("feed_forward_length", lambda c: 0), count("attention.head_count", lambda c: 0),
    LAYERS, CONV, INNER, STATE, RANK,
)  # fmt: skip
SHARED_WIDTH = count("expert_shared_feed_forward_length", lambda c: c.raw.get("shared_intermediate_size") or None)
DELTA_KEYS: tuple[Key, ...] = (
    CONV, STATE, GROUPS, RANK, INNER,
    ("attention.recurrent_layers", "ARRAY[BOOL]", lambda c: [il not in c.attention_layers for il in range(c.layers)]),
    count("full_attention_interval", lambda c: c.raw.get("full_attention_interval") or 4), TURNED,
)  # fmt: skip
EXPERT_WIDTHS = (
    count("expert_feed_forward_length", lambda c: c.sizes["exp"]),
    count("expert_shared_feed_forward_length", lambda c: c.sizes["shexp"]),
)
SECTIONS: Key = (  # where config.json is silent; else they stand in front of RoPE's base
    "rope.dimension_sections", "ARRAY[INT32]", lambda c: None if c.sections else [11, 11, 10, 0],
)  # fmt: skip

MAMBA_COMPUTED = {"hidden_act": SILU, "use_bias": NO, "use_conv_bias": (True,)}
IN_LAYERS_COMPUTED = {
    "hidden_act": SILU, "attention_bias": NO, "mamba_conv_bias": (True,), "mamba_proj_bias": NO, **WHOLE_HEADS,
}  # fmt: skip
LFM2_KEYS = (SOME_KV_HEADS, VOCAB, count("shortconv.l_cache", lambda c: c.sizes["conv"]), FEED_FORWARD)
LFM2_COMPUTED = {"conv_bias": NO, "tie_word_embeddings": (True,), **WHOLE_HEADS}
LFM2_DEFAULTS = {
    "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128_000, "norm_eps": 1e-5,
    "conv_L_cache": 3, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True,
    "tie_word_embeddings": True,
}  # fmt: skip
DELTA_COMPUTED = {"hidden_act": SILU, "attention_bias": NO}
DELTA_DEFAULTS = DECODER_DEFAULTS | {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "head_dim": 256, "max_position_embeddings": 32768,
}  # fmt: skip
CONV_BIAS = {"ssm_conv1d": ALWAYS}
GRANITE_4 = (VOCAB, ROPE_WIDTH, *MULTIPLIERS, SHARED_WIDTH, CONV, STATE, GROUPS, INNER, RANK, SOME_KV_HEADS)
GRANITE_4_DEFAULTS = GRANITE_DEFAULTS | {
    "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024, "mamba_n_heads": 128,
    "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
}  # fmt: skip


def without_mixers(raw: dict[str, Any]) -> str:
    """Which Granite 4 config.json describes: all layers have attention, or some have a mixer."""
    kinds = raw.get("layer_types")
    if not isinstance(kinds, list) or not kinds or any(kind not in ("attention", "full_attention") for kind in kinds):
        return "GraniteMoeHybrid"
    return "GraniteMoeHybridDense" if raw.get("num_local_experts") == 0 else "GraniteMoeHybridSparse"


STATES: dict[str, Checkpoint] = {
    "Mamba": Checkpoint(
        Recipe("mamba", MAMBA, prefixes=("backbone.",), biases=CONV_BIAS | {"ssm_dt": ALWAYS}, sizes=mamba_sizes,
               attention=False,
               keys=(*MAMBA_TOP, rms_epsilon("layer_norm_epsilon"), flag("ssm.dt_b_c_rms", lambda c: False),
                     FILE_TYPE)),
        ("ForCausalLM",), "mamba", computed=MAMBA_COMPUTED | {"expand": (2,), "time_step_scale": (1, 1.0)},
        defaults={
            "vocab_size": 50280, "hidden_size": 768, "state_size": 16, "num_hidden_layers": 32, "expand": 2,
            "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "time_step_rank": "auto", "tie_word_embeddings": True,
        },
        theta=None,
    ),
    "Mamba2": Checkpoint(
        Recipe("mamba2", (*BACKBONE, *MIXER), prefixes=("backbone.",), biases=CONV_BIAS, sizes=mamba2_sizes,
               attention=False,
               keys=(*MAMBA_TOP, GROUPS, rms_epsilon("layer_norm_epsilon"), FILE_TYPE)),
        ("ForCausalLM",), "mamba2", computed=MAMBA_COMPUTED,
        defaults={
            "vocab_size": 32768, "hidden_size": 4096, "state_size": 128, "num_hidden_layers": 64, "expand": 2,
            "layer_norm_epsilon": 1e-5, "conv_kernel": 4, "num_heads": 128, "head_dim": 64, "n_groups": 8,
        },
        theta=None,
    ),
    "FalconH1": Checkpoint(
        Recipe("falcon-h1", FALCON_H1, biases=CONV_BIAS, sizes=falcon_sizes, pre="falcon-h1",
               keys=(count("context_length", lambda c: c.sizes["P"]), WIDTH, FEED_FORWARD, HEADS, LAYERS, CONV, INNER,
                     STATE, RANK, GROUPS, rms_epsilon("rms_norm_eps"), FILE_TYPE, VOCAB, KV_HEADS, *HEAD_WIDTHS,
                     THETA)),
        ("ForCausalLM",), "falcon_h1",
        computed=IN_LAYERS_COMPUTED | {"mlp_bias": NO, "projectors_bias": NO, "mamba_rms_norm": EITHER,
                                       "mamba_norm_before_gate": EITHER},
        defaults=DECODER_DEFAULTS
        | {"vocab_size": 128000, "intermediate_size": 14336, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
           "max_position_embeddings": 8192, "mamba_d_ssm": 1024, "mamba_n_heads": 128, "mamba_n_groups": 1,
           "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2},
    ),
    "GraniteMoe": Checkpoint(
        Recipe("granitemoe", (*GRANITE_TOP, *LLAMA_ATTENTION, *GRANITE_EXPERTS), head_width=False, pre="refact",
               more_keys=(VOCAB, ROPE_WIDTH, *MULTIPLIERS)),
        ("ForCausalLM",), "granitemoe",
        computed=GRANITE_COMPUTED, defaults=GRANITE_DEFAULTS | {"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "GraniteMoeShared": Checkpoint(
        Recipe("granitemoe", (*GRANITE_TOP, *LLAMA_ATTENTION, *GRANITE_EXPERTS, *GRANITE_SHARED), head_width=False,
               sizes=shared_sizes, more_keys=(VOCAB, ROPE_WIDTH, *MULTIPLIERS, SHARED_WIDTH)),
        ("ForCausalLM",), "granitemoeshared",
        computed=GRANITE_COMPUTED, defaults=GRANITE_DEFAULTS | {"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "GraniteMoeHybrid": Checkpoint(
        Recipe("granitehybrid",
               (*GRANITE_TOP, *placed("attention", LLAMA_ATTENTION, attn_q="turn-q", attn_k="turn-k"),
                *placed("recurrent", IN_LAYERS), *placed("experts", GRANITE_EXPERTS),
                *placed("experts", GRANITE_SHARED), *placed("no experts", GRANITE_DENSE)),
               biases=CONV_BIAS, head_width=False, sizes=granite_sizes,
               more_keys=(*GRANITE_4, flag("rope.scaling.finetuned", lambda c: False), NO_TEXT_IS_TOO_LONG)),
        ("ForCausalLM",), "granitemoehybrid",
        computed=IN_LAYERS_COMPUTED | {"position_embedding_type": ("nope",)}, defaults=GRANITE_4_DEFAULTS,
        kinds=("mamba", "attention", "linear_attention"), instead=without_mixers,
    ),
    "GraniteMoeHybridDense": Checkpoint(  # Granite 4 without mixers: micro, 1b, 350m
        Recipe("granite", (*GRANITE_TOP, *LLAMA_ATTENTION, *GRANITE_DENSE), head_width=False, sizes=granite_sizes,
               more_keys=(*GRANITE_4, flag("rope.scaling.finetuned", lambda c: True))),
        (), "granitemoehybrid", computed=IN_LAYERS_COMPUTED | {"position_embedding_type": ("rope",)},
        defaults=GRANITE_4_DEFAULTS, kinds=("attention",),
    ),
    "GraniteMoeHybridSparse": Checkpoint(  # likewise, with experts
        Recipe("granitemoe", (*GRANITE_TOP, *LLAMA_ATTENTION, *GRANITE_EXPERTS, *GRANITE_SHARED), head_width=False,
               sizes=granite_sizes, more_keys=(*GRANITE_4, flag("rope.scaling.finetuned", lambda c: True))),
        (), "granitemoehybrid", computed=IN_LAYERS_COMPUTED | {"position_embedding_type": ("rope",)},
        defaults=GRANITE_4_DEFAULTS, kinds=("attention",),
    ),
    "Lfm2": Checkpoint(
        Recipe("lfm2", LFM2, sizes=lfm2_sizes, pre="lfm2", more_keys=LFM2_KEYS),
        ("Model", "ForCausalLM"), "lfm2", computed=LFM2_COMPUTED, defaults=LFM2_DEFAULTS, theta=1e6, kinds=("conv",),
    ),
    "Lfm2Bidirectional": Checkpoint(  # LFM2.5-Embedding, whose code is not in `transformers`
        Recipe("lfm2", LFM2, prefixes=("lfm2.", "model."), dropped=("lm_head.",), sizes=lfm2_sizes, pre="lfm2",
               more_keys=(*LFM2_KEYS, flag("attention.causal", lambda c: False))),
        ("Model", "ForMaskedLM"), "lfm2", computed=LFM2_COMPUTED, defaults=LFM2_DEFAULTS, theta=1e6, kinds=("conv",),
    ),
    "Qwen3Next": Checkpoint(
        Recipe("qwen3next", QWEN3_NEXT, dropped=("mtp.",), sizes=delta_sizes, more_keys=(*EXPERT_WIDTHS, *DELTA_KEYS)),
        ("ForCausalLM",), "qwen3_next", computed=DELTA_COMPUTED | EVERY_LAYER | {"norm_topk_prob": (True,)},
        defaults=DELTA_DEFAULTS
        | {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
           "num_attention_heads": 16, "num_key_value_heads": 2, "moe_intermediate_size": 512,
           "shared_expert_intermediate_size": 512, "num_experts_per_tok": 10, "num_experts": 512},
        turns=0.25, kinds=("linear_attention",),
    ),
    "Qwen3_5": Checkpoint(
        Recipe("qwen35", QWEN35, prefixes=("model.language_model.", "model."), dropped=("mtp.", "visual."),
               sizes=delta_sizes, more_keys=(*DELTA_KEYS, SECTIONS)),
        ("ForCausalLM", "ForConditionalGeneration"), "qwen3_5_text", computed=DELTA_COMPUTED,
        defaults=DELTA_DEFAULTS
        | {"vocab_size": 248320, "intermediate_size": 12288, "num_attention_heads": 16, "num_key_value_heads": 4},
        turns=0.25, kinds=("linear_attention",), nested=True,
    ),
}  # fmt: skip
