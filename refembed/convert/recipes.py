"""Architectures that `convert` knows next to BERT, as tables: decoders, ModernBERT, EuroBERT, RoBERTa, T5's encoder.

A row says which tensor of a checkpoint becomes which of the file, how large it is, what is done to it, and where it is:

    ("blk.{}.attn_q", "HD C", "{}.self_attn.q_proj", "turn-q")

Names on the left are GGUF's, those in the middle are the checkpoint's, both with {} for the layer. The last is empty, a
word of CHANGES, or says where the tensor is:

    ?      a file may have it                 gated  T5 with a gated feed-forward part has it
    first  layer 0 alone has it               head   a ForSequenceClassification has it
    rest   layer 0 alone lacks it             ...    others are PLACES of tensors.py

or both: "attention: turn-q" is done to the layers that have attention. ".weight" and ".bias" follow both names, unless
the checkpoint's begins with "=": that one is whole, as A_log is, and so is the file's. The shape is the checkpoint's;
where the row "columns-first" turns it, the file's. One matrix may be several rows, each of which takes its part.

Experts have a tensor each in a checkpoint and one together in the file: a # in the middle stands for their numbers, and
the shape's first letter is how many there are:

    ("blk.{}.ffn_gate_exps", "X exp C", "{}.mlp.experts.#.gate_proj", "")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Row: TypeAlias = "tuple[str, str, str, str]"  # GGUF name, shape, Hugging Face's name, what and where
Key: TypeAlias = "tuple[str, str, Callable[[Any], Any]]"  # without {arch}., GGUF type, value of a Config; None: no key
ALWAYS = "always"


@dataclass(frozen=True)
class Recipe:
    """How the checkpoints of an architecture become a file."""

    arch: str  # general.architecture
    rows: tuple[Row, ...]
    layers: str = "layers."  # names of layers begin so
    prefixes: tuple[str, ...] = ("model.",)
    dropped: tuple[str, ...] = ()  # tensors that begin so, which embeddings do not need
    biases: dict[str, str] = field(default_factory=dict)  # last part of a GGUF name -> ALWAYS, or a key of config.json
    vocabs: tuple[str, ...] = ("bpe",)  # of convert_tokenizers.VOCABS, the first that the folder has files for
    pre: str = ""  # tokenizer.ggml.pre where the tokenizer cuts as GPT-2 does
    extras: tuple[str, ...] = ()  # of EXTRAS, in order
    tokenizer: dict[str, Any] = field(default_factory=dict)  # tokenizer.ggml.* that stand first
    keys: tuple[Key, ...] = ()  # in place of those that most architectures have
    more_keys: tuple[Key, ...] = ()  # behind these
    head_width: bool = True  # a file says how wide a head is; else it is C/H
    attention: bool = True  # there is any
    parametrized: bool = False  # matrices are named as torch's parametrizations name them, with factors of adapters
    sizes: Callable[[Any], dict[str, int]] | None = None  # of a Config: letters of shapes that config.py does not have
    layer_sizes: Callable[[Any, int], dict[str, int]] | None = (
        None  # of a Config and a layer: letters that differ there
    )
    dense: bool = True  # some layer has feed-forward without experts, and config.json says how wide it is
    made: Callable[[Any], Any] | None = None  # of a Config: tensors that stand first and are in no checkpoint


NORMS: tuple[Row, ...] = (
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", ""),
    ("blk.{}.ffn_norm", "C", "{}.post_attention_layernorm", ""),
)
DECODER: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_tokens", ""),
    ("output_norm", "C", "norm", ""),
    ("blk.{}.attn_q", "HD C", "{}.self_attn.q_proj", ""),
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", ""),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", ""),
    ("blk.{}.attn_output", "C HD", "{}.self_attn.o_proj", ""),
    ("blk.{}.ffn_gate", "F C", "{}.mlp.gate_proj", ""),
    ("blk.{}.ffn_up", "F C", "{}.mlp.up_proj", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.down_proj", ""),
)
HEAD: tuple[Row, ...] = (("output", "V C", "lm_head", "?"),)
POST_NORMS: tuple[Row, ...] = (
    ("blk.{}.post_attention_norm", "C", "{}.post_attention_layernorm", ""),
    ("blk.{}.post_ffw_norm", "C", "{}.post_feedforward_layernorm", ""),
)
WHOLE_NORMS: tuple[Row, ...] = (  # over all heads at once
    ("blk.{}.attn_q_norm", "HD", "{}.self_attn.q_norm", ""),
    ("blk.{}.attn_k_norm", "KD", "{}.self_attn.k_norm", ""),
)
HEAD_NORMS: tuple[Row, ...] = (
    ("blk.{}.attn_q_norm", "D", "{}.self_attn.q_norm", ""),
    ("blk.{}.attn_k_norm", "D", "{}.self_attn.k_norm", ""),
)
GEMMA_NORMS: tuple[Row, ...] = (
    ("blk.{}.attn_norm", "C", "{}.input_layernorm", ""),
    ("blk.{}.post_attention_norm", "C", "{}.post_attention_layernorm", ""),
    ("blk.{}.ffn_norm", "C", "{}.pre_feedforward_layernorm", ""),
    ("blk.{}.post_ffw_norm", "C", "{}.post_feedforward_layernorm", ""),
)


def changed(rows: tuple[Row, ...], **changes: str) -> tuple[Row, ...]:
    """Rows with a change for some, by the last part of their GGUF name."""
    return tuple((a, shape, b, changes.get(a.rsplit(".", 1)[-1], how)) for a, shape, b, how in rows)


LLAMA = changed(DECODER, attn_q="turn-q", attn_k="turn-k") + NORMS + HEAD
GEMMA = tuple((a, s, b, "+1" if a.endswith("norm") else how) for a, s, b, how in DECODER + HEAD_NORMS + GEMMA_NORMS)
GEMMA = changed(GEMMA, token_embd="known-tokens", attn_q_norm="+1, scaled")
EXPERTS: tuple[Row, ...] = (
    ("blk.{}.ffn_gate_inp", "X C", "{}.mlp.gate", ""),
    ("blk.{}.ffn_gate_exps", "X exp C", "{}.mlp.experts.#.gate_proj", ""),
    ("blk.{}.ffn_up_exps", "X exp C", "{}.mlp.experts.#.up_proj", ""),
    ("blk.{}.ffn_down_exps", "X C exp", "{}.mlp.experts.#.down_proj", ""),
)
SHARED_EXPERT: tuple[Row, ...] = (
    ("blk.{}.ffn_gate_inp_shexp", "1 C", "{}.mlp.shared_expert_gate", ""),
    ("blk.{}.ffn_gate_shexp", "shexp C", "{}.mlp.shared_expert.gate_proj", ""),
    ("blk.{}.ffn_up_shexp", "shexp C", "{}.mlp.shared_expert.up_proj", ""),
    ("blk.{}.ffn_down_shexp", "C shexp", "{}.mlp.shared_expert.down_proj", ""),
)
ATTENTION = DECODER[:6]  # without feed-forward
WIDENING: tuple[Row, ...] = (
    ("blk.{}.ffn_up", "F C", "{}.mlp.c_fc", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.c_proj", ""),
)
GPT2: tuple[Row, ...] = (
    ("token_embd", "V C", "wte", ""),
    ("position_embd", "P C", "wpe", ""),
    ("output_norm", "C", "ln_f", ""),
    ("blk.{}.attn_norm", "C", "{}.ln_1", ""),
    ("blk.{}.attn_qkv", "3C C", "{}.attn.c_attn", "columns-first"),
    ("blk.{}.attn_output", "C C", "{}.attn.c_proj", "columns-first"),
    ("blk.{}.ffn_norm", "C", "{}.ln_2", ""),
    ("blk.{}.ffn_up", "F C", "{}.mlp.c_fc", "columns-first"),
    ("blk.{}.ffn_down", "C F", "{}.mlp.c_proj", "columns-first"),
)
MODERN_BERT: tuple[Row, ...] = (
    ("token_embd", "V C", "embeddings.tok_embeddings", ""),
    ("token_embd_norm", "C", "embeddings.norm", ""),
    ("output_norm", "C", "final_norm", ""),
    ("blk.{}.attn_norm", "C", "{}.attn_norm", "rest"),
    ("blk.{}.attn_qkv", "3C C", "{}.attn.Wqkv", ""),
    ("blk.{}.attn_output", "C C", "{}.attn.Wo", ""),
    ("blk.{}.ffn_norm", "C", "{}.mlp_norm", ""),
    ("blk.{}.ffn_up", "2F C", "{}.mlp.Wi", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.Wo", ""),
    ("cls", "C C", "head.dense", "head"),
    ("cls.norm", "C", "head.norm", "head"),
    ("cls.output", "R C", "classifier", "head"),
)
ROBERTA: tuple[Row, ...] = (
    ("token_embd", "V C", "embeddings.word_embeddings", ""),
    ("token_types", "types C", "embeddings.token_type_embeddings", ""),
    ("position_embd", "P C", "embeddings.position_embeddings", "used-positions"),
    ("token_embd_norm", "C", "embeddings.LayerNorm", ""),
    ("blk.{}.attn_q", "C C", "{}.attention.self.query", ""),
    ("blk.{}.attn_k", "C C", "{}.attention.self.key", ""),
    ("blk.{}.attn_v", "C C", "{}.attention.self.value", ""),
    ("blk.{}.attn_output", "C C", "{}.attention.output.dense", ""),
    ("blk.{}.attn_output_norm", "C", "{}.attention.output.LayerNorm", ""),
    ("blk.{}.ffn_up", "F C", "{}.intermediate.dense", ""),
    ("blk.{}.ffn_down", "C F", "{}.output.dense", ""),
    ("blk.{}.layer_output_norm", "C", "{}.output.LayerNorm", ""),
    ("cls", "C C", "classifier.dense", "head"),
    ("cls.output", "R C", "classifier.out_proj", "head"),
)
T5: tuple[Row, ...] = (
    ("token_embd", "V C", "shared|encoder.embed_tokens", ""),
    ("enc.output_norm", "C", "encoder.final_layer_norm", ""),
    ("enc.blk.{}.attn_norm", "C", "{}.layer.0.layer_norm", ""),
    ("enc.blk.{}.attn_rel_b", "buckets H", "{}.layer.0.SelfAttention.relative_attention_bias", "first"),
    ("enc.blk.{}.attn_q", "HD C", "{}.layer.0.SelfAttention.q", ""),
    ("enc.blk.{}.attn_k", "HD C", "{}.layer.0.SelfAttention.k", ""),
    ("enc.blk.{}.attn_v", "HD C", "{}.layer.0.SelfAttention.v", ""),
    ("enc.blk.{}.attn_o", "C HD", "{}.layer.0.SelfAttention.o", ""),
    ("enc.blk.{}.ffn_norm", "C", "{}.layer.1.layer_norm", ""),
    ("enc.blk.{}.ffn_gate", "F C", "{}.layer.1.DenseReluDense.wi_0", "gated"),
    ("enc.blk.{}.ffn_up", "F C", "{}.layer.1.DenseReluDense.wi|wi_1", ""),
    ("enc.blk.{}.ffn_down", "C F", "{}.layer.1.DenseReluDense.wo", ""),
)

QKV = dict.fromkeys(("attn_q", "attn_k", "attn_v"), ALWAYS)
NORM_BIASES = dict.fromkeys(("attn_norm", "ffn_norm", "output_norm"), ALWAYS)
LLAMA_BIASES = dict.fromkeys((*QKV, "attn_output"), "attention_bias")
LLAMA_BIASES |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), "mlp_bias")
TABLES = ("token_embd", "token_types", "position_embd")
ROBERTA_BIASES = {a.rsplit(".", 1)[-1]: ALWAYS for a, _, _, _ in ROBERTA if a not in TABLES}

ENCODER = ("causal", "pooling", "labels")
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
ROBERTA_DROPPED = (*BUFFERS, "pooler.dense.", "lm_head.")
RECIPES: dict[str, Recipe] = {
    "Qwen2": Recipe("qwen2", DECODER + NORMS + HEAD, biases=QKV, extras=("pooling",)),
    "Qwen3": Recipe("qwen3", DECODER + HEAD_NORMS + NORMS + HEAD, extras=("pooling", "rerank")),
    "Llama": Recipe("llama", LLAMA, biases=LLAMA_BIASES, vocabs=("spm", "bpe"),
                    extras=("vocab", "rope-dims", "pooling")),
    "Olmo2": Recipe("olmo2", DECODER + WHOLE_NORMS + POST_NORMS + HEAD, extras=("pooling",)),
    "SeedOss": Recipe("seed_oss", DECODER + NORMS[:1] + POST_NORMS[:1] + HEAD,
                      biases=dict.fromkeys(QKV, "attention_bias"), extras=("pooling",)),
    "Cohere": Recipe("command-r", DECODER + NORMS[:1], dropped=("lm_head.",), pre="command-r",
                     extras=("logit-scale", "unscaled", "pooling")),
    "Qwen2Moe": Recipe("qwen2moe", ATTENTION + NORMS + EXPERTS + SHARED_EXPERT + HEAD,
                       biases=dict.fromkeys(QKV, "qkv_bias"), extras=("expert-width", "shared-width", "pooling")),
    "Qwen3Moe": Recipe("qwen3moe", ATTENTION + HEAD_NORMS + NORMS + EXPERTS + HEAD, extras=("expert-width", "pooling")),
    "Olmoe": Recipe("olmoe", ATTENTION + WHOLE_NORMS + NORMS + EXPERTS + HEAD, extras=("pooling",)),
    "Exaone4": Recipe("exaone4", DECODER + HEAD_NORMS + POST_NORMS + HEAD, extras=("vocab", "pooling")),
    "Starcoder2": Recipe("starcoder2", ATTENTION + NORMS + WIDENING + HEAD,
                         biases=NORM_BIASES | dict.fromkeys((*QKV, "attn_output", "ffn_up", "ffn_down"), "use_bias"),
                         extras=("pooling",)),
    "GPT2": Recipe("gpt2", GPT2 + HEAD, "h.", ("transformer.",),
                   biases=NORM_BIASES | dict.fromkeys(("attn_qkv", "attn_output", "ffn_up", "ffn_down"), ALWAYS),
                   pre="gpt-2", extras=("pooling",)),
    "Ernie4_5": Recipe("ernie4_5", DECODER + NORMS + HEAD, vocabs=("spm",), extras=("pooling",)),
    "Gemma3Text": Recipe("gemma-embedding", GEMMA, vocabs=("gemma", "bpe"),
                         extras=("gemma", "window", "dense", "pooling")),
    "Gemma3": Recipe("gemma3", GEMMA, prefixes=("model.language_model.", "language_model.model.", "model."),
                     dropped=("lm_head.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector."),
                     vocabs=("gemma", "bpe"),
                     extras=("gemma", "window", "pooling")),
    "EuroBert": Recipe("eurobert", DECODER + NORMS, dropped=("lm_head.",), tokenizer={"add_bos_token": False},
                       extras=("causal", "unscaled", "pooling")),
    "ModernBert": Recipe("modern-bert", MODERN_BERT, dropped=("head.", "decoder."), biases={"output": ALWAYS},
                         pre="modern-bert",
                         tokenizer={"add_bos_token": True, "add_eos_token": True, "add_sep_token": True},
                         extras=(*ENCODER, "local-window", "unscaled", "vocab", "activation")),
    "Roberta": Recipe("bert", ROBERTA, "encoder.layer.", ("roberta.",), ROBERTA_DROPPED, ROBERTA_BIASES,
                      pre="roberta-bpe", extras=ENCODER),
    "XLMRoberta": Recipe("bert", ROBERTA, "encoder.layer.", ("roberta.",), ROBERTA_DROPPED, ROBERTA_BIASES,
                         ("unigram", "xlm-roberta"), extras=ENCODER),
    "Camembert": Recipe("bert", ROBERTA, "encoder.layer.", ("roberta.",), ROBERTA_DROPPED, ROBERTA_BIASES,
                        ("unigram",), extras=ENCODER),
    "T5Encoder": Recipe("t5encoder", T5, "encoder.block.", (), vocabs=("spiece", "unigram")),
}  # fmt: skip
CLASSES = {
    "Qwen2": ("Model", "ForCausalLM"), "Qwen3": ("Model", "ForCausalLM"), "Llama": ("Model", "ForCausalLM"),
    "Qwen2Moe": ("Model", "ForCausalLM"), "Qwen3Moe": ("Model", "ForCausalLM"), "Olmoe": ("ForCausalLM",),
    "Exaone4": ("ForCausalLM",), "Starcoder2": ("ForCausalLM",), "GPT2": ("Model", "LMHeadModel"),
    "Olmo2": ("ForCausalLM",), "SeedOss": ("ForCausalLM",), "Cohere": ("ForCausalLM",), "Ernie4_5": ("ForCausalLM",),
    "Gemma3Text": ("Model",), "Gemma3": ("ForCausalLM", "ForConditionalGeneration"), "EuroBert": ("Model",),
    "ModernBert": ("Model", "ForMaskedLM", "ForSequenceClassification"),
    "Roberta": ("Model", "ForSequenceClassification"),
    "XLMRoberta": ("Model", "ForSequenceClassification"), "Camembert": ("Model", "ForSequenceClassification"),
    "T5Encoder": ("Model",),
}  # fmt: skip
NESTED = ("Gemma3",)  # may have all this under text_config, next to what looks at images
ARCHITECTURES = {stem + end: stem for stem, ends in CLASSES.items() for end in ends}
