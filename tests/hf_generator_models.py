"""What hf_generator.py draws from: for each architecture the config class of `transformers` and values of its keys.

`always` is drawn for every folder, of `drawn` a few keys; `drawn` has values that llama.cpp's graph computes and values
that it does not, without saying which. V, the vocabulary, is that of tests/peers/folders.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers.folders import SIZES, V, bpe, gpt2_cut, spiece, spm, unigram


@dataclass(frozen=True)
class Family:
    """One architecture."""

    config: str  # the config class
    classes: tuple[str, ...]
    tokenizer: Callable[[Path], None]
    drawn: dict[str, tuple[Any, ...]]
    always: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=lambda: dict(SMALL))
    removable: list[str] = field(default_factory=list)  # keys that an older folder may lack


SMALL = SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 64}
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "quick_gelu", "gelu_pytorch_tanh", "gelu_fast")
ROPES: tuple[Any, ...] = (
    {"rope_type": "default", "rope_theta": 500000.0},
    {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 32, "rope_theta": 10000.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0},
)  # fmt: skip
DECODER = {
    "hidden_act": ("silu", "gelu", "relu", "gelu_pytorch_tanh"),
    "rope_parameters": ROPES,
    "rms_norm_eps": (1e-5, 1e-6, 1e-3),
    "num_key_value_heads": (1, 2, 3, 6),
    "tie_word_embeddings": (True, False),
    "intermediate_size": (64, 96),
}
BERT = {
    "hidden_act": ACTIVATIONS,
    "type_vocab_size": (1, 2, 3),
    "layer_norm_eps": (1e-12, 1e-5, 1e-3),
    "is_decoder": (True, False),
    "add_cross_attention": (False,),
    "max_position_embeddings": (40, 64),
    "num_attention_heads": (2, 4, 6),
}
GEMMA_SIZES = SMALL | {"num_hidden_layers": 7, "num_key_value_heads": 2, "head_dim": 10, "sliding_window": 8}
ROBERTA = BERT | {"pad_token_id": (0, 1, 2)}
ROBERTA_SIZES = SMALL | {"max_position_embeddings": 66, "pad_token_id": 1}


def wordpiece(folder: Path) -> None:
    """A BERT's tokenizer of V tokens."""
    from tests.hf_folders import PIECES, SETTINGS, tokenizer_json

    tokenizer = tokenizer_json(PIECES + [f"word{i}" for i in range(V - len(PIECES))])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))


