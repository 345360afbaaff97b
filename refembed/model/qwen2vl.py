"""Qwen2-VL and Qwen2.5-VL, and embedders made from them (jina-embeddings-v4), for text.

Wang et al. 2024, "Qwen2-VL": Qwen 2 whose pairs of channels turn by several streams of positions, a block of pairs by
each (M-RoPE). In text the first three are the same; the fourth is 0 in llama.cpp, so pairs that are left to it do not
turn. Mirrors llama.cpp's src/models/qwen2vl.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm

llama.cpp does not read the epsilon of this architecture's norms and computes with 0 (the published models: 1e-6): so
here. `published` puts it back.
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
from refembed.model.qwen2 import Weights
from refembed.model.trace import at_layer

__all__ = ["TRAITS", "Weights", "forward"]

TRAITS = Traits(norm="rms", epsilon=False, rope="neox", heads="fill", mrope=True)


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
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
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

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


@lru_cache(maxsize=64)  # so that one model's rotation is one object
def still(sections: tuple[int, ...], half: int) -> Tensor | None:
    """Frequency factors (half) that stop the pairs of the fourth stream: infinity; 1 elsewhere. None: all turn.

    sections  how many pairs each stream has, one block after the other, and again from the first where pairs are left
              (ggml_mrope_cache_init of ggml-cpu/ops.cpp)
    """
    turns = np.arange(half) % sum(sections) < sum(sections[:3])
    if turns.all():
        return None
    factors = np.where(turns, 1, np.inf)
    return Tensor("rope_sections", (half,), BY_NAME["F32"], factors.astype("<f4").view(np.uint8), 0, "<")
