"""LLaDA 8B, a diffusion model: it writes a text in any order, so every token sees all.

Nie et al. 2025, "Large Language Diffusion Models": the graph is Qwen 2's, without a cache and a causal mask, whatever
attention.causal says; RoPE turns neighboring channels. Biases of attention's output and of feed-forward, and frequency
factors of RoPE, are loaded and not used. Mirrors llama.cpp's src/models/llada.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import qwen2
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams, Traits
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", rope="norm", encoder=True)


@dataclass(frozen=True)
class Block(qwen2.Block):
    """Tensors of one layer, `blk.{i}.*`: Qwen 2's."""

    attn_output: Tensor = tensor("C HD", unread_bias=True)
    ffn_gate: Tensor = tensor("F C", unread_bias=True)
    ffn_up: Tensor = tensor("F C", unread_bias=True)
    ffn_down: Tensor = tensor("C F", unread_bias=True)


@dataclass(frozen=True)
class Weights(qwen2.Weights):
    """Every tensor of the architecture: Qwen 2's. A shape is rows first: GGUF's `ne` reversed."""

    blk: tuple[Block, ...] = blocks(Block)
    output: Affine | None = affine("V C", bias="absent", presence="optional")  # guesses the next token; not needed
    rope_freqs: Tensor | None = tensor("rot/2", presence="optional")  # not used


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return qwen2.forward(w, hp, batch, ops, taps, cached=False)