def answers(folder: Path) -> None:
    """A BPE tokenizer that has the words "yes" and "no"."""
    bpe(folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    have = {t["id"] for t in tokenizer["added_tokens"]} | set(tokenizer["model"]["vocab"].values())
    for word in ("yes", "no"):
        i = max(have) + 1
        have.add(i)
        tokenizer["added_tokens"].append({"id": i, "content": word, **flags})
    path.write_text(json.dumps(tokenizer))


FAMILIES: dict[str, Family] = {
    "bert": Family(
        "BertConfig", ("BertModel", "BertModel", "BertForMaskedLM", "BertForSequenceClassification"), wordpiece, BERT,
        removable=["hidden_act", "layer_norm_eps", "type_vocab_size", "pad_token_id"],
    ),
    "distilbert": Family(
        "DistilBertConfig", ("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
        wordpiece,
        {"activation": ("gelu", "relu", "gelu_new"), "sinusoidal_pos_embds": (False, True), "n_heads": (2, 6)},
        sizes={"vocab_size": V, "dim": 48, "hidden_dim": 80, "n_layers": 2, "n_heads": 6,
               "max_position_embeddings": 64},
        removable=["activation", "pad_token_id"],
    ),
    "roberta": Family(
        "RobertaConfig", ("RobertaModel", "RobertaForSequenceClassification"), gpt2_cut, ROBERTA, sizes=ROBERTA_SIZES,
        removable=["pad_token_id", "hidden_act", "type_vocab_size", "layer_norm_eps"],
    ),
    "xlm-roberta": Family(
        "XLMRobertaConfig", ("XLMRobertaModel", "XLMRobertaForSequenceClassification"), unigram, ROBERTA,
        sizes=ROBERTA_SIZES, removable=["pad_token_id", "hidden_act", "type_vocab_size", "layer_norm_eps"],
    ),
    "qwen2": Family(
        "Qwen2Config", ("Qwen2Model", "Qwen2ForCausalLM"), bpe,
        DECODER | {"use_sliding_window": (True, False), "max_window_layers": (0, 1, 28), "sliding_window": (4, 4096)},
        always={"num_key_value_heads": (2, 3)}, removable=["rms_norm_eps", "hidden_act", "rope_parameters"],
    ),
    "qwen3": Family(
        "Qwen3Config", ("Qwen3Model", "Qwen3ForCausalLM"), answers,
        DECODER | {"attention_bias": (True, False), "use_sliding_window": (True,), "head_dim": (8, 12),
                   "max_window_layers": (0, 28), "sliding_window": (4,)},
        always={"num_key_value_heads": (2, 3), "head_dim": (8, 10)},
        removable=["rms_norm_eps", "hidden_act", "attention_bias"],
    ),
    "llama": Family(
        "LlamaConfig", ("LlamaModel", "LlamaForCausalLM"), spm,
        DECODER | {"attention_bias": (True, False), "mlp_bias": (True, False), "head_dim": (8, 12)},
        removable=["rms_norm_eps", "attention_bias", "mlp_bias", "rope_parameters"],
    ),
    "gemma3": Family(
        "Gemma3TextConfig", ("Gemma3TextModel", "Gemma3TextModel", "Gemma3ForCausalLM"), spm,
        {"hidden_activation": ("gelu_pytorch_tanh", "gelu", "silu", "gelu_new"), "attention_bias": (True, False),
         "query_pre_attn_scalar": (256, 16, 4), "sliding_window": (6, 9), "attn_logit_softcapping": (None, 20.0),
         "final_logit_softcapping": (None, 30.0), "layer_types": (["full_attention"] * 7, None),
         "rope_parameters": (
             {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
             {"full_attention": {"rope_type": "default", "rope_theta": 5000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}},
             {"full_attention": {"rope_type": "default", "rope_theta": 1e6},
              "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
         )},
        always={"use_bidirectional_attention": (True, True, False), "query_pre_attn_scalar": (10, 10, 256)},
        sizes=GEMMA_SIZES, removable=["rms_norm_eps", "hidden_activation", "query_pre_attn_scalar", "rope_parameters"],
    ),
    "eurobert": Family(
        "EuroBertConfig", ("EuroBertModel",), bpe, DECODER | {"attention_bias": (True,), "mlp_bias": (True,)},
        always={"num_key_value_heads": (3, 6), "head_dim": (8,)},
        sizes=SMALL | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3},
        removable=["rms_norm_eps", "hidden_act", "attention_bias"],
    ),
    "modernbert": Family(
        "ModernBertConfig", ("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
        gpt2_cut,
        {"hidden_activation": ("gelu", "silu", "relu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"),
         "local_attention": (4, 8, 16), "norm_bias": (True, False), "attention_bias": (True, False),
         "mlp_bias": (True, False), "norm_eps": (1e-5, 1e-3), "classifier_pooling": ("mean", "cls"),
         "classifier_activation": ("gelu", "relu"), "classifier_bias": (True, False),
         "layer_types": (["full_attention", "sliding_attention"] * 2, ["sliding_attention"] * 4,
                         ["full_attention"] * 4, ["full_attention", "full_attention", *["sliding_attention"] * 2]),
         "rope_parameters": (
             {"full_attention": {"rope_type": "default", "rope_theta": 5000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}},
         )},
        sizes=SIZES | {"max_position_embeddings": 64, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 1,
                       "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        removable=["norm_eps", "hidden_activation", "classifier_pooling", "norm_bias"],
    ),
    "t5": Family(
        "T5Config", ("T5EncoderModel",), spiece,
        {"feed_forward_proj": ("relu", "gated-gelu", "gelu", "gated-silu", "gated-relu"), "d_kv": (8, 12),
         "relative_attention_max_distance": (128, 20), "relative_attention_num_buckets": (32, 16),
         "layer_norm_epsilon": (1e-6, 1e-3)},
        sizes={"vocab_size": V, "d_model": 48, "d_kv": 10, "d_ff": 80, "num_layers": 2, "num_heads": 6},
        removable=["layer_norm_epsilon", "feed_forward_proj", "relative_attention_num_buckets"],
    ),
}  # fmt: skip

UNSUPPORTED = (
    "AlbertModel", "DebertaV2Model", "ElectraModel", "GemmaModel", "Gemma2Model",
    "GraniteModel", "MPNetModel", "MistralModel", "NewModel", "Phi3ForCausalLM",
    "Qwen3ForSequenceClassification", "SmolLM3ForCausalLM", "T5ForConditionalGeneration", "XLMRobertaForMaskedLM",
)  # fmt: skip
