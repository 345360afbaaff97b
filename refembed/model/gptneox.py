"""GPT-NeoX, Pythia, Dolly and RedPajama.

Black et al. 2022, "GPT-NeoX-20B": attention and feed-forward stand side by side, each behind a norm of its own, and
RoPE turns a part of each head; a file may also say that feed-forward waits for attention, as in GPT-2
(use_parallel_residual false). Mirrors llama.cpp's src/models/gptneox.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    down(gelu(up(norm(x)))) + x + attention(norm(x)) ─► x
             or  x ─► norm ─► attention ─► + x ─► y ─► norm ─► gelu(up) ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model import gpt2
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, attend, attention_spec, gelu_mlp, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", rope="neox", turns_whole_heads=False, heads="fill")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture; a layer's are GPT-2's. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[gpt2.Block, ...] = blocks(gpt2.Block)
    output_norm: Affine = affine("C")
    output: Tensor = tensor("V C")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_product and attn_out are unnamed in llama.cpp's graph."""
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
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)

        # feed-forward: every token on its own, of what attention was given, or of what it adds up to
        if hp.parallel_residual:
            y = tap("ffn_norm", ops.layer_norm(x, *blk.ffn_norm, eps, tap))  # (T, C)
            h = gelu_mlp(y, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
            x = tap("ffn_out", ops.add(h, x))
            a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, "attn_product"))  # (T, C)
            x = tap("l_out", ops.add(x, a))
        else:
            a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, "attn_product"))  # (T, C)
            x = tap("ffn_inp", ops.add(a, x))
            y = tap("ffn_norm", ops.layer_norm(x, *blk.ffn_norm, eps, tap))  # (T, C)
            h = gelu_mlp(y, blk.ffn_up, blk.ffn_down, ops, tap)  # (T, C)
            x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))
