"""Jina BERT v2: jina-embeddings-v2 in all languages and for code, jina-reranker-v1.

Günther et al. 2023, "Jina Embeddings 2: 8192-Token General-Purpose Text Embeddings for Long Documents": BERT with ALiBi
(Press et al. 2022) for positions and a gated feed-forward part; the model for code also normalizes queries and keys,
and adds a layer's input once more. Mirrors llama.cpp's src/models/jina-bert-v2.cpp, whose graph is that of bert.cpp;
taps carry its names.

          ids ─► token_embd + token_types[0] ─► norm ─► x
    n_layer ×    x ─► attention ─► + x ─► norm (─► + x ─► norm) ─► y ─► gelu(gate) * up ─► down ─► + y ─► norm ─► x
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", heads="fill", encoder=True, output="result_embd")
ALIBI = AttentionMask(max_bias=8.0)


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`. Without ffn_gate, ffn_up may hold both: the gate's rows first."""

    attn_q_norm: Affine | None = affine("C", bias="optional", presence="optional")
    attn_k_norm: Affine | None = affine("C", bias="optional", presence="optional")
    attn_output: Affine = affine("C C")
    attn_output_norm: Affine = affine("C")
    attn_norm_2: Affine | None = affine("C", bias="optional", presence="optional")
    ffn_gate: Tensor | None = tensor("F C", presence="optional")
    ffn_up: Affine = affine("F|2F C", bias="optional")
    ffn_down: Affine = affine("C F")
    layer_output_norm: Affine = affine("C")

    def __post_init__(self) -> None:
        """Refuse what llama.cpp loads and aborts on: two gates, norms behind one matrix, or of too many channels."""
        if self.ffn_gate and self.ffn_up and self.ffn_up.weight.shape != self.ffn_gate.shape:
            raise ModelError(f"{self.ffn_up.weight.name} holds a gate, and {self.ffn_gate.name} is one")
        if self.attn_qkv and (norm := self.attn_q_norm or self.attn_k_norm):
            raise ModelError(f"{norm.weight.name} cannot norm a part of what {self.attn_qkv.weight.name} makes")
        if self.attn_k_norm and self.attn_k and self.attn_k.weight.shape[:1] != self.attn_k_norm.weight.shape:
            raise ModelError(f"{self.attn_k_norm.weight.name} is for as many heads of keys as there are of queries")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    token_types: Tensor = tensor("types C")
    token_embd_norm: Affine = affine("C")
    blk: tuple[Block, ...] = blocks(Block)
    cls: Affine | None = affine("1 C", bias="optional", presence="optional")  # a reranker's head


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out_norm and l_out (but for the last) are unnamed in llama.cpp."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    x = taps("inp_embd", x + ops.get_rows(w.token_types, [0]))  # every token is of kind 0
    x = taps("inp_norm-0", ops.layer_norm(x, *w.token_embd_norm, hp.norm_eps, at_layer(taps, 0)))
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, one after the other: (T, C) -> (T, C)."""
    eps, T = hp.norm_eps, len(batch.ids)
    spec = AttentionSpec(hp.n_head, hp.n_head_kv, 1 / math.sqrt(hp.n_embd_head), ALIBI)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # self-attention: every token looks at all tokens of its own text, at those far away less
        qkv = Qkv(x, blk, hp, ops, tap)
        q = qkv.queries().reshape(T, -1)  # (T, C)
        if blk.attn_q_norm is not None:
            q = tap("Qcur", ops.layer_norm(q, *blk.attn_q_norm, eps, tap))  # all heads at once
        k = qkv.keys().reshape(T, -1)
        if blk.attn_k_norm is not None:
            k = tap("Kcur", ops.layer_norm(k, *blk.attn_k_norm, eps, tap))
        a = attend(q, k, qkv.values(), spec, batch, ops, tap)  # (T, C)
        a = tap("kqv_out", ops.linear(a, *blk.attn_output, tap, ""))
        y = ops.add_layer_norm(a, x, *blk.attn_output_norm, eps, tap)
        if blk.attn_norm_2 is not None:
            y = tap("attn_out_norm", y)
            y = ops.add_layer_norm(y, x, *blk.attn_norm_2, eps, tap)
        y = tap("ffn_inp", y)

        h = feed_forward(y, blk, ops, tap)  # (T, C)
        x = ops.add_layer_norm(h, y, *blk.layer_output_norm, eps, tap)
        x = taps("result_embd" if il == hp.n_layer - 1 else f"l_out-{il}", x)

    return x


def feed_forward(y: Float, blk: Block, ops: Ops, tap: Tap) -> Float:
    """Every token on its own: gated by ffn_gate, by the first half of ffn_up, or not at all."""
    F = blk.ffn_down.weight.shape[1]
    gate = None if blk.ffn_gate is None else tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
    up = tap("ffn_up_b" if blk.ffn_up.bias else "ffn_up", ops.linear(y, *blk.ffn_up, tap, "ffn_up"))
    if gate is None and up.shape[1] != F:
        gate, up = ops.split(up, [up.shape[1] // 2] * 2)
    h = tap("ffn_gelu", ops.gelu(up)) if gate is None else tap("ffn_geglu", ops.geglu(gate, up))
    return tap("ffn_out", ops.linear(h, *blk.ffn_down, tap, "ffn_down"))
