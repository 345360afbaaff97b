"""The feed-forward part as a mixture of experts: each token goes through k of X small networks.

Shazeer et al. 2017, "Outrageously Large Neural Networks"; the router is Fedus et al. 2021 ("Switch Transformers") with
k experts. Mirrors build_moe_ffn of llama.cpp's src/llama-graph.cpp; taps carry its names.

    x ─► router ─► softmax ─► the k largest ─┬─► experts: up, gate ─► activation ─► down
                                             └─► weights ───────────────────────────► * ─► + over k

Or the k largest come first, and the softmax is over those alone (gpt-oss).
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap
from refembed.model.weights import Affine

SMALLEST_HALF = 6.103515625e-5  # 2^-14: a sum of weights is not divided by less

Activation: TypeAlias = Literal["gelu", "silu", "swiglu_oai"]
NAMES = {"gelu": "ffn_moe_geglu", "silu": "ffn_moe_swiglu", "swiglu_oai": "ffn_moe_swiglu_oai"}  # of gated ones


def moe(
    x: Float,
    router: Tensor,
    up: Tensor,
    down: Tensor,
    n_used: int,
    activation: Activation,
    ops: Ops,
    tap: Tap,
    *,
    gate: Tensor | None = None,
    norm_weights: bool = False,
) -> Float:
    """x (T, C) through the experts of each token: (T, C).

    router         (X, C)     `ffn_gate_inp`
    up, gate       (X, F, C)  `ffn_up_exps`, and `ffn_gate_exps` where the activation is gated: act(gate x) * up x
    down           (X, C, F)  `ffn_down_exps`
    n_used         k experts a token
    norm_weights   the weights of a token's experts are made to add up to 1 (llama, granite, qwen3moe)
    """
    logits = tap("ffn_moe_logits", ops.linear(x, router))  # (T, X)
    chosen, weights = route(logits, n_used, ops, tap)  # (T, k)
    if norm_weights:
        weights = normed(weights, tap)
    gates = None if gate is None else Affine(gate, None)
    y = run_experts(x, chosen, Affine(up, None), gates, Affine(down, None), activation, ops, tap)  # (T, k, C)
    return mixed(y, weights, tap)


def route(logits: Float, n_used: int, ops: Ops, tap: Tap) -> tuple[I64, Float]:
    """Which experts each token takes, best first, and their probabilities: twice (T, k)."""
    p = tap("ffn_moe_probs", ops.softmax(logits))  # (T, X)
    return largest(p, n_used, tap)


def route_among_chosen(scores: Float, n_used: int, ops: Ops, tap: Tap) -> tuple[I64, Float]:
    """`route` of gpt-oss: experts are chosen by their scores, and share out 1 among those that are chosen."""
    chosen, weights = largest(scores, n_used, tap)
    return chosen, tap("ffn_moe_weights_softmax", ops.softmax(weights))


def largest(p: Float, n_used: int, tap: Tap) -> tuple[I64, Float]:
    """The k largest of each row of p (T, X), in order: where they are, and what: twice (T, k)."""
    order = np.argsort(-p, axis=1, kind="stable")  # (T, X)
    order = tap("ffn_moe_argsort", order.astype(p.dtype)).astype(np.int64)
    chosen = order[:, :n_used]
    return chosen, tap("ffn_moe_weights", np.take_along_axis(p, chosen, axis=1))


def normed(weights: Float, tap: Tap) -> Float:
    """Weights (T, k) over their sum, which is added up in double."""
    in_double = np.add.accumulate(weights, axis=1, dtype=np.float64)[:, -1:]  # one after the other
    total = tap("ffn_moe_weights_sum", in_double.astype(weights.dtype))  # (T, 1)
    total = tap("ffn_moe_weights_sum_clamped", np.maximum(total, weights.dtype.type(SMALLEST_HALF)))
    return tap("ffn_moe_weights_norm", weights / total)


def run_experts(
    x: Float, chosen: I64, up: Affine, gate: Affine | None, down: Affine, activation: Activation, ops: Ops, tap: Tap
) -> Float:
    """x (T, C) through the experts chosen (T, k), each by itself: (T, k, C)."""
    h = project(x, up, chosen, "ffn_moe_up", ops, tap)  # (T, k, F)
    if gate is None:
        T, k, F = h.shape
        act = ops.gelu if activation == "gelu" else ops.silu
        h = tap(f"ffn_moe_{activation}", act(h.reshape(T * k, F)).reshape(T, k, F))
    else:
        g = project(x, gate, chosen, "ffn_moe_gate", ops, tap)  # (T, k, F)
        h = gated(g, h, activation, ops, tap)
    return project(h, down, chosen, "ffn_moe_down", ops, tap)


def project(x: Float, matrices: Affine, chosen: I64, name: str, ops: Ops, tap: Tap) -> Float:
    """The product with each chosen expert's matrix, and where experts have biases, the sum: (T, k, N)."""
    own = f"{name}_biased" if matrices.bias else name
    return tap(own, ops.experts(x, matrices.weight, chosen, matrices.bias, tap, name))


