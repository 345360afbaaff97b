"""Qwen3-VL, Qwen3-VL-Embedding and Qwen3-VL-Reranker: the text model, for texts with and without images.

Bai et al. 2025, "Qwen3-VL Technical Report": Qwen 3 whose pairs of channels turn by several streams of positions. In
text the first three are the same, in an image they are its place, the row and the column; the fourth is 0 in llama.cpp,
so pairs that are left to it do not turn. What an image's tower has for them is added behind the first layers
(DeepStack). Mirrors llama.cpp's src/models/qwen3vl.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import BY_NAME, Tensor
from refembed.kernels.ops import Ops, Rope, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, attend, attention_spec, embedded, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.qwen3 import Weights
from refembed.model.trace import at_layer

__all__ = ["TRAITS", "Weights", "forward"]

TRAITS = Traits(norm="rms", rope="neox", mrope=True, images=True)


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out is unnamed in llama.cpp's graph."""
    x = embedded(w.token_embd, batch, ops, taps)  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il, still(hp.rope_sections, hp.n_rot // 2))
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur_normed", ops.rms_norm(qkv.queries(), blk.attn_q_norm, eps, tap))  # (T, H, D)
        q = tap("Qcur", turned(q, batch, rope, hp, ops))
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur_normed", ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap))  # (T, K, D)
        k = tap("Kcur", turned(k, batch, rope, hp, ops))
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, blk.attn_output))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
        h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        x = tap("l_out", ops.add(h, x))
        if il < hp.n_deepstack_layers:
            x = tap("deepstack_out", x + further(batch, il, x.shape[1], ops))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def turned(x: Float, batch: Batch, rope: Rope, hp: Hparams, ops: Ops) -> Float:
    """Queries or keys (T, H, D), each pair of channels turned by its stream's place of the token."""
    if batch.streams is None:
        return ops.rope(x, batch.pos, rope)
    stream = np.tile(streams_of(hp.rope_sections, hp.n_rot // 2), 2)  # (D) of a channel
    out = np.array(x)
    for i, places in enumerate(batch.streams):
        out[:, :, stream == i] = ops.rope(x, places, rope)[:, :, stream == i]
    return out


def further(batch: Batch, il: int, C: int, ops: Ops) -> Float:
    """What images add behind layer il: their rows' columns behind those that the first layer read. 0 for tokens."""
    if not batch.images:
        return np.zeros((), ops.dtype)
    added = np.zeros((len(batch.ids), C), ops.dtype)
    for image in batch.images:
        added[image.begin : image.end] = image.rows[:, (il + 1) * C : (il + 2) * C]
    return added


@lru_cache(maxsize=64)
def streams_of(sections: tuple[int, ...], half: int) -> I64:
    """Of each pair (half) the stream that it turns by: 0, 1, 2, or 3, which stands still."""
    sector = np.arange(half) % sum(sections)
    turns = sector < 3 * np.array(sections)[sector % 3]
    return np.where(turns, sector % 3, 3)


@lru_cache(maxsize=64)  # so that one model's rotation is one object
def still(sections: tuple[int, ...], half: int) -> Tensor | None:
    """Frequency factors (half) that stop the pairs of the fourth stream: infinity; 1 elsewhere. None: all turn.

    sections  how many pairs each stream has; pairs i = 0, 1, 2 (mod 3) belong to the first, second and third as far
              as those reach (ggml_mrope_cache_init of ggml-cpu/ops.cpp, IMROPE)
    """
    turns = streams_of(sections, half) < 3
    if turns.all():
        return None
    factors = np.where(turns, 1, np.inf)
    return Tensor("rope_sections", (half,), BY_NAME["F32"], factors.astype("<f4").view(np.uint8), 0, "<")
