"""Phi-3.5-MoE and Phi-mini-MoE (Microsoft).

Abdin et al. 2024, "Phi-3 Technical Report", section 4: Phi-3's rotation, with experts in every layer; norms and
attention's matrices have biases. Mirrors llama.cpp's src/models/phimoe.cpp, whose graph is that of phi3.cpp; taps carry
that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► experts ─► + y ─► x
          x ─► norm

The published model has LayerNorm, and llama.cpp RMSNorm with a bias behind it: so here. As in phi3.py, the size of the
context decides which factors of RoPE hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, factors_of, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.moe import moe
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", turns_whole_heads=False, heads="fill", experts="required")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Affine = affine("C")
    attn_output: Affine = affine("C C")
    ffn_norm: Affine = affine("C")
    ffn_gate_inp: Tensor = tensor("X C")
    ffn_gate_exps: Tensor = tensor("X F C")
    ffn_up_exps: Tensor = tensor("X F C")
    ffn_down_exps: Tensor = tensor("X C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    rope_factors_long: Tensor | None = tensor("D/2", presence="optional")
    rope_factors_short: Tensor | None = tensor("D/2", presence="optional")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C")
    output: Affine = affine("V C")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_product, attn_out and ffn_inp are unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps = hp.norm_eps
    scale = ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd_head))  # of queries; in float32 it takes two roundings
    factors = factors_of(hp, None, w.rope_factors_long, w.rope_factors_short)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, factors)
        spec = attention_spec(hp, il, 1.0)

        # self-attention: every token looks back
        y = tap("attn_norm", rms_norm(x, blk.attn_norm, eps, ops, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        q = tap("Qcur", ops.scale(q, scale))
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, "attn_product"))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own, through its experts
        y = tap("ffn_norm", rms_norm(x, blk.ffn_norm, eps, ops, tap))  # (T, C)
        experts = blk.ffn_gate_inp, blk.ffn_up_exps, blk.ffn_down_exps, hp.n_expert_used
        h = moe(y, *experts, "silu", ops, tap, gate=blk.ffn_gate_exps, norm_weights=True)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", rms_norm(x, w.output_norm, eps, ops, taps))


def rms_norm(x: Float, norm: Affine, eps: float, ops: Ops, tap: Tap) -> Float:
    """RMSNorm with a bias: (T, C) -> (T, C)."""
    y = tap("norm_w", ops.rms_norm(x, norm.weight, eps, tap))
    return y if norm.bias is None else y + norm.bias.dequantize().astype(x.dtype)
