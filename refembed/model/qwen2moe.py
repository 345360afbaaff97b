"""Qwen 1.5 and 2 with experts: Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B.

Yang et al. 2024, "Qwen2 Technical Report", section 2.2.2: Qwen 2 whose feed-forward part is a mixture of experts, and
one more expert that every token takes as far as a gate lets it in. Mirrors llama.cpp's src/models/qwen2moe.cpp; taps
carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► z;   experts(z) + sigmoid(gate z) * shared expert(z)
                                                                    ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.moe import moe, shared_expert
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", heads="fill", experts="required", expert_width="F/k", shared_as_wide=True)


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_output: Tensor = tensor("C HD")
    ffn_norm: Tensor = tensor("C")
    ffn_gate_inp: Tensor = tensor("X C")
    ffn_gate_exps: Tensor = tensor("X exp C")
    ffn_up_exps: Tensor = tensor("X exp C")
    ffn_down_exps: Tensor = tensor("X C exp")
    ffn_gate_inp_shexp: Tensor = tensor("1 C")
    ffn_gate_shexp: Tensor = tensor("shexp C")
    ffn_up_shexp: Tensor = tensor("shexp C")
    ffn_down_shexp: Tensor = tensor("C shexp")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor = tensor("V C")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out and ffn_shexp_silu are unnamed in llama.cpp's graph."""
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
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own, through its experts and one that all take
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        experts = blk.ffn_gate_inp, blk.ffn_up_exps, blk.ffn_down_exps, hp.n_expert_used
        h = moe(y, *experts, "silu", ops, tap, gate=blk.ffn_gate_exps)  # (T, C)
        s = shared_expert(y, blk, ops, tap)  # (T, C)
        s = tap("ffn_shexp_out", s * shared_gate(y, blk, ops, tap))
        h = tap("ffn_out", h + s)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def shared_gate(y: Float, blk: Block, ops: Ops, tap: Tap) -> Float:
    """How much of the shared expert each token takes, between 0 and 1: sigmoid(g) = silu(g) / g, (T, C) -> (T, 1)."""
    g = tap("ffn_shexp_gate_inp", ops.linear(y, blk.ffn_gate_inp_shexp))  # (T, 1)
    s = tap("ffn_shexp_silu", ops.silu(g))  # unnamed in llama.cpp's graph
    return tap("ffn_shexp_gate", s / g)
