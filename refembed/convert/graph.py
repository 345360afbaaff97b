"""What config.json may ask for: the graph that llama.cpp computes of each architecture, as one table.

GGUF has no key for most of what config.json can say. A BERT with ReLU, a Gemma that looks back only, scores capped by
tanh: converted without a word, the file would be another model. So each architecture declares the keys that change its
graph and the values that its graph computes; any other value is refused, by key and value. DEFAULTS are what the config
classes of `transformers` (5.24) put where a file is silent.

    check_graph(Path("model/config.json"), "Llama", raw)     # ModelError: hidden_act is gelu
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refembed.convert.checkpoint import DECODER_DEFAULTS, EITHER, EVERY_LAYER, GELUS, NO, SILU, TANH_GELUS, WHOLE_HEADS
from refembed.convert.families import CHECKPOINTS
from refembed.convert.scaling import check_rope, table_of
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

BERT = {
    "hidden_act": GELUS,
    "position_embedding_type": ("absolute",),
    "is_decoder": NO,
    "add_cross_attention": NO,
    "pruned_heads": ({},),
}
GEMMA = {
    "hidden_activation": TANH_GELUS,
    "attention_bias": NO,
    "attn_logit_softcapping": (),
    "partial_rotary_factor": (1, 1.0),
}
# Architecture -> key of config.json -> the values whose graph llama.cpp computes. A key that is absent or null has the
# library's default, which is one of them.
COMPUTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "Bert": BERT,
    "DistilBert": BERT | {"activation": GELUS},
    "Roberta": BERT,
    "XLMRoberta": BERT,
    "Camembert": BERT,
    "Qwen2": {"hidden_act": SILU, **WHOLE_HEADS},
    "Qwen3": {"hidden_act": SILU, "attention_bias": NO, **WHOLE_HEADS},
    "Llama": {
        "hidden_act": SILU,
        "attention_bias": EITHER,
        "mlp_bias": EITHER,
        "partial_rotary_factor": (1, 1.0),
    },
    "Gemma3": GEMMA | {"use_bidirectional_attention": NO},
    "Gemma3Text": GEMMA | {"use_bidirectional_attention": (True,)},
    "Olmo2": {"hidden_act": SILU, "attention_bias": NO, "tie_word_embeddings": NO, **WHOLE_HEADS},
    "SeedOss": {
        "hidden_act": SILU,
        "attention_bias": EITHER,
        "attention_out_bias": NO,
        "mlp_bias": NO,
        **WHOLE_HEADS,
    },
    "Cohere": {
        "hidden_act": SILU,
        "attention_bias": NO,
        "use_qk_norm": NO,
        "tie_word_embeddings": (True,),
        **WHOLE_HEADS,
    },
    "Qwen2Moe": {
        "hidden_act": SILU,
        "qkv_bias": EITHER,
        "norm_topk_prob": NO,
        **EVERY_LAYER,
        **WHOLE_HEADS,
    },
    "Qwen3Moe": {
        "hidden_act": SILU,
        "attention_bias": NO,
        "norm_topk_prob": (True,),
        **EVERY_LAYER,
        **WHOLE_HEADS,
    },
    "Olmoe": {
        "hidden_act": SILU,
        "attention_bias": NO,
        "clip_qkv": (),
        "norm_topk_prob": NO,
        "tie_word_embeddings": NO,
        **WHOLE_HEADS,
    },
    "Exaone4": {"hidden_act": SILU, "sliding_window": (), **WHOLE_HEADS},
    "Starcoder2": {
        "hidden_act": GELUS[1:],
        "sliding_window": (),
        "use_bias": EITHER,
        **WHOLE_HEADS,
    },
    "GPT2": {
        "activation_function": GELUS[1:],
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": NO,
        "reorder_and_upcast_attn": EITHER,
        "add_cross_attention": NO,
    },
    "Ernie4_5": {"hidden_act": SILU, "use_bias": NO, **WHOLE_HEADS},
    "EuroBert": {
        "hidden_act": SILU,
        "attention_bias": NO,
        "mlp_bias": NO,
        "partial_rotary_factor": (1, 1.0),
        "is_causal": NO,
    },
    "ModernBert": {
        "hidden_activation": (*GELUS, *SILU),
        "attention_bias": NO,
        "mlp_bias": NO,
        "norm_bias": NO,
        "partial_rotary_factor": (1, 1.0),
    },
    "T5Encoder": {
        "feed_forward_proj": ("relu", "gated-gelu"),
        "relative_attention_max_distance": (128,),
        "is_decoder": NO,
    },
}
COMPUTED |= {stem: one.computed for stem, one in CHECKPOINTS.items()}
HEADS: dict[str, dict[str, tuple[Any, ...]]] = {  # the same, of what stands on a ForSequenceClassification
    "ModernBert": {
        "classifier_activation": ("gelu", "gelu_python"),
        "classifier_bias": NO,
        "classifier_pooling": ("cls", "mean"),
    },
}
REQUIRED = {  # whose default is another graph than llama.cpp's
    "Gemma3Text": ("use_bidirectional_attention",), "Qwen3Moe": ("norm_topk_prob",),
    "JinaBert": ("position_embedding_type", "feed_forward_type"), "NomicBertMoe": ("activation_function",),
}  # fmt: skip

MODEL_TYPES = {  # `transformers` opens a folder by model_type, not by the class that it names
    "Bert": "bert", "DistilBert": "distilbert", "Roberta": "roberta", "XLMRoberta": "xlm-roberta",
    "Camembert": "camembert", "Qwen2": "qwen2", "Qwen3": "qwen3", "Llama": "llama", "Gemma3": "gemma3_text|gemma3",
    "Gemma3Text": "gemma3_text", "EuroBert": "eurobert",
    "ModernBert": "modernbert", "T5Encoder": "t5", "Olmo2": "olmo2", "SeedOss": "seed_oss", "Cohere": "cohere",
    "Ernie4_5": "ernie4_5", "Qwen2Moe": "qwen2_moe", "Qwen3Moe": "qwen3_moe", "Olmoe": "olmoe", "Exaone4": "exaone4",
    "Starcoder2": "starcoder2", "GPT2": "gpt2", **{stem: one.model_type for stem, one in CHECKPOINTS.items()},
}  # fmt: skip

ROBERTA_DEFAULTS = {
    "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    "pad_token_id": 1,
}  # fmt: skip
GEMMA_DEFAULTS = {
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "sliding_window": 4096, "query_pre_attn_scalar": 256,
    "tie_word_embeddings": True,
}  # fmt: skip
EXPERTS_DEFAULTS = DECODER_DEFAULTS | {"vocab_size": 151936, "hidden_size": 2048, "max_position_embeddings": 32768}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Qwen2Moe": EXPERTS_DEFAULTS
    | {
        "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
        "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4,
        "num_experts": 60, "qkv_bias": True,
    },
    "Qwen3Moe": EXPERTS_DEFAULTS
    | {
        "intermediate_size": 6144, "num_hidden_layers": 24, "num_key_value_heads": 4, "moe_intermediate_size": 768,
        "num_experts_per_tok": 8, "num_experts": 128,
    },
    "Olmoe": EXPERTS_DEFAULTS
    | {
        "vocab_size": 50304, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16,
        "num_key_value_heads": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts_per_tok": 8,
        "num_experts": 64,
    },
    "Exaone4": DECODER_DEFAULTS
    | {
        "vocab_size": 102400, "intermediate_size": 16384, "num_key_value_heads": 32, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    "Starcoder2": {
        "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
        "num_attention_heads": 24, "num_key_value_heads": 2, "max_position_embeddings": 4096, "norm_epsilon": 1e-5,
        "use_bias": True, "tie_word_embeddings": True,
    },
    "GPT2": {
        "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
        "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    },
    "Roberta": ROBERTA_DEFAULTS,
    "XLMRoberta": ROBERTA_DEFAULTS | {"vocab_size": 30522},
    "Camembert": ROBERTA_DEFAULTS | {"vocab_size": 30522},
    "Qwen2": DECODER_DEFAULTS | {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768},
    "Qwen3": DECODER_DEFAULTS
    | {"vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "head_dim": 128},
    "Llama": DECODER_DEFAULTS | {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "Olmo2": DECODER_DEFAULTS
    | {"vocab_size": 50304, "intermediate_size": 11008, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    "SeedOss": DECODER_DEFAULTS
    | {
        "vocab_size": 155136, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 80,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": True,
    },
    "Cohere": {
        "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
        "num_attention_heads": 64, "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "logit_scale": 0.0625,
        "tie_word_embeddings": True,
    },
    "Ernie4_5": {
        "vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "Gemma3": GEMMA_DEFAULTS,
    "Gemma3Text": GEMMA_DEFAULTS,
    "EuroBert": {
        "vocab_size": 128256, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    },
    "ModernBert": {
        "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
        "num_attention_heads": 12, "max_position_embeddings": 8192, "norm_eps": 1e-5, "local_attention": 128,
        "hidden_activation": "gelu", "classifier_pooling": "cls",
    },
    "T5Encoder": {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
        "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu",
    },
    **{stem: one.defaults for stem, one in CHECKPOINTS.items()},
}  # fmt: skip

GEMMA2_27B = 46  # layers of the one Gemma 2 whose scores llama.cpp scales by C/H
# RoPE's base where config.json is silent: of layers that see all, of layers with a window
THETAS: dict[str, tuple[float | None, float | None]] = {
    "Gemma3": (1e6, 1e4), "Gemma3Text": (1e6, 1e4), "ModernBert": (160000.0, 1e4), "T5Encoder": (None, None),
    "Cohere": (500000.0, None), "Ernie4_5": (500000.0, None), "GPT2": (None, None),
    **{stem: (one.theta, None) for stem, one in CHECKPOINTS.items()},
}  # fmt: skip
ROPE_DEFAULT = (10000.0, None)


def with_defaults(stem: str, raw: dict[str, Any]) -> dict[str, Any]:
    """config.json with the library's defaults for keys that it lacks; null stays. `stem` is a key of COMPUTED."""
    if stem == "Cohere" and raw.get("model_max_length"):  # of Command R, which its positions fall short of
        raw = raw | {"max_position_embeddings": raw["model_max_length"]}
    return DEFAULTS.get(stem, {}) | raw


