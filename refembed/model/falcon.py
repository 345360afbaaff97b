"""Falcon: 7B, 40B, 180B.

Almazrouei et al. 2023, "The Falcon Series of Open Language Models": attention and feed-forward stand side by side.
They read the same normalized input, or where there is a second norm (40B), attention reads that one's. Few heads of
keys serve all heads of queries. Mirrors llama.cpp's src/models/falcon.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► y, x ─► norm_2 ─► z, else z is y;   down(gelu(up(y))) + attention(z) + x ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import FusedQkvBlock, Qkv, attend, attention_spec, gelu_mlp, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", rope="neox", heads="fill")


@dataclass(frozen=True)
class Block(FusedQkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Affine = affine("C")
    attn_norm_2: Affine | None = affine("C", bias="optional", presence="optional")
    attn_qkv: Affine = affine("HD+2KD C", bias="absent")
    attn_output: Affine = affine("C C", bias="absent")
    ffn_up: Affine = affine("F C", bias="absent")
    ffn_down: Affine = affine("C F", bias="absent")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out and parallel_out are unnamed in llama.cpp's graph."""
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
        name, norm = ("attn_norm", blk.attn_norm) if blk.attn_norm_2 is None else ("attn_norm_2", blk.attn_norm_2)
        y = tap(name, ops.layer_norm(x, *norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)

        # feed-forward of the first norm's, every token on its own
        if blk.attn_norm_2 is not None:
            y = tap("attn_norm", ops.layer_norm(x, *blk.attn_norm, eps, tap))  # (T, C)
        h = gelu_mlp(y, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, ""))  # (T, C)
        h = tap("parallel_out", ops.add(h, a))
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))
