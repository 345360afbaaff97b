"""EXAONE 4.0: 1.2B, 32B.

LG AI Research 2025, "EXAONE 4.0": norms stand behind attention and feed-forward, none in front; queries and keys are
normalized head by head. In the model of 64 layers three of four look back through a window and turn queries and keys;
the fourth sees all and turns nothing (NoPE). Mirrors llama.cpp's src/models/exaone4.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► attention ─► norm ─► + x ─► y ─► silu(gate) * up ─► down ─► norm ─► + y ─► x
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
    norm="rms", rope="neox", window="standard", window_pattern=4, window_default=4096, window_n_layer=64, heads="fill",
    nextn=True,
)  # fmt: skip


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_output: Tensor = tensor("C C")
    post_attention_norm: Tensor = tensor("C")
    attn_q_norm: Tensor = tensor("D")
    attn_k_norm: Tensor = tensor("D")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")
    post_ffw_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    rope_freqs: Tensor | None = tensor("rot/2", presence="optional")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, w.rope_freqs, alike=True)
        spec = attention_spec(hp, il, scale)
        turns = hp.swa_layers[il] or not hp.n_swa
        normed = ("Qcur_normed", "Kcur_normed") if turns else ("Qcur", "Kcur")

        # self-attention: every token looks back, in layers 0, 1, 2, 4, 5 ... of 64 no further than the window
        qkv = Qkv(x, blk, hp, ops, tap)
        q = tap(normed[0], ops.rms_norm(qkv.queries(), blk.attn_q_norm, eps, tap))  # (T, H, D)
        q = tap("Qcur", ops.rope(q, batch.pos, rope)) if turns else q
        v = qkv.values()  # (T, K, D)
        k = tap(normed[1], ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap))  # (T, K, D)
        k = tap("Kcur", ops.rope(k, batch.pos, rope)) if turns else k
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        a = tap("attn_post_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        h = swiglu_mlp(x, blk.ffn_gate, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        h = taps("ffn_post_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, taps))  # these two have no layer number
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