def check_graph(path: Path, stem: str, raw: dict[str, Any], *, classifies: bool = False) -> None:
    """Refuse what llama.cpp's graph of the architecture does not compute: ModelError with the key and its value.

    path        of config.json, for the message
    stem        the architecture, a key of COMPUTED
    raw         what config.json says
    classifies  whether the class has a head that scores
    """
    known = MODEL_TYPES[stem].split("|")
    model_type = raw.get("model_type", known[0])
    if model_type not in known:
        hint = f"`transformers` opens the folder by it; the class named in architectures is a {known[0]}"
        raise ModelError(f"{path}: model_type is {quote(str(model_type))}", hint=hint)
    packed = CHECKPOINTS[stem].packed if stem in CHECKPOINTS else ()
    for key in ("quantization_config", "quantization"):  # the second of MLX
        if raw.get(key) and table_of(path, raw, key).get("quant_method") not in packed:
            hint = "convert the model in float32, float16 or bfloat16, and quantize the GGUF file: --outtype q8_0"
            raise ModelError(f"{path}: the weights are quantized ({key})", hint=hint)
    table = COMPUTED[stem] | (HEADS.get(stem, {}) if classifies else {})
    for key, allowed in table.items():
        outer, dot, inner = key.partition(".")
        value = table_of(path, raw, outer).get(inner) if dot else raw.get(key)
        if value is None and key not in REQUIRED.get(stem, ()):
            continue
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            computed = " or ".join(str(one) for one in allowed[:2]) or "none"
            hint = f"llama.cpp computes this architecture with {computed} only; the vectors would be another model's"
            raise ModelError(f"{path}: {key} is {quote(str(value))}", hint=hint)
    check_rope(path, stem, raw)
    check_windows(path, stem, raw)
    check_others(path, stem, raw)


