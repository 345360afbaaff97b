"""LFM2 with experts: 8B-A1B and 24B-A2B.

Liquid AI 2025, "LFM2 Technical Report": LFM2's convolutions and attention (`lfm2`); behind the first few layers
feed-forward is a mixture of experts. How well an expert suits a token is a number between 0 and 1 of its own, and which
are taken goes by that and a bias, which keeps all of them busy (Wang et al. 2024, "Auxiliary-Loss-Free Load
Balancing"). Mirrors llama.cpp's src/models/lfm2moe.cpp and lfm2.cpp; taps carry that graph's names, braces and all.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► convolution or attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm                                                       or ─► experts
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import lfm2
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams
from refembed.model.lfm2 import attention, short_conv
from refembed.model.moe import mixed, normed, run_experts
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, blocks, tensor

TRAITS = replace(lfm2.TRAITS, window="none", experts="after dense", expert_width="own")
SIGMOID = 2  # enum llama_expert_gating_func_type; 1 is softmax


@dataclass(frozen=True)
class Block(lfm2.Block):
    """Tensors of one layer, `blk.{i}.*`: LFM2's, with experts in place of feed-forward behind the first few."""

    ffn_gate: Tensor = tensor("F C", layers="dense")
    ffn_up: Tensor = tensor("F C", layers="dense")
    ffn_down: Tensor = tensor("C F", layers="dense")
    ffn_gate_inp: Tensor = tensor("X C", layers="moe")
    ffn_gate_exps: Tensor = tensor("X exp C", layers="moe")
    ffn_up_exps: Tensor = tensor("X exp C", layers="moe")
    ffn_down_exps: Tensor = tensor("X C exp", layers="moe")
    exp_probs_b: Tensor = tensor("X", end="bias", layers="moe")


@dataclass(frozen=True)
class Weights(lfm2.Weights):
    """Every tensor of the architecture: LFM2's. A shape is rows first: GGUF's `ne` reversed."""

    blk: tuple[Block, ...] = blocks(Block)


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). mixed, ffn_inp and ffn_down are unnamed in llama.cpp's graph."""
    eps = hp.norm_eps
    x = taps("model.embed_tokens", ops.get_rows(w.token_embd, batch.ids))  # (T, C)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # every token looks at its neighbors: a few of them, or all before it
        y = tap("model.layers.{}.operator_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        mix = short_conv if hp.recurrent_layers[il] else attention
        x = tap("ffn_inp", mix(y, blk, hp, batch, ops, tap) + x)  # (T, C)

        # feed-forward: every token on its own
        y = tap("model.layers.{}.ffn_out", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        h = experts(y, blk, hp, ops, tap) if hp.moe_layers[il] else lfm2.feed_forward(y, blk, ops, tap)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.token_embd_norm, eps, taps))


def experts(y: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """The experts of each token, whose weights add up to 1: (T, C) -> (T, C)."""
    logits = tap("ffn_moe_logits", ops.linear(y, blk.ffn_gate_inp))  # (T, X)
    p = tap("ffn_moe_probs", ops.sigmoid(logits) if hp.expert_gating_func == SIGMOID else ops.softmax(logits))
    chosen, weights = route(p, blk.exp_probs_b, hp.n_expert_used, ops, tap)  # (T, k)
    weights = normed(weights, tap)
    up, gate, down = (Affine(w, None) for w in (blk.ffn_up_exps, blk.ffn_gate_exps, blk.ffn_down_exps))
    return mixed(run_experts(y, chosen, up, gate, down, "silu", ops, tap), weights, tap)


def route(p: Float, bias: Tensor, n_used: int, ops: Ops, tap: Tap) -> tuple[I64, Float]:
    """Which experts each token takes, those whose p (T, X) and bias (X) add up to most; and their p: twice (T, k)."""
    biased = tap("ffn_moe_probs_biased", ops.add_bias(p, bias))  # (T, X)
    order = tap("ffn_moe_argsort", np.argsort(-biased, axis=1, kind="stable").astype(p.dtype)).astype(np.int64)
    chosen = order[:, :n_used]
    return chosen, tap("ffn_moe_weights", np.take_along_axis(p, chosen, axis=1))
