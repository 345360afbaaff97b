"""RWKV-7 "Goose": no attention; a matrix for each head, which every token lets fade, corrects and reads.

Peng et al. 2025, "RWKV-7 'Goose' with Expressive Dynamic State Evolution". Mixing along the text is in two places: each
half of a layer sees, channel by channel, some of the token before; and time mixing keeps a state (`Ops.wkv7`). Mirrors
llama.cpp's src/models/rwkv7.cpp and rwkv7-base.cpp, where few tensors have a name.

          ids ─► token_embd ─► norm ─► x
    n_layer ×    x ─► norm ─► time mixing ─► + x ─► y ─► norm ─► channel mixing ─► + y ─► x
          x ─► norm
    channel mixing   y, the token before ─► between them ─► key ─► relu² ─► value
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(norm="layer", recurrent="all", wkv=True, runs_alone=True)
DECAY = -0.606531  # -e^-1/2: a state keeps at least e^DECAY of itself, 0.545
GROUP_EPS = 64e-5  # of the norm behind the state
SHORTEST = 1e-12  # a key is not divided by less


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`. Those that end in 0, 1, 2 make a vector tanh(x W1ᵀ) W2ᵀ + w0, or so."""

    attn_norm: Affine = affine("C")
    attn_norm_2: Affine = affine("C")
    time_mix_w0: Tensor = tensor("C")
    time_mix_w1: Tensor = tensor("decay C")
    time_mix_w2: Tensor = tensor("C decay")
    time_mix_a0: Tensor = tensor("C")
    time_mix_a1: Tensor = tensor("iclr C")
    time_mix_a2: Tensor = tensor("C iclr")
    time_mix_v0: Tensor = tensor("C")
    time_mix_v1: Tensor = tensor("value|iclr C")
    time_mix_v2: Tensor = tensor("C value|iclr")
    time_mix_g1: Tensor = tensor("gate C")
    time_mix_g2: Tensor = tensor("C gate")
    time_mix_lerp_fused: Tensor = tensor("6 1 1 C")
    time_mix_k_k: Tensor = tensor("C")
    time_mix_k_a: Tensor = tensor("C")
    time_mix_r_k: Tensor = tensor("C")
    time_mix_key: Tensor = tensor("C C")
    time_mix_value: Tensor = tensor("C C")
    time_mix_receptance: Tensor = tensor("C C")
    time_mix_ln: Tensor = tensor("C")
    time_mix_ln_b: Tensor = tensor("C", name="time_mix_ln", end="bias")
    time_mix_output: Tensor = tensor("C C")
    channel_mix_lerp_k: Tensor = tensor("1 1 C")
    channel_mix_key: Tensor = tensor("F C")
    channel_mix_value: Tensor = tensor("C F")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    token_embd_norm: Affine = affine("C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Affine = affine("C")
    output: Tensor = tensor("V C")  # guesses the next token; embedding needs it not, llama.cpp asks for it


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C). Most tensors are unnamed in llama.cpp's graph."""
    eps, offsets, v_first = hp.norm_eps, batch.offsets, None
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    x = taps("inp_norm", ops.layer_norm(x, *w.token_embd_norm, eps, at_layer(taps, 0)))

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # every token looks back: at the one before, and at a state
        y = tap("attn_norm", ops.layer_norm(x, *blk.attn_norm, eps, tap))  # (T, C)
        mixed, v_first = time_mixing(y, v_first, blk, hp, offsets, ops, tap)
        x = tap("ffn_inp", ops.add(mixed, x))

        # feed-forward: every token, and the one before
        z = tap("ffn_norm", ops.layer_norm(x, *blk.attn_norm_2, eps, tap))  # (T, C)
        if tap.active:
            tap("token_shift", np.stack([y[-1], z[-1]]))  # what llama.cpp keeps for the next token
        x = tap("l_out", ops.add(channel_mixing(z, blk, offsets, ops, tap), x))

    return taps("result_norm", ops.layer_norm(x, *w.output_norm, eps, taps))


