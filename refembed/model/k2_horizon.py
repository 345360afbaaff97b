"""K2 Horizon: dense 0.9B to 32B, and MoVA-36B-A4B, whose values come of experts as well.

IFM 2026, "K2 Horizon": RMS norms of groups of channels, queries and keys normed head by head with weights of each head,
an output gate of attention; in the layers with experts a token's values are a mixture (MoVA, a mixture of values):
each is SiLU of a product, and a router weighs them. Feed-forward is `routed`. Mirrors llama.cpp's
src/models/k2-horizon.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► * gate ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm                                                  or ─► experts
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import routed
from refembed.model.batch import Batch
from refembed.model.blocks import attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.hparams_experts import SIGMOID
from refembed.model.moe import SMALLEST_HALF
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", turns_whole_heads=False, experts="after dense, if any", expert_width="own",
    shared_count="optional", routing="sigmoid", value_experts=True,
)  # fmt: skip


@dataclass(frozen=True)
class Block(routed.RoutedBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    ffn_gate_up_exps: None = tensor("X 2exp C", presence="absent")
    attn_norm: Tensor = tensor("C")
    attn_q: Tensor = tensor("HD C")
    attn_k: Tensor = tensor("KD C")
    attn_q_norm: Tensor | None = tensor("HD", presence="optional")
    attn_k_norm: Tensor | None = tensor("KD", presence="optional")
    attn_v: Tensor = tensor("KD C", layers="one value")
    attn_v_gate: Affine = affine("VX C", bias="optional", layers="value experts")
    attn_v_exps: Tensor = tensor("VX KD C", layers="value experts")
    attn_gate: Tensor | None = tensor("HD C", presence="optional")
    attn_output: Tensor = tensor("C HD")
    ffn_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). Unnamed in llama.cpp's graph: group_norm, ..._product,
    ..._normed, out_gate..., attn_out_gated, and of v_moe_... all but logits, probs_biased, argsort and weighted.
    """
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    scale = 1 / math.sqrt(hp.n_embd_head)
    rope = replace(rope_of(hp, 0), beta_fast=hp.yarn_beta_fast, beta_slow=hp.yarn_beta_slow)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back
        y = tap("attn_norm", group_norm(x, blk.attn_norm, hp, ops, tap))  # (T, C)
        v = None if blk.attn_v is not None else routed_values(y, blk, hp, ops, tap)  # (T, K D)
        q = heads("Qcur", y, blk.attn_q, blk.attn_q_norm, hp.n_head, hp.norm_eps, ops, tap)  # (T, H, D)
        q = tap("Qcur", ops.rope(q, batch.pos, rope))
        v = tap("Vcur_product", ops.linear(y, blk.attn_v)) if v is None else v
        v = tap("Vcur", v.reshape(len(v), hp.n_head_kv, -1))  # (T, K, D)
        k = heads("Kcur", y, blk.attn_k, blk.attn_k_norm, hp.n_head_kv, hp.norm_eps, ops, tap)  # (T, K, D)
        k = tap("Kcur", ops.rope(k, batch.pos, rope))
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        if blk.attn_gate is not None:
            a = tap("attn_out_gated", ops.multiply(a, output_gate(y, blk.attn_gate, ops, tap)))
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", group_norm(x, blk.ffn_norm, hp, ops, tap))  # (T, C)
        x = tap("l_out", ops.add(routed.feed_forward(y, blk, il, hp, ops, tap), x))

    return taps("result_norm", group_norm(x, w.output_norm, hp, ops, taps))


def group_norm(x: Float, w: Tensor, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """RMS norm of each of a few groups of channels by itself, then w, channel by channel: (T, C) -> (T, C)."""
    groups = x.reshape(len(x), hp.n_norm_group, -1)  # (T, G, C/G)
    w = w.reshape(*groups.shape[1:])
    if not tap.active:
        return ops.rms_norm(groups, w, hp.norm_eps).reshape(x.shape)
    normed = tap("group_norm", ops.rms_norm(groups, None, hp.norm_eps))
    return (normed * ops.weight(w)).reshape(x.shape)


def heads(name: str, y: Float, w: Tensor, norm: Tensor | None, n: int, eps: float, ops: Ops, tap: Tap) -> Float:
    """n heads of queries or keys (T, n, D), each normed with weights of its own where the model has them."""
    x = tap(f"{name}_product", ops.linear(y, w)).reshape(len(y), n, -1)
    if norm is None:
        return x
    return tap(f"{name}_normed", ops.rms_norm(x, norm.reshape(*x.shape[1:]), eps, tap))


def output_gate(y: Float, w: Tensor, ops: Ops, tap: Tap) -> Float:
    """How much of each channel of attention is let through: softplus to the base of 2, log2(1 + 2^g), (T, H D)."""
    g = tap("out_gate_ln2", ops.scale(tap("out_gate_product", ops.linear(y, w)), math.log(2)))
    g = tap("out_gate_softplus", ops.log_decay(g, constant(0, w.shape[0]), constant(1, w.shape[0])))
    return tap("out_gate", ops.scale(g, 1 / math.log(2)))


@lru_cache(maxsize=64)  # one object each: operations keep what they decode by tensor
def constant(number: float, size: int) -> Tensor:
    """A number, size times."""
    return Tensor.of(np.full(size, number, np.float32), f"{size} x {number}")


def routed_values(y: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """Values (T, K D) in layers with experts: a mixture of SiLU of a few products."""
    how, n_used = hp.routing, hp.n_value_used
    assert how is not None  # as there are experts
    logits = tap("v_moe_logits", ops.linear(y, blk.attn_v_gate.weight))  # (T, VX)
    p = tap("v_moe_p", ops.sigmoid(logits) if how.gating == SIGMOID else ops.softmax(logits))
    suited = p if blk.attn_v_gate.bias is None else tap("v_moe_probs_biased", ops.add_bias(p, blk.attn_v_gate.bias))
    order = tap("v_moe_argsort", np.argsort(-suited, axis=1, kind="stable").astype(p.dtype)).astype(np.int64)
    chosen = order[:, :n_used]
    v = tap("v_moe_values", ops.experts(y, blk.attn_v_exps, chosen))  # (T, k, K D)
    T, k, KD = v.shape
    v = tap("v_moe_silu", ops.silu(v.reshape(T * k, KD)).reshape(v.shape))
    scaled = how.scale not in (0.0, 1.0)
    weights = tap("v_moe_chosen" if how.norm or scaled else "v_moe_weights", np.take_along_axis(p, chosen, axis=1))
    if how.norm:
        total = np.add.accumulate(weights, axis=1, dtype=np.float64)[:, -1:].astype(p.dtype)  # (T, 1)
        total = tap("v_moe_clamped", np.maximum(tap("v_moe_sum", total), p.dtype.type(SMALLEST_HALF)))
        weights = tap("v_moe_normed", weights / total)
    if scaled:
        weights = tap("v_moe_weights", ops.scale(weights, how.scale))
    v = tap("v_moe_weighted", v * weights[:, :, None])
    out = v[:, 0]
    for rank in range(1, k):
        out = out + v[:, rank]
        if rank < k - 1:
            out = tap("v_moe_partial", out)
    return tap("Vcur_routed", np.ascontiguousarray(out))
