"""LFM2, LFM2-ColBERT and LFM2.5-Embedding (Liquid AI), dense.

Liquid AI 2025, "LFM2 Technical Report": most layers mix neighbors by a short gated convolution, a few by attention
with normed queries and keys. Mirrors llama.cpp's src/models/lfm2.cpp; taps carry that graph's names, braces and all.
dense_2 multiplies the pooled vector, or each token's (ColBERT).

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► convolution or attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm
    convolution  x ─► in_proj = b, c, u;  b * u ─► short_conv ─► * c ─► out_proj
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, rope_of
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", window="standard", turns_whole_heads=False, heads="fill", short_conv=True,
    recurrent="heads", runs_alone=True,
)  # fmt: skip


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`: those of a convolution or those of attention."""

    attn_qkv: Affine | None = affine("HD+2KD C", bias="optional", presence="optional", layers="attention")
    attn_q: Affine = affine("HD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_k: Affine = affine("KD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_v: Affine = affine("KD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_q_norm: Tensor = tensor("D", layers="attention")
    attn_k_norm: Tensor = tensor("D", layers="attention")
    attn_output: Tensor = tensor("C C", layers="attention")
    shortconv_in_proj: Tensor = tensor("3C C", name="shortconv.in_proj", layers="recurrent")
    shortconv_conv: Tensor = tensor("C conv", name="shortconv.conv", layers="recurrent")
    shortconv_out_proj: Tensor = tensor("C C", name="shortconv.out_proj", layers="recurrent")
    attn_norm: Tensor = tensor("C")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    token_embd_norm: Tensor = tensor("C")  # of the hidden states at the end, whatever its name
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not
    dense_2: Affine | None = affine("out C", bias="optional", presence="optional")


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
        x = tap("l_out", ops.add(feed_forward(y, blk, ops, tap), x))

    return taps("result_norm", ops.rms_norm(x, w.token_embd_norm, eps, taps))


def feed_forward(y: Float, blk: Block, ops: Ops, tap: Tap) -> Float:
    """SwiGLU (Shazeer 2020): (T, C) -> (T, C)."""
    gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
    up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
    h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
    return tap("ffn_down", ops.linear(h, blk.ffn_down))


def attention(y: Float, blk: Block, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """A layer with attention: y (T, C) -> (T, C). Roped queries and keys are unnamed in llama.cpp's graph."""
    eps, rope = hp.norm_eps, rope_of(hp, 0)  # the same with a window
    qkv = Qkv(y, blk, hp, ops, tap)
    q = tap("model.layers.{}.self_attn.q_layernorm", ops.rms_norm(qkv.queries(), blk.attn_q_norm, eps, tap))
    q = tap("Qcur_roped", ops.rope(q, batch.pos, rope))  # (T, H, D)
    if not hp.n_swa:  # in the order of llama.cpp's graph, which depends on the kind of its cache
        v = qkv.values()  # (T, K, D)
    k = tap("model.layers.{}.self_attn.k_layernorm", ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap))
    k = tap("Kcur_roped", ops.rope(k, batch.pos, rope))  # (T, K, D)
    if hp.n_swa:
        v = qkv.values()  # (T, K, D)
    mask = AttentionMask(causal=hp.causal, window=hp.n_swa)
    spec = AttentionSpec(hp.n_head, hp.n_head_kv, 1 / math.sqrt(hp.n_embd_head), mask, cached=True)
    a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
    return tap("model.layers.{}.self_attn.out_proj", ops.linear(a, blk.attn_output))


def short_conv(y: Float, blk: Block, hp: Hparams, batch: Batch, ops: Ops, tap: Tap) -> Float:
    """A layer with a convolution, gated before and after: y (T, C) -> (T, C). The gated are unnamed in llama.cpp."""
    bcu = tap("model.layers.{}.conv.in_proj", ops.linear(y, blk.shortconv_in_proj))  # (T, 3C)
    b, c, u = (np.ascontiguousarray(part) for part in np.split(bcu, 3, axis=1))  # 3 x (T, C)
    bu = tap("conv_gated", b * u)
    ahead = 0 if hp.causal else (hp.n_shortconv_l_cache - 1) // 2  # how many tokens it sees of what follows
    z = tap("model.layers.{}.conv.conv", ops.short_conv(bu, blk.shortconv_conv, batch.offsets, ahead))  # (T, C)
    return tap("model.layers.{}.conv.out_proj", ops.linear(tap("conv_gated_again", c * z), blk.shortconv_out_proj))
