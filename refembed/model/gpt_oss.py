"""gpt-oss-20b and gpt-oss-120b (OpenAI).

OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card": every other layer has a window of 128 tokens; each head has a sink
(Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks"), a score that takes a share of the
attention and has no value. Experts are chosen before the softmax, which is over the chosen ones alone; router and
experts have biases, and their gated unit is clamped. Mirrors llama.cpp's src/models/openai-moe.cpp; taps carry that
graph's names.

          ids ─► token_embd ─► x
    n_layer ×    x ─► norm ─► attention with sinks ─► + x ─► y ─► norm ─► experts ─► + y ─► x
          x ─► norm
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.batch import Batch
from refembed.model.blocks import Qkv, QkvBlock, attend, attention_spec, rope_of, run_layers
from refembed.model.hparams import Hparams, Traits
from refembed.model.moe import mixed, route_among_chosen, run_experts
from refembed.model.trace import at_layer
from refembed.model.weights import Affine, affine, blocks, tensor

TRAITS = Traits(
    norm="rms", rope="neox", window="standard", window_pattern=2, window_required=True, freq_base_swa=None,
    scaled_swa=True, experts="required", expert_width="own",
)  # fmt: skip


@dataclass(frozen=True)
class Block(QkvBlock):
    """Tensors of one layer, `blk.{i}.*`."""

    attn_norm: Tensor = tensor("C")
    attn_output: Affine = affine("C HD")
    attn_sinks: Tensor = tensor("H")
    post_attention_norm: Tensor = tensor("C")
    ffn_gate_inp: Affine = affine("X C")
    ffn_gate_exps: Affine = affine("X exp C")
    ffn_up_exps: Affine = affine("X exp C")
    ffn_down_exps: Affine = affine("X C exp")


@dataclass(frozen=True)
class Weights:
    """Every tensor of the architecture. A shape is rows first: GGUF's `ne` reversed."""

    token_embd: Tensor = tensor("V C")
    blk: tuple[Block, ...] = blocks(Block)
    output_norm: Tensor = tensor("C")
    output: Tensor = tensor("V C")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    x = taps("embd", ops.get_rows(w.token_embd, batch.ids))  # (T, C)
    return run_layers(layers, w, hp, batch, ops, taps, x)


def layers(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap, x: Float) -> Float:
    """All layers, and the norm behind them: (T, C) -> (T, C)."""
    eps, scale = hp.norm_eps, 1 / math.sqrt(hp.n_embd_head)

    for il, blk in enumerate(w.blk):
        tap = at_layer(taps, il)  # tap("kq", x) is taps("kq-3", x) in layer 3
        rope = rope_of(hp, il)
        spec = attention_spec(hp, il, scale)

        # self-attention: every token looks back, in every other layer through the window, and a sink takes its share
        y = tap("attn_norm", ops.rms_norm(x, blk.attn_norm, eps, tap))  # (T, C)
        qkv = Qkv(y, blk, hp, ops, tap)
        q = tap("Qcur", ops.rope(qkv.queries(), batch.pos, rope))  # (T, H, D)
        v = qkv.values()  # (T, K, D)
        k = tap("Kcur", ops.rope(qkv.keys(), batch.pos, rope))  # (T, K, D)
        a = attend(q, k, v, spec, batch, ops, tap, blk.attn_sinks)  # (T, H D)
        a = tap("attn_out", ops.linear(a, *blk.attn_output, tap, ""))  # (T, C)
        x = tap("ffn_inp", ops.add(a, x))

        # feed-forward: every token on its own, through its experts
        y = tap("attn_post_norm", ops.rms_norm(x, blk.post_attention_norm, eps, tap))  # (T, C)
        scores = tap("ffn_moe_probs", ops.linear(y, *blk.ffn_gate_inp, tap, "ffn_moe_logits"))  # (T, X)
        chosen, weights = route_among_chosen(scores, hp.n_expert_used, ops, tap)  # (T, k)
        experts = blk.ffn_up_exps, blk.ffn_gate_exps, blk.ffn_down_exps
        h = run_experts(y, chosen, *experts, "swiglu_oai", ops, tap)  # (T, k, C)
        x = tap("l_out", ops.add(mixed(h, weights, tap), x))

    return taps("result_norm", ops.rms_norm(x, w.output_norm, eps, taps))
