"""Nomic BERT: nomic-embed-text v1 and v1.5, CodeRankEmbed.

Nussbaum et al. 2024, "Nomic Embed: Training a Reproducible Long Context Text Embedder": BERT with RoPE for positions
and a gated feed-forward part, without biases. Mirrors llama.cpp's src/models/nomic-bert.cpp, whose graph is that of
bert.cpp; taps carry its names.

          ids ─► token_embd + token_types[0] ─► norm ─► x
    n_layer ×    x ─► attention ─► + x ─► norm ─► y ─► silu(gate) * up ─► down ─► + y ─► norm ─► x
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
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="layer", rope="neox", turns_whole_heads=False, heads="fill", needs_token_types=True, encoder=True,
    output="result_embd",
)  # fmt: skip


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`. llama.cpp takes biases of the feed-forward part, and leaves them unused."""

    attn_output: Affine = affine("C C", bias="optional")
    attn_output_norm: Affine = affine("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Affine = affine("F C", bias="optional")
    ffn_down: Affine = affine("C F", bias="optional")
    layer_output_norm: Affine = affine("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    token_types: Tensor | None = tensor("types C", presence="optional")
    token_embd_norm: Affine = affine("C")
    blk: tuple[Block, ...] = blocks(Block)


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). l_out is unnamed in llama.cpp's graph, but for the last."""
    x = ops.get_rows(w.token_embd, batch.ids)  # (T, C)
    if w.token_types is not None:
        x = taps("embd", x) + ops.get_rows(w.token_types, [0])  # every token is of kind 0
    x = taps("inp_embd", x)
    x = taps("inp_norm-0", ops.layer_norm(x, *w.token_embd_norm, hp.norm_eps, at_layer(taps, 0)))
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, one after the other: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope, spec = rope_of(hp, il), attention_spec(hp, il, scale, cached=False)

        # self-attention: every token looks at all tokens of its own text
        qkv = Qkv(x, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, qkv.values(), spec, batch, ops, tap)  # (T, C)
        a = tap("kqv_out", ops.linear(a, *blk.attn_output, tap, ""))
        y = tap("ffn_inp", ops.add_layer_norm(a, x, *blk.attn_output_norm, eps, tap))

        # feed-forward: every token on its own
        gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up.weight))  # (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down.weight))  # (T, C)
        x = ops.add_layer_norm(h, y, *blk.layer_output_norm, eps, tap)
        x = taps("result_embd" if il == hp.n_layer - 1 else f"l_out-{il}", x)

    return x
