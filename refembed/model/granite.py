"""Granite 3 and 4 (IBM), dense, with experts (`granite` files of Granite MoE) and with an expert that all tokens take.

IBM Granite Team 2024, "Granite 3.0 Language Models": Llama with numbers in four places. What goes in, what each half of
a layer adds, and the scores are multiplied by them (after muP, Yang et al. 2022); logit_scale is for the next token
alone. Mirrors llama.cpp's src/models/granite.cpp; taps carry that graph's names.

          ids ─► token_embd ─► * embedding_scale ─► x
    n_layer ×    x ─► norm ─► attention ─► * r ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► * r ─► + y ─► x
          x ─► norm                                                                     r: residual_scale
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import llama
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, attend, attention_spec, factors_of, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.llama import feed_forward
from refembed.model.moe import shared_expert
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="norm", experts="all")


@dataclass(frozen=True)
class Block(llama.Block):
    """Tensors of one layer, `blk.{i}.*`: Llama's, and an expert that every token takes."""

    ffn_gate_shexp: Tensor = tensor("shexp C", layers="shared")
    ffn_up_shexp: Tensor = tensor("shexp C", layers="shared")
    ffn_down_shexp: Tensor = tensor("C shexp", layers="shared")


@dataclass(frozen=True)
class Weights(llama.Weights):
    """Every tensor of the architecture: Llama's. A shape is rows first: GGUF's `ne` reversed."""

    blk: tuple[Block, ...] = blocks(Block)


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). Products with residual_scale are unnamed in llama.cpp's graph."""
    x = ops.get_rows(w.token_embd, batch.ids)  # (T, C)
    if hp.embedding_scale:
        x = taps("inp_rows", x) * hp.embedding_scale  # unnamed in llama.cpp's graph
    x = taps("embd", x)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, hp.attention_scale or 1 / math.sqrt(hp.n_embd_head)
    factors = factors_of(hp, w.rope_freqs, w.rope_factors_long, w.rope_factors_short)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, factors)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = qkv.queries()  # (T, H, D)
        q = tap("Qcur", ops.rope(q, batch.pos, rope)) if hp.rope_finetuned else q
        v = qkv.values()  # (T, K, D)
        k = qkv.keys()  # (T, K, D)
        k = tap("Kcur", ops.rope(k, batch.pos, rope)) if hp.rope_finetuned else k
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, ""))  # (T, C)
        if hp.residual_scale:
            a = tap("attn_scaled", ops.scale(a, hp.residual_scale))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        h = feed_forward(y, blk, il, hp, ops, tap)  # (T, C)
        if hp.moe_layers[il] and hp.n_ff_shexp:
            h = tap("ffn_out", h + shared_expert(y, blk, ops, tap))
        if hp.residual_scale:
            h = tap("ffn_scaled", ops.scale(h, hp.residual_scale))
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
