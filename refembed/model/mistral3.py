"""Mistral 3, Ministral 3 and Mistral Small 3 (text).

Mistral AI 2025, "Ministral 3": Llama with YaRN keys of its own, and queries that grow with their place in a long text,
so that attention stays as sharp (Nakanishi 2025, "Scalable-Softmax", as Llama 4 has it). Mirrors llama.cpp's
src/models/mistral3.cpp; taps carry that graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention ─► + x ─► y ─► norm ─► silu(gate) * up ─► down ─► + y ─► x
          x ─► norm                                       or ─► experts
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from refembed.arrays import I64, Float
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, attend, attention_spec, factors_of, rope_of, run_layers
from refembed.model.hparams import Hparams
from refembed.model.llama import TRAITS, Weights, feed_forward
from refembed.model.trace import at_layer

__all__ = ["TRAITS", "Weights", "forward"]


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)
    factors = factors_of(hp, w.rope_freqs, w.rope_factors_long, w.rope_factors_short)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = replace(rope_of(hp, il, factors), beta_fast=hp.yarn_beta_fast, beta_slow=hp.yarn_beta_slow)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        if hp.attn_temp_scale:
            factor = temperature(batch.pos, hp.attn_temp_scale, hp.n_ctx_orig).astype(ops.dtype)  # (T)
            q = tap("Qcur_attn_temp_scaled", q * factor[:, None, None])
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, ""))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        h = feed_forward(y, blk, il, hp, ops, tap)  # (T, C)
        x = tap("l_out", ops.add(h, x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def temperature(pos: I64, scale: float, n_ctx: int) -> Float:
    """What queries at these places (T) are multiplied by: 1 in the first n_ctx, then growing as the logarithm."""
    return scale * np.log(np.floor(pos / n_ctx) + 1) + 1
