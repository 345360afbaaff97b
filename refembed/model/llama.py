"""Llama 1 to 3, Mistral, and embedders made from them (e5-mistral, SFR, LLM2Vec).

Touvron et al. 2023, "LLaMA"; RoPE turns neighboring channels, as the converter has reordered Q and K for it. Mirrors
llama.cpp's src/models/llama.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
                                                          or ─► experts (Mixtral)
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, factors_of, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.moe import moe
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="rms", rope="norm", experts="all")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_output: Affine = affine("C HD", bias="optional")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Affine = affine("F C", bias="optional", layers="dense")
    ffn_up: Affine = affine("F C", bias="optional", layers="dense")
    ffn_down: Affine = affine("C F", bias="optional", layers="dense")
    ffn_gate_inp: Tensor = tensor("X C", layers="moe")
    ffn_gate_exps: Tensor | None = tensor("X F C", presence="optional", layers="moe")
    ffn_up_exps: Tensor = tensor("X F C", layers="moe")
    ffn_down_exps: Tensor = tensor("X C F", layers="moe")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    rope_freqs: Tensor | None = tensor("rot/2", presence="optional", layers="not longrope")  # Llama 3.1
    rope_factors_long: Tensor | None = tensor("rot/2", presence="optional", layers="longrope")  # rope.scaling.type
    rope_factors_short: Tensor | None = tensor("rot/2", presence="optional", layers="longrope")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, *, cached: bool = True) -> Float:
    """Token ids (T) -> hidden states (T, C). cached: with a cache of keys and values, as llama-embed is not."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers if cached else uncached_layers, w, hp, batch, ops, taps, x)


def layers(
    w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float, *, cached: bool = True
) -> Float:  # fmt: skip
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)
    factors = factors_of(hp, w.rope_freqs, w.rope_factors_long, w.rope_factors_short)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, factors)
        spec = attention_spec(hp, il, scale, cached=cached)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, ""))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        h = feed_forward(y, blk, il, hp, ops, tap)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


uncached_layers = partial(layers, cached=False)


def feed_forward(y: Float, blk: Block, il: int, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """SwiGLU (Shazeer 2020), or in a layer with experts those of each token: (T, C) -> (T, C)."""
    if hp.moe_layers[il]:
        experts = blk.ffn_gate_inp, blk.ffn_up_exps, blk.ffn_down_exps, hp.n_expert_used
        return moe(y, *experts, "silu", ops, tap, gate=blk.ffn_gate_exps, norm_weights=True)
    gate = tap("ffn_gate_b" if blk.ffn_gate.bias else "ffn_gate", ops.linear(y, *blk.ffn_gate, tap, "ffn_gate"))
    up = tap("ffn_up_b" if blk.ffn_up.bias else "ffn_up", ops.linear(y, *blk.ffn_up, tap, "ffn_up"))  # (T, F)
    h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
    return tap("ffn_out", ops.linear(h, *blk.ffn_down, tap, "ffn_down"))
