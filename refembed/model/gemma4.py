"""Gemma 4 (E2B, E4B, 26B-A4B, 31B), its text part.

Google DeepMind 2026, "Gemma 4": Gemma 3 whose layers with and without a window differ in the width of their heads, with
values normalized and scores as they are. Small models have Gemma 3n's per-layer inputs, from a table of tokens and from
the embeddings, and their last layers read the keys and values of earlier ones; the 26B model has experts next to its
feed-forward part. Mirrors llama.cpp's src/models/gemma4.cpp; taps carry that graph's names.

          ids ─► token_embd ─► * sqrt(C) ─► x;   x and ids ─► per-layer inputs e, for each layer
    n_layer ×    x ─► norm ─► attention ─► norm ─► + x ─► y ─► norm ─► gelu(gate) * up ─► down ─► norm ─► + y ─► z
                                                   or y ─► (norm ─► feed-forward ─► norm) + (norm ─► experts ─► norm)
                 z ─► gelu(inp_gate) * e ─► proj ─► norm ─► + z ─► * layer_output_scale ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model import moe
from refembed.model.batch import Batch
from refembed.model.blocks import attend, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", window="standard", window_pattern=0, window_required=True, turns_whole_heads=False,
    heads_by_layer=True, per_layer_inputs=True, shares_kv=True, experts="all", expert_width="own",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`. D, K and F are the layer's own."""

    attn_norm: Tensor = tensor("C")
    attn_qkv: Tensor | None = tensor("HD+2KD C", presence="optional")
    attn_q: Tensor = tensor("HD C", unless="attn_qkv")
    attn_k: Tensor = tensor("KD C", presence="optional", needed="keys", unless="attn_qkv")
    attn_v: Tensor | None = tensor("KD C", presence="optional", unless="attn_qkv")  # without it values are keys
    attn_q_norm: Tensor = tensor("D")
    attn_k_norm: Tensor = tensor("D", presence="optional", needed="keys")
    attn_output: Tensor = tensor("C HD")
    post_attention_norm: Tensor = tensor("C")
    ffn_norm: Tensor = tensor("C")
    ffn_gate: Tensor = tensor("F C")
    ffn_up: Tensor = tensor("F C")
    ffn_down: Tensor = tensor("C F")
    post_ffw_norm: Tensor = tensor("C")
    # of layers with experts
    ffn_gate_inp: Tensor = tensor("X C", layers="moe")
    router_scale: Tensor = tensor("C", layers="moe", name="ffn_gate_inp", end="scale")
    pre_ffw_norm_2: Tensor = tensor("C", layers="moe")
    post_ffw_norm_1: Tensor = tensor("C", layers="moe")
    post_ffw_norm_2: Tensor = tensor("C", layers="moe")
    ffn_gate_up_exps: Tensor | None = tensor("X 2exp C", presence="optional", layers="moe")
    ffn_gate_exps: Tensor = tensor("X exp C", layers="moe", unless="ffn_gate_up_exps")
    ffn_up_exps: Tensor = tensor("X exp C", layers="moe", unless="ffn_gate_up_exps")
    ffn_down_exps: Tensor = tensor("X C exp", layers="moe")
    experts_scale: Tensor | None = tensor("X", presence="optional", layers="moe", name="ffn_down_exps", end="scale")
    # of models with per-layer inputs
    inp_gate: Tensor = tensor("E C", layers="per layer")
    proj: Tensor = tensor("C E", layers="per layer")
    post_norm: Tensor = tensor("C", layers="per layer")
    layer_output_scale: Tensor | None = tensor("1", presence="optional")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    per_layer_token_embd: Tensor = tensor("V LE", layers="per layer")
    per_layer_model_proj: Tensor = tensor("LE C", layers="per layer")
    per_layer_proj_norm: Tensor = tensor("E", layers="per layer")
    rope_freqs: Tensor | None = tensor("D/2", layers="sees all")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor | None = tensor("V C", presence="optional")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C).

    Unnamed in llama.cpp's graph: inp_per_layer_proj, _scaled, _rows and _sum; attn_product; router_norm, _scaled and
    _weighted; ffn_down, ffn_moe_down; per_layer_gate, _gelu, _gated, _proj and _added.
    """
    selected: list[Float] = []
    if hp.n_embd_per_layer:
        selected = [taps("inp_per_layer_selected", ops.get_rows(w.per_layer_token_embd, batch.ids))]  # (T, L E)
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    x = taps("inp_scaled", x * math.sqrt(hp.n_embd))
    return run_layers(layers, w, hp, batch, ops, taps, np.concatenate([x, *selected], axis=1))


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C), or with per-layer inputs of tokens (T, C + L E) -> (T, C)."""
    x, *selected = ops.split(x, [hp.n_embd, x.shape[1] - hp.n_embd]) if hp.n_embd_per_layer else [x]
    eps, embeddings = hp.norm_eps, x
    per_layer: list[Float] = []  # L x (T, E)
    kept: list[tuple[Float, Float]] = []  # keys and values (T, K, D) of each layer that has some

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        swa = hp.swa_layers[il]
        rope = rope_of(hp, il, None if swa else w.rope_freqs)
        mask = AttentionMask(causal=hp.causal or not swa, window=hp.n_swa if swa else 0)
        spec = AttentionSpec(hp.n_head, hp.n_head_kv_of(il), 1.0, mask, cached=True)

        # self-attention: every token looks back; the last layers at the keys of the last one of their kind that has any
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = None if blk.attn_qkv is None else split_qkv(y, blk.attn_qkv, hp, il, ops, tap)
        q = heads(tap("Qcur", ops.linear(y, blk.attn_q)) if qkv is None else qkv[0], hp, il)  # (T, H, D)
        q = tap("Qcur_normed", ops.rms_norm(q, blk.attn_q_norm, eps, tap))
        q = tap("Qcur_pos", ops.rope(q, batch.pos, rope))
        if il < hp.n_layer - hp.n_layer_shared_kv:
            k, v = keys_and_values(y, blk, ops, tap) if qkv is None else qkv[1:]
            v = tap("Vcur_normed", ops.rms_norm(heads(v, hp, il), None, eps))  # (T, K, D)
            k = tap("Kcur_normed", ops.rms_norm(heads(k, hp, il), blk.attn_k_norm, eps, tap))  # (T, K, D)
            k = tap("Kcur_pos", ops.rope(k, batch.pos, rope))
            kept.append((k, v))
        a = attend(q, *kept[il if il < len(kept) else len(kept) - 1 - swa], spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_product", ops.linear(a, blk.attn_output))  # (T, C)
        a = tap("attn_post_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        x = tap("attn_out", ops.add(a, x))

        # feed-forward: every token on its own
        h = with_experts(x, blk, hp, ops, tap) if hp.moe_layers[il] else feed_forward(x, blk, hp, ops, tap)  # (T, C)
        h = tap("ffn_post_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, taps))  # its `norm` has no layer number
        x = ops.add(h, x)

        # the per-layer input, as far as a gate lets it in
        if selected:
            x = tap("pe_in", x)
            gate = tap("per_layer_gate", ops.linear(x, blk.inp_gate))  # (T, E)
            gate = tap("per_layer_gelu", ops.gelu(gate))
            if not per_layer:  # where llama.cpp's graph does it
                projected = project_embeddings(embeddings, w, hp, ops, taps)
                rows = taps("inp_per_layer_rows", ops.scale(selected[0], math.sqrt(hp.n_embd_per_layer)))
                per_layer = per_layer_inputs(projected, rows, ops, taps)
            e = tap("per_layer_gated", ops.multiply(gate, per_layer[il]))  # (T, E)
            e = tap("per_layer_proj", ops.linear(e, blk.proj))  # (T, C)
            e = tap("per_layer_embd_out", ops.rms_norm(e, blk.post_norm, eps, tap))
            x = ops.add(x, e)
        if blk.layer_output_scale is not None:
            x = tap("per_layer_added", x)
            x = ops.scale(x, blk.layer_output_scale.dequantize()[0])
        x = tap("l_out", x)

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))


def heads(x: Float, hp: Hparams, il: int) -> Float:
    """(T, H D) -> (T, H, D), and (T, K D) -> (T, K, D): D is the layer's own."""
    return x.reshape(len(x), -1, hp.n_embd_head_of(il))


def split_qkv(y: Float, w: Tensor, hp: Hparams, il: int, ops: Ops, tap: Tap) -> list[Float]:
    """Queries (T, H D), keys and values (T, K D) by one matrix."""
    D, K = hp.n_embd_head_of(il), hp.n_head_kv_of(il)
    return ops.split(tap("wqkv", ops.linear(y, w)), [hp.n_head * D, K * D, K * D])


def keys_and_values(y: Float, blk: Block, ops: Ops, tap: Tap) -> tuple[Float, Float]:
    """Keys and values (T, K D); one product for both where the layer has one matrix, which llama.cpp calls values."""
    if blk.attn_v is None:
        k = tap("Vcur", ops.linear(y, blk.attn_k))
        return k, k
    return tap("Kcur", ops.linear(y, blk.attn_k)), tap("Vcur", ops.linear(y, blk.attn_v))


def feed_forward(x: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """A layer without experts: (T, C) -> (T, C)."""
    y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, hp.norm_eps, tap))  # (T, C)
    return tap("ffn_out", geglu(y, blk, ops, tap))