def time_mixing(
    y: Float, v_first: Float | None, blk: Block, hp: Hparams, offsets: I64, ops: Ops, tap: Tap
) -> tuple[Float, Float]:
    """y (T, C) -> (T, C), and the values of the first layer (T, C), which later ones mix into theirs."""
    wkv = hp.wkv
    assert wkv is not None
    T, D = len(y), wkv.head_size
    H = hp.n_embd // D

    # six mixtures of each token with the one before
    change = tap("change", tap("before", before(y, offsets)) - y)  # (T, C)
    six = tap("changes", np.broadcast_to(change, (6, *y.shape)))  # (6, T, C)
    six = tap("mixtures", tap("changes_mul", six * ops.weight(blk.time_mix_lerp_fused)[:, 0]) + y)
    xr, xw, xk, xv, xa, xg = (np.ascontiguousarray(part) for part in six)  # 6 x (T, C)

    # what is asked for, and how the state fades
    r = tap("r", ops.linear(xr, blk.time_mix_receptance))  # (T, C)
    w = tap("w_tanh", ops.tanh(tap("w1", ops.linear(xw, blk.time_mix_w1))))  # (T, decay)
    w = tap("w_b", ops.add_bias(tap("w2", ops.linear(w, blk.time_mix_w2)), blk.time_mix_w0))  # (T, C)
    w = tap("w", ops.exp(tap("w_scaled", ops.scale(tap("w_sigmoid", ops.sigmoid(w)), DECAY))))

    # keys, weaker where the state learns slowly
    k = tap("k", ops.linear(xk, blk.time_mix_key))  # (T, C)
    a = tap("a2", ops.linear(tap("a1", ops.linear(xa, blk.time_mix_a1)), blk.time_mix_a2))  # (T, C)
    a = tap("a", ops.sigmoid(tap("a_b", ops.add_bias(a, blk.time_mix_a0))))
    ka = tap("ka", k * ops.weight(blk.time_mix_k_a))
    kept = tap("k_kept", k + tap("k_lost", tap("a_ka", a * ka) - ka))

    # values, mixed with the first layer's
    v = tap("v", ops.linear(xv, blk.time_mix_value))  # (T, C)
    if v_first is None:
        v_first = v
    else:
        other = tap("v_change", v_first - v)
        share = tap("v2", ops.linear(tap("v1", ops.linear(xv, blk.time_mix_v1)), blk.time_mix_v2))  # (T, C)
        share = tap("v_share", ops.sigmoid(tap("v_b", ops.add_bias(share, blk.time_mix_v0))))
        v = tap("v_mixed", v + tap("v_added", other * share))

    # the state
    kk = tap("k_k", k * ops.weight(blk.time_mix_k_k)).reshape(T, H, D)
    kk = tap("kk", of_length_one(kk))  # (T, H, D)
    out, back = tap("kk_neg", -kk), tap("kk_a", kk * a.reshape(T, H, D))
    y = ops.wkv7(r, w, kept, v, out.reshape(T, -1), back.reshape(T, -1), H, offsets, tap)  # (T, C)

    # normed head by head; what the token itself brings; let through by a gate
    y = ops.layer_norm(y.reshape(T * H, D), None, None, GROUP_EPS)
    y = tap("wkv_normed", y.reshape(T, H, D)).reshape(T, H * D)
    y = tap("wkv_norm_w", y * ops.weight(blk.time_mix_ln))
    y = tap("wkv_norm", ops.add_bias(y, blk.time_mix_ln_b))
    own: Float = tap("k_r", (kept * r).reshape(T, H, D)) * ops.weight(blk.time_mix_r_k).reshape(H, D)
    own = tap("k_r_sum", row_sums(tap("k_r_k", own)))  # (T, H, 1)
    y = tap("y", y + tap("v_own", v.reshape(T, H, D) * own).reshape(T, H * D))
    g = tap("g_sigmoid", ops.sigmoid(tap("g1", ops.linear(xg, blk.time_mix_g1))))  # (T, gate)
    y = tap("y_gated", y * tap("g2", ops.linear(g, blk.time_mix_g2)))
    return tap("time_mix_out", ops.linear(y, blk.time_mix_output)), v_first


def channel_mixing(y: Float, blk: Block, offsets: I64, ops: Ops, tap: Tap) -> Float:
    """y (T, C) -> (T, C)."""
    change = tap("ffn_change", tap("ffn_before", before(y, offsets)) - y)  # (T, C)
    x = tap("ffn_mixture", tap("ffn_change_mul", change * ops.weight(blk.channel_mix_lerp_k).reshape(-1)) + y)
    k = tap("ffn_relu", ops.relu(tap("ffn_key", ops.linear(x, blk.channel_mix_key))))  # (T, F)
    return tap("ffn_value", ops.linear(tap("ffn_relu_sqr", k * k), blk.channel_mix_value))


def before(x: Float, offsets: I64) -> Float:
    """The row before each, of x (T, C); zeros before the first of each text."""
    out = np.zeros_like(x)
    for begin, end in itertools.pairwise(offsets):
        out[begin + 1 : end] = x[begin : end - 1]
    return out


def row_sums(x: Float) -> Float:
    """Sums over the last axis, added up in double: (..., D) -> (..., 1)."""
    return np.add.accumulate(x, axis=-1, dtype=np.float64)[..., -1:].astype(x.dtype)


def of_length_one(x: Float) -> Float:
    """x (T, H, D) over the length of each head (ggml_l2_norm)."""
    length = np.sqrt(row_sums(x * x))  # (T, H, 1)
    return x * (x.dtype.type(1) / np.maximum(length, x.dtype.type(SHORTEST)))
