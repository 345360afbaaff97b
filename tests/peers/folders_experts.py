"""Tiny random models of `transformers`, next to folders.py's: mixtures of experts, latent attention, late Gemmas.

A row is what makes the model, and the name of its tokenizer in folders.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

V = 120
GEMMA_V = 300  # of a vocabulary that has every byte
TEXT: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
NO_TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
PLAIN: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
Row: TypeAlias = "tuple[Callable[[Any], Any], str]"


def one_by_one(config: Any) -> Any:
    """A config whose model multiplies with one expert after another: the fused product takes no float64."""
    config._experts_implementation = "eager"
    return config


def gpt_oss(t: Any, **more: Any) -> Any:
    sizes = TEXT | {"head_dim": 10, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 8} | PLAIN
    return t.GptOssForCausalLM(one_by_one(t.GptOssConfig(**sizes | more)))


def yarn(**more: Any) -> dict[str, Any]:
    """RoPE of a model that was first trained on 16 tokens."""
    return {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
            "beta_fast": 32.0, "beta_slow": 1.0, **more}  # fmt: skip


def gpt_oss_yarn(t: Any) -> Any:
    return gpt_oss(t, rope_parameters=yarn(truncate=True))


def gpt_oss_wide(t: Any) -> Any:
    """Rows of whole blocks: its experts are packed in the folder (record_models.py). And RoPE as it is published."""
    more = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    return gpt_oss(t, **more, rope_parameters=yarn(truncate=False))


def qwen35_moe(t: Any) -> Any:
    sizes = {key: n for key, n in TEXT.items() if key != "intermediate_size"}
    delta = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
             "linear_num_value_heads": 4, "head_dim": 8}  # fmt: skip
    experts = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 26,
               "shared_expert_intermediate_size": 34}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0],
            "mrope_interleaved": True}  # fmt: skip
    config = t.Qwen3_5MoeTextConfig(**sizes, **delta, **experts, rope_parameters=rope)
    return t.Qwen3_5MoeForCausalLM(one_by_one(config))


def mixtral(t: Any) -> Any:
    config = t.MixtralConfig(**TEXT, head_dim=10, num_local_experts=5, num_experts_per_tok=2)
    return t.MixtralForCausalLM(one_by_one(config))


def phimoe(t: Any) -> Any:
    config = t.PhimoeConfig(**TEXT, num_local_experts=5, attention_bias=True, lm_head_bias=True)
    return t.PhimoeForCausalLM(one_by_one(config))


LATENT: dict[str, Any] = {
    "num_key_value_heads": 6, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "kv_lora_rank": 20,
    "moe_intermediate_size": 26, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
}  # fmt: skip


def deepseek2(t: Any) -> Any:
    """V2-Lite's kind: queries at once, and a softmax over experts. llama.cpp knows it by its number of layers."""
    sizes = TEXT | LATENT | {"num_hidden_layers": 26}
    config = t.DeepseekV2Config(**sizes, q_lora_rank=None, n_routed_experts=3, n_shared_experts=2)
    return t.DeepseekV2ForCausalLM(one_by_one(config))


def deepseek3(t: Any) -> Any:
    more = {"q_lora_rank": 14, "n_routed_experts": 6, "n_shared_experts": 1, "n_group": 2, "topk_group": 1,
            "num_nextn_predict_layers": 0, "rope_parameters": yarn(mscale=0.7, mscale_all_dim=0.7)}  # fmt: skip
    return t.DeepseekV3ForCausalLM(one_by_one(t.DeepseekV3Config(**TEXT | LATENT | more)))


