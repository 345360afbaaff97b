"""ModernBERT, and embedders and rerankers made from it (gte-modernbert, granite-embedding-r2).

Warner et al. 2024, "Smarter, Better, Faster, Longer": BERT with norms before each part, RoPE, gated feed-forward, no
biases. Two layers of three see a window around each token and turn by another base. Mirrors llama.cpp's
src/models/modern-bert.cpp; taps carry that graph's names.

          ids ─► token_embd ─► norm ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► up ─► gelu(half) * half ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import attend, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="layer", rope="neox", window="symmetric", window_pattern=3, window_dense_first=True,
    turns_whole_heads=False, heads="equal", encoder=True, output="final_norm_out",
)  # fmt: skip

# modern-bert.hidden_activation -> how the feed-forward part is gated; any other name, or none: GELU itself
TANH_FORM = ("geglu", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh")
GATES = dict.fromkeys(TANH_FORM, "geglu") | dict.fromkeys(("silu", "swish", "swiglu"), "swiglu") | {"reglu": "reglu"}


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor | None = tensor("C", first="optional")  # layer 0 has none: token_embd_norm stands before it
    attn_qkv: Tensor = tensor("3C C")
    attn_output: Tensor = tensor("C C")
    ffn_norm: Tensor = tensor("C")
    ffn_up: Tensor = tensor("2F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    token_embd_norm: Tensor = tensor("C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    cls: Tensor | None = tensor("C C", presence="optional")  # a reranker's head; embedding needs it not
    cls_norm: Tensor | None = tensor("C", presence="optional", name="cls.norm")
    cls_output: Affine | None = affine("R C", bias="optional", presence="optional", name="cls.output")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). ffn_out and l_out are unnamed in llama.cpp's graph."""
    x = taps("inp_embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    x = taps("inp_norm-0", ops.layer_norm(x, w.token_embd_norm, None, hp.norm_eps, at_layer(taps, 0)))
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)
        mask = AttentionMask(window=hp.n_swa if hp.swa_layers[il] else 0, kind="symmetric")
        spec = AttentionSpec(hp.n_head, hp.n_head, scale, mask)

        # self-attention: in two layers of three a token sees n_swa/2 tokens to either side, in the third all
        y = x if blk.attn_norm is None else tap("attn_norm", ops.layer_norm(x, blk.attn_norm, None, eps, tap))  # (T, C)
        qkv = tap("wqkv", ops.linear(y, blk.attn_qkv))  # (T, 3C)
        q, k, v = ops.split(qkv, [hp.n_embd] * 3)  # 3 x (T, C)
        q = tap("Qcur", ops.rope(heads(q, hp), batch.pos, rope))  # (T, H, D)
        k = tap("Kcur", ops.rope(heads(k, hp), batch.pos, rope))  # (T, H, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)
        a = tap("kqv_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.layer_norm(x, blk.ffn_norm, None, eps, tap))  # (T, C)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, 2F)
        h = gated(up, hp.hidden_activation, ops, tap)  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("final_norm_out", ops.layer_norm(x, w.output_norm, None, eps, taps))


def heads(x: Float, hp: Hparams) -> Float:
    """(T, C) -> (T, H, D)."""
    return x.reshape(len(x), hp.n_head, hp.n_embd_head)


def gated(x: Float, activation: str, ops: Ops, tap: Tap) -> Float:
    """The first half of x (T, 2F), activated, times the second: (T, F) (llm_ffn_op_type_from_string)."""
    gate, up = ops.split(x, [x.shape[1] // 2] * 2)  # 2 x (T, F)
    match GATES.get(activation):
        case "geglu":
            return tap("ffn_geglu", ops.geglu(gate, up))
        case "swiglu":
            return tap("ffn_swiglu", ops.swiglu(gate, up))
        case "reglu":
            return tap("ffn_reglu", np.where(gate > 0, gate * up, x.dtype.type(0)))
    return tap("ffn_geglu_erf", ops.multiply(ops.gelu_erf(gate), up))
