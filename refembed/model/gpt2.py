"""GPT-2.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": BERT's places, a vector for each, in a
decoder whose norms stand in front. Mirrors llama.cpp's src/models/gpt2.cpp; taps carry that graph's names.

          ids ─► token_embd + position_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► gelu(up) ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import FusedQkvBlock, Qkv, attend, attention_spec, gelu_mlp, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", heads="fill")


@dataclass(frozen=True)
class Block(FusedQkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Affine = affine("C")
    attn_output: Affine = affine("C C")
    ffn_norm: Affine = affine("C")
    ffn_up: Affine = affine("F C")
    ffn_down: Affine = affine("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    position_embd: Tensor = tensor("P C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_product and attn_out are unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    x = taps("inpL", x + taps("pos_embd", ops.get_rows(w.position_embd, batch.pos)))
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # self-attention: every token looks back
        y = tap("attn_norm", ops.layer_norm(x, *blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        a = attend(qkv.queries(), qkv.keys(), qkv.values(), attention_spec(hp, il, scale), batch, ops, tap)  # (T, C)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, "attn_product"))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.layer_norm(x, *blk.ffn_norm, eps, tap))  # (T, C)
        h = gelu_mlp(y, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))
