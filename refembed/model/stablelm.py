"""StableLM 2 (1.6B, 3B, 12B) and StableLM Zephyr.

Bellagente et al. 2024, "Stable LM 2 1.6B Technical Report": Llama with LayerNorm, in which RoPE turns a part of each
head. The 12B model has no norm in front of feed-forward, which is then parallel to attention and reads the same
normalized input; it also normalizes queries and keys, with weights for each head. Mirrors llama.cpp's
src/models/stablelm.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
             or  x ─► norm ─► z;   down(silu(gate(z)) * up(z)) + (attention(z) + x) ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, rope_of, run_layers, swiglu_mlp
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", rope="neox", turns_whole_heads=False, heads="fill")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Affine = affine("C")
    attn_q_norm: Tensor | None = tensor("H D", presence="optional")
    attn_k_norm: Tensor | None = tensor("K D", presence="optional")
    attn_output: Tensor = tensor("C C")
    ffn_norm: Affine | None = affine("C", bias="optional", presence="optional")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C")
    output: Tensor = tensor("V C")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out is unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.layer_norm(x, *blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = qkv.queries()  # (T, H, D)
        q = q if blk.attn_q_norm is None else tap("Qcur", ops.layer_norm(q, blk.attn_q_norm, None, eps, tap))
        q = tap("Qcur", ops.rope(q, batch.pos, rope))
        v = qkv.values()  # (T, K, D)
        k = qkv.keys()  # (T, K, D)
        k = k if blk.attn_k_norm is None else tap("Kcur", ops.layer_norm(k, blk.attn_k_norm, None, eps, tap))
        k = tap("Kcur", ops.rope(k, batch.pos, rope))
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)

        # feed-forward: every token on its own, of what attention was given, or of what it adds up to
        if blk.ffn_norm is None:
            h = swiglu_mlp(y, blk.ffn_gate, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
            a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
            x = tap("ffn_inp", ops.add(a, x))
        else:
            a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
            x = tap("ffn_inp", ops.add(a, x))
            y = tap("ffn_norm", ops.layer_norm(x, *blk.ffn_norm, eps, tap))  # (T, C)
            h = swiglu_mlp(y, blk.ffn_gate, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))
