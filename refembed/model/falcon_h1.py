"""Falcon-H1.

Zuo et al. 2025, "Falcon-H1: A Family of Hybrid-Head Language Models": attention and a Mamba 2 mixer next to each other
in every layer, on the same input, and their sum goes on. The published model's many multipliers are in the weights of a
GGUF file. Mirrors llama.cpp's src/models/falcon-h1.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─┬─► attention ─┬─► + ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
                            └─► mixer ─────┘
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import mamba2
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", turns_whole_heads=False, ssm="mamba2", runs_alone=True)


@dataclass(frozen=True)
class Block(QkvBlock, mamba2.Block):
    """Tensors of one layer, `blk.{i}.*`: of attention, a mixer and feed-forward."""

    attn_output: Affine = affine("C HD", bias="optional")
    ffn_norm: Tensor = tensor("C", end="")
    ffn_gate: Affine = affine("F C", bias="optional")
    ffn_up: Affine = affine("F C", bias="optional")
    ffn_down: Affine = affine("C F", bias="optional")
    ssm_norm: Tensor | None = tensor("G I/G", presence="optional")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    rope_freqs: Tensor | None = tensor("rot/2", presence="optional")  # not read by llama.cpp's graph either
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
        rope, spec = rope_of(hp, il), attention_spec(hp, il, scale)

        # every token looks at all before it, and at a state
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur-post-rope", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur-post-rope", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        if tap.active:  # llama.cpp norms twice
            y = tap("ssm_in", ops.rms_norm(x, blk.attn_norm, eps, tap))
        scanned = mamba2.scanned(y, blk, hp, batch, ops, tap)
        a = tap("attn_out", ops.linear(a, blk.attn_output.weight))  # (T, C); its bias is not read
        s = tap("ssm_out", mamba2.gated(*scanned, blk, hp, ops, tap))  # (T, C)
        x = tap("ffn_inp", ops.add(tap("layer_out", ops.add(a, s)), x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        gate = tap("ffn_gate_b" if blk.ffn_gate.bias else "ffn_gate", ops.linear(y, *blk.ffn_gate, tap, "ffn_gate"))
        up = tap("ffn_up_b" if blk.ffn_up.bias else "ffn_up", ops.linear(y, *blk.ffn_up, tap, "ffn_up"))  # (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, *blk.ffn_down, tap, "ffn_down"))  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
