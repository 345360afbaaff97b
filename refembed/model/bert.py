"""BERT: MiniLM, BGE, E5, GTE and other encoders of the `bert` architecture (RoBERTa and XLM-R are converted to it too).

Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers"; the block is Vaswani et al. 2017, figure 1
(left), normalized after each residual. Mirrors llama.cpp's src/models/bert.cpp; taps carry that graph's names.

          ids ─► token_embd + token_types[0] + position_embd ─► norm ─► x
    n_layer ×    x ─► attention ─► + x ─► norm ─► y ─► up ─► gelu ─► down ─► + y ─► norm ─► x
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import attend, products, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", encoder=True, needs_token_types=True, output="result_embd")


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`: either attn_qkv, or attn_q, attn_k and attn_v."""

    attn_qkv: Affine | None = affine("3C C", bias="optional", presence="optional")
    attn_q: Affine = affine("C C", bias="optional", unless="attn_qkv")
    attn_k: Affine = affine("C C", bias="optional", unless="attn_qkv")
    attn_v: Affine = affine("C C", bias="optional", unless="attn_qkv")
    attn_output: Affine = affine("C C", bias="optional")
    attn_output_norm: Affine = affine("C")
    ffn_up: Affine = affine("F C", bias="optional")
    ffn_down: Affine = affine("C F", bias="optional")
    layer_output_norm: Affine = affine("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    token_types: Tensor | None = tensor("types C", presence="optional")
    position_embd: Tensor = tensor("P C")
    token_embd_norm: Affine = affine("C")
    blk: tuple[Block, ...] = blocks(Block)
    cls: Affine | None = affine(
        "C C", bias="optional", presence="optional"
    )  # a reranker's head; embedding needs it not
    cls_output: Affine | None = affine("R C", bias="optional", presence="optional", name="cls.output")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C).

    Where a tensor has no bias, llama.cpp's name for the sum goes to the product alone.
    """
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    if w.token_types is not None:
        x = x + ops.get_rows(w.token_types, [0])  # llama.cpp gives every token segment 0, also in pairs
    x = taps("inp_embd", x + ops.get_rows(w.position_embd, batch.pos))  # (T, C)
    x = taps("inp_norm-0", ops.layer_norm(x, *w.token_embd_norm, hp.norm_eps, at_layer(taps, 0)))
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, one after the other: (T, C) -> (T, C)."""
    spec = AttentionSpec(hp.n_head, hp.n_head, 1 / math.sqrt(hp.n_embd_head))
    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # self-attention: every token looks at all tokens of its own text
        if blk.attn_qkv is not None:
            qkv = tap("wqkv_b" if blk.attn_qkv.bias else "wqkv", ops.linear(x, *blk.attn_qkv, tap, "wqkv"))  # (T, 3C)
            q, k, v = ops.split(qkv, [hp.n_embd] * 3)  # 3 x (T, C)
        else:
            q, k, v = products(ops, x, tap, Qcur=blk.attn_q, Kcur=blk.attn_k, Vcur=blk.attn_v)  # 3 x (T, C)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C) heads side by side
        a = tap("kqv_out", ops.linear(a, *blk.attn_output, tap, ""))  # (T, C)
        x = tap("ffn_inp", ops.add_layer_norm(a, x, *blk.attn_output_norm, hp.norm_eps, tap))

        # feed-forward: every token on its own
        h = tap("ffn_up_b" if blk.ffn_up.bias else "ffn_up", ops.linear(x, *blk.ffn_up, tap, "ffn_up"))  # (T, F)
        h = tap("ffn_gelu", ops.gelu(h))  # (T, F)
        h = tap("ffn_out", ops.linear(h, *blk.ffn_down, tap, "ffn_down"))  # (T, C)
        x = ops.add_layer_norm(h, x, *blk.layer_output_norm, hp.norm_eps, tap)
        x = taps("result_embd" if il == hp.n_layer - 1 else f"l_out-{il}", x)  # l_out: unnamed in llama.cpp's graph

    return x
