"""Qwen3-Next and Qwen3-Coder-Next.

Qwen Team 2025, "Qwen3-Next": the layers that Qwen 3.5 (`qwen35`, `qwen35moe`) has from it, with heads of keys in
another order, and one product for what decides how a state decays and how far it is replaced. Mirrors llama.cpp's
src/models/qwen3next.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► delta net or attention ─► + x ─► y
                 y ─► norm ─► z;   experts(z) + sigmoid(gate z) * shared expert(z) ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import delta_net, qwen35moe
from refembed.model.batch import Batch
from refembed.model.blocks import rope_of, run_layers
from refembed.model.hparams import Hparams
from refembed.model.qwen35 import AttentionBlock, gated_attention
from refembed.model.qwen35moe import ExpertBlock, experts
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = replace(qwen35moe.TRAITS, mrope=False)


@dataclass(frozen=True)
class Block(AttentionBlock, ExpertBlock):
    """Tensors of one layer, `blk.{i}.*`. Older files have ssm_in in place of attn_qkv and attn_gate."""

    ssm_in: Tensor | None = tensor("2I+2GN C", presence="optional", layers="recurrent")
    linear_qkv: Tensor = tensor("I+2GN C", name="attn_qkv", layers="recurrent", unless="ssm_in")
    attn_gate: Tensor = tensor("I C", layers="recurrent", unless="ssm_in")
    ssm_conv1d: Tensor = tensor("I+2GN conv", layers="recurrent")
    ssm_dt: Tensor = tensor("dt", end="bias", layers="recurrent")
    ssm_a: Tensor = tensor("dt", end="", layers="recurrent")
    ssm_ba: Tensor = tensor("2dt C", layers="recurrent")
    ssm_norm: Tensor = tensor("N", layers="recurrent")
    ssm_out: Tensor = tensor("C I", layers="recurrent")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("model.embed_tokens", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps = hp.norm_eps

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # every token looks back: at a state, or at all before it
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        if hp.recurrent_layers[il]:
            a = linear_attention(y, blk, hp, batch, ops, tap)
        else:
            a = gated_attention(y, blk, rope_of(hp, il), hp, batch, ops, tap)
        x = tap("attn_residual", ops.add(a, x))

        # feed-forward: every token on its own, through its experts and one that all take
        y = tap("attn_post_norm", ops.rms_norm(x, blk.post_attention_norm, eps, tap))  # (T, C)
        x = tap("l_out", ops.add(experts(y, blk, hp, ops, tap), x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def linear_attention(y: Float, blk: Block, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """A layer with a delta net: y (T, C) -> (T, C)."""
    ssm = hp.ssm
    assert ssm is not None
    G, H = ssm.n_group, ssm.dt_rank
    if blk.ssm_in is None:
        qkv, z = tap("linear_attn_qkv_mixed", ops.linear(y, blk.linear_qkv)), None  # (T, I + 2 G N)
    else:
        qkv, z = unmixed(tap("linear_attn_mixed_qkvz", ops.linear(y, blk.ssm_in)), hp, tap)
    q, k, v = delta_net.convolved(qkv, blk.ssm_conv1d, hp, batch, ops, tap, interleaved=True)

    # of each group first beta, then alpha, of its heads of values
    both = tap("linear_attn_mixed_ba", ops.linear(y, blk.ssm_ba)).reshape(len(y), G, 2, H // G)
    beta, alpha = (np.ascontiguousarray(both[:, :, i]).reshape(len(y), H) for i in (0, 1))
    g = tap("gate", ops.log_decay(alpha, blk.ssm_dt, blk.ssm_a, tap))  # (T, dt)
    beta = tap("beta_sigmoid", ops.sigmoid(beta).reshape(len(y), G, -1)).reshape(len(y), H)
    o = ops.gated_delta_rule(q, k, v, g, beta, batch.offsets).reshape(len(y), H, -1)
    o = tap("attn_output", o)  # (T, dt, N)

    o = tap("attn_normed", ops.rms_norm(o, blk.ssm_norm, hp.norm_eps, tap))  # unnamed in llama.cpp's graph
    z = tap("z", ops.linear(y, blk.attn_gate) if z is None else z).reshape(len(y), -1)  # (T, I)
    return tap("linear_attn_out", ops.linear(delta_net.let_through(o, z, ops, tap), blk.ssm_out))


def unmixed(mixed: Float, hp: Hparams, tap: Tap) -> tuple[Float, Float]:
    """q, k and v side by side (T, I + 2 G N), and z (T, G, I/G), of one product, which has them group by group."""
    ssm = hp.ssm
    assert ssm is not None
    G, N, T = ssm.n_group, ssm.n_state, len(mixed)
    R = ssm.n_inner // G  # channels of a group's values
    q, k, v, z = np.split(mixed.reshape(T, G, -1), [N, 2 * N, 2 * N + R], axis=2)
    return tap("qkv_mixed", np.concatenate([x.reshape(T, -1) for x in (q, k, v)], axis=1)), np.ascontiguousarray(z)
