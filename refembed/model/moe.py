"""The feed-forward part as a mixture of experts: each token goes through k of X small networks.

Shazeer et al. 2017, "Outrageously Large Neural Networks"; the router is Fedus et al. 2021 ("Switch Transformers") with
k experts. Mirrors build_moe_ffn of llama.cpp's src/llama-graph.cpp, softmax gating; taps carry its names.

    x ─► router ─► softmax ─► the k largest ─┬─► experts: up, gate ─► activation ─► down
                                             └─► weights ───────────────────────────► * ─► + over k
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refembed.arrays import I64, Float
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops, Tap

SMALLEST_HALF = 6.103515625e-5  # 2^-14: a sum of weights is not divided by less


def moe(
    x: Float,
    router: Tensor,
    up: Tensor,
    down: Tensor,
    n_used: int,
    activation: Literal["gelu", "silu"],
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
    norm_weights   the weights of a token's experts are made to add up to 1 (llama, granite)
    """
    chosen, weights = route(x, router, n_used, ops, tap)  # (T, k)
    if norm_weights:
        weights = normed(weights, tap)

    h = tap("ffn_moe_up", ops.experts(x, up, chosen))  # (T, k, F)
    T, k, F = h.shape
    if gate is None:
        act = ops.gelu if activation == "gelu" else ops.silu
        h = tap(f"ffn_moe_{activation}", act(h.reshape(T * k, F)).reshape(T, k, F))
    else:
        g = tap("ffn_moe_gate", ops.experts(x, gate, chosen))  # (T, k, F)
        glu = ops.geglu if activation == "gelu" else ops.swiglu
        name = "ffn_moe_geglu" if activation == "gelu" else "ffn_moe_swiglu"
        h = tap(name, glu(g.reshape(T * k, F), h.reshape(T * k, F)).reshape(T, k, F))
    y = tap("ffn_moe_down", ops.experts(h, down, chosen))  # (T, k, C)
    y = tap("ffn_moe_weighted", y * weights[:, :, None])

    out = y[:, 0]  # (T, C)
    for rank in range(1, k):
        out = out + y[:, rank]
        if rank < k - 1:
            out = tap("ffn_moe_sum", out)  # unnamed in llama.cpp's graph
    return tap("ffn_moe_out", np.ascontiguousarray(out))


def route(x: Float, router: Tensor, n_used: int, ops: Ops, tap: Tap) -> tuple[I64, Float]:
    """Which experts each token takes, best first, and their probabilities: twice (T, k)."""
    logits = tap("ffn_moe_logits", ops.linear(x, router))  # (T, X)
    p = tap("ffn_moe_probs", ops.softmax(logits))  # (T, X)
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