def geglu(y: Float, blk: Block, ops: Ops, tap: Tap) -> Float:
    """The feed-forward part, or next to experts what every token goes through: (T, C) -> (T, C)."""
    gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
    up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
    h = tap("ffn_geglu", ops.geglu(gate, up))  # (T, F)
    return ops.linear(h, blk.ffn_down)  # (T, C)


def with_experts(x: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """A layer with experts, and with a feed-forward part that every token takes: (T, C) -> (T, C)."""
    eps = hp.norm_eps
    chosen, weights = route(x, blk, hp, ops, tap)  # (T, k)
    y = tap("ffn_norm_2", ops.rms_norm(x, blk.pre_ffw_norm_2, eps, tap))  # (T, C)
    experts = moe.mixed(run_experts(y, chosen, blk, ops, tap), weights, tap)  # (T, C)
    y = tap("ffn_norm_1", ops.rms_norm(x, blk.ffn_norm, eps, tap))
    h = tap("ffn_down", geglu(y, blk, ops, tap))  # (T, C)
    h = tap("ffn_mlp", ops.rms_norm(h, blk.post_ffw_norm_1, eps, tap))
    experts = tap("ffn_moe", ops.rms_norm(experts, blk.post_ffw_norm_2, eps, tap))
    return tap("ffn_moe_combined", ops.add(h, experts))


def route(x: Float, blk: Block, hp: Hparams, ops: Ops, tap: Tap) -> tuple[I64, Float]:
    """Which experts each token takes, and their weights, which add up to 1: twice (T, k).

    The router reads what came before the norms: normalized without a weight, over sqrt(C), times a weight of its own.
    """
    y = tap("router_norm", ops.rms_norm(x, None, hp.norm_eps))  # (T, C)
    y = tap("router_scaled", ops.scale(y, ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd))))  # in float32 two roundings
    y = tap("router_weighted", y * blk.router_scale.dequantize().astype(x.dtype))
    logits = tap("ffn_moe_logits", ops.linear(y, blk.ffn_gate_inp))  # (T, X)
    chosen, weights = moe.route(logits, hp.n_expert_used, ops, tap)
    return chosen, moe.normed(weights, tap)


