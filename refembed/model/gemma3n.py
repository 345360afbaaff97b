"""Gemma 3n (E2B, E4B), its text part.

Google 2025, "Gemma 3n": Gemma 3 with four streams of hidden states, of which a layer computes one and predicts and
corrects the others (AltUp, Baykal et al. 2023); a product of low rank next to attention (LAuReL, Menghani et al. 2024);
in the first ten layers most of the gate is 0 (You et al. 2025, "Spark Transformer"); and per-layer inputs, from a table
of tokens and from the embeddings. From layer 20 on keys and values are those of earlier layers. Mirrors llama.cpp's
src/models/gemma3n.cpp; taps carry that graph's names.

          ids ─► token_embd ─► * sqrt(C) ─► streams s;   embeddings and ids ─► per-layer inputs e, for each layer
    n_layer ×    s ─► predict ─► p;   p[0] ─► norm ─► attention ─► norm ─► + p[0] ─► (+ laurel) / sqrt(2) ─► y
                 y ─► norm ─► gelu(top of gate) * up ─► down ─► norm ─► + y ─► correct p by it ─► s
                 s[0] ─► gelu(inp_gate) * e ─► proj ─► norm ─► + s[1:]
          s ─► mean of streams ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, rope_of
from refembed.model.gemma4 import per_layer_inputs, project_embeddings
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(norm="rms", rope="neox", window="standard", window_pattern=5, window_required=True, streams=True)

LAYERS_WITH_KEYS = 20  # the others read the keys and values of layers 18 (with a window) and 19
SPARSE_LAYERS = 10  # whose gates are 0 but for their largest
SPARSITY = (
    1.6448533535003662  # deviations above the mean from which a gate is let through: 5 % of a normal distribution
)


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`. S streams, SS their number squared, rank that of LAuReL."""

    attn_norm: Tensor = tensor("C")
    attn_q_norm: Tensor = tensor("D")
    attn_k_norm: Tensor = tensor("D")
    attn_output: Tensor = tensor("C HD")
    post_attention_norm: Tensor = tensor("C")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")
    post_ffw_norm: Tensor = tensor("C")
    inp_gate: Tensor = tensor("E C")
    proj: Tensor = tensor("C E")
    post_norm: Tensor = tensor("C")
    altup_correct_coef: Tensor = tensor("S S")
    altup_correct_scale: Tensor = tensor("C")
    altup_predict_coef: Tensor = tensor("SS S")
    altup_router: Tensor = tensor("S C")
    altup_router_norm: Tensor = tensor("C")
    laurel_l: Tensor = tensor("rank C")
    laurel_r: Tensor = tensor("C rank")
    laurel_post_norm: Tensor = tensor("C")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    altup_proj: Tensor = tensor("S-1 C C")
    altup_unembd_proj: Tensor = tensor("S-1 C C")
    per_layer_token_embd: Tensor = tensor("V LE")
    per_layer_model_proj: Tensor = tensor("LE C")
    per_layer_proj_norm: Tensor = tensor("E")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C).

    llama.cpp's graph has no names for many of the tensors shown here: lengths and their squares, the router's input,
    mixtures, the steps of a gate's cutoff, products before a norm. They pair by place.
    """
    eps, one = hp.norm_eps, ops.dtype(1)
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    embeddings = x = taps("inp_scaled", x * math.sqrt(hp.n_embd))
    rows = taps("per_layer_rows", ops.get_rows(w.per_layer_token_embd, batch.ids))  # (T, L E)
    rows = rows.reshape(len(x), -1, hp.n_embd_per_layer) * math.sqrt(hp.n_embd_per_layer)
    rows = taps("inp_per_layer_selected", rows)  # (T, L, E)
    s = taps("inp_stacked", streams(x, w.altup_proj, ops, taps))  # (S, T, C)
    per_layer: list[Float] = []  # L x (T, E)
    kept: list[tuple[Float, Float]] = []  # keys and values (T, K, D) of each layer that has some

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3

        # what this layer would leave in each stream; it computes the first one itself
        p = predict(s, blk, eps, ops, tap)  # (S, T, C)
        x = tap("active_prediction", np.ascontiguousarray(p[0]))  # (T, C)

        # self-attention: every token looks back, and next to it a product of low rank
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        a = attention(y, blk, il, hp, batch, ops, tap, kept)  # (T, C)
        a = tap("attn_post_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        a = tap("attn_gated", ops.add(a, x))
        a = tap("attn_laurel_sum", ops.add(a, laurel(y, blk, eps, ops, tap)))
        a = tap("attn_laurel", ops.scale(a, one / np.sqrt(ops.dtype(2))))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(a, blk.ffn_norm, eps, tap))  # (T, C)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
        gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
        gate = tap("ffn_gelu", ops.gelu(top(gate, tap) if il < SPARSE_LAYERS else gate))
        h = tap("ffn_gated", ops.multiply(up, gate))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        h = tap("ffn_post_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, taps))  # its `norm` has no layer number
        h = tap("attn_ffw_laurel_gated", ops.add(h, a))

        # every stream is corrected by what came of the first; the per-layer input goes to the others
        s = correct(p, h, blk, eps, ops, tap)  # (S, T, C)
        e = tap("first_prediction_weighted", s[0] * blk.altup_correct_scale.dequantize().astype(x.dtype))  # (T, C)
        e = tap("first_prediction_gate", ops.linear(e, blk.inp_gate))  # (T, E)
        e = tap("first_prediction_gated", ops.gelu(e))
        if not per_layer:  # where llama.cpp's graph does it
            per_layer = per_layer_inputs(project_embeddings(embeddings, w, hp, ops, taps), rows, ops, taps)
        e = tap("first_prediction_scaled", ops.multiply(e, per_layer[il]))
        e = tap("first_prediction_proj", ops.linear(e, blk.proj))  # (T, C)
        e = tap("first_prediction_out", ops.rms_norm(e, blk.post_norm, eps, tap))
        rest = tap("corrected_rest", s[1:] + e)  # (S-1, T, C)
        s = tap("l_out", np.concatenate([s[:1], rest]))

    x = merged(s, w.altup_unembd_proj, ops, taps)  # (T, C)
    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def streams(x: Float, w: Tensor, ops: Ops, taps: Tap) -> Float:
    """The first stream x (T, C), and the others: products of it with w (S-1, C, C), as long as it is. (S, T, C)."""
    xs = taps("altup_repeated", np.stack([x] * w.shape[0]))
    y = taps("altup_products", np.stack([ops.linear(xs[i], w.entry(i)) for i in range(w.shape[0])]))  # (S-1, T, C)
    return np.concatenate([x[None], as_long(y, x, taps, "altup_added")])


def merged(s: Float, w: Tensor, ops: Ops, taps: Tap) -> Float:
    """The mean of the first stream and products of the others, s (S, T, C) and w (S-1, C, C) -> (T, C)."""
    y = taps("unembd_products", np.stack([ops.linear(s[i + 1], w.entry(i)) for i in range(len(s) - 1)]))
    y = as_long(y, s[0], taps, "altup_unembd")  # (S-1, T, C)
    x = s[0]  # (T, C)
    for stream in y:
        x = taps("unembd_sum", x + stream)
    return taps("unembd_merged", ops.scale(x, 1 / ops.dtype(len(s))))


def as_long(y: Float, x: Float, taps: Tap, name: str) -> Float:
    """Vectors y (S-1, T, C), each made as long as its token's x (T, C)."""
    scaled = taps(f"{name}_scaled", y * length(x, taps))
    return taps(name, scaled / length(y, taps))


