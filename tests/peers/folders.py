"""Tiny random models as `transformers` builds and saves them, each with a tokenizer. Needs PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.peers import folders_experts as more

V = 120
SIZES = {"vocab_size": V, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 6}
GROUPED = {"num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 64}
QWEN2_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = ["the cat sat on the mat", "a dog and a cat", "hello world", "embedding the embeddings of it", "one two three"]


def scatter(model: Any, seed: int = 0) -> Any:
    """The model with random weights, its norms too: fresh ones are all 1, and would hide a norm that is left out."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim < 2:
                p.add_(0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.0 if "embed" in name else 1.5 / p.shape[-1] ** 0.5))
        for name, b in model.named_buffers():
            if name.endswith(("expert_bias", "e_score_correction_bias", "layer_scalar")):
                b.add_(0.3 * torch.randn_like(b))
    return model.eval()


def bpe(folder: Path, cut: str = QWEN2_CUT, special: tuple[str, ...] = ("<s>", "</s>")) -> None:
    """A byte-level BPE tokenizer; no cut: GPT-2's. The first two special tokens are BOS and EOS."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:V - 10]  # fmt: skip
    vocab = {c: i for i, c in enumerate(alphabet)} | {"th": V - 10, "ca": V - 9, "at": V - 8}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("c", "a"), ("a", "t")]))
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut)
    split = [pre_tokenizers.Split(Regex(cut), "isolated")] if cut else []
    tok.pre_tokenizer = pre_tokenizers.Sequence([*split, levels]) if cut else levels
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([*special])
    tok.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[1], "bos_token": special[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def gpt2_cut(folder: Path) -> None:
    bpe(folder, "")


def glm_tokens(folder: Path) -> None:
    bpe(folder, special=("<|user|>", "<|endoftext|>"))


def sentencepiece(folder: Path, kind: str, name: str) -> None:
    """A SentencePiece tokenizer, "bpe" or "unigram"."""
    import sentencepiece as sp

    (folder / "corpus.txt").write_text("\n".join(CORPUS * 20))
    sp.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spm"), vocab_size=60, model_type=kind,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity",
    )  # fmt: skip
    (folder / "spm.model").rename(folder / name)
    for rest in ("spm.vocab", "corpus.txt"):
        (folder / rest).unlink()


def spm(folder: Path) -> None:
    sentencepiece(folder, "bpe", "tokenizer.model")


def spiece(folder: Path) -> None:
    sentencepiece(folder, "unigram", "spiece.model")


def unigram(folder: Path) -> None:
    """XLM-RoBERTa's kind, as a tokenizer.json."""
    pieces: list[tuple[str, float]] = [(t, 0.0) for t in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(c, -5.0 - i / 10) for i, c in enumerate("▁abcdefghijklmnopqrstuvwxyz.,")] + [("▁the", -2.0)]
    added = [
        {"id": i, "content": t, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, (t, _) in enumerate(pieces[:4])
    ]  # fmt: skip
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": space,
                 "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces}}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def qwen2(t: Any) -> Any:
    return t.Qwen2Model(t.Qwen2Config(**SIZES, num_key_value_heads=2, max_position_embeddings=64))


def qwen3(t: Any) -> Any:
    return t.Qwen3Model(t.Qwen3Config(**SIZES, **GROUPED))


def llama(t: Any) -> Any:
    return t.LlamaModel(t.LlamaConfig(**SIZES, num_key_value_heads=3, max_position_embeddings=64))


def olmo2(t: Any) -> Any:
    return t.Olmo2ForCausalLM(t.Olmo2Config(**SIZES, num_key_value_heads=3, max_position_embeddings=64))


def seed_oss(t: Any) -> Any:
    return t.SeedOssForCausalLM(t.SeedOssConfig(**SIZES, **GROUPED))


def cohere(t: Any) -> Any:
    return t.CohereForCausalLM(t.CohereConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=64))


def ernie(t: Any) -> Any:
    return t.Ernie4_5ForCausalLM(t.Ernie4_5Config(**SIZES, **GROUPED))


EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "max_position_embeddings": 64}