def gate_and_up(x: Float, w: Tensor, chosen: I64, ops: Ops, tap: Tap) -> tuple[Float, Float]:
    """Both products of a gated unit by experts' matrices that hold gate and up, `ffn_gate_up_exps`: twice (T, k, F)."""
    both = tap("ffn_moe_gate_up", ops.experts(x, w, chosen))  # (T, k, 2 F)
    gate, up = (np.ascontiguousarray(half) for half in np.split(both, 2, axis=2))
    return tap("ffn_moe_gate", gate), tap("ffn_moe_up", up)


def gated(gate: Float, up: Float, activation: Activation, ops: Ops, tap: Tap) -> Float:
    """A gated linear unit of each expert of a token: gate, up (T, k, F) -> (T, k, F)."""
    T, k, F = up.shape
    glu = {"gelu": ops.geglu, "silu": ops.swiglu, "swiglu_oai": ops.swiglu_oai}[activation]
    return tap(NAMES[activation], glu(gate.reshape(T * k, F), up.reshape(T * k, F)).reshape(T, k, F))


def mixed(y: Float, weights: Float, tap: Tap, name: str = "ffn_moe_out") -> Float:
    """What the experts of a token make of it, y (T, k, C), times their weights (T, k), added up: (T, C).

    name  of the sum, which llama.cpp gives another where it is all of feed-forward
    """
    y = tap("ffn_moe_weighted", y * weights[:, :, None])
    k, out = y.shape[1], y[:, 0]
    for rank in range(1, k):
        out = out + y[:, rank]
        if rank < k - 1:
            out = tap("ffn_moe_sum", out)  # unnamed in llama.cpp's graph
    return tap(name, np.ascontiguousarray(out))


class SharedExpert(Protocol):
    """A layer with an expert that every token takes."""

    @property
    def ffn_gate_shexp(self) -> Tensor:
        """(S, C)."""
        ...

    @property
    def ffn_up_shexp(self) -> Tensor:
        """(S, C)."""
        ...

    @property
    def ffn_down_shexp(self) -> Tensor:
        """(C, S)."""
        ...


def shared_expert(y: Float, blk: SharedExpert, ops: Ops, tap: Tap) -> Float:
    """The expert that every token takes: (T, C) -> (T, C)."""
    gate = tap("ffn_gate", ops.linear(y, blk.ffn_gate_shexp))  # (T, S)
    up = tap("ffn_up", ops.linear(y, blk.ffn_up_shexp))  # (T, S)
    h = tap("ffn_swiglu", ops.swiglu(gate, up))  # (T, S)
    return tap("ffn_shexp", ops.linear(h, blk.ffn_down_shexp))