def names_of(path: Path, holder: dict[str, Any], key: str) -> list[str] | None:
    """The list of names under a key of config.json, None where it is absent or null. ModelError for anything else."""
    found = holder.get(key)
    if found is None:
        return None
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise ModelError(f"{path}: {key} is {quote(str(found))}, not a list of names", hint="is the file whole?")
    return found


def check_windows(path: Path, stem: str, raw: dict[str, Any]) -> None:
    """Refuse layers with a sliding window where llama.cpp's graph gives them none, or gives it to others."""
    layers = names_of(path, raw, "layer_types")
    if stem in ("Gemma3", "Gemma3Text"):
        pattern = raw.get("sliding_window_pattern", raw.get("_sliding_window_pattern"))
        hint = "llama.cpp gives every sixth layer no window, and its converter writes nothing else"
        if layers is None and pattern not in (None, 6):
            raise ModelError(f"{path}: sliding_window_pattern is {quote(str(pattern))}", hint=hint)
        wanted = ["full_attention" if il % 6 == 5 else "sliding_attention" for il in range(len(layers or ()))]
        if (layers or []) != wanted:
            raise ModelError(f"{path}: layer_types are not those of Gemma 3", hint=hint)
    elif stem in CHECKPOINTS and CHECKPOINTS[stem].period:
        period, given = CHECKPOINTS[stem].period, raw.get("sliding_window_pattern", raw.get("_sliding_window_pattern"))
        hint = f"llama.cpp gives every layer but each {period}th a window"
        if layers is None and given not in (None, period):
            raise ModelError(f"{path}: sliding_window_pattern is {quote(str(given))}", hint=hint)
        wanted = ["sliding_attention" if (il + 1) % period else "full_attention" for il in range(len(layers or ()))]
        if (layers or []) != wanted:
            raise ModelError(f"{path}: layer_types are others than llama.cpp's", hint=hint)
    elif stem != "ModernBert":
        hint = "llama.cpp's graph of this architecture lets every token see the whole text"
        others = CHECKPOINTS[stem].kinds if stem in CHECKPOINTS else ()
        odd = [kind for kind in layers or () if kind not in ("full_attention", *others)]
        if odd:
            raise ModelError(f"{path}: layer_types has {quote(str(odd[0]))}", hint=hint)
        if stem == "Exaone4" and "sliding_window" not in raw:  # 4096, in three layers of four
            raise ModelError(f"{path}: no sliding_window, which is 4096 then", hint=hint)
        if layers is None and stem.startswith("Qwen") and qwen_window(raw):
            raise ModelError(f"{path}: use_sliding_window is True", hint=hint)