def length(x: Float, taps: Tap) -> Float:
    """Euclidean: (..., C) -> (..., 1)."""
    squares = taps("squares", x * x)
    return taps("length", np.sqrt(taps("squares_sum", added(squares))))


def added(x: Float) -> Float:
    """Sums over the last axis, one number after the other in double: (..., n) -> (..., 1)."""
    return np.add.accumulate(x, axis=-1, dtype=np.float64)[..., -1:].astype(x.dtype)


def predict(s: Float, blk: Block, eps: float, ops: Ops, tap: Tap) -> Float:
    """What the layer would leave in each stream: s plus mixtures of its streams, by the first one. (S, T, C)."""
    S, T, _ = s.shape
    m = modalities(s[0], blk, eps, ops, tap)  # (T, S)
    coefs = tap("all_coefs", ops.linear(m, blk.altup_predict_coef)).reshape(T, S, S)
    mixed = ops.mix_streams(s, coefs)  # (S, T, C)
    mixed = tap("predictions_mixed", mixed.transpose(1, 0, 2)).transpose(1, 0, 2)  # llama.cpp has (T, S, C)
    return tap("predictions", mixed + s)


def modalities(x: Float, blk: Block, eps: float, ops: Ops, tap: Tap) -> Float:
    """How a token x (T, C) weighs the streams: (T, S)."""
    y = tap("router_weighted", ops.rms_norm(x, blk.altup_router_norm, eps, tap))  # (T, C)
    y = tap("router_scaled", ops.scale(y, 1 / ops.dtype(y.shape[1])))
    y = tap("router", ops.linear(y, blk.altup_router))  # (T, S)
    return tap("modalities", ops.tanh(y))


