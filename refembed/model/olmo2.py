"""OLMo 2 and OLMo 3 (Ai2).

Walsh et al. 2025, "2 OLMo 2 Furious": norms stand behind attention and feed-forward, none in front; queries and keys
are normalized over all heads at once. OLMo 3 (Ettinger et al. 2025, "Olmo 3") looks back through a window in three
layers of four; those turn without scaling. Mirrors llama.cpp's src/models/olmo2.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► attention ─► norm ─► + x ─► y ─► silu(gate) * up ─► down ─► norm ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Rope, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, rope_of, run_layers, swiglu_mlp
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", window="standard", window_pattern=4, heads="fill")


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_q_norm: Tensor = tensor("HD")
    attn_k_norm: Tensor = tensor("KD")
    attn_output: Tensor = tensor("C C")
    post_attention_norm: Tensor = tensor("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")
    post_ffw_norm: Tensor = tensor("C")


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
    unscaled = Rope(hp.n_rot, hp.rope_pairs, hp.rope_freq_base, n_ctx_orig=hp.n_ctx_orig)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = unscaled if hp.swa_layers[il] else rope_of(hp, il)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back, in OLMo 3's layers 0, 1, 2, 4, 5 ... no further than the window
        qkv = Qkv(x, blk, hp, ops, tap, flat=True)
        q = qkv.queries().reshape(len(x), -1)  # (T, H D)
        q = tap("Qcur_normed", ops.rms_norm(q, blk.attn_q_norm, eps, tap))  # all heads at once
        q = tap("Qcur", ops.rope(heads(q, hp), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = qkv.keys().reshape(len(x), -1)  # (T, K D)
        k = tap("Kcur_normed", ops.rms_norm(k, blk.attn_k_norm, eps, tap))
        k = tap("Kcur", ops.rope(heads(k, hp), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        a = tap("attn_post_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        h = swiglu_mlp(x, blk.ffn_gate, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
        h = taps("ffn_post_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, taps))  # these two have no layer number
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def heads(x: Float, hp: Hparams) -> Float:
    """(T, H D) -> (T, H, D), and (T, K D) -> (T, K, D)."""
    return x.reshape(len(x), -1, hp.n_embd_head)
