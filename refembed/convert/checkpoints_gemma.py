"""Gemmas with inputs of their own for each layer: Gemma 3n, Gemma 4 and EmbeddingGemma 2, their text part.

Mirrors llama.cpp's conversion/gemma.py. Letters of shapes next to recipes.py's: E channels of a per-layer input, LE of
all layers', S streams, rank that of LAuReL. In Gemma 4 layers that see all have heads of another width, and another
number of heads of keys, than those with a window.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refembed.convert.checkpoint import NO, TANH_GELUS, Checkpoint
from refembed.convert.own_keys import count, flag, real
from refembed.convert.planned import Planned
from refembed.convert.recipes import GEMMA_NORMS, HEAD_NORMS, Key, Recipe, Row
from refembed.convert.safetensors import Entry
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

if TYPE_CHECKING:
    from refembed.convert.config import Config

STREAMS, PER_LAYER, RANK = 4, 256, 64  # of Gemma 3n: llama.cpp knows no others
LAYERS_WITH_KEYS, SPARSE_LAYERS = 20, 10  # likewise; behind these keys are earlier layers', gates are whole
SPARSITY = {0.95: 1.6448535919189453, 0.0: float("-inf")}  # share of zeros -> deviations, as PyTorch computes them
NOT_TURNED = 1e30  # a pair whose speed is divided by it stands still

TEXT: tuple[Row, ...] = (
    ("token_embd", "V C", "embed_tokens", ""),
    ("output_norm", "C", "norm", ""),
    *GEMMA_NORMS,
    ("blk.{}.attn_q", "HD C", "{}.self_attn.q_proj", ""),
    ("blk.{}.attn_output", "C HD", "{}.self_attn.o_proj", ""),
    *HEAD_NORMS[:1],
    ("blk.{}.ffn_gate", "F C", "{}.mlp.gate_proj", ""),
    ("blk.{}.ffn_up", "F C", "{}.mlp.up_proj", ""),
    ("blk.{}.ffn_down", "C F", "{}.mlp.down_proj", ""),
)
GATES: tuple[Row, ...] = (
    ("blk.{}.inp_gate", "E C", "{}.per_layer_input_gate", "per layer"),
    ("blk.{}.proj", "C E", "{}.per_layer_projection", "per layer"),
    ("blk.{}.post_norm", "C", "{}.post_per_layer_input_norm", "per layer"),
)
PROJECTED: tuple[Row, ...] = (
    ("per_layer_model_proj", "LE C", "per_layer_model_projection", "per layer"),
    ("per_layer_proj_norm", "E", "per_layer_projection_norm", "per layer"),
)
GEMMA4: tuple[Row, ...] = (
    *TEXT,
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", "keys"),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", "values"),
    ("blk.{}.attn_k_norm", "D", "{}.self_attn.k_norm", "keys"),
    *GATES,
    *PROJECTED,
    ("per_layer_token_embd", "PV LE", "embed_tokens_per_layer", "per layer"),
    ("blk.{}.layer_output_scale.weight", "1", "={}.layer_scalar", ""),
    ("blk.{}.ffn_gate_inp", "X C", "{}.router.proj", "experts"),
    ("blk.{}.ffn_gate_inp.scale", "C", "={}.router.scale", "experts"),
    ("blk.{}.ffn_down_exps.scale", "X", "={}.router.per_expert_scale", "experts"),
    ("blk.{}.ffn_gate_up_exps.weight", "X 2exp C", "={}.experts.gate_up_proj", "experts"),
    ("blk.{}.ffn_down_exps.weight", "X C exp", "={}.experts.down_proj", "experts"),
    ("blk.{}.pre_ffw_norm_2", "C", "{}.pre_feedforward_layernorm_2", "experts"),
    ("blk.{}.post_ffw_norm_1", "C", "{}.post_feedforward_layernorm_1", "experts"),
    ("blk.{}.post_ffw_norm_2", "C", "{}.post_feedforward_layernorm_2", "experts"),
)
EMBEDDING2: tuple[Row, ...] = (
    *TEXT,
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", ""),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", ""),
    *HEAD_NORMS[1:],
    *((a, shape, b.replace("{}.", "{}.ple_block."), "") for a, shape, b, _ in GATES),
    *((a, shape, f"ple.{b}", "") for a, shape, b, _ in PROJECTED),
    ("blk.{}.layer_output_scale.weight", "1", "={}.layer_scalar", ""),
    ("output", "out C", "embedding_projection", ""),
)
GEMMA3N: tuple[Row, ...] = (
    *TEXT,
    ("blk.{}.attn_k", "KD C", "{}.self_attn.k_proj", ""),
    ("blk.{}.attn_v", "KD C", "{}.self_attn.v_proj", ""),
    *HEAD_NORMS[1:],
    *GATES,
    *PROJECTED,
    ("per_layer_token_embd", "PV LE", "embed_tokens_per_layer", "padded"),
    ("altup_proj", "S-1 C C", "altup_projections.#", ""),
    ("altup_unembd_proj", "S-1 C C", "altup_unembed_projections.#", ""),
    ("blk.{}.altup_correct_coef", "S S", "{}.altup.correction_coefs", ""),
    ("blk.{}.altup_correct_scale.weight", "C", "={}.altup.correct_output_scale", ""),
    ("blk.{}.altup_predict_coef", "SS S", "{}.altup.prediction_coefs", ""),
    ("blk.{}.altup_router", "S C", "{}.altup.modality_router", ""),
    ("blk.{}.altup_router_norm", "C", "{}.altup.router_norm", ""),
    ("blk.{}.laurel_l", "rank C", "{}.laurel.linear_left", ""),
    ("blk.{}.laurel_r", "C rank", "{}.laurel.linear_right", ""),
    ("blk.{}.laurel_post_norm", "C", "{}.laurel.post_laurel_norm", ""),
)


def windowed(c: Config) -> list[bool]:
    """Which layers have a window."""
    kinds = c.layer_kinds("sliding_attention", "full_attention")
    return [kind == "sliding_attention" for kind in kinds]


def of_full(c: Config, key: str, own: str) -> int | None:
    """A size of layers that see all: config.json's `key`, or `own` under per_layer_config; None where it is silent."""
    if c.raw.get(key) is not None:
        return c.size(key)
    full = [il for il, window in enumerate(windowed(c)) if not window]
    found = {str(il): c.inner("per_layer_config").get(str(il)) or {} for il in full}
    values = [one.get(own) if isinstance(one, dict) else None for one in found.values()]
    if not values or values[0] is None:
        return None
    if any(value != values[0] for value in values) or type(values[0]) is not int or not 0 < values[0] < 2**31:
        hint = "refembed converts models whose layers that see all are alike"
        raise ModelError(f"{c.path}: {own} of per_layer_config is {quote(str(values[:4]))}", hint=hint)
    return int(values[0])


