"""ERNIE 4.5, dense: 0.3B.

Baidu ERNIE Team 2025, "ERNIE 4.5 Technical Report": the graph is Qwen 2's, RoPE turns neighboring channels. A bias of
attention's output is loaded and not added. Mirrors llama.cpp's src/models/ernie4-5.cpp.
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

TRAITS = Traits(norm="rms", rope="norm")


@dataclass(frozen=True)
class Block(qwen2.Block):
    """Tensors of one layer, `blk.{i}.*`: Qwen 2's."""

    attn_output: Tensor = tensor("C HD", unread_bias=True)


@dataclass(frozen=True)
class Weights(qwen2.Weights):
    """Every tensor of the architecture: Qwen 2's. A shape is rows first: GGUF's `ne` reversed."""

    blk: tuple[Block, ...] = blocks(Block)
    output: Affine | None = affine("V C", bias="absent", presence="optional")  # guesses the next token; not needed


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return qwen2.forward(w, hp, batch, ops, taps)
