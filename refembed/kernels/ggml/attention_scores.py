"""What llama.cpp does to products of queries and keys before the softmax: scale, soft cap, mask, ALiBi's slopes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from refembed.arrays import F32
from refembed.kernels.llvm.jit import njit
from refembed.kernels.ops import AttentionMask

f32 = np.float32
NO_SINK = np.full(1, -np.inf, np.float32)  # for a single head


@dataclass(frozen=True, eq=False)
class Scoring:
    """score = c tanh(scale q k / c) + bias + slope mask; where in the chain a path rounds is the path's own affair."""

    scale: np.float32
    soft_cap: np.float32  # c; 0 for none
    mask: F32  # (T, N)
    slopes: F32  # (H)
    bias: F32 | None = None  # (H, T, N), added before the scale (T5, whose scale is 1)
    sinks: F32 | None = None  # (H), a score more in each softmax, which has no key and no value (gpt-oss)

    @property
    def sink_of(self) -> F32:
        """(H): -inf, whose share is 0, of heads without a sink."""
        return np.full(len(self.slopes), -np.inf, np.float32) if self.sinks is None else self.sinks


def kq_scale(scale: float, D: int) -> np.float32:
    """The scale in float32. The usual one, 1/sqrt(D), takes two roundings in llama.cpp, which D = 96 shows."""
    usual: np.float32 = f32(1) / np.sqrt(f32(D))
    return usual if abs(scale * math.sqrt(D) - 1) < 1e-6 else f32(scale)


@lru_cache(2)
def mask_of(offsets: tuple[int, ...], mask: AttentionMask, n: int) -> F32:
    """What is added to the score of query i and key j (T, n): -inf where i does not see j, else 0 or ALiBi's -|i - j|.

    Token t of the ubatch is key t, or cell t of the cache; keys behind the last token are empty cells.
    (set_input of llm_graph_input_attn_no_cache, llama_kv_cache::set_input_kq_mask, llama_hparams::is_masked_swa)
    """
    begin = np.asarray(offsets)
    sequence = np.repeat(np.arange(len(begin) - 1), np.diff(begin))  # (T)
    pos = np.arange(len(sequence)) - begin[sequence]  # (T)
    i, j = pos[:, None], pos[None, :]
    seen = sequence[:, None] == sequence[None, :]
    if mask.causal:
        ahead = np.zeros_like(seen)  # rows of an image see each other
        for first, last in mask.spans:
            ahead[first:last, first:last] = True
        seen &= (j <= i) | ahead
    if mask.window:
        seen &= {
            "standard": i - j < mask.window,
            "chunked": j >= i // mask.window * mask.window,
            "symmetric": abs(i - j) <= mask.window // 2,
        }[mask.kind]
    out = np.full((len(pos), n), -np.inf, np.float32)
    out[:, : len(pos)] = np.where(seen, -abs(i - j) if mask.max_bias else 0, -np.inf)
    out.flags.writeable = False  # it is kept for the next layer
    return out


def slopes_of(n_head: int, max_bias: float) -> F32:
    """ALiBi's slope of every head (H), ones without it: powers of 2^(-max_bias/n), n the power of two up to H."""
    if not max_bias:
        return np.ones(n_head, np.float32)
    n = 1 << (n_head.bit_length() - 1)
    m0, m1 = (f32(power(f32(2), -f32(bias) / f32(n))) for bias in (max_bias, max_bias / 2))
    first = [power(m0, f32(h + 1)) for h in range(n)]
    return np.array(first + [power(m1, f32(2 * h + 1)) for h in range(n_head - n)], np.float32)


@njit()
def power(base, exponent):
    """libm's powf."""
    return math.pow(f32(base), f32(exponent))
