"""Command R7B, Command A and Aya Expanse (Cohere 2).

Cohere 2025, "Command A": Command R in which three layers of four look back through a window and turn queries and keys;
the fourth sees all and turns nothing (NoPE). Mirrors llama.cpp's src/models/cohere2.cpp; taps carry that graph's names.
logit_scale is for the next token alone.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► y;   down(silu(gate(y)) * up(y)) + x + attention(y) ─► x
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
from refembed.model.weights import blocks, tensor

TRAITS = Traits(
    norm="layer", rope="norm", window="standard", window_pattern=4, window_required=True, turns_whole_heads=False,
    heads="fill",
)  # fmt: skip


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_output: Tensor = tensor("C C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture; no output.weight. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out and ffn_added are unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, alike=True)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back, in layers 0, 1, 2, 4, 5 ... no further than the window
        y = tap("attn_norm", ops.layer_norm(x, blk.attn_norm, None, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = qkv.queries()  # (T, H, D)
        q = tap("Qcur", ops.rope(q, batch.pos, rope)) if hp.swa_layers[il] else q
        v = qkv.values()  # (T, K, D)
        k = qkv.keys()  # (T, K, D)
        k = tap("Kcur", ops.rope(k, batch.pos, rope)) if hp.swa_layers[il] else k
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)

        # feed-forward of the same y, every token on its own
        h = swiglu_mlp(y, blk.ffn_gate, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        x = tap("ffn_added", ops.add(h, x))
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("l_out", ops.add(x, a))

    return taps("result_norm", ops.layer_norm(x, w.output_norm, None, eps, taps))
