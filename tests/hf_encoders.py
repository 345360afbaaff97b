"""Tiny folders of models whose code is not in `transformers`: names, sizes and config.json as they are published.

The same bytes on every machine. The files they were written after are those that checkpoints_encoders.py names, and
config.json of nomic-ai/nomic-embed-text-v1.5 and -v2-moe, jinaai/jina-embeddings-v2-base-en and -code,
jinaai/jina-embeddings-v3, chandar-lab/NeoBERT, Qwen/Qwen2.5-VL-3B-Instruct and Qwen/Qwen3-VL-Embedding-2B.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hf_folders import PIECES, SETTINGS, pooling, safetensors, stored, tokenizer_json, weights, write_json

C, F, L, H = 48, 80, 4, 6
V = len(PIECES) + 3
CODE = {"auto_map": {"AutoModel": "org/code--modeling_x.Model"}}
TASKS = ["retrieval.query", "separation"]
Shapes = dict[str, list[int]]


def affine(name: str, out: int, width: int | None = None, *, bias: bool = True) -> Shapes:
    """A matrix, or a norm, and its bias."""
    return {f"{name}.weight": [out] if width is None else [out, width]} | ({f"{name}.bias": [out]} if bias else {})


def embeddings(types: int) -> Shapes:
    return {"embeddings.word_embeddings.weight": [V, C], "embeddings.token_type_embeddings.weight": [types, C]}


def nomic_shapes() -> Shapes:
    shapes = embeddings(2) | affine("emb_ln", C)
    for i in range(L):
        at = f"encoder.layers.{i}"
        shapes |= affine(f"{at}.attn.Wqkv", 3 * C, C, bias=False) | affine(f"{at}.attn.out_proj", C, C, bias=False)
        shapes |= affine(f"{at}.mlp.fc11", F, C, bias=False) | affine(f"{at}.mlp.fc12", F, C, bias=False)
        shapes |= affine(f"{at}.mlp.fc2", C, F, bias=False) | affine(f"{at}.norm1", C) | affine(f"{at}.norm2", C)
    return shapes


def moe_shapes(experts: int = 5) -> Shapes:
    shapes = embeddings(1) | affine("emb_ln", C)
    for i in range(L):
        at = f"encoder.layers.{i}"
        shapes |= affine(f"{at}.attn.Wqkv", 3 * C, C) | affine(f"{at}.attn.out_proj", C, C)
        shapes |= affine(f"{at}.norm1", C) | affine(f"{at}.norm2", C)
        if i % 2:
            shapes |= affine(f"{at}.mlp.router.layer", experts, C, bias=False)
            shapes |= {f"{at}.mlp.experts.mlp.w{n}": [experts * F, C] for n in (1, 2)}
            shapes |= {f"{at}.mlp.experts.bias": [C]}
        else:
            shapes |= affine(f"{at}.mlp.fc1", F, C) | affine(f"{at}.mlp.fc2", C, F)
    return shapes


def jina2_shapes() -> Shapes:
    shapes = embeddings(2) | affine("embeddings.LayerNorm", C) | affine("pooler.dense", C, C)
    for i in range(L):
        at = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= affine(f"{at}.attention.{part}", C, C)
        shapes |= affine(f"{at}.attention.output.LayerNorm", C)
        shapes |= affine(f"{at}.mlp.gated_layers", 2 * F, C, bias=False) | affine(f"{at}.mlp.wo", C, F)
        shapes |= affine(f"{at}.mlp.layernorm", C)
    return shapes


def jina2_code_shapes() -> Shapes:
    """Queries and keys are normalized, and a layer's input is added once more."""
    shapes = {n: s for n, s in jina2_shapes().items() if ".mlp." not in n and not n.startswith("pooler.")}
    for i in range(L):
        at = f"encoder.layer.{i}"
        for part in ("attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2"):
            shapes |= affine(f"{at}.{part}", C)
        shapes |= affine(f"{at}.mlp.up_gated_layer", 2 * F, C, bias=False) | affine(f"{at}.mlp.down_layer", C, F)
    return shapes


def jina3_shapes(rank: int = 4) -> Shapes:
    """Each matrix has the factors of two tasks."""
    n = len(TASKS)
    shapes: Shapes = affine("emb_ln", C)
    matrices = {"pooler.dense": (C, C)}
    for i in range(L):
        at = f"encoder.layers.{i}"
        matrices |= {f"{at}.mixer.Wqkv": (3 * C, C), f"{at}.mixer.out_proj": (C, C)}
        matrices |= {f"{at}.mlp.fc1": (F, C), f"{at}.mlp.fc2": (C, F)}
        shapes |= affine(f"{at}.norm1", C) | affine(f"{at}.norm2", C)
    for name, (out, width) in matrices.items():
        at = f"{name}.parametrizations.weight"
        shapes |= {f"{name}.bias": [out], f"{at}.original": [out, width]}
        shapes |= {f"{at}.0.lora_A": [n, rank, width], f"{at}.0.lora_B": [n, out, rank]}
    for table, rows in (("word", V), ("token_type", 1)):
        at = f"embeddings.{table}_embeddings.parametrizations.weight"
        shapes |= {f"{at}.original": [rows, C], f"{at}.0.lora_A": [n, rows, rank], f"{at}.0.lora_B": [n, rank, C]}
    return {f"roberta.{name}": shape for name, shape in shapes.items()}