def one_by_one(config: Any) -> Any:
    """A config whose model multiplies with one expert after another: the fused product takes no float64."""
    config._experts_implementation = "eager"
    return config


def qwen2moe(t: Any) -> Any:
    widths = {"moe_intermediate_size": 26, "shared_expert_intermediate_size": 34}
    return t.Qwen2MoeForCausalLM(one_by_one(t.Qwen2MoeConfig(**SIZES, **EXPERTS, **widths, num_key_value_heads=3)))


def qwen3moe(t: Any) -> Any:
    more: dict[str, Any] = {**SIZES, **GROUPED, **EXPERTS, "moe_intermediate_size": 26, "norm_topk_prob": True}
    return t.Qwen3MoeForCausalLM(one_by_one(t.Qwen3MoeConfig(**more)))


def olmoe(t: Any) -> Any:
    return t.OlmoeForCausalLM(one_by_one(t.OlmoeConfig(**SIZES, **EXPERTS, num_key_value_heads=6)))


def exaone4(t: Any) -> Any:
    more: dict[str, Any] = {"sliding_window": None, "layer_types": ["full_attention"] * 4}
    return t.Exaone4ForCausalLM(t.Exaone4Config(**SIZES, num_key_value_heads=2, max_position_embeddings=64, **more))


def starcoder2(t: Any) -> Any:
    return t.Starcoder2ForCausalLM(t.Starcoder2Config(**SIZES, num_key_value_heads=3, max_position_embeddings=64))


def gpt2(t: Any) -> Any:
    config = t.GPT2Config(vocab_size=V, n_embd=48, n_layer=4, n_head=6, n_positions=64, n_ctx=64)
    return t.GPT2LMHeadModel(config)


def gemma3(t: Any) -> Any:
    more = SIZES | GROUPED | {"num_hidden_layers": 7}
    config = t.Gemma3TextConfig(**more, sliding_window=8, query_pre_attn_scalar=10)
    return t.Gemma3ForCausalLM(config)


def gemma_embedding(t: Any) -> Any:
    more = SIZES | GROUPED | {"num_hidden_layers": 7}
    config = t.Gemma3TextConfig(
        **more, sliding_window=9, query_pre_attn_scalar=10, use_bidirectional_attention=True
    )  # of 9 the class makes 5
    return t.Gemma3TextModel(config)


def modern_bert(t: Any) -> Any:
    config = t.ModernBertConfig(**SIZES, max_position_embeddings=64, local_attention=8, pad_token_id=0, cls_token_id=1,
                                sep_token_id=2, bos_token_id=1, eos_token_id=2)  # fmt: skip
    return t.ModernBertModel(config)


def euro_bert(t: Any) -> Any:
    return t.EuroBertModel(t.EuroBertConfig(**SIZES, num_key_value_heads=6, max_position_embeddings=64, pad_token_id=0,
                                            bos_token_id=1, eos_token_id=2, mask_token_id=3,
                                            classifier_pooling="mean"))  # fmt: skip


def xlm_roberta(t: Any) -> Any:
    return t.XLMRobertaModel(t.XLMRobertaConfig(**SIZES, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1))


def roberta(t: Any) -> Any:
    return t.RobertaModel(t.RobertaConfig(**SIZES, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1))


def t5(t: Any, gate: str = "relu") -> Any:
    config = t.T5Config(vocab_size=V, d_model=48, d_kv=10, d_ff=80, num_layers=4, num_heads=6, feed_forward_proj=gate)
    return t.T5EncoderModel(config)


def t5_gated(t: Any) -> Any:
    return t5(t, "gated-gelu")


