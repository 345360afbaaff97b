"""Qwen3-VL, Qwen3-VL-Embedding and Qwen3-VL-Reranker, for text.

Bai et al. 2025, "Qwen3-VL Technical Report": Qwen 3 whose pairs of channels turn by several streams of positions. In
text the first three are the same; the fourth is 0 in llama.cpp, so pairs that are left to it do not turn. Mirrors
llama.cpp's src/models/qwen3vl.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from refembed.arrays import Float
from refembed.gguf import BY_NAME, Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.qwen3 import Weights
from refembed.model.trace import at_layer

__all__ = ["TRAITS", "Weights", "forward"]

TRAITS = Traits(norm="rms", rope="neox", mrope=True)


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). attn_out is unnamed in llama.cpp's graph."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
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
        q = tap("Qcur", ops.rope(q, batch.pos, rope))
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur_normed", ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap))  # (T, K, D)
        k = tap("Kcur", ops.rope(k, batch.pos, rope))
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
            x = tap("deepstack_out", x + ops.dtype(0))  # what an image would add

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


@lru_cache(maxsize=64)  # so that one model's rotation is one object
def still(sections: tuple[int, ...], half: int) -> Tensor | None:
    """Frequency factors (half) that stop the pairs of the fourth stream: infinity; 1 elsewhere. None: all turn.

    sections  how many pairs each stream has; pairs i = 0, 1, 2 (mod 3) belong to the first, second and third as far
              as those reach (ggml_mrope_cache_init of ggml-cpu/ops.cpp, IMROPE)
    """
    sector = np.arange(half) % sum(sections)
    turns = sector < 3 * np.array(sections)[sector % 3]
    if turns.all():
        return None
    factors = np.where(turns, 1, np.inf)
    return Tensor("rope_sections", (half,), BY_NAME["F32"], factors.astype("<f4").view(np.uint8), 0, "<")