def neo_shapes() -> Shapes:
    shapes = affine("model.encoder", V, C, bias=False) | affine("model.layer_norm", C, bias=False)
    for i in range(L):
        at = f"model.transformer_encoder.{i}"
        shapes |= affine(f"{at}.qkv", 3 * C, C, bias=False) | affine(f"{at}.wo", C, C, bias=False)
        shapes |= affine(f"{at}.ffn.w12", 2 * F, C, bias=False) | affine(f"{at}.ffn.w3", C, F, bias=False)
        shapes |= affine(f"{at}.attention_norm", C, bias=False) | affine(f"{at}.ffn_norm", C, bias=False)
    return shapes | affine("decoder", V, C)


def qwen_shapes(D: int, *, normed: bool) -> Shapes:
    """Qwen 2 or 3 behind what looks at images, as both were published first."""
    shapes = {"model.embed_tokens.weight": [V, C], "model.norm.weight": [C], "visual.patch_embed.proj.weight": [8, 3]}
    for i in range(L):
        at = f"model.layers.{i}"
        shapes |= affine(f"{at}.input_layernorm", C, bias=False)
        shapes |= affine(f"{at}.post_attention_layernorm", C, bias=False)
        for part, heads in (("q", H), ("k", 2), ("v", 2)):
            shapes |= affine(f"{at}.self_attn.{part}_proj", heads * D, C, bias=not normed)
            if normed and part != "v":
                shapes |= affine(f"{at}.self_attn.{part}_norm", D, bias=False)
        shapes |= affine(f"{at}.self_attn.o_proj", C, H * D, bias=False)
        shapes |= affine(f"{at}.mlp.gate_proj", F, C, bias=False) | affine(f"{at}.mlp.up_proj", F, C, bias=False)
        shapes |= affine(f"{at}.mlp.down_proj", C, F, bias=False)
    return shapes


NOMIC: dict[str, Any] = {
    "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "causal": False, "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048, "n_embd": C, "n_head": H, "n_inner": F, "n_layer": L, "prenorm": False,
    "parallel_block": False, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
    "use_rms_norm": False, "vocab_size": V, **CODE,
}  # fmt: skip
NOMIC_15 = NOMIC | {
    "activation_function": "swiglu", "mlp_fc1_bias": False, "mlp_fc2_bias": False, "qkv_proj_bias": False,
    "n_positions": 8192, "rotary_emb_base": 1000, "type_vocab_size": 2,
}  # fmt: skip
NOMIC_MOE = NOMIC | {
    "activation_function": "gelu", "mlp_fc1_bias": True, "mlp_fc2_bias": True, "qkv_proj_bias": True,
    "n_positions": 2048, "rotary_emb_base": 10000.0, "type_vocab_size": 1, "pad_token_id": 1, "num_experts": 5,
    "moe_top_k": 2, "moe_every_n_layers": 2, "moe_normalize_expert_weights": False, "expert_choice_router": False,
    "num_shared_experts": 0, "ffn_div": 1, "layer_norm_epsilon": 1e-5,
}  # fmt: skip
SIZES = {
    "hidden_size": C, "intermediate_size": F, "num_attention_heads": H, "num_hidden_layers": L, "vocab_size": V,
}  # fmt: skip
JINA_2: dict[str, Any] = SIZES | {
    "architectures": ["JinaBertForMaskedLM"], "model_type": "bert", "hidden_act": "gelu", "feed_forward_type": "geglu",
    "position_embedding_type": "alibi", "layer_norm_eps": 1e-12, "max_position_embeddings": 8192, "pad_token_id": 0,
    "type_vocab_size": 2, "emb_pooler": "mean", **CODE,
}  # fmt: skip
JINA_3: dict[str, Any] = SIZES | {
    "architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta", "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary", "rotary_emb_base": 20000.0, "max_position_embeddings": 8194,
    "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "type_vocab_size": 1, "load_trained_adapters": True,
    "lora_adaptations": TASKS, "lora_alpha": 1, "lora_rank": 4, "lora_dropout_p": 0.0,
    "task_instructions": {"retrieval.query": "Represent the query: ", "separation": ""}, **CODE,
}  # fmt: skip
NEO: dict[str, Any] = SIZES | {
    "architectures": ["NeoBERTLMHead"], "model_type": "neobert", "intermediate_size": F * 3 // 2, "max_length": 4096,
    "norm_eps": 1e-5, "pad_token_id": 0, "hidden_act": "SwiGLU", "dim_head": C // H, "rope": True, "rms_norm": True,
    **CODE,
}  # fmt: skip
QWEN: dict[str, Any] = {
    "hidden_act": "silu", "max_position_embeddings": 4096, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "attention_dropout": 0.0,
}  # fmt: skip
EYE = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": C}
QWEN_25_VL: dict[str, Any] = SIZES | QWEN | {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 1]}, "use_sliding_window": False, "sliding_window": 4096,
    "max_window_layers": L, "vision_config": EYE,
}  # fmt: skip
QWEN_3_VL: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "tie_word_embeddings": True,
    "vision_config": EYE | {"deepstack_visual_indexes": [0, 1]},
    "text_config": SIZES | QWEN | {
        "model_type": "qwen3_vl_text", "head_dim": 10, "rope_theta": 5000000.0, "attention_bias": False,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 1], "mrope_interleaved": True},
    },
}  # fmt: skip


