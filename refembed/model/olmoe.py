"""OLMoE: OLMoE-1B-7B (Allen Institute for AI).

Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts Language Models": Llama with experts in every layer; all
queries of a token are normalized as one vector, and so are its keys. Mirrors llama.cpp's src/models/olmoe.cpp; taps
carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► experts ─► + y ─► x
          x ─► norm
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
from refembed.model.moe import moe
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", heads="equal", experts="required")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_q_norm: Tensor = tensor("C")
    attn_k_norm: Tensor = tensor("C")
    attn_output: Tensor = tensor("C HD")
    ffn_norm: Tensor = tensor("C")
    ffn_gate_inp: Tensor = tensor("X C")
    ffn_gate_exps: Tensor = tensor("X F C")
    ffn_up_exps: Tensor = tensor("X F C")
    ffn_down_exps: Tensor = tensor("X C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
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
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap, product="_product")
        q = qkv.queries()  # (T, H, D)
        q = tap("Qcur_normed", ops.rms_norm(q.reshape(len(q), -1), blk.attn_q_norm, eps, tap)).reshape(q.shape)
        q = tap("Qcur", ops.rope(q, batch.pos, rope))
        v = qkv.values()  # (T, K, D)
        k = qkv.keys()  # (T, K, D)
        k = tap("Kcur_normed", ops.rms_norm(k.reshape(len(k), -1), blk.attn_k_norm, eps, tap)).reshape(k.shape)
        k = tap("Kcur", ops.rope(k, batch.pos, rope))
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own, through its experts
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        experts = blk.ffn_gate_inp, blk.ffn_up_exps, blk.ffn_down_exps, hp.n_expert_used
        h = moe(y, *experts, "silu", ops, tap, gate=blk.ffn_gate_exps)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
