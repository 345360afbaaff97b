"""Granite 4 (IBM), whose layers are Mamba 2 mixers but for a few with attention; dense, or with experts.

IBM Granite Team 2025, "Granite 4.0 Language Models": Granite with its scales (`granite`), and Mamba 2's mixer
(`mamba2`) in layers that have no heads of keys. Mirrors llama.cpp's src/models/granite-hybrid.cpp; taps carry that
graph's names.

          ids ─► token_embd ─► * embedding_scale ─► x
    n_layer ×    x ─► norm ─► mixer or attention ─► * r ─► + x ─► y
                 y ─► norm ─► silu(gate) * up ─► down ─► * r ─► + y ─► x
          x ─► norm                                                                     r: residual_scale
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import granite, mamba2
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.llama import feed_forward
from refembed.model.moe import shared_expert
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="rms", rope="norm", turns_whole_heads=False, experts="all", recurrent="heads", ssm="granite", runs_alone=True
)


@dataclass(frozen=True)
class Block(granite.Block, mamba2.Block):
    """Tensors of one layer, `blk.{i}.*`: Granite's, with a mixer's in place of attention's where there is a mixer."""

    attn_norm: Tensor = tensor("C")
    attn_qkv: Affine | None = affine("HD+2KD C", bias="optional", presence="optional", layers="attention")
    attn_q: Affine = affine("HD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_k: Affine = affine("KD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_v: Affine = affine("KD C", bias="optional", unless="attn_qkv", layers="attention")
    attn_output: Affine = affine("C HD", bias="optional", layers="attention")
    ssm_in: Tensor = tensor("2I+2GN+dt C", layers="recurrent")
    ssm_conv1d: Affine = affine("I+2GN conv", layers="recurrent")
    ssm_dt: Tensor = tensor("dt", end="bias", layers="recurrent")
    ssm_a: Tensor = tensor("dt 1", end="", layers="recurrent")
    ssm_d: Tensor = tensor("dt 1", end="", layers="recurrent")
    ssm_norm: Tensor | None = tensor("G I/G", layers="recurrent")
    ssm_out: Tensor = tensor("C I", layers="recurrent")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    rope_freqs: Tensor | None = tensor("rot/2", presence="optional")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). Products with residual_scale are unnamed in llama.cpp's graph."""
    x = ops.get_rows(w.token_embd, batch.ids)  # (T, C)
    if hp.embedding_scale:
        x = taps("inp_rows", x) * hp.embedding_scale  # unnamed in llama.cpp's graph
    x = taps("embd", x)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # every token looks back: at a state, or at all before it
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, hp.norm_eps, tap))  # (T, C)
        if hp.recurrent_layers[il]:
            a = tap("mamba_out", mamba2.mixer(y, blk, hp, batch, ops, tap))
        else:
            a = attention(y, blk, il, w.rope_freqs, hp, batch, ops, tap)
        if hp.residual_scale:
            a = tap("attn_scaled", ops.scale(a, hp.residual_scale))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, hp.norm_eps, tap))  # (T, C)
        h = feed_forward(y, blk, il, hp, ops, tap)  # (T, C)
        if hp.moe_layers[il] and hp.n_ff_shexp:
            h = tap("ffn_out", h + shared_expert(y, blk, ops, tap))
        if hp.residual_scale:
            h = tap("ffn_scaled", ops.scale(h, hp.residual_scale))
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, hp.norm_eps, taps))


def attention(
    y: Float, blk: Block, il: int, factors: Tensor | None, hp: Hparams, batch: Batch, ops: Ops, tap: Tap
) -> Float:
    """A layer with attention, turned or not: y (T, C) -> (T, C)."""
    rope, scale = rope_of(hp, il, factors), hp.attention_scale or 1 / math.sqrt(hp.n_embd_head)
    qkv = Qkv(y, blk, hp, ops, tap)
    q = qkv.queries()  # (T, H, D)
    q = tap("Qcur", ops.rope(q, batch.pos, rope)) if hp.rope_finetuned else q
    v = qkv.values()  # (T, K, D)
    k = qkv.keys()  # (T, K, D)
    k = tap("Kcur", ops.rope(k, batch.pos, rope)) if hp.rope_finetuned else k
    a = attend(q, k, v, attention_spec(hp, il, scale), batch, ops, tap)  # (T, H D)
    return tap("attn_out", ops.linear(a, *blk.attn_output, tap, ""))