def turning(part: float) -> dict[str, Any]:
    """RoPE of a part of each head."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": part}}


LONG: dict[str, Any] = {**SIZES, "max_position_embeddings": 64}
NO_WIDTH = {key: n for key, n in LONG.items() if key != "intermediate_size"}
TWO_KEYS: dict[str, Any] = {**LONG, "num_key_value_heads": 2}
SHORT: dict[str, Any] = {"vocab_size": V, "n_layer": 4, "n_head": 6}
NO_TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}


def llama3(t: Any) -> Any:
    rope = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32, "rope_theta": 10000.0}  # fmt: skip
    return t.LlamaForCausalLM(t.LlamaConfig(**TWO_KEYS, rope_parameters=rope))


def mistral(t: Any) -> Any:
    return t.MistralForCausalLM(t.MistralConfig(**TWO_KEYS, head_dim=10, sliding_window=None))


def smollm3(t: Any) -> Any:
    return t.SmolLM3ForCausalLM(t.SmolLM3Config(**TWO_KEYS, **NO_TOKENS))


def granite(t: Any) -> Any:
    scales = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}
    return t.GraniteForCausalLM(t.GraniteConfig(**TWO_KEYS, **scales, attention_multiplier=0.25))


def phi3(t: Any) -> Any:
    config = t.Phi3Config(**TWO_KEYS, **NO_TOKENS, **turning(0.5), original_max_position_embeddings=64)
    return t.Phi3ForCausalLM(config)


def glm(t: Any) -> Any:
    return t.GlmForCausalLM(t.GlmConfig(**TWO_KEYS, **turning(0.5), head_dim=8, pad_token_id=0))


def glm4(t: Any) -> Any:
    return t.Glm4ForCausalLM(t.Glm4Config(**TWO_KEYS, **turning(0.5), head_dim=12, pad_token_id=0))


def hunyuan(t: Any) -> Any:
    return t.HunYuanDenseV1ForCausalLM(t.HunYuanDenseV1Config(**TWO_KEYS, head_dim=10, eod_token_id=4))


def cohere2(t: Any) -> Any:
    return t.Cohere2ForCausalLM(t.Cohere2Config(**TWO_KEYS, **NO_TOKENS, sliding_window=8))


def gemma1(t: Any) -> Any:
    return t.GemmaForCausalLM(t.GemmaConfig(**TWO_KEYS, head_dim=10))


def gemma2(t: Any) -> Any:
    more = {"head_dim": 10, "query_pre_attn_scalar": 10, "sliding_window": 8, "attn_logit_softcapping": 3.0}
    return t.Gemma2ForCausalLM(t.Gemma2Config(**TWO_KEYS, **more))


def gptneox(t: Any) -> Any:
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**LONG, **turning(0.5)))


def gptneox_serial(t: Any) -> Any:
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**LONG, **turning(0.25), use_parallel_residual=False))


def bloom(t: Any) -> Any:
    return t.BloomForCausalLM(t.BloomConfig(**SHORT, hidden_size=48))


def falcon(t: Any) -> Any:
    return t.FalconForCausalLM(t.FalconConfig(**NO_WIDTH, multi_query=True, parallel_attn=True, num_kv_heads=1))


def falcon_two_norms(t: Any) -> Any:
    return t.FalconForCausalLM(t.FalconConfig(**NO_WIDTH, new_decoder_architecture=True, num_kv_heads=2))


def mpt(t: Any) -> Any:
    return t.MptForCausalLM(t.MptConfig(vocab_size=V, d_model=48, n_heads=6, n_layers=4, max_seq_len=64))


def phi2(t: Any) -> Any:
    return t.PhiForCausalLM(t.PhiConfig(**LONG | {"intermediate_size": 192}, **turning(0.5)))


def stablelm(t: Any) -> Any:
    return t.StableLmForCausalLM(t.StableLmConfig(**TWO_KEYS, **turning(0.25), use_qkv_bias=True))


def stablelm_parallel(t: Any) -> Any:
    return t.StableLmForCausalLM(t.StableLmConfig(**TWO_KEYS, **turning(0.5), use_parallel_residual=True))


def stablelm_normed(t: Any) -> Any:
    return t.StableLmForCausalLM(t.StableLmConfig(**TWO_KEYS, **turning(0.5), qk_layernorm=True))


def nemotron(t: Any) -> Any:
    return t.NemotronForCausalLM(t.NemotronConfig(**TWO_KEYS, **turning(0.5)))


def mamba(t: Any) -> Any:
    return t.MambaForCausalLM(t.MambaConfig(vocab_size=V, hidden_size=48, num_hidden_layers=4, state_size=6))


def mamba2(t: Any) -> Any:
    more: dict[str, Any] = {"num_heads": 6, "head_dim": 16, "n_groups": 2, "state_size": 6, "chunk_size": 8}
    return t.Mamba2ForCausalLM(t.Mamba2Config(vocab_size=128, hidden_size=48, num_hidden_layers=4, **more))


IN_LAYERS: dict[str, Any] = {"mamba_n_heads": 6, "mamba_n_groups": 2, "mamba_d_state": 6, "mamba_chunk_size": 8}


def falcon_h1(t: Any) -> Any:
    scales = {"embedding_multiplier": 2.0, "key_multiplier": 0.5, "attention_in_multiplier": 1.5,
              "attention_out_multiplier": 0.75, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.5,
              "mlp_multipliers": [0.75, 1.5], "ssm_multipliers": [0.5, 1.5, 0.75, 1.25, 2.0]}  # fmt: skip
    more = {"mamba_d_ssm": 48, "mamba_d_head": 8, "head_dim": 10, "mamba_rms_norm": True,
            "mamba_norm_before_gate": False}  # fmt: skip
    return t.FalconH1ForCausalLM(t.FalconH1Config(**TWO_KEYS, **IN_LAYERS, **more, **scales))


def granite_moe(t: Any) -> Any:
    config = t.GraniteMoeConfig(**TWO_KEYS, num_local_experts=5, num_experts_per_tok=2, attention_multiplier=0.25)
    return t.GraniteMoeForCausalLM(one_by_one(config))


def granite_hybrid(t: Any, experts: int = 5) -> Any:
    kinds = ["mamba", "attention", "mamba", "mamba"]
    more = {"num_local_experts": experts, "num_experts_per_tok": 2 if experts else 0,
            "shared_intermediate_size": 34 if experts else 80}  # fmt: skip
    scales = {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "attention_multiplier": 0.25}
    config = t.GraniteMoeHybridConfig(**TWO_KEYS, **IN_LAYERS, **more, **scales, layer_types=kinds,
                                      position_embedding_type="nope")  # fmt: skip
    return t.GraniteMoeHybridForCausalLM(one_by_one(config))


def granite_hybrid_dense(t: Any) -> Any:
    return granite_hybrid(t, 0)


def lfm2(t: Any) -> Any:
    kinds = ["conv", "full_attention", "conv", "conv"]
    return t.Lfm2ForCausalLM(t.Lfm2Config(**TWO_KEYS, layer_types=kinds, block_multiple_of=16))


DELTA: dict[str, Any] = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "head_dim": 8,
}  # fmt: skip


def qwen3next(t: Any) -> Any:
    more: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 26,
                            "shared_expert_intermediate_size": 34}  # fmt: skip
    config = t.Qwen3NextConfig(**TWO_KEYS, **DELTA, **more, **turning(0.5))
    return t.Qwen3NextForCausalLM(one_by_one(config))


def sections(part: float) -> dict[str, Any]:
    """RoPE of pictures, too."""
    return {
        "rope_parameters": turning(part)["rope_parameters"] | {"mrope_section": [1, 1, 0], "mrope_interleaved": True}
    }


def qwen35(t: Any) -> Any:
    return t.Qwen3_5ForCausalLM(t.Qwen3_5TextConfig(**TWO_KEYS, **DELTA, **sections(0.5)))


def qwen35_images(t: Any) -> Any:
    """The same behind what looks at images, as it is published."""
    text = {**TWO_KEYS, **DELTA, **turning(1.0), "head_dim": 64}  # no sections: they are 11, 11 and 10
    eye = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48}
    return t.Qwen3_5ForConditionalGeneration(t.Qwen3_5Config(text_config=text, vision_config=eye))


def lfm2_bare(t: Any) -> Any:
    return lfm2(t).model


MODELS: dict[str, tuple[Callable[[Any], Any], Callable[[Path], None]]] = {
    "qwen2": (qwen2, bpe),
    "qwen3": (qwen3, bpe),
    "llama": (llama, spm),
    "olmo2": (olmo2, bpe),
    "seed_oss": (seed_oss, bpe),
    "command-r": (cohere, bpe),
    "ernie4_5": (ernie, spm),
    "qwen2moe": (qwen2moe, bpe),
    "qwen3moe": (qwen3moe, bpe),
    "olmoe": (olmoe, bpe),
    "exaone4": (exaone4, bpe),
    "starcoder2": (starcoder2, bpe),
    "gpt2": (gpt2, gpt2_cut),
    "gemma3": (gemma3, spm),
    "gemma-embedding": (gemma_embedding, spm),
    "modern-bert": (modern_bert, gpt2_cut),
    "eurobert": (euro_bert, bpe),
    "xlm-roberta": (xlm_roberta, unigram),
    "roberta": (roberta, gpt2_cut),
    "t5encoder": (t5, spiece),
    "t5encoder-gated": (t5_gated, spiece),
    "llama3": (llama3, bpe),
    "mistral": (mistral, spm),
    "smollm3": (smollm3, bpe),
    "granite": (granite, bpe),
    "phi-mini": (phi3, spm),
    "chatglm": (glm, glm_tokens),
    "glm4": (glm4, glm_tokens),
    "hunyuan-dense": (hunyuan, bpe),
    "cohere2": (cohere2, bpe),
    "gemma": (gemma1, spm),
    "gemma2": (gemma2, spm),
    "gptneox": (gptneox, gpt2_cut),
    "gptneox-serial": (gptneox_serial, gpt2_cut),
    "bloom": (bloom, gpt2_cut),
    "falcon": (falcon, gpt2_cut),
    "falcon-two-norms": (falcon_two_norms, gpt2_cut),
    "mpt": (mpt, gpt2_cut),
    "phi2": (phi2, gpt2_cut),
    "stablelm": (stablelm, bpe),
    "stablelm-parallel": (stablelm_parallel, bpe),
    "stablelm-normed": (stablelm_normed, bpe),  # llama.cpp's converter stops at its norms
    "nemotron": (nemotron, spm),
    "mamba": (mamba, gpt2_cut),
    "mamba2": (mamba2, gpt2_cut),
    "falcon-h1": (falcon_h1, bpe),
    "granitemoe": (granite_moe, bpe),
    "granitehybrid": (granite_hybrid, bpe),
    "granitehybrid-dense": (granite_hybrid_dense, bpe),
    "lfm2": (lfm2, bpe),
    "qwen3next": (qwen3next, bpe),
    "qwen35": (qwen35, bpe),
}
TOKENIZERS = {"bpe": bpe, "spm": spm, "gemma": more.gemma_bpe}
MODELS |= {name: (make, TOKENIZERS[tokenizer]) for name, (make, tokenizer) in more.MODELS.items()}
RECORDED = MODELS | {  # and those whose graph is none of `transformers`
    "qwen35-images": (qwen35_images, bpe),
    "lfm2-bidirectional": (lfm2_bare, bpe),
}
RECORDED |= {name: (make, TOKENIZERS[tokenizer]) for name, (make, tokenizer) in more.RECORDED.items()}
# What published folders say and `transformers` 5 does not save: llama.cpp's converter asks for it
PUBLISHED_CONFIG: dict[str, dict[str, Any]] = {
    "gemma-embedding": {"sliding_window": 9},  # the whole window, and it is read so
    "gptneox": {"rotary_pct": 0.5},
    "gptneox-serial": {"rotary_pct": 0.25},
    "cohere2": {"rotary_pct": 1.0},
    "mpt": {"architectures": ["MPTForCausalLM"]},
    "granitehybrid": {"layer_types": ["mamba", "attention", "mamba", "mamba"]},
    "granitehybrid-dense": {"layer_types": ["mamba", "attention", "mamba", "mamba"]},
    "lfm2-bidirectional": {"architectures": ["Lfm2BidirectionalModel"]},
    **more.PUBLISHED_CONFIG,
}


def build(name: str, folder: Path) -> Any:
    """Save the model of that name with its tokenizer, and return it, in float64."""
    import transformers

    make, tokenizer = RECORDED[name]
    model = scatter(make(transformers))
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer(folder)
    if name in more.COMPLETED:
        more.COMPLETED[name](folder)
    if name in PUBLISHED_CONFIG:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | PUBLISHED_CONFIG[name]))
    return model.double()