def check_others(path: Path, stem: str, raw: dict[str, Any]) -> None:
    """Refuse what one architecture alone can ask for."""
    layers = raw.get("num_hidden_layers", DEFAULTS.get(stem, {}).get("num_hidden_layers"))
    if stem == "SmolLM3" and raw.get("no_rope_layers") is not None:
        usual = [int((il + 1) % 4 != 0) for il in range(layers if type(layers) is int and layers < 10_000 else 0)]
        if raw["no_rope_layers"] != usual:
            hint = "llama.cpp leaves RoPE out of every fourth layer, and its converter writes nothing else"
            raise ModelError(f"{path}: no_rope_layers is {quote(str(raw['no_rope_layers']))}", hint=hint)
    if stem == "NomicBert" and raw.get("activation_function") is None and raw.get("hidden_act") is None:
        raise ModelError(f"{path}: no activation_function", hint="swiglu; is the file whole?")
    if stem == "FalconH1" and raw.get("mamba_rms_norm") and raw.get("mamba_norm_before_gate", True):
        found = f"{path}: mamba_norm_before_gate is {quote(str(raw.get('mamba_norm_before_gate', True)))}"
        raise ModelError(found, hint="llama.cpp normalizes what the gate has let through")
    if stem in ("Qwen3Next", "Qwen3_5", "Qwen3_5Moe"):
        widths = [with_defaults(stem, raw).get(f"linear_{part}_head_dim") for part in ("key", "value")]
        if widths[0] != widths[1]:
            found = (
                f"{path}: linear_key_head_dim is {quote(str(widths[0]))}, linear_value_head_dim {quote(str(widths[1]))}"
            )
            raise ModelError(found, hint="llama.cpp's delta rule has as many channels of values as of keys in a head")
    if stem.startswith("GraniteMoeHybrid") and raw.get("num_local_experts") == 0:
        widths = [with_defaults(stem, raw).get(key) for key in ("shared_intermediate_size", "intermediate_size")]
        if widths[0] != widths[1]:
            found = f"shared_intermediate_size is {quote(str(widths[0]))}, intermediate_size {quote(str(widths[1]))}"
            raise ModelError(f"{path}: {found}", hint="without experts llama.cpp knows one width, intermediate_size")
    if stem == "Gemma2":
        full = with_defaults(stem, raw)
        keys = ("hidden_size", "num_attention_heads", "head_dim", "query_pre_attn_scalar")
        sizes = [n for n in map(full.get, keys) if type(n) is int and n > 0]
        if len(sizes) == len(keys):
            channels, heads, width, asked = sizes
            scaled = channels / heads if layers == GEMMA2_27B else width
            if asked != scaled:
                hint = f"llama.cpp scales the scores of this size by {scaled:g} only"
                raise ModelError(f"{path}: query_pre_attn_scalar is {asked}", hint=hint)
    if stem in CHECKPOINTS and (check := CHECKPOINTS[stem].check):
        check(path, with_defaults(stem, raw))