def full_width(c: Config) -> int:
    return of_full(c, "global_head_dim", "head_dim") or 512


def full_kv(c: Config) -> int | None:
    return of_full(c, "num_global_key_value_heads", "num_key_value_heads")


def shared_kv(c: Config) -> int:
    """How many layers at the end have no keys of their own."""
    n = c.raw.get("num_kv_shared_layers") or 0
    if type(n) is not int or not 0 <= n < c.layers:
        found = f"{c.path}: num_kv_shared_layers is {quote(str(n))} of {c.layers} layers"
        raise ModelError(found, hint="a number of layers")
    return n


def gemma_sizes(c: Config) -> dict[str, int]:
    """The letters of these rows."""
    E = c.size("hidden_size_per_layer_input") if c.raw.get("hidden_size_per_layer_input") else 1
    per_layer_vocab = c.size("vocab_size_per_layer_input", default=c.size("vocab_size"))
    return {
        "E": E, "LE": c.layers * E, "PV": per_layer_vocab, "out": c.size("embedding_dim", default=1),
        "S": STREAMS, "S-1": STREAMS - 1, "SS": STREAMS**2, "rank": c.size("laurel_rank", default=1),
    }  # fmt: skip


def gemma_layer(c: Config, il: int) -> dict[str, int]:
    """What differs by layer."""
    wide = 1 + (c.raw.get("use_double_wide_mlp") is True and il >= c.layers - shared_kv(c))
    sizes: dict[str, int] = {"F": wide * c.feed_forward}
    if il < c.layers and not windowed(c)[il]:
        D, K, H = full_width(c), full_kv(c) or c.sizes["K"], c.sizes["H"]
        sizes |= {"D": D, "K": K, "HD": H * D, "KD": K * D}
    return sizes


def own_keys(c: Config) -> range:
    return range(c.layers - shared_kv(c))


def own_values(c: Config) -> list[int]:
    """Layers with a matrix of values: where keys are values, those with a window."""
    kinds, alike = windowed(c), c.raw.get("attention_k_eq_v") is True
    return [il for il in own_keys(c) if kinds[il] or not alike]


