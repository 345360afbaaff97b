"""StarCoder 2, and Granite's code models of 20B and 34B.

Lozhkov et al. 2024, "StarCoder 2 and The Stack v2": GPT-2 with RoPE for places. Mirrors llama.cpp's
src/models/starcoder2.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
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
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, gelu_mlp, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", rope="neox", heads="fill")


@dataclass(frozen=True)
class Block(QkvBlock):
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
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_product and attn_out are unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.layer_norm(x, *blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, "attn_product"))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.layer_norm(x, *blk.ffn_norm, eps, tap))  # (T, C)
        h = gelu_mlp(y, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))
