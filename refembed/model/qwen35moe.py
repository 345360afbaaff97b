"""Qwen 3.5 with experts: 35B-A3B, 122B-A10B and 397B-A17B.

Qwen Team 2026, "Qwen3.5": Qwen 3.5's layers (`qwen35`), whose feed-forward part is a mixture of experts and one expert
that every token takes as far as a gate lets it (as in `qwen2moe`). Mirrors llama.cpp's src/models/qwen35moe.cpp; taps
carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► delta net or attention ─► + x ─► y
                 y ─► norm ─► z;   experts(z) + sigmoid(gate z) * shared expert(z) ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import qwen35
from refembed.model.batch import Batch
from refembed.model.blocks import rope_of, run_layers
from refembed.model.hparams import Hparams
from refembed.model.moe import gate_and_up, gated, mixed, moe, normed, route, shared_expert
from refembed.model.qwen3vl import still
from refembed.model.qwen35 import MixingBlock, gated_attention, linear_attention
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = replace(qwen35.TRAITS, experts="required", expert_width="F/k", shared_as_wide=True)


@dataclass(frozen=True)
class ExpertBlock:
    """Experts of one layer, `blk.{i}.*`: up and gate apart or in one tensor."""

    ffn_gate_inp: Tensor = tensor("X C")
    ffn_gate_up_exps: Tensor | None = tensor("X 2exp C", presence="optional")
    ffn_gate_exps: Tensor = tensor("X exp C", unless="ffn_gate_up_exps")
    ffn_up_exps: Tensor = tensor("X exp C", unless="ffn_gate_up_exps")
    ffn_down_exps: Tensor = tensor("X C exp")
    ffn_gate_inp_shexp: Tensor = tensor("1 C")
    ffn_gate_shexp: Tensor = tensor("shexp C")
    ffn_up_shexp: Tensor = tensor("shexp C")
    ffn_down_shexp: Tensor = tensor("C shexp")


@dataclass(frozen=True)
class Block(MixingBlock, ExpertBlock):
    """Tensors of one layer, `blk.{i}.*`."""


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("model.input_embed", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, factors = hp.norm_eps, still(hp.rope_sections, hp.n_rot // 2)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # every token looks back: at a state, or at all before it
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        if hp.recurrent_layers[il]:
            a = linear_attention(y, blk, hp, batch, ops, tap)
        else:
            a = gated_attention(y, blk, rope_of(hp, il, factors), hp, batch, ops, tap)
        x = tap("attn_residual", ops.add(a, x))

        # feed-forward: every token on its own, through its experts and one that all take
        y = tap("attn_post_norm", ops.rms_norm(x, blk.post_attention_norm, eps, tap))  # (T, C)
        x = tap("l_out", ops.add(experts(y, blk, hp, ops, tap), x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def experts(y: Float, blk: ExpertBlock, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """The experts of each token, and the shared one as far as its gate lets it: (T, C) -> (T, C)."""
    h = own_experts(y, blk, hp, ops, tap)  # (T, C)
    s = shared_expert(y, blk, ops, tap)  # (T, C)
    g = tap("shared_expert_gate", ops.linear(y, blk.ffn_gate_inp_shexp))  # (T, 1)
    g = tap("shared_expert_gate_sigmoid", ops.sigmoid(g))
    return tap("ffn_out", h + tap("ffn_shexp_gated", s * g))


def own_experts(y: Float, blk: ExpertBlock, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """The experts of each token, whose weights add up to 1: (T, C) -> (T, C)."""
    if blk.ffn_gate_up_exps is None:
        tensors = blk.ffn_gate_inp, blk.ffn_up_exps, blk.ffn_down_exps, hp.n_expert_used
        return moe(y, *tensors, "silu", ops, tap, gate=blk.ffn_gate_exps, norm_weights=True)
    logits = tap("ffn_moe_logits", ops.linear(y, blk.ffn_gate_inp))  # (T, X)
    chosen, weights = route(logits, hp.n_expert_used, ops, tap)  # (T, k)
    weights = normed(weights, tap)
    h = gated(*gate_and_up(y, blk.ffn_gate_up_exps, chosen, ops, tap), "silu", ops, tap)  # (T, k, F)
    return mixed(tap("ffn_moe_down", ops.experts(h, blk.ffn_down_exps, chosen)), weights, tap)