def still_pairs(c: Config) -> list[Planned]:
    """`rope_freqs` of layers that see all: most pairs of a head do not turn there."""
    width = full_width(c)
    part = c.inner("rope_parameters").get("full_attention", {}).get("partial_rotary_factor", 0.25)
    if not isinstance(part, (int, float)) or not 0 < part <= 1:
        found = f"{c.path}: partial_rotary_factor is {quote(str(part))}"
        raise ModelError(found, hint="a part of each head is turned")
    turned = int(width * part / 2)
    factors = np.array([1.0] * turned + [NOT_TURNED] * (width // 2 - turned), np.float32)
    entry = Entry("rope_freqs", "F32", factors.shape, np.frombuffer(factors.tobytes(), np.uint8))
    return [Planned("rope_freqs.weight", entry, "F32")]


def check_gemma4(path: Path, raw: dict[str, Any]) -> None:
    """Refuse RoPE of another kind than llama.cpp's factors can say."""
    full = (raw.get("rope_parameters") or {}).get("full_attention") or {}
    if full.get("rope_type") != "proportional":
        found = f"{path}: rope_type of layers that see all is {quote(str(full.get('rope_type')))}"
        raise ModelError(found, hint="llama.cpp computes Gemma 4 with proportional only")
    check_last(path, raw)


def check_last(path: Path, raw: dict[str, Any]) -> None:
    """Refuse a last layer with a window, which `transformers` takes away."""
    kinds = raw.get("layer_types")
    if isinstance(kinds, list) and kinds and kinds[-1] != "full_attention":
        hint = "`transformers` lets the last layer see all, whatever layer_types says"
        raise ModelError(f"{path}: layer_types ends with {quote(str(kinds[-1]))}", hint=hint)


def check_gemma3n(path: Path, raw: dict[str, Any]) -> None:
    """Refuse what llama.cpp's graph of Gemma 3n has as fixed numbers."""
    layers = raw.get("num_hidden_layers")
    wanted: dict[str, Any] = {
        "altup_num_inputs": STREAMS, "altup_active_idx": 0, "hidden_size_per_layer_input": PER_LAYER,
        "laurel_rank": RANK,
        "num_kv_shared_layers": layers - LAYERS_WITH_KEYS if type(layers) is int else None,
    }  # fmt: skip
    if type(layers) is int and LAYERS_WITH_KEYS <= layers < 1000:
        wanted["layer_types"] = ["sliding_attention" if (il + 1) % 5 else "full_attention" for il in range(layers)]
        wanted["activation_sparsity_pattern"] = [0.95] * SPARSE_LAYERS + [0.0] * (layers - SPARSE_LAYERS)
    rows, tokens = raw.get("vocab_size_per_layer_input"), raw.get("vocab_size")
    if type(rows) is int and type(tokens) is int and rows > tokens:
        wanted["vocab_size_per_layer_input"] = tokens
    for key, value in wanted.items():
        if raw.get(key, value) != value:
            hint = f"llama.cpp computes Gemma 3n with {str(value)[:60]} only; the vectors would be another model's"
            raise ModelError(f"{path}: {key} is {quote(str(raw[key])[:60])}", hint=hint)


SOFTCAP = real("final_logit_softcapping", lambda c: c.number("final_logit_softcapping"))
PATTERN: Key = ("attention.sliding_window_pattern", "ARRAY[BOOL]", windowed)
SHARED_KV = count("attention.shared_kv_layers", shared_kv)
PER_LAYER_WIDTH = count("embedding_length_per_layer_input", lambda c: c.raw.get("hidden_size_per_layer_input") or 0)
GEMMA4_KEYS: tuple[Key, ...] = (
    SOFTCAP,
    count("attention.sliding_window", lambda c: c.size("sliding_window")),
    SHARED_KV, PER_LAYER_WIDTH, PATTERN,
    count("attention.key_length", full_width),
    count("attention.value_length", full_width),
    count("attention.key_length_swa", lambda c: c.sizes["D"]),
    count("attention.value_length_swa", lambda c: c.sizes["D"]),
    count("expert_feed_forward_length", lambda c: c.raw.get("moe_intermediate_size")),
    ("feed_forward_length", "ARRAY[INT32]",
     lambda c: [gemma_layer(c, il)["F"] for il in range(c.layers)] if c.raw.get("use_double_wide_mlp") else None),
    ("attention.head_count_kv", "ARRAY[INT32]",
     lambda c: full_kv(c) and [c.sizes["K"] if window else full_kv(c) for window in windowed(c)]),
    count("rope.dimension_count", full_width),
    count("rope.dimension_count_swa", lambda c: c.sizes["D"]),
)  # fmt: skip
GEMMA_COMPUTED = {"hidden_activation": TANH_GELUS, "attention_bias": NO}
TOWERS = ("vision_tower.", "embed_vision.", "audio_tower.", "embed_audio.")
GEMMA_DEFAULTS = {
    "vocab_size": 262144, "rms_norm_eps": 1e-6, "head_dim": 256, "sliding_window": 512, "tie_word_embeddings": True,
}  # fmt: skip

GEMMAS: dict[str, Checkpoint] = {
    "Gemma3n": Checkpoint(
        Recipe(
            "gemma3n", GEMMA3N, prefixes=("model.language_model.", "model."), dropped=("lm_head.", *TOWERS),
            vocabs=("gemma", "bpe"), sizes=gemma_sizes,
            more_keys=(
                SOFTCAP, count("attention.sliding_window", lambda c: c.size("sliding_window")),
                count("altup.active_idx", lambda c: 0), count("altup.num_inputs", lambda c: STREAMS), PER_LAYER_WIDTH,
                SHARED_KV,
                ("activation_sparsity_scale", "ARRAY[FLOAT32]",
                 lambda c: [SPARSITY[x] for x in c.raw["activation_sparsity_pattern"]]),
                PATTERN,
            ),
        ),
        ("ForCausalLM", "ForConditionalGeneration"), "gemma3n_text|gemma3n",
        computed=GEMMA_COMPUTED | {"altup_correct_scale": (True,), "tie_word_embeddings": (True,)},
        defaults=GEMMA_DEFAULTS
        | {"vocab_size": 262400, "vocab_size_per_layer_input": 262144, "hidden_size": 2048, "intermediate_size": 16384,
           "num_hidden_layers": 35, "num_attention_heads": 8, "num_key_value_heads": 2, "laurel_rank": RANK,
           "max_position_embeddings": 32768, "num_kv_shared_layers": 15, "hidden_size_per_layer_input": PER_LAYER,
           "final_logit_softcapping": 30.0},
        theta=1e6, kinds=("sliding_attention",), nested=True, check=check_gemma3n,
    ),
    "Gemma4": Checkpoint(
        Recipe(
            "gemma4", GEMMA4, prefixes=("model.language_model.", "model."), dropped=("lm_head.", *TOWERS),
            vocabs=("gemma4",), sizes=gemma_sizes, layer_sizes=gemma_layer, made=still_pairs, more_keys=GEMMA4_KEYS,
        ),
        ("ForCausalLM", "ForConditionalGeneration"), "gemma4_text|gemma4",
        computed=GEMMA_COMPUTED
        | {"use_bidirectional_attention": ("vision",), "tie_word_embeddings": (True,)},
        defaults=GEMMA_DEFAULTS
        | {"vocab_size_per_layer_input": 262144, "hidden_size": 2304, "intermediate_size": 9216,
           "num_hidden_layers": 30, "num_attention_heads": 8, "num_key_value_heads": 4,
           "max_position_embeddings": 131072, "hidden_size_per_layer_input": 256},
        theta=1e6, turns=0.25, kinds=("sliding_attention",), scalings=("proportional",), nested=True,
        check=check_gemma4,
    ),
    "EmbeddingGemma2": Checkpoint(
        Recipe(
            "gemma-embedding2", EMBEDDING2, prefixes=("language_model.",), dropped=TOWERS, vocabs=("gemma4",),
            sizes=gemma_sizes, layer_sizes=gemma_layer,
            more_keys=(
                *GEMMA4_KEYS,
                count("attention.sliding_window", lambda c: 2 * c.size("sliding_window")),  # to both sides
                count("embedding_length_out", lambda c: c.size("embedding_dim")),
                flag("attention.causal", lambda c: False),
            ),
        ),
        ("Model",), "embedding_gemma2_text|embedding_gemma2", computed=GEMMA_COMPUTED,
        defaults=GEMMA_DEFAULTS
        | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 262144, "hidden_size_per_layer_input": 512,
           "embedding_dim": 768},
        theta=1e6, kinds=("sliding_attention",), nested=True, check=check_last,
    ),
}  # fmt: skip
