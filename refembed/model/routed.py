"""The feed-forward part of DeepSeek and models after it: experts in groups, chosen by score and bias, and a shared one.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.2, and "DeepSeek-V3 Technical Report", section 2.1.2: how well an expert
suits a token is a number of its own or a share of 1 (`Routing.gating`). A bias that keeps all experts busy (Wang et al.
2024, "Auxiliary-Loss-Free Load Balancing") decides with it which are taken, but not what each weighs. Experts may stand
in groups: a token then takes its experts from those groups whose two best add up to most. Mirrors build_moe_ffn of
llama.cpp's src/llama-graph.cpp; taps carry its names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.blocks import swiglu_mlp
from refembed.model.hparams import Hparams
from refembed.model.hparams_experts import SIGMOID, Routing
from refembed.model.moe import gate_and_up, gated, mixed, normed, run_experts, shared_expert
from refembed.model.weights import Affine, tensor


@dataclass(frozen=True)
class RoutedBlock:
    """Feed-forward's tensors of one layer, `blk.{i}.*`: dense, or experts with up and gate apart or in one tensor."""

    ffn_gate: Tensor = tensor("F C", layers="dense")
    ffn_up: Tensor = tensor("F C", layers="dense")
    ffn_down: Tensor = tensor("C F", layers="dense")
    ffn_gate_inp: Tensor = tensor("X C", layers="moe")
    exp_probs_b: Tensor | None = tensor("X", end="bias", layers="moe", presence="optional")
    ffn_gate_up_exps: Tensor | None = tensor("X 2exp C", layers="moe", presence="optional")
    ffn_gate_exps: Tensor = tensor("X exp C", layers="moe", unless="ffn_gate_up_exps")
    ffn_up_exps: Tensor = tensor("X exp C", layers="moe", unless="ffn_gate_up_exps")
    ffn_down_exps: Tensor = tensor("X C exp", layers="moe")
    ffn_gate_shexp: Tensor = tensor("shexp C", layers="shared")
    ffn_up_shexp: Tensor = tensor("shexp C", layers="shared")
    ffn_down_shexp: Tensor = tensor("C shexp", layers="shared")


def feed_forward(y: Float, blk: RoutedBlock, il: int, hp: Hparams, ops: Ops, tap: Tap) -> Float:
    """Every token on its own: through one network, or its experts and the one that all take; (T, C) -> (T, C)."""
    if not hp.moe_layers[il] or hp.routing is None:
        return swiglu_mlp(y, blk.ffn_gate, blk.ffn_up, blk.ffn_down, ops, tap)
    logits = tap("ffn_moe_logits", ops.linear(y, blk.ffn_gate_inp))  # (T, X)
    chosen, weights = route(logits, blk.exp_probs_b, hp.n_expert_used, hp.routing, ops, tap)  # (T, k)
    h = experts(y, blk, chosen, ops, tap)  # (T, k, C)
    if not hp.n_ff_shexp:
        return mixed(h, weights, tap, "ffn_out")
    h = mixed(h, weights, tap)  # (T, C)
    return tap("ffn_out", h + shared_expert(y, blk, ops, tap))


def route(logits: Float, bias: Tensor | None, n_used: int, how: Routing, ops: Ops, tap: Tap) -> tuple[I64, Float]:
    """Which experts each token takes, best first, and what each weighs: twice (T, k)."""
    p = tap("ffn_moe_probs", ops.sigmoid(logits) if how.gating == SIGMOID else ops.softmax(logits))  # (T, X)
    suited = p if bias is None else tap("ffn_moe_probs_biased", ops.add_bias(p, bias))
    if how.n_group > 1:
        suited = tap("ffn_moe_probs_masked", in_best_groups(suited, how))
    order = tap("ffn_moe_argsort", np.argsort(-suited, axis=1, kind="stable").astype(p.dtype)).astype(np.int64)
    chosen = order[:, :n_used]
    weights = tap("ffn_moe_weights", np.take_along_axis(p, chosen, axis=1))
    if how.norm:
        weights = normed(weights, tap)
    if how.scale not in (0.0, 1.0):
        weights = tap("ffn_moe_weights_scaled", ops.scale(weights, how.scale))
    return chosen, weights


def in_best_groups(suited: Float, how: Routing) -> Float:
    """`suited` (T, X), and -inf for the experts of all groups but the best n_group_used of each token.

    Three groups of two, of which a token takes one: the last two add up to most.

    >>> how = Routing(SIGMOID, norm=False, scale=0.0, n_group=3, n_group_used=1)
    >>> in_best_groups(np.array([[0.9, 0.0, 0.1, 0.2, 0.5, 0.6]]), how)
    array([[-inf, -inf, -inf, -inf,  0.5,  0.6]])
    """
    groups = suited.reshape(len(suited), how.n_group, -1)  # (T, G, X/G)
    scores = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)  # (T, G)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : how.n_group_used, None]  # (T, taken, 1)
    masked = np.full_like(groups, -np.inf)
    np.put_along_axis(masked, best, np.take_along_axis(groups, best, axis=1), axis=1)
    return masked.reshape(suited.shape)


def experts(y: Float, blk: RoutedBlock, chosen: I64, ops: Ops, tap: Tap) -> Float:
    """y (T, C) through the experts chosen (T, k), each by itself: (T, k, C)."""
    if blk.ffn_gate_up_exps is None:
        up, gate, down = (Affine(w, None) for w in (blk.ffn_up_exps, blk.ffn_gate_exps, blk.ffn_down_exps))
        return run_experts(y, chosen, up, gate, down, "silu", ops, tap)
    h = gated(*gate_and_up(y, blk.ffn_gate_up_exps, chosen, ops, tap), "silu", ops, tap)  # (T, k, F)
    return tap("ffn_moe_down", ops.experts(h, blk.ffn_down_exps, chosen))
