"""Attention to the last bit of llama.cpp's CPU backend (llama-graph.cpp build_attn_mha, llama-kv-cache.cpp).

All sequences of one call are one ubatch of llama.cpp: one matrix of scores over all its tokens, where keys of other
sequences are masked with -inf. A masked key weighs exactly nothing, yet it takes a place in a sum, and so moves the
others to other lanes: pass a text alone to get its own bits.

    flash_attn  K, V rounded to float16, one fused operation: attention_flash.py; never where scores have a bias
    otherwise   product, softmax, product: attention_classic.py; with a KV cache K, V, Q and shares in float16

A model with a KV cache (`cached`) is taken to start with it empty and to put the whole ubatch into its first cells.
Whether layers with a window keep a cache of their own (llama-kv-cache-iswa.cpp) then makes no difference.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refembed.arrays import F32, I64
from refembed.kernels.ggml.attention_classic import classic
from refembed.kernels.ggml.attention_flash import flash
from refembed.kernels.ggml.attention_scores import Scoring, kq_scale, mask_of, slopes_of
from refembed.kernels.ggml.floats import rounded
from refembed.kernels.ggml.profile import Profile
from refembed.kernels.ops import NO_TAP, AttentionMask, AttentionSpec, Tap

CELLS = 256  # the cache is read in multiples of so many cells (llama_kv_cache::get_n_kv)


def attention(
    q: F32, k: F32, v: F32, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *, profile: Profile,
    bias: F32 | None = None, sinks: F32 | None = None, first: int = 0, past: tuple[F32, F32] | None = None,
) -> F32:  # fmt: skip
    """Scaled dot-product attention of one ubatch: q (T, H D), k (T, K D), v (T, K E), offsets (S+1) -> (T, H E).

    tap        is given what llama.cpp's graph shows: without flash attention kq, kq_soft_max (H, T, N), v_cont (K, E,
               N)
               where there is no cache, kqv (H, T, E), and kq_scaled_1, kq_tanh, kq_scaled_2 with a soft cap; with
               flash attention, which is one node, nothing. N is T; with a cache the cells that are read
    bias       (H, L, L) added to the scores after the soft cap, by the places of query and key in their texts
    sinks      (H) scores without keys and values
    first      cell of the cache where the ubatch begins: behind the texts that came before it in the same call
    past       keys and values of earlier ubatches of the same text (T', K D), in the first cells: they are seen
    """
    if past is not None:
        first, k, v = len(past[0]), np.concatenate([past[0], k]), np.concatenate([past[1], v])
    T, fused = len(q), profile.flash_attn and bias is None
    mask, cached = spec.mask, spec.cached
    padded = (cached or profile.pad_keys) and not fused
    N = max(CELLS, -(-(first + T) // CELLS) * CELLS) if padded else first + T
    qh = heads(q, spec.n_head, T)  # (H, T, D)
    kh, vh = (heads(x, spec.n_head_kv, N, first + T - len(x)) for x in (k, v))  # (K, N, D), (K, N, E)
    if cached or fused:
        kh, vh = rounded(kh, "F16"), rounded(vh, "F16")
    behind = past is not None
    hidden = mask_behind(first, T, mask, N) if behind else mask_of(tuple(offsets.tolist()), mask, N - first)
    if first and not behind:
        hidden = np.pad(hidden, ((0, 0), (first, 0)), constant_values=-np.inf)  # (T, N)
        hidden.flags.writeable = False
    if profile.flash_attn:
        hidden = rounded(hidden, "F16")  # which ALiBi's distances above 2048 notice
    slopes = slopes_of(spec.n_head, mask.max_bias)
    more = None if bias is None else pad_bias(np.asarray(bias, np.float32), offsets, N)
    scoring = Scoring(kq_scale(spec.scale, qh.shape[2]), np.float32(spec.soft_cap), hidden, slopes, more, sinks)
    if fused:
        return flash(qh, kh, vh, scoring, profile)
    return classic(qh, kh, vh, scoring, "F16" if cached else "F32", profile, tap)


def mask_behind(first: int, T: int, mask: AttentionMask, n: int) -> F32:
    """The mask (T, n) of a text's tokens from place `first` on, whose spans count from there."""
    spans = tuple((begin + first, end + first) for begin, end in mask.spans)
    whole = mask_of((0, first + T), replace(mask, spans=spans), n)
    hidden = np.ascontiguousarray(whole[first:])
    hidden.flags.writeable = False
    return hidden


class CacheCells:
    """Keys and values that ubatches of one text leave in a KV cache, layer by layer.

    >>> cells, row = CacheCells(), np.ones((1, 2), np.float32)
    >>> cells.store(row, row) is None  # the first ubatch has none before it
    True
    >>> cells.rewind()
    >>> cells.store(row, row)[0].shape
    (1, 2)
    """

    def __init__(self) -> None:
        self.kept: list[tuple[F32, F32]] = []
        self.layer = 0

    def store(self, k: F32, v: F32) -> tuple[F32, F32] | None:
        """Put the next layer's keys and values behind those that it has, which are returned; None for the first."""
        i, self.layer = self.layer, self.layer + 1
        if i == len(self.kept):
            self.kept.append((k, v))
            return None
        past = self.kept[i]
        self.kept[i] = np.concatenate([past[0], k]), np.concatenate([past[1], v])
        return past

    def rewind(self) -> None:
        """To the first layer, for the next ubatch."""
        self.layer = 0


def pad_bias(bias: F32, offsets: I64, n: int) -> F32:
    """(H, L, L) by places in a text -> (H, T, n) by places in the ubatch; 0 for empty cells."""
    T = int(offsets[-1])
    pos = np.arange(T) - np.repeat(offsets[:-1], np.diff(offsets))
    out = np.zeros((len(bias), T, n), np.float32)
    out[:, :, :T] = bias[:, pos[:, None], pos]
    return out


def heads(x: F32, n_head: int, n: int, first: int = 0) -> F32:
    """(T, H D) -> (H, n, D): rows from `first` on, zeros before and behind them."""
    T = len(x)
    out = np.zeros((n_head, n, x.shape[1] // n_head), np.float32)
    out[:, first : first + T] = x.reshape(T, n_head, -1).transpose(1, 0, 2)
    return out
