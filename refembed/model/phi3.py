"""Phi-3, Phi-3.5 and Phi-4 (dense).

Abdin et al. 2024, "Phi-3 Technical Report": Llama with one matrix for queries, keys and values, and one for gate and
up. RoPE's wavelengths are stretched channel by channel (Ding et al. 2024, "LongRoPE"), by one set of factors for long
contexts and one for short. Mirrors llama.cpp's src/models/phi3.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm

Two things depart from the published models, in llama.cpp and so here:

- Which factors hold goes by the size of the context, not by the length of a text. refembed takes the context to be the
  model's own, phi3.context_length: a Phi-3-mini-128k uses its long factors for the shortest text, as in llama.cpp with
  `-c 0`. With a context no longer than rope.scaling.original_context_length llama.cpp uses the short ones.
- phi3.attention.sliding_window is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, factors_of, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", turns_whole_heads=False, heads="fill")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_output: Tensor = tensor("C C")
    ffn_norm: Tensor = tensor("C")
    ffn_up: Tensor = tensor("2F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    rope_factors_long: Tensor | None = tensor("rot/2", presence="optional")
    rope_factors_short: Tensor | None = tensor("rot/2", presence="optional")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out and ffn_inp are unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps = hp.norm_eps
    scale = ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd_head))  # of queries; in float32 it takes two roundings
    factors = factors_of(hp, None, w.rope_factors_long, w.rope_factors_short)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, factors)
        spec = attention_spec(hp, il, 1.0)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        q = tap("Qcur", ops.scale(q, scale))
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        both = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, 2F)
        gate, up = ops.split(both, [hp.n_ff] * 2)  # 2 x (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