def llada_moe(t: Any) -> Any:
    """What LLaDA-MoE's tensors are called and shaped as."""
    more: dict[str, Any] = {"head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 26}
    return t.Qwen3MoeForCausalLM(one_by_one(t.Qwen3MoeConfig(**TEXT, **more)))


def dream(t: Any) -> Any:
    """Likewise of Dream."""
    return t.Qwen2ForCausalLM(t.Qwen2Config(**TEXT))


def lfm2_moe(t: Any) -> Any:
    more: dict[str, Any] = {
        "layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1, "num_experts": 5,
        "num_experts_per_tok": 2, "moe_intermediate_size": 26,
    }  # fmt: skip
    return t.Lfm2MoeForCausalLM(one_by_one(t.Lfm2MoeConfig(**TEXT, **more)))


def granite_micro(t: Any, experts: int = 0) -> Any:
    """Granite 4 without mixers."""
    more = {"num_local_experts": experts, "num_experts_per_tok": 2 if experts else 0,
            "shared_intermediate_size": 34 if experts else 80}  # fmt: skip
    mixer = {"mamba_n_heads": 6, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_chunk_size": 8}
    scales = {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "attention_multiplier": 0.25}
    config = t.GraniteMoeHybridConfig(**TEXT, **more, **mixer, **scales, layer_types=["attention"] * 4,
                                      position_embedding_type="rope")  # fmt: skip
    return t.GraniteMoeHybridForCausalLM(one_by_one(config))


def granite_experts(t: Any) -> Any:
    return granite_micro(t, 5)


def mistral3(t: Any) -> Any:
    """Mistral Small 3.1, with an eye of one layer."""
    eye = t.PixtralVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                image_size=16, patch_size=8)  # fmt: skip
    text = t.MistralConfig(**TEXT, head_dim=10, sliding_window=None)
    return t.Mistral3ForConditionalGeneration(t.Mistral3Config(text_config=text, vision_config=eye))


def ministral3(t: Any) -> Any:
    rope = yarn(mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)
    return t.Ministral3ForCausalLM(t.Ministral3Config(**TEXT, head_dim=10, rope_parameters=rope))


def gemma3_images(t: Any) -> Any:
    """Gemma 3 of 4B and more, with an eye of one layer."""
    eye = t.SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                               image_size=16, patch_size=4)  # fmt: skip
    text = t.Gemma3TextConfig(**TEXT | {"num_hidden_layers": 7, "head_dim": 10, "query_pre_attn_scalar": 10,
                                        "sliding_window": 8})  # fmt: skip
    return t.Gemma3ForConditionalGeneration(t.Gemma3Config(text_config=text, vision_config=eye))


def llama_bare(t: Any) -> Any:
    return t.LlamaModel(t.LlamaConfig(**TEXT))


LATE: dict[str, Any] = TEXT | {"vocab_size": GEMMA_V, "head_dim": 10, "sliding_window": 8}
ALTERNATING = ["sliding_attention", "full_attention"] * 2


def gemma4(t: Any) -> Any:
    """E2B's kind: inputs for each layer, the last layers without keys and with wider feed-forward."""
    more: dict[str, Any] = {
        "global_head_dim": 16, "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": GEMMA_V,
        "num_kv_shared_layers": 2, "use_double_wide_mlp": True, "layer_types": ALTERNATING,
    }  # fmt: skip
    return t.Gemma4ForCausalLM(t.Gemma4TextConfig(**LATE | more))


def gemma4_experts(t: Any) -> Any:
    """26B-A4B's kind: experts next to feed-forward, and keys that are values, too."""
    more: dict[str, Any] = {
        "global_head_dim": 16, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True, "enable_moe_block": True, "num_experts": 5, "top_k_experts": 2,
        "moe_intermediate_size": 26, "layer_types": ALTERNATING,
    }  # fmt: skip
    return t.Gemma4ForCausalLM(one_by_one(t.Gemma4TextConfig(**LATE | more)))


def gemma_embedding2(t: Any) -> Any:
    more: dict[str, Any] = {
        "global_head_dim": 16, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 6, "embedding_dim": 20,
        "layer_types": ALTERNATING,
    }  # fmt: skip
    return t.EmbeddingGemma2Model(t.EmbeddingGemma2Config(text_config=t.EmbeddingGemma2TextConfig(**LATE | more)))


SHARED_KV = (20, 25)  # layers of Gemma 3n that use earlier ones' keys: what llama.cpp's graph has


def gemma3n(t: Any) -> Any:
    more: dict[str, Any] = {
        "num_hidden_layers": SHARED_KV[1], "head_dim": 10, "sliding_window": 8, "num_kv_shared_layers": 5,
        "vocab_size_per_layer_input": 110,
    }  # fmt: skip
    return t.Gemma3nForCausalLM(t.Gemma3nTextConfig(**TEXT | more))


