"""LLaDA-MoE: a model that writes by diffusion, so every token sees all.

Zhu et al. 2025, "LLaDA-MoE: A Sparse MoE Diffusion Language Model": the graph of Qwen 3 with experts, without a causal
mask, and weights of experts that are not made to add up to 1. Mirrors llama.cpp's src/models/llada-moe.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import qwen3moe
from refembed.model.batch import Batch
from refembed.model.blocks import run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.weights import tensor

TRAITS = Traits(norm="rms", rope="neox", heads="fill", experts="required", expert_width="F/k", encoder=True)


@dataclass(frozen=True)
class Weights(qwen3moe.Weights):
    """Every tensor of the architecture: those of Qwen 3 with experts. A shape is rows first: GGUF's `ne` reversed."""

    output: Tensor = tensor("V C")  # guesses the masked tokens; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out is unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


layers = partial(qwen3moe.layers, cached=False, norm_weights=False)