def qwen_window(raw: dict[str, Any]) -> bool:
    """Whether a Qwen without layer_types has layers with a window that some text of its context is longer than."""
    window, context = raw.get("sliding_window", 4096), raw.get("max_position_embeddings", 32768)
    if not raw.get("use_sliding_window") or type(window) is not int:
        return False
    first, count = raw.get("max_window_layers", 28), raw.get("num_hidden_layers", 32)
    numbers = type(first) is int and type(count) is int and type(context) is int
    return not numbers or (first < count and window < context)


OWN_CODE = (
    "NomicBert",
    "JinaBert",
    "NeoBERT",
    "LLaDAMoE",
    "Dream",
    "LlamaBidirectional",
    "Lfm2Bidirectional",
)  # classes that come with code, which llama.cpp's graph follows


def remarks(raw: dict[str, Any], architecture: str) -> list[str]:
    """What is assumed of a config.json that names code of its own, or a key that the library or llama.cpp ignores."""
    found = []
    window = raw.get("sliding_window", 4096 if architecture.startswith("Mistral") else None)
    context = raw.get("max_position_embeddings")
    longer = type(window) is int and not (type(context) is int and context <= window)
    if architecture.startswith(("Mistral", "Phi3", "Mixtral", "PhiMoE")) and longer:
        found.append(
            f"the {architecture} of `transformers` lets a token see the {window} before it; llama.cpp lets it see all: "
            f"texts of more than {window} tokens get other vectors"
        )
    own = architecture.startswith(OWN_CODE) or raw.get("lora_adaptations")
    if isinstance(raw.get("auto_map"), dict) and raw["auto_map"] and not own:
        found.append(
            f"config.json names code of its own (auto_map), which is not read: "
            f"this is the {architecture} of `transformers`"
        )
    if raw.get("is_causal") is False:
        found.append(
            "is_causal is false: every token sees the whole text, as in llama.cpp's file; "
            f"the {architecture} of `transformers` does not read that key"
        )
    return found
