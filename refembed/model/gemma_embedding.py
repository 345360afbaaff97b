"""EmbeddingGemma.

Schechter Vera et al. 2025, "EmbeddingGemma": Gemma 3 in which every token sees all, in five layers of six those around
it. Mirrors llama.cpp's src/models/gemma-embedding.cpp; taps carry that graph's names. dense_2 and dense_3 multiply the
pooled vector: `refembed.pooling.heads`.

          ids ─► token_embd ─► * sqrt(C) ─► x
    n_layer ×    x ─► norm ─► attention ─► norm ─► + x ─► y ─► norm ─► gelu(gate) * up ─► down ─► norm ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, embedded, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", window="symmetric", window_pattern=6, window_required=True, turns_whole_heads=False,
    encoder=True, images=True,
)  # fmt: skip


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_q_norm: Tensor = tensor("D")
    attn_k_norm: Tensor = tensor("D")
    attn_output: Tensor = tensor("C HD")
    post_attention_norm: Tensor = tensor("C")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")
    post_ffw_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not
    dense_2: Tensor | None = tensor("dense_2 C", presence="optional")  # after pooling: dense_3 (dense_2 x)
    dense_3: Tensor | None = tensor("C dense_3", presence="optional")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). Qcur_scaled and attn_out are unnamed in llama.cpp's graph."""
    x = embedded(w.token_embd, batch, ops, taps, math.sqrt(hp.n_embd))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps = hp.norm_eps
    scale = ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd_head))  # of queries; in float32 it takes two roundings

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)
        mask = AttentionMask(window=hp.n_swa if hp.swa_layers[il] else 0, kind="symmetric")
        spec = AttentionSpec(hp.n_head, hp.n_head_kv, 1.0, mask)

        # self-attention: in five layers of six a token sees n_swa/2 tokens to either side, in the sixth all
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur_normed", ops.rms_norm(qkv.queries(), blk.attn_q_norm, eps, tap))  # (T, H, D)
        q = tap("Qcur_scaled", ops.scale(tap("Qcur", ops.rope(q, batch.pos, rope)), scale))
        k = tap("Kcur_normed", ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap))  # (T, K, D)
        k = tap("Kcur", ops.rope(k, batch.pos, rope))
        a = attend(q, k, qkv.values(), spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        a = tap("attn_post_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        x = tap("sa_out", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
        h = tap("ffn_geglu", ops.geglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        h = taps("ffn_post_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, taps))  # these two have no layer number
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
