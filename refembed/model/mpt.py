"""MPT (MosaicML): 7B, 30B and models made from them.

MosaicML NLP Team 2023, "Introducing MPT-7B": BLOOM's graph without biases, where ALiBi's largest exponent, a limit of
queries, keys and values, and vectors for places may be there or not. Mirrors llama.cpp's src/models/mpt.cpp; taps carry
that graph's names. Files with norms of queries and keys are refused: llama.cpp aborts on them.

          ids ─► token_embd (+ position_embd) ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► gelu(up) ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import FusedQkvBlock, attend, attention_spec, gelu_mlp, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", heads="fill")


@dataclass(frozen=True)
class Block(FusedQkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Affine = affine("C", bias="optional")
    attn_qkv: Affine = affine("HD+2KD C", bias="optional")
    attn_output: Affine = affine("C C", bias="optional")
    ffn_norm: Affine = affine("C", bias="optional")
    ffn_up: Affine = affine("F C", bias="optional")
    ffn_down: Affine = affine("C F", bias="optional")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    position_embd: Tensor | None = tensor("P C", presence="optional")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C", bias="optional")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_product and attn_out are unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    if w.position_embd is not None:
        x = taps("inpL", x + taps("pos_embd", ops.get_rows(w.position_embd, batch.pos)))
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale, KD = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head), hp.sizes["KD"]

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back, at those far away less (ALiBi)
        y = tap("attn_norm", ops.layer_norm(x, *blk.attn_norm, eps, tap))  # (T, C)
        qkv = tap("wqkv_b" if blk.attn_qkv.bias else "wqkv", ops.linear(y, *blk.attn_qkv, tap, "wqkv"))  # (T, C+2KD)
        if hp.clamp_kqv > 0:
            qkv = tap("wqkv_clamped", np.clip(qkv, -ops.dtype(hp.clamp_kqv), ops.dtype(hp.clamp_kqv)))
        q, k, v = ops.split(qkv, [hp.n_embd, KD, KD])  # (T, C), (T, KD), (T, KD)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, "attn_product"))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.layer_norm(x, *blk.ffn_norm, eps, tap))  # (T, C)
        h = gelu_mlp(y, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))