def wordpiece(folder: Path) -> None:
    write_json(folder / "tokenizer.json", tokenizer_json(PIECES))
    write_json(folder / "tokenizer_config.json", SETTINGS)


FLAGS = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def unigram(folder: Path) -> None:
    """XLM-RoBERTa's kind."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces: list[tuple[str, float]] = [(t, 0.0) for t in special]
    pieces += [(c, -5.0 - i / 10) for i, c in enumerate("▁abcdefghijklmnopqrstuv")] + [("▁the", -2.0)]
    added = [{"id": i, "content": t, **FLAGS} for i, t in enumerate(special)]
    around = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "</s>", "type_id": 0}}]  # fmt: skip
    pair = [*around, around[2], {"Sequence": {"id": "B", "type_id": 0}}, around[2]]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": CHARSMAP},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "WhitespaceSplit"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        ]},
        "post_processor": {
            "type": "TemplateProcessing", "single": around, "pair": pair,
            "special_tokens": {t: {"id": t, "ids": [special.index(t)], "tokens": [t]} for t in ("<s>", "</s>")},
        },
        "decoder": None, "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {
        "tokenizer_class": "XLMRobertaTokenizer", "clean_up_tokenization_spaces": True, "bos_token": "<s>",
        "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings)


# A map of characters that replaces none: the double array of a trie without words, and no texts but the end of one
CHARSMAP = base64.b64encode((1024).to_bytes(4, "little") + bytes(1024 + 1)).decode()


def bytes_bpe(folder: Path) -> None:
    """Byte-level BPE with a template, as RoBERTa has it."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {t: i for i, t in enumerate([*special, *"abcdefghijklmnopqrstuvĠ", "Ġt", "he"])}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, **FLAGS} for i, t in enumerate(special)], "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
                           "add_prefix_space": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": ["Ġ t", "h e"]},
    }  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {
        "tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
        "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings)


def qwen_bpe(folder: Path) -> None:
    """The same as Qwen cuts words, with nothing around a text."""
    bytes_bpe(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    rest = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    cut = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{rest}"
    level = tokenizer["pre_tokenizer"] | {"use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    tokenizer["post_processor"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                                   "use_regex": False}  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"}
    write_json(folder / "tokenizer_config.json", settings)


Make = tuple[dict[str, Any], Callable[[], Shapes], Callable[[Path], None], dict[str, Any]]
FOLDERS: dict[str, Make] = {  # config.json, tensors, tokenizer, pooling
    "nomic-bert": (NOMIC_15, nomic_shapes, wordpiece, {"pooling_mode_mean_tokens": True}),
    "nomic-bert-moe": (NOMIC_MOE, moe_shapes, unigram, {"pooling_mode_mean_tokens": True}),
    "jina-bert-v2": (JINA_2, jina2_shapes, wordpiece, {"pooling_mode_mean_tokens": True}),
    "jina-bert-v2-code": (JINA_2, jina2_code_shapes, bytes_bpe, {"pooling_mode_mean_tokens": True}),
    "jina-bert-v3": (JINA_3, jina3_shapes, unigram, {"pooling_mode_mean_tokens": True}),
    "neo-bert": (NEO, neo_shapes, wordpiece, {}),
    "qwen2vl": (QWEN_25_VL, lambda: qwen_shapes(C // H, normed=False), qwen_bpe, {}),
    "qwen3vl": (QWEN_3_VL, lambda: qwen_shapes(10, normed=True), qwen_bpe, {"pooling_mode_lasttoken": True}),
}


def build(name: str, parent: Path, **config: Any) -> Path:
    """Write the folder of that name below `parent`; `config` goes over its config.json."""
    folder = parent / name
    folder.mkdir(parents=True)
    settings, shapes, tokenizer, modes = FOLDERS[name]
    write_json(folder / "config.json", settings | config)
    tensors = {n: ("F32", tuple(s), stored(weights(n, tuple(s)), "F32")) for n, s in shapes().items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    tokenizer(folder)
    if modes:
        pooling(folder, **modes)
    if name == "jina-bert-v3":  # its first module is the repository's own
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        write_json(folder / "modules.json", [listed[0] | {"type": "custom_st.Transformer"}, *listed[1:]])
    return folder
