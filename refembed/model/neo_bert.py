"""NeoBERT.

Le Breton et al. 2025, "NeoBERT: A Next-Generation BERT": norms before each part, RoPE on neighboring channels, SwiGLU,
no biases. llama.cpp cuts the one QKV matrix into three blocks, where the published model cuts it head by head. Mirrors
llama.cpp's src/models/neo-bert.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► up ─► silu(half) * half ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import attend, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="rms", rope="norm", turns_whole_heads=False, heads="fill", encoder=True, output="result_embd"
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_qkv: Tensor = tensor("C+2KD C")
    attn_output: Tensor = tensor("C C")
    ffn_norm: Tensor = tensor("C")
    ffn_up: Tensor = tensor("2F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C", name="enc.output_norm")
    cls: Affine | None = affine("C C", bias="optional", presence="optional")  # a reranker's head
    cls_output: Affine | None = affine("R C", bias="optional", presence="optional", name="cls.output")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_norm, ffn_out and l_out are unnamed in llama.cpp's graph."""
    x = taps("inp_embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, D = hp.norm_eps, hp.n_embd_head
    spec = AttentionSpec(hp.n_head, hp.n_head_kv, 1 / math.sqrt(hp.n_embd_head))
    KD = hp.n_head_kv * hp.n_embd_head

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)

        # self-attention: every token looks at all tokens of its own text
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = tap("wqkv", ops.linear(y, blk.attn_qkv))  # (T, C+2KD)
        q, k, v = ops.split(qkv, [hp.n_embd, KD, KD])
        q = tap("Qcur", ops.rope(q.reshape(len(q), -1, D), batch.pos, rope))  # (T, H, D)
        k = tap("Kcur", ops.rope(k.reshape(len(k), -1, D), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, C)
        a = tap("kqv_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, 2F)
        gate, up = ops.split(up, [up.shape[1] // 2] * 2)  # 2 x (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_embd", ops.rms_norm(x, w.output_norm, eps, taps))
