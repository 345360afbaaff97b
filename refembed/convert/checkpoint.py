"""What `convert` knows about an architecture of `transformers`, in one place: its config.json and its tensors.

    PHI2 = Checkpoint(recipe, ("ForCausalLM",), "phi", computed={"hidden_act": GELUS[1:]}, defaults={...})

checkpoints_classic.py, _dense.py, _encoders.py, _experts.py, _gemma.py and _states.py declare one for each
architecture, by the name that its classes begin with: "Phi" of PhiForCausalLM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refembed.convert.recipes import Recipe

GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate", "gelu_python_tanh")
TANH_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh")
SILU = ("silu", "swish")
NO = (False,)
EITHER = (False, True)
EVERY_LAYER = {"decoder_sparse_step": (1,), "mlp_only_layers": ([],)}  # has experts
WHOLE_HEADS = {"partial_rotary_factor": (1, 1.0)}
STRETCHED = ("linear", "yarn", "dynamic")  # scalings of RoPE that the usual keys say, or no key has to
DECODER_DEFAULTS = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6}


@dataclass(frozen=True)
class Checkpoint:
    """One architecture: what becomes of its tensors, and what its config.json may say."""

    recipe: Recipe
    classes: tuple[str, ...]  # ends of the names of its classes
    model_type: str  # or several, "qwen2_vl|qwen2_vl_text"
    computed: dict[str, tuple[Any, ...]]  # key of config.json -> values whose graph llama.cpp computes
    defaults: dict[str, Any] = field(default_factory=dict)  # of `transformers`, for keys that config.json lacks
    theta: float | None = 10000.0  # RoPE's base where config.json is silent; None: there is no RoPE
    turns: float | None = None  # the part of a head that RoPE turns where config.json is silent; None: all, always
    period: int = 0  # each such layer sees the whole text, the others a window; 0: all see the whole text
    kinds: tuple[str, ...] = ()  # what else layer_types may name
    scalings: tuple[str, ...] = ()  # of RoPE, that the file has keys or tensors for
    latent_yarn: bool = False  # YaRN lets scores grow by mscale_all_dim, and queries and keys stay as long as they are
    nested: bool = False  # config.json may have all this under text_config, next to what looks at images
    check: Callable[[Path, dict[str, Any]], None] | None = None  # refuses what keys say together; with the defaults
    instead: Callable[[dict[str, Any]], str] | None = None  # of config.json: the name of the table to take, if another
    remark: str = ""  # how llama.cpp's vectors are not the published model's
    packed: tuple[str, ...] = ()  # quantization_config.quant_method whose blocks go into the file as they are
