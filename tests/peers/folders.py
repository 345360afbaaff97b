"""Tiny random models as `transformers` builds and saves them, each with a tokenizer. Needs PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    return model.eval()


def bpe(folder: Path, cut: str = QWEN2_CUT) -> None:
    """A byte-level BPE tokenizer; no cut: GPT-2's."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:V - 10]  # fmt: skip
    vocab = {c: i for i, c in enumerate(alphabet)} | {"th": V - 10, "ca": V - 9, "at": V - 8}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("c", "a"), ("a", "t")]))
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not cut)
    split = [pre_tokenizers.Split(Regex(cut), "isolated")] if cut else []
    tok.pre_tokenizer = pre_tokenizers.Sequence([*split, levels]) if cut else levels
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<s>", "</s>"])
    tok.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def gpt2_cut(folder: Path) -> None:
    bpe(folder, "")


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
}


def build(name: str, folder: Path) -> Any:
    """Save the model of that name with its tokenizer, and return it, in float64."""
    import transformers

    make, tokenizer = MODELS[name]
    model = scatter(make(transformers))
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer(folder)
    if name == "gemma-embedding":  # config.json of such a model says the whole window, and is read so
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": 9}))
    return model.double()
