"""EmbeddingGemma 2, its text part.

Google DeepMind 2026, "EmbeddingGemma 2": Gemma 4 in which every token sees all, in five layers of six those around it.
Layers with and without a window differ in the width of their heads, and any two in their number of heads of keys. The
per-layer inputs of Gemma 3n are projected from the embeddings alone; a gate lets each into its layer, behind the
feed-forward. The last product makes vectors of another width than the model's. Mirrors llama.cpp's
src/models/gemma-embedding2.cpp; taps carry that graph's names.

          ids ─► token_embd ─► * sqrt(C) ─► x;   x ─► per_layer_model_proj / sqrt(C) ─► norm ─► e, for each layer
    n_layer ×    x ─► norm ─► attention ─► norm ─► + x ─► y ─► norm ─► gelu(gate) * up ─► down ─► norm ─► + y ─► z
                 z ─► gelu(inp_gate) * e ─► proj ─► norm ─► + z ─► * layer_output_scale ─► x
          x ─► norm ─► output
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionMask, AttentionSpec, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import attend, embedded, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.trace import at_layer
from refembed.model.weights import blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", window="symmetric", window_pattern=6, window_required=True, turns_whole_heads=False,
    heads_by_layer=True, per_layer_inputs=True, projected=True, encoder=True, images=True, output="result_embd",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Tensors of one layer, `blk.{i}.*`. D and K are the layer's own."""

    attn_norm: Tensor = tensor("C")
    attn_q: Tensor = tensor("HD C")
    attn_k: Tensor = tensor("KD C")
    attn_v: Tensor = tensor("KD C")
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
    layer_output_scale: Tensor = tensor("1")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    per_layer_model_proj: Tensor = tensor("LE C")
    per_layer_proj_norm: Tensor = tensor("E")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor = tensor("out C")


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> a vector of each token (T, n_embd_out).

    Unnamed in llama.cpp's graph: attn_product, per_layer_gate, _gelu, _gated, _proj and _added, inp_per_layer_proj and
    _scaled.
    """
    x = embedded(w.token_embd, batch, ops, taps, math.sqrt(hp.n_embd))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, the norm behind them and the last product: (T, C) -> (T, n_embd_out)."""
    eps, embeddings = hp.norm_eps, x
    per_layer: list[Float] = []  # L x (T, E)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)
        mask = AttentionMask(window=hp.n_swa if hp.swa_layers[il] else 0, kind="symmetric")
        spec = AttentionSpec(hp.n_head, hp.n_head_kv_of(il), 1.0, mask)

        # self-attention: in five layers of six a token sees n_swa/2 tokens to either side, in the sixth all
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        q = heads(tap("Qcur", ops.linear(y, blk.attn_q)), hp, il)  # (T, H, D)
        q = tap("Qcur_normed", ops.rms_norm(q, blk.attn_q_norm, eps, tap))
        q = tap("Qcur_pos", ops.rope(q, batch.pos, rope))
        k = heads(tap("Kcur", ops.linear(y, blk.attn_k)), hp, il)  # (T, K, D)
        k = tap("Kcur_normed", ops.rms_norm(k, blk.attn_k_norm, eps, tap))
        k = tap("Kcur_pos", ops.rope(k, batch.pos, rope))
        v = heads(tap("Vcur", ops.linear(y, blk.attn_v)), hp, il)  # (T, K, D)
        v = tap("Vcur_normed", ops.rms_norm(v, None, eps))
        a = attend(q, k, v, spec, batch, ops, tap)  # (T, H D)
        a = tap("attn_product", ops.linear(a, blk.attn_output))  # (T, C)
        a = tap("attn_post_norm", ops.rms_norm(a, blk.post_attention_norm, eps, tap))
        x = tap("attn_out", ops.add(a, x))

        # feed-forward: every token on its own
        y = tap("ffn_norm", ops.rms_norm(x, blk.ffn_norm, eps, tap))  # (T, C)
        gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate))  # (T, F)
        up = tap("ffn_up", ops.linear(y, blk.ffn_up))  # (T, F)
        h = tap("ffn_geglu", ops.geglu(gate, up))  # (T, F)
        h = tap("ffn_out", ops.linear(h, blk.ffn_down))  # (T, C)
        h = tap("ffn_post_norm", ops.rms_norm(h, blk.post_ffw_norm, eps, taps))  # its `norm` has no layer number
        x = tap("pe_in", ops.add(h, x))

        # the per-layer input, as far as a gate lets it in
        gate = tap("per_layer_gate", ops.linear(x, blk.inp_gate))  # (T, E)
        gate = tap("per_layer_gelu", ops.gelu(gate))
        per_layer = per_layer or per_layer_inputs(embeddings, w, hp, ops, taps)  # once, where llama.cpp's graph does
        e = tap("per_layer_gated", ops.multiply(gate, per_layer[il]))  # (T, E)
        e = tap("per_layer_proj", ops.linear(e, blk.proj))  # (T, C)
        e = tap("per_layer_embd_out", ops.rms_norm(e, blk.post_norm, eps, tap))
        x = tap("per_layer_added", ops.add(x, e))
        x = tap("l_out", ops.scale(x, blk.layer_output_scale.dequantize()[0]))

    x = taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
    return taps("result_embd", ops.linear(x, w.output))


def per_layer_inputs(x: Float, w: Weights, hp: Hparams, ops: Ops, taps: Tap) -> list[Float]:
    """What each layer gets of the embeddings x (T, C) besides its own input: L x (T, E)."""
    E, scale = hp.n_embd_per_layer, ops.dtype(1) / np.sqrt(ops.dtype(hp.n_embd))  # in float32 it takes two roundings
    e = taps("inp_per_layer_proj", ops.linear(x, w.per_layer_model_proj))  # (T, L E)
    e = taps("inp_per_layer_scaled", ops.scale(e, scale))
    e = taps("inp_per_layer", ops.rms_norm(e.reshape(len(x), -1, E), w.per_layer_proj_norm, hp.norm_eps, taps))
    return ops.split(e.reshape(len(x), -1), [E] * e.shape[1])


def heads(x: Float, hp: Hparams, il: int) -> Float:
    """(T, H D) -> (T, H, D), and (T, K D) -> (T, K, D): D is the layer's own."""
    return x.reshape(len(x), -1, hp.n_embd_head_of(il))
