"""attention.py for long texts: the scores of some queries at a time, so that memory grows with a text's length and not
with its square.

The steps are the definition's. Each of them computes each chunk of queries by itself, also where a tap is attached and
is shown all scores at once, so a trace does not change the bits. Chunks of one text are multiplied by BLAS as matrices
of another height than the whole, which may round otherwise: up to 1e-15 relative to the largest result was measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from refembed.arrays import I64, Float
from refembed.kernels.exact.attention import by_head, mask_scores, softmax, split_heads
from refembed.kernels.ops import BIDIRECTIONAL, NO_TAP, AttentionSpec, Tap

SCORES = 1 << 22  # numbers, 32 MB in float64, of a chunk


def is_long(spec: AttentionSpec, offsets: I64) -> bool:
    """Whether a text has more scores than a chunk."""
    return spec.n_head * int(np.diff(offsets).max()) ** 2 > SCORES


def attention(
    q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *, bias: Float | None = None,
    sinks: Float | None = None,
) -> Float:  # fmt: skip
    """`attention.attention`: same arguments, same result.

    >>> x, spec = np.log([[1.0], [2.0]]), AttentionSpec(1, 1, scale=1.0)
    >>> attention(x, x, x, spec, np.array([0, 2])).round(6)  # query ln 1 weighs both keys alike: half of ln 2
    array([[0.346574],
           [0.428264]])
    """
    out = np.empty((len(q), spec.group * v.shape[1]), q.dtype)
    for begin, end in itertools.pairwise(offsets):
        qh, kh, vh = split_heads(q[begin:end], k[begin:end], v[begin:end], spec, tap)
        chunks, result = chunks_of(spec.n_head, int(end - begin)), by_head(out[begin:end], spec.n_head)  # a view of out
        for some in [chunks] if tap.active else [[chunk] for chunk in chunks]:
            result[:, some[0].start : some[-1].stop] = attend(
                qh, kh, vh, spec, some, tap, bias, sinks
            )  # fmt: skip
    return out


def chunks_of(n_head: int, n: int) -> list[slice]:
    """A text's queries in chunks whose scores, H numbers for each of n keys, fit into SCORES."""
    step = max(SCORES // (n_head * n), 1)
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def attend(
    q: Float, k: Float, v: Float, spec: AttentionSpec, chunks: list[slice], tap: Tap, bias: Float | None,
    sinks: Float | None,
) -> Float:  # fmt: skip
    """`attention.attend` for the queries of these chunks: q, k (H, T, D), v (H, T, E) -> (H, chunks, E)."""
    H, n, _ = q.shape
    keys, first = k.transpose(0, 2, 1), chunks[0].start

    def each(step: Callable[[slice, Float], Float], x: Float) -> Float:
        """A step, each chunk by itself; x holds the rows of `chunks`, one after the other."""
        done = [step(s, np.ascontiguousarray(x[:, s.start - first : s.stop - first])) for s in chunks]
        return done[0] if len(done) == 1 else np.concatenate(done, axis=1)

    scores = tap("kq", each(lambda s, x: x @ keys, q[:, first : chunks[-1].stop]))  # (H, chunks, T)
    scores = each(lambda s, x: x * spec.scale, scores)
    if cap := spec.soft_cap:
        scores = tap("kq_scaled_1", each(lambda s, x: x / cap, scores))
        scores = tap("kq_tanh", each(lambda s, x: np.tanh(x), scores))
        scores = tap("kq_scaled_2", each(lambda s, x: x * cap, scores))
    if bias is not None:
        scores = tap("kq_plus_kq_b", each(lambda s, x: x + bias[:, s, :n], scores))
    if spec.mask != BIDIRECTIONAL:
        scores = each(lambda s, x: x + mask_scores(H, n, spec.mask, s), scores)
    p = tap("kq_soft_max", each(lambda s, x: softmax(x, sinks), scores))
    return tap("kqv", each(lambda s, x: x @ v, p))  # (H, chunks, E)