def run_experts(y: Float, chosen: I64, blk: Block, ops: Ops, tap: Tap) -> Float:
    """y (T, C) through the experts chosen (T, k), each times a number of its own: (T, k, C)."""
    if blk.ffn_gate_up_exps is not None:
        gate, up = moe.gate_and_up(y, blk.ffn_gate_up_exps, chosen, ops, tap)  # (T, k, F)
    else:
        up = tap("ffn_moe_up", ops.experts(y, blk.ffn_up_exps, chosen))  # (T, k, F)
        gate = tap("ffn_moe_gate", ops.experts(y, blk.ffn_gate_exps, chosen))
    h = moe.gated(gate, up, "gelu", ops, tap)  # (T, k, F)
    h = tap("ffn_moe_down", ops.experts(h, blk.ffn_down_exps, chosen))  # (T, k, C)
    if blk.experts_scale is None:
        return h
    scale = blk.experts_scale.dequantize().astype(y.dtype)[chosen]  # (T, k)
    return tap("ffn_moe_down_scaled", h * scale[:, :, None])


class PerLayer(Protocol):
    """Weights of a model with per-layer inputs."""

    @property
    def per_layer_model_proj(self) -> Tensor:
        """(L E, C)."""
        ...

    @property
    def per_layer_proj_norm(self) -> Tensor:
        """(E)."""
        ...


def project_embeddings(x: Float, w: PerLayer, hp: Hparams, ops: Ops, taps: Tap) -> Float:
    """Per-layer inputs that come of the embeddings: (T, C) -> (T, L, E)."""
    scale = ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd))  # in float32 it takes two roundings
    e = taps("inp_per_layer_proj", ops.linear(x, w.per_layer_model_proj))  # (T, L E)
    e = taps("inp_per_layer_scaled", ops.scale(e, scale)).reshape(len(x), -1, hp.n_embd_per_layer)
    return taps("per_layer_proj", ops.rms_norm(e, w.per_layer_proj_norm, hp.norm_eps, taps))


def per_layer_inputs(projected: Float, rows: Float, ops: Ops, taps: Tap) -> list[Float]:
    """What each layer gets besides its own input, of embeddings (T, L, E) and tokens (T, L E): L x (T, E)."""
    T, L, E = projected.shape
    e = taps("inp_per_layer_sum", ops.add(projected, rows.reshape(T, L, E)))
    e = taps("inp_per_layer", ops.scale(e, ops.dtype(1) / np.sqrt(ops.dtype(2))))
    return ops.split(e.reshape(T, L * E), [E] * L)
