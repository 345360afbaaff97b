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
from refembed.model.hparams import Hparams, Traits
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", rope="neox")


@dataclass(frozen=True)
class Block(llama.Block):
    """Tensors of one layer, `blk.{i}.*`: Llama's, without experts, and these without biases."""

    attn_output: Affine = affine("C HD", bias="absent")
    ffn_gate: Affine = affine("F C", bias="absent")
    ffn_up: Affine = affine("F C", bias="absent")
    ffn_down: Affine = affine("C F", bias="absent")
    ffn_gate_inp: Tensor = tensor("X C", presence="absent")
    ffn_gate_exps: Tensor | None = tensor("X F C", presence="absent")
    ffn_up_exps: Tensor = tensor("X F C", presence="absent")
    ffn_down_exps: Tensor = tensor("X C F", presence="absent")


@dataclass(frozen=True)
class Weights(llama.Weights):
    """Every tensor of the architecture: Llama's, without LongRoPE's. A shape is rows first: GGUF's `ne` reversed."""

    rope_freqs: Tensor | None = tensor("rot/2", presence="optional")
    rope_factors_long: Tensor | None = tensor("rot/2", presence="absent")
    rope_factors_short: Tensor | None = tensor("rot/2", presence="absent")
    blk: tuple[Block, ...] = blocks(Block)


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return llama.forward(w, hp, batch, ops, taps)
