"""DeepSeek V2, V3 and R1, Kimi K2, GLM 4.7 Flash, GigaChat 3: multi-head latent attention, and many small experts.

DeepSeek-AI 2024, "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model", section 2.1: of
each token a cache keeps one short vector c, from which the keys and the values of all heads are made, and one piece of
a key that turns with its place, the same for all heads. Queries may come of a short vector as well. Feed-forward is
`routed`. Mirrors llama.cpp's src/models/deepseek2.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► latent attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm                                               or ─► experts, and a shared one

A query scores a key q_nope · (W_k c) + q_pe · k_pe. Older files compute the keys W_k c and values W_v c of each head
(attn_kv_b): `attention_of_heads`. Newer ones move W_k to the other side, (W_kᵀ q_nope) · c, so that all heads share the
one key [c, k_pe] and the one value c, and W_v follows behind (attn_k_b, attn_v_b): `absorbed_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Rope, Tap
from refembed.model import routed
from refembed.model.batch import Batch
from refembed.model.blocks import attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.hparams_latent import Latent
from refembed.model.mistral3 import temperature
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(
    norm="rms", rope="norm", turns_whole_heads=False, experts="after dense", expert_width="own",
    shared_count="required", routing="softmax", latent=True, nextn=True,
)  # fmt: skip

f32 = np.float32


@dataclass(frozen=True)
class Block(routed.RoutedBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_q: Tensor = tensor("HDk C", layers="queries at once")
    attn_q_a: Tensor = tensor("rq C", layers="queries through a rank")
    attn_q_a_norm: Tensor = tensor("rq", layers="queries through a rank")
    attn_q_b: Tensor = tensor("HDk rq", layers="queries through a rank")
    attn_kv_a_mqa: Tensor = tensor("rkv+rot C")
    attn_kv_a_norm: Tensor = tensor("rkv")
    attn_k_b: Tensor = tensor("H rkv nope", layers="absorbed")
    attn_v_b: Tensor = tensor("H Dv rkv", layers="absorbed")
    attn_kv_b: Tensor = tensor("H(nope+Dv) rkv", layers="not absorbed")
    attn_output: Tensor = tensor("C HDv")
    ffn_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, mla = hp.norm_eps, hp.latent
    assert mla is not None  # which TRAITS demand
    attention = absorbed_attention if mla.absorbed else attention_of_heads
    rope = rope_of_latent(hp, mla)
    spec = attention_spec(hp, 0, score_scale(hp, mla, rope))

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # self-attention: every token looks back
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        q = queries(y, blk, eps, ops, tap).reshape(len(y), mla.n_head, mla.n_key)  # (T, H, Dk)
        c, k_pe = ops.split(tap("kv_cmpr_pe", ops.linear(y, blk.attn_kv_a_mqa)), [mla.n_lora_kv, mla.n_rot])
        k_pe = tap("k_pe", ops.rope(k_pe[:, None], batch.pos, rope))  # (T, 1, rot)
        c = tap("kv_cmpr", ops.rms_norm(c, blk.attn_kv_a_norm, eps, tap))  # (T, rkv)
        a = attention(q, c, k_pe, blk, rope, spec, hp, batch, ops, tap)  # (T, H Dv)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        x = tap("l_out", ops.add(routed.feed_forward(y, blk, il, hp, ops, tap), x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def queries(y: Float, blk: Block, eps: float, ops: Ops, tap: Tap) -> Float:
    """(T, C) -> (T, H Dk): at once, or through a short vector and its norm."""
    if blk.attn_q is not None:
        return tap("q", ops.linear(y, blk.attn_q))
    q = tap("q", ops.linear(y, blk.attn_q_a))  # (T, rq)
    q = tap("q", ops.rms_norm(q, blk.attn_q_a_norm, eps, tap))
    return tap("q", ops.linear(q, blk.attn_q_b))


def attention_of_heads(
    q: Float, c: Float, k_pe: Float, blk: Block, rope: Rope, spec: AttentionSpec, hp: Hparams, batch: Batch, ops: Ops,
    tap: Tap,
) -> Float:  # fmt: skip
    """Each head has keys W_k c, which k_pe follows, and values W_v c: q (T, H, Dk) -> (T, H Dv)."""
    (T, H, Dk), rot = q.shape, k_pe.shape[2]
    kv = tap("kv", ops.linear(c, blk.attn_kv_b)).reshape(T, H, -1)  # (T, H, nope + Dv)
    k_nope, v = kv[:, :, : Dk - rot], kv[:, :, Dk - rot :]
    q_pe = ops.rope(np.ascontiguousarray(q[:, :, Dk - rot :]), batch.pos, rope)  # (T, H, rot)
    q = tap("Qcur", np.concatenate([q[:, :, : Dk - rot], q_pe], axis=2))
    k = tap("Kcur", np.concatenate([k_nope, np.broadcast_to(k_pe, (T, H, rot))], axis=2))
    q = grown(q, hp, batch, ops, tap)
    return attend(q, k, np.ascontiguousarray(v), spec, batch, ops, tap)


def absorbed_attention(
    q: Float, c: Float, k_pe: Float, blk: Block, rope: Rope, spec: AttentionSpec, hp: Hparams, batch: Batch, ops: Ops,
    tap: Tap,
) -> Float:  # fmt: skip
    """All heads share the key [c, k_pe] and the value c: q (T, H, Dk) -> (T, H Dv)."""
    (T, H, Dk), rot = q.shape, k_pe.shape[2]
    q_nope, q_pe = (np.ascontiguousarray(part) for part in (q[:, :, : Dk - rot], q[:, :, Dk - rot :]))
    q_pe = tap("q_pe", ops.rope(q_pe, batch.pos, rope))  # (T, H, rot)
    moved = by_head(tap, "q_nope_absorbed", ops.per_head(q_nope, blk.attn_k_b))  # (T, H, rkv)
    q = tap("Qcur", np.concatenate([moved, q_pe], axis=2))  # (T, H, rkv + rot)
    k = tap("Kcur", np.concatenate([c[:, None], k_pe], axis=2))  # (T, 1, rkv + rot)
    q = grown(q, hp, batch, ops, tap)
    a = ops.attention(q.reshape(T, -1), k.reshape(T, -1), c, spec, batch.offsets, tap)  # (T, H rkv)
    a = by_head(tap, "kqv_mla", ops.per_head(a.reshape(T, H, -1), blk.attn_v_b, attended=True))  # (T, H, Dv)
    return tap("kqv_out", a.reshape(T, -1))


def by_head(tap: Tap, name: str, x: Float) -> Float:
    """Show x (T, H, N) as llama.cpp has it, (H, T, N)."""
    if not tap.active:
        return x
    return np.ascontiguousarray(tap(name, np.ascontiguousarray(x.transpose(1, 0, 2))).transpose(1, 0, 2))


def grown(q: Float, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """Queries (T, H, D) that grow with their place in a long text, where the file says so."""
    if not hp.attn_temp_scale or hp.latent is None:
        return q
    factor = temperature(batch.pos, hp.attn_temp_scale, hp.latent.temp_length).astype(ops.dtype)  # (T)
    return tap("Qcur_attn_temp_scaled", q * factor[:, None, None])


def rope_of_latent(hp: Hparams, mla: Latent) -> Rope:
    """`rope_of`; YaRN makes turned vectors no longer where the file has a multiplier, which is for scores."""
    rope = rope_of(hp, 0)
    if hp.rope_scaling != "yarn" or not mla.yarn_log_mul:
        return rope
    return replace(rope, attn_factor=hp.rope_attn_factor * float(f32(1) / yarn_length(rope, f32(1))))


def yarn_length(rope: Rope, multiplier: np.float32) -> np.float32:
    """1 + 0.1 multiplier ln(factor), how much longer YaRN makes a vector, in float32 as llama.cpp has it."""
    length: np.float32 = f32(1) + f32(0.1) * multiplier * np.log(f32(1) / f32(rope.freq_scale))
    return length


def score_scale(hp: Hparams, mla: Latent, rope: Rope) -> float:
    """1/sqrt(Dk), the width of a head before W_k is moved, times the square of what YaRN makes of a vector's length."""
    length = f32(rope.attn_factor) * yarn_length(rope, f32(1)) * yarn_length(rope, f32(mla.yarn_log_mul))
    return float(length * length / np.sqrt(f32(mla.n_key)))