def published_keys(folder: Path) -> None:
    """Matrices of keys and values that published folders of Gemma 3n have for every layer, and the library drops."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for il in range(*SHARED_KV):
        for name, rows in (("k_proj", 20), ("v_proj", 20), ("k_norm", 0)):
            shape = (rows, 48) if rows else (10,)
            tensors[f"model.layers.{il}.self_attn.{name}.weight"] = torch.randn(shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def gemma_bpe(folder: Path) -> None:
    """Gemma 4's kind of tokenizer: merges of SentencePiece, a token for each byte, BOS in front of a text."""
    letters = "▁abcdefghijklmnopqrstuvwxyz.,"
    vocab = {token: i for i, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>"))}
    vocab |= {f"<0x{i:02X}>": len(vocab) + i for i in range(256)}
    vocab |= {letter: len(vocab) + i for i, letter in enumerate(letters)}
    merges = [("t", "h"), ("c", "a"), ("▁", "th"), ("ca", "t")]
    vocab |= {left + right: len(vocab) + i for i, (left, right) in enumerate(merges)}
    vocab |= {f"<unused{i}>": len(vocab) + i for i in range(GEMMA_V - len(vocab) - 2)}
    added = [(token, vocab[token]) for token in ("<pad>", "<eos>", "<bos>", "<unk>")]
    added += [("<|tool_call>", GEMMA_V - 2), ("<|image>", GEMMA_V - 1)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    sequence = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": token, **flags} for token, i in added],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                          "invert": False},
        "post_processor": {"type": "TemplateProcessing", "single": sequence,
                           "pair": [*sequence, {"Sequence": {"id": "B", "type_id": 0}}],
                           "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "ignore_merges": False, "vocab": vocab, "merges": merges},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    names = {f"{x}_token": f"<{x}>" for x in ("bos", "eos", "pad", "unk")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names,
                "extra_special_tokens": {"image_token": "<|image>"}}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


MODELS: dict[str, Row] = {
    "gpt-oss": (gpt_oss, "bpe"),
    "gpt-oss-yarn": (gpt_oss_yarn, "bpe"),
    "qwen35moe": (qwen35_moe, "bpe"),
    "mixtral": (mixtral, "spm"),
    "deepseek2": (deepseek2, "bpe"),
    "deepseek3": (deepseek3, "bpe"),
    "lfm2moe": (lfm2_moe, "bpe"),
    "granite-micro": (granite_micro, "bpe"),
    "granite-experts": (granite_experts, "bpe"),
    "mistral3": (mistral3, "spm"),
    "ministral3": (ministral3, "spm"),
    "gemma3-images": (gemma3_images, "spm"),
    "gemma4": (gemma4, "gemma"),
    "gemma4-experts": (gemma4_experts, "gemma"),
    "gemma-embedding2": (gemma_embedding2, "gemma"),
}
RECORDED: dict[str, Row] = {  # and those whose graph is none of `transformers`, or was not compared with it
    "gemma3n": (gemma3n, "spm"),
    "gpt-oss-mxfp4": (gpt_oss_wide, "bpe"),
    "phimoe": (phimoe, "spm"),
    "llama-embed": (llama_bare, "spm"),
    "llada-moe": (llada_moe, "bpe"),
    "dream": (dream, "bpe"),
}
PUBLISHED_CONFIG: dict[str, dict[str, Any]] = {
    "phimoe": {"architectures": ["PhiMoEForCausalLM"], "original_max_position_embeddings": 64},
    "deepseek3": {"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    "granite-micro": {"layer_types": ["attention"] * 4},
    "granite-experts": {"layer_types": ["attention"] * 4},
    "llama-embed": {"architectures": ["LlamaBidirectionalModel"], "model_type": "llama_bidirec"},
    "llada-moe": {
        "architectures": ["LLaDAMoEModelLM"],
        "model_type": "llada",
        "expert_intermediate_size": 26,
        "norm_topk_prob": None,
        "qk_layernorm": True,
        "moe_layer_freq": [1] * 4,
        "head_dim": None,
    },
    "dream": {"architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": 117},
    "gpt-oss-mxfp4": {"quantization_config": {"quant_method": "mxfp4"}},
}
COMPLETED: dict[str, Callable[[Path], None]] = {"gemma3n": published_keys}
