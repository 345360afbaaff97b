"""Qwen 3.5, dense.

Qwen Team 2026, "Qwen3.5"; its layers are those of Qwen3-Next (Qwen Team 2025): three of four are a gated delta net, the
fourth is attention whose output a gate lets through, head by head. Mirrors llama.cpp's src/models/qwen35.cpp; taps
carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► delta net or attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm
    attention    x ─► q, gate, k, v;  norm q, norm k ─► rotate ─► attention ─► * sigmoid(gate) ─► output
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Rope, Tap
from refembed.model import delta_net
from refembed.model.batch import Batch
from refembed.model.blocks import rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.qwen3vl import still
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", turns_whole_heads=False, mrope=True, recurrent="interval", ssm="delta", nextn=True,
    runs_alone=True,
)  # fmt: skip


@dataclass(frozen=True)
class AttentionBlock:
    """Tensors of a layer with attention, `blk.{i}.*`, and norms of every layer."""

    attn_norm: Tensor = tensor("C")
    attn_qkv: Affine | None = affine("2HD+2KD C", bias="optional", presence="optional", layers="attention")
    attn_q: Affine = affine("2HD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_k: Affine = affine("KD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_v: Affine = affine("KD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_q_norm: Tensor = tensor("D", layers="attention")
    attn_k_norm: Tensor = tensor("D", layers="attention")
    attn_output: Tensor = tensor("C HD", layers="attention")
    post_attention_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class MixingBlock(AttentionBlock):
    """What mixes tokens in a layer, `blk.{i}.*`: tensors of attention or of a delta net."""

    linear_qkv: Tensor = tensor("I+2GN C", name="attn_qkv", layers="recurrent")
    attn_gate: Tensor = tensor("I C", layers="recurrent")
    ssm_conv1d: Tensor = tensor("I+2GN conv", layers="recurrent")
    ssm_dt: Tensor = tensor("dt", end="bias", layers="recurrent")
    ssm_a: Tensor = tensor("dt", end="", layers="recurrent")
    ssm_beta: Tensor = tensor("dt C", layers="recurrent")
    ssm_alpha: Tensor = tensor("dt C", layers="recurrent")
    ssm_norm: Tensor = tensor("N", layers="recurrent")
    ssm_out: Tensor = tensor("C I", layers="recurrent")


@dataclass(frozen=True)
class Block(MixingBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not
    embd_proj: Affine | None = affine("out C", bias="optional", presence="optional", name="cls.output")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C), or where the file has cls.output, vectors (T, n_embd_out)."""
    x = taps("model.input_embed", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, the norm behind them and, if there is one, a last product: (T, C) -> (T, C or n_embd_out)."""
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

        # feed-forward: every token on its own
        y = tap("attn_post_norm", ops.rms_norm(x, blk.post_attention_norm, eps, tap))  # (T, C)
        gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        x = tap("l_out", ops.add(h, x))

    x = taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
    return x if w.embd_proj is None else taps("result_embd_proj", ops.linear(x, *w.embd_proj))


def linear_attention(y: Float, blk: MixingBlock, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """A layer with a delta net: y (T, C) -> (T, C)."""
    ssm = hp.ssm
    assert ssm is not None
    qkv = tap("linear_attn_qkv_mixed", ops.linear(y, blk.linear_qkv))  # (T, I + 2 G N)
    q, k, v = delta_net.convolved(qkv, blk.ssm_conv1d, hp, batch, ops, tap)
    alpha = tap("alpha", ops.linear(y, blk.ssm_alpha))  # (T, dt)
    g = tap("gate", ops.log_decay(alpha, blk.ssm_dt, blk.ssm_a, tap))
    beta = tap("beta_sigmoid", ops.sigmoid(tap("beta", ops.linear(y, blk.ssm_beta))))  # (T, dt)
    o = ops.gated_delta_rule(q, k, v, g, beta, batch.offsets).reshape(len(y), ssm.dt_rank, -1)
    o = tap("attn_output", o)  # (T, dt, N)
    o = tap("attn_normed", ops.rms_norm(o, blk.ssm_norm, hp.norm_eps, tap))  # unnamed in llama.cpp's graph
    z = tap("z", ops.linear(y, blk.attn_gate))  # (T, I)
    return tap("linear_attn_out", ops.linear(delta_net.let_through(o, z, ops, tap), blk.ssm_out))


def gated_attention(y: Float, blk: AttentionBlock, rope: Rope, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """A layer with attention, whose heads a gate lets through: y (T, C) -> (T, C)."""
    T, H, K, D, eps = len(y), hp.n_head, hp.n_head_kv, hp.n_embd_head, hp.norm_eps
    parts: list[Float] = []
    if blk.attn_qkv is not None:
        name = "wqkv_b" if blk.attn_qkv.bias else "wqkv"
        fused = tap(name, ops.linear(y, *blk.attn_qkv, tap, "wqkv"))  # (T, 2 H D + 2 K D)
        parts = ops.split(fused, [2 * H * D, K * D, K * D])

    both = parts[0] if parts else tap("Qcur_full", ops.linear(y, *blk.attn_q, tap, ""))  # (T, 2 H D)
    q, gate = ops.split(both.reshape(T * H, 2 * D), [D, D])  # of each head first the query, then its gate
    q = tap("Qcur_normed", ops.rms_norm(q.reshape(T, H, D), blk.attn_q_norm, eps, tap))  # (T, H, D)
    q = tap("Qcur", ops.rope(q, batch.pos, rope))
    v = parts[2] if parts else tap("Vcur", ops.linear(y, *blk.attn_v, tap, ""))  # (T, K D)
    k = parts[1] if parts else tap("Kcur", ops.linear(y, *blk.attn_k, tap, ""))  # (T, K D)
    k = tap("Kcur_normed", ops.rms_norm(k.reshape(T, K, D), blk.attn_k_norm, eps, tap))  # (T, K, D)
    k = tap("Kcur", ops.rope(k, batch.pos, rope))

    spec = AttentionSpec(H, K, 1 / math.sqrt(D), AttentionMask(causal=hp.causal), cached=True)
    q, k = (x.reshape(T, -1) for x in (q, k))
    a = tap("attn_pregate", ops.attention(q, k, v, spec, batch.offsets, tap))  # (T, H D)
    gate = tap("gate_sigmoid", ops.sigmoid(gate.reshape(T, H * D)))
    a = tap("attn_gated", ops.multiply(a, gate))
    return tap("attn_output", ops.linear(a, blk.attn_output))
