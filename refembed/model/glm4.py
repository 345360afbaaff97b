"""GLM-4-0414 and GLM-Z1: 9B, 32B.

Team GLM 2024, "ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools": ChatGLM with norms behind
attention and feed-forward as well. Mirrors llama.cpp's src/models/glm4.cpp; taps carry that graph's names. Files of
GLM-4V, whose places are those of pictures, are refused.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► norm ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► norm ─► + y ─► x
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
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="norm", turns_whole_heads=False, nextn=True)


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_output: Tensor = tensor("C HD")
    post_attention_norm: Tensor = tensor("C")
    ffn_norm: Tensor = tensor("C")
    ffn_up: Tensor = tensor("2F C")
    ffn_down: Tensor = tensor("C F")
    post_ffw_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


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
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        a = tap("post_attn_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        both = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, 2F)
        gate, up = ops.split(both, [hp.n_ff] * 2)  # 2 x (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        h = tap("post_mlp_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, tap))
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
