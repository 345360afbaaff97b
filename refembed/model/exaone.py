"""EXAONE 3.0, 3.5 and Deep (LG AI Research).

LG AI Research 2024, "EXAONE 3.5": the graph is Llama's, RoPE turns halves of a head, and its wavelengths are stretched
by frequency factors. Mirrors llama.cpp's src/models/exaone.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import llama
from refembed.model.batch import Batch
from refembed.model.blocks import QkvBlock
from refembed.model.hparams import Hparams, Traits
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", rope="neox")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`: Llama's, without experts and biases of these matrices."""

    attn_norm: Tensor = tensor("C")
    attn_output: Affine = affine("C HD", bias="absent")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Affine = affine("F C", bias="absent")
    ffn_up: Affine = affine("F C", bias="absent")
    ffn_down: Affine = affine("C F", bias="absent")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    rope_freqs: Tensor | None = tensor("rot/2", presence="optional")
    rope_factors_long: Tensor | None = tensor("rot/2", presence="absent")  # Llama's
    rope_factors_short: Tensor | None = tensor("rot/2", presence="absent")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return llama.forward(w, hp, batch, ops, taps)