def correct(p: Float, h: Float, blk: Block, eps: float, ops: Ops, tap: Tap) -> Float:
    """Predictions p (S, T, C), corrected by how far the first was off what the layer computed, h (T, C). (S, T, C)."""
    off = tap("innovation", h - p[0])  # (T, C)
    off = tap("innovation_repeated", np.stack([off] * len(p)))  # (S, T, C)
    m = modalities(h, blk, eps, ops, tap)  # (T, S)
    coefs = tap("correct_coefs", ops.linear(m, blk.altup_correct_coef))  # (T, S)
    coefs = tap("all_coefs", coefs + ops.dtype(1))
    weighted = tap("innovation_weighted", off * coefs.T[:, :, None])  # (S, T, C)
    return tap("corrected", weighted + p)


def laurel(y: Float, blk: Block, eps: float, ops: Ops, tap: Tap) -> Float:
    """The product of low rank, normalized, plus its input: (T, C) -> (T, C)."""
    z = tap("laurel_l", ops.linear(y, blk.laurel_l))  # (T, rank)
    z = tap("laurel_r", ops.linear(z, blk.laurel_r))  # (T, C)
    z = tap("laurel_normed", ops.rms_norm(z, blk.laurel_post_norm, eps, tap))
    return tap("laurel_out", ops.add(z, y))


def top(gate: Float, tap: Tap) -> Float:
    """What of each row of a gate (T, F) is SPARSITY deviations above its mean, less that; 0 for the rest."""
    one = gate.dtype.type
    mean = tap("gate_mean", added(gate) / one(gate.shape[1]))  # (T, 1)
    off = tap("gate_centered", gate - mean)
    squares = tap("gate_squares_sum", added(tap("gate_squares", off * off)))
    variance = tap("gate_variance", squares * (one(1) / one(gate.shape[1] - 1)))
    deviation = tap("gate_deviation", np.sqrt(variance))
    cutoff = tap("gate_cutoff", mean + tap("gate_above", deviation * one(SPARSITY)))
    return tap("gate_top", np.maximum(tap("gate_less", gate - cutoff), 0))


def attention(
    y: Float, blk: Block, il: int, hp: Hparams, batch: Batch, ops: Ops, tap: Tap, kept: list[tuple[Float, Float]]
) -> Float:
    """Self-attention: (T, C) -> (T, C). kept: keys and values of the layers so far, to which this one's are added."""
    eps, rope, spec = hp.norm_eps, rope_of(hp, il), attention_spec(hp, il, 1.0)
    qkv = Qkv(y, blk, hp, ops, tap) if il < LAYERS_WITH_KEYS else None
    q = queries(y, blk, hp, ops, tap) if qkv is None else qkv.queries()
    q = tap("Qcur_normed", ops.rms_norm(q, blk.attn_q_norm, eps, tap))  # (T, H, D)
    q = tap("Qcur_pos", ops.rope(q, batch.pos, rope))
    if qkv is not None:
        v = tap("Vcur_normed", ops.rms_norm(qkv.values(), None, eps))  # (T, K, D)
        k = tap("Kcur_normed", ops.rms_norm(qkv.keys(), blk.attn_k_norm, eps, tap))  # (T, K, D)
        k = tap("Kcur_pos", ops.rope(k, batch.pos, rope))
        kept.append((k, v))
    by = il if qkv is not None else len(kept) - 1 - hp.swa_layers[il]
    a = attend(q, *kept[by], spec, batch, ops, tap)  # (T, H D)
    return tap("attn_product", ops.linear(a, blk.attn_output))


def queries(y: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """Queries of a layer without keys, which llama.cpp computes without a bias: (T, C) -> (T, H, D)."""
    if blk.attn_qkv is None:
        q = tap("Qcur", ops.linear(y, blk.attn_q.weight))
    else:
        q = ops.linear(y, blk.attn_qkv.weight)[:, : hp.sizes["HD"]]
    return np.ascontiguousarray(q).reshape(len(y), hp.n_head, -1)
