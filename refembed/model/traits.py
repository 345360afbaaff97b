"""What llama.cpp fixes for an architecture, or assumes where a file is silent: one record in each file of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Traits:
    """What an architecture fixes, or assumes where a file is silent: llama.cpp's load_arch_hparams."""

    norm: Literal["layer", "rms"]  # whose epsilon the file must have
    epsilon: bool = True  # false: llama.cpp does not read it, and norms have none (qwen2vl)
    rope: Literal["none", "norm", "neox"] = "none"  # which channels turn together (llama_model_rope_type)
    window: Literal["none", "standard", "symmetric"] = "none"  # what {arch}.attention.sliding_window means
    # n: every n-th layer, from layer n - 1 on, sees past the window; 0: the file has a flag for each layer
    window_pattern: int = 1
    window_dense_first: bool = False  # ... from layer 0 on
    window_required: bool = False  # a file without a window is no model of this architecture
    window_default: int = 0  # the window of a file that names none; then one of 0 is an error too
    window_n_layer: int = 0  # only models of so many layers have a window, whatever the others' files say; 0: all
    freq_base_swa: float | None = 10000.0  # RoPE's base in layers with a window; None: that of the others
    scaled_swa: bool = False  # layers with a window are scaled as the others are, not left alone
    turns_whole_heads: bool = True  # rope.dimension_count is the width of a head, or llama.cpp refuses the file
    heads: Literal["free", "fill", "equal", "own"] = "free"  # fill: H D is C; own: K is H; equal: both
    # in which layers, if any; required: in all, and a file without experts is none; every n: {arch}.moe_every_n_layers;
    # after dense: behind the first {arch}.leading_dense_block_count; after dense, if any: and a file may have none
    experts: Literal["none", "all", "required", "every n", "after dense", "after dense, if any"] = "none"
    expert_width: Literal["F", "F/k", "own"] = "F"  # own: {arch}.expert_feed_forward_length; F/k: that, if it is there
    shared_as_wide: bool = False  # the expert that all tokens take is as wide as F, unless the file says otherwise
    shared_count: Literal["none", "required", "optional"] = "none"  # {arch}.expert_shared_count says how many they are
    routing: Literal["none", "softmax", "sigmoid"] = "none"  # {arch}.expert_gating_func, else that; and how to weigh
    needs_token_types: bool = False  # tokenizer.ggml.token_type_count must be there and not 0
    short_conv: bool = False  # {arch}.shortconv.l_cache must be there (lfm2)
    # layers with a state in place of attention: those without heads of keys; all but every n-th; all
    recurrent: Literal["none", "heads", "interval", "all"] = "none"
    ssm: Literal["none", "delta", "mamba", "mamba2", "granite"] = "none"  # {arch}.ssm.* must be there, and for what
    wkv: bool = False  # {arch}.wkv.* must be there (rwkv7)
    nextn: bool = False  # {arch}.nextn_predict_layers at the end draft further tokens: they are not read
    heads_by_layer: bool = False  # K may differ by layer, D and n_rot by whether the layer has a window
    per_layer_inputs: bool = False  # {arch}.embedding_length_per_layer_input must be there (gemma-embedding2)
    shares_kv: bool = False  # the last layers may have the keys and values of earlier ones, and F may differ (gemma4)
    streams: bool = False  # four streams of hidden states; their sizes are llama.cpp's constants (gemma3n)
    latent: bool = False  # keys and values come of one short vector: {arch}.attention.kv_lora_rank (deepseek2)
    value_experts: bool = False  # norms in groups of channels, and experts for values (k2-horizon)
    mrope: bool = False  # {arch}.rope.dimension_sections must be there (qwen2vl, qwen3vl)
    runs_alone: bool = False  # llama.cpp runs each text of a batch by itself (split_seq of a hybrid memory)
    projected: bool = False  # a last product makes hidden states as wide as a vector, {arch}.embedding_length_out
    images: bool = False  # rows of a vision tower may stand among the embeddings of tokens
    encoder: bool = False  # without a cache: every token sees all, whatever {arch}.attention.causal says
    output: str = "result_norm"  # llama.cpp's name for the hidden states
