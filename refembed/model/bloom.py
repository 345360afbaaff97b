"""BLOOM and BLOOMZ.

BigScience Workshop 2022, "BLOOM": GPT-2 in which places are distances that cost (ALiBi: Press et al. 2022), and
embeddings are normalized. Mirrors llama.cpp's src/models/bloom.cpp; taps carry that graph's names.

          ids ─► token_embd ─► norm ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► gelu(up) ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import gpt2
from refembed.model.batch import Batch
from refembed.model.blocks import run_layers
from refembed.model.hparams import Hparams
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = gpt2.TRAITS


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture; a layer's are GPT-2's. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    token_embd_norm: Affine = affine("C")
    blk: tuple[gpt2.Block, ...] = blocks(gpt2.Block)
    output_norm: Affine = affine("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). Attention's mask has hp.max_alibi_bias, which is 8."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    x = taps("inp_norm-0", ops.layer_norm(x, *w.token_embd_norm, hp.norm_eps, at_layer(taps, 0)))
    return run_layers(gpt2.layers, w, hp, batch, ops, taps, x)
