"""The encoder of T5: sentence-t5, gtr-t5, instructor.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer". A token's place
shows in one thing only: a learned number for each head and each bucket of distances, added to a score. Scores are not
scaled. Mirrors llama.cpp's src/models/t5encoder.cpp and the encoder in t5.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention + attn_rel_b ─► + x ─► y ─► norm ─► gelu(gate) * up ─► down ─► + y ─► x
          x ─► norm

THE MASK. The published encoder sees all. llama.cpp's llama-embedding and llama-server call llama_decode, which masks as
t5encoder.attention.causal says; where that key is absent it is true, and conversion/t5.py never writes it: tokens then
look back only. refembed does the same, since a file's vectors are those that llama.cpp gives of it. For the model as
published, write `t5encoder.attention.causal = false` into the file: both engines then agree with it. (llama_encode, and
`--attention non-causal`, see all whatever the file says.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", heads="own")
MAX_DISTANCE = 128  # from here on all distances share a bucket


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `enc.blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_rel_b: Tensor | None = tensor("buckets H", presence="optional", first="required")  # absent: layer 0's holds
    attn_q: Tensor = tensor("HD C")
    attn_k: Tensor = tensor("HD C")
    attn_v: Tensor = tensor("HD C")
    attn_o: Tensor = tensor("C HD")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Tensor | None = tensor("F C", presence="optional")  # T5 1.1 and later; T5 itself has ReLU
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block, name="enc.blk")
    output_norm: Tensor = tensor("C", name="enc.output_norm")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). The last layer's l_out is result_embd in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, last = hp.norm_eps, hp.n_layer - 1
    spec = AttentionSpec(hp.n_head, hp.n_head, 1.0, AttentionMask(causal=hp.causal))
    bucket = buckets(int(batch.pos.max()) + 1, hp.n_buckets)  # (L, L), L the longest text
    shared = biases(w.blk[0].attn_rel_b, bucket, ops)  # (H, L, L)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        bias = taps("pos_bias", biases(blk.attn_rel_b, bucket, ops) if il and blk.attn_rel_b else shared)

        # self-attention, no scale; every token looks back, or sees all where the file says so
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        q = tap("Qcur", ops.linear(y, blk.attn_q))  # (T, H D)
        k = tap("Kcur", ops.linear(y, blk.attn_k))  # (T, H D)
        v = tap("Vcur", ops.linear(y, blk.attn_v))  # (T, H D)
        a = ops.attention(q, k, v, spec, batch.offsets, tap, bias=bias)  # (T, H D)
        a = tap("kqv_out", ops.linear(tap("kqv_out", a), blk.attn_o))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        if blk.ffn_gate is not None:
            gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
            h = tap("ffn_geglu", ops.geglu(gate, tap("ffn_up", ops.linear(y, blk.ffn_up))))  # (T, F)
        else:
            h = tap("ffn_relu", ops.relu(tap("ffn_up", ops.linear(y, blk.ffn_up))))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        x = taps("result_embd" if il == last else f"l_out-{il}", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def buckets(n: int, n_buckets: int) -> I64:
    """The bucket of each query i and key j of n places: (n, n) (llama_relative_position_bucket, bidirectional).

    Half of the buckets are for keys behind the query. Of each half, half are for one distance each; the rest share the
    distances up to MAX_DISTANCE by their logarithm, which llama.cpp rounds to float32 on the way.
    """
    half, exact = n_buckets // 2, n_buckets // 4
    distance = np.arange(n)
    share = np.log((np.maximum(distance, exact) / exact).astype(np.float32)).astype(np.float32)  # 0 up to `exact`
    place = exact + share * np.float32(half - exact) / np.log(MAX_DISTANCE / exact)
    far = np.minimum(np.floor(place.astype(np.float32)).astype(np.int64), half - 1)
    bucket = np.where(distance < exact, distance, far)  # (n) of a distance
    i, j = distance[:, None], distance[None, :]
    return np.where(j > i, half, 0) + bucket[abs(j - i)]


def biases(attn_rel_b: Tensor | None, bucket: I64, ops: Ops) -> Float:
    """What each head adds to the score of query i and key j: attn_rel_b (buckets, H), bucket (L, L) -> (H, L, L)."""
    assert attn_rel_b is not None  # layer 0 must have it
    table = ops.get_rows(attn_rel_b, range(attn_rel_b.shape[0]))  # (buckets, H)
    return np.ascontiguousarray(table.T)[:, bucket]
