"""From packed token ids to vectors: forward, pool, normalize; and the options that say how."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refembed.arrays import F32, Float
from refembed.errors import ModelError
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.model import Model
from refembed.model.batch import Batch
from refembed.model.trace import TapExcept
from refembed.pooling.heads import pooled
from refembed.pooling.normalize import normalize as normalize_rows


class VectorOptions(NamedTuple):
    """What `Embedder.embed` was asked for, resolved for a model: `Embedder.resolve_options`."""

    pooling: str  # a row of `pooling.POOLERS`, or "rank"; never "native"
    normalize: int  # llama.cpp's embd_normalize
    dimensions: int | None  # None: all


def forward_and_pool(model: Model, ops: Ops, batch: Batch, how: str, tap: Tap = NO_TAP) -> Float | list[Float]:
    """Token ids of S texts to hidden states (T, C), and those to what llama.cpp calls `result_embd_pooled`.

    how      a resolved pooling
    tap      is given every tensor on the way
    returns  (S, D); rank: (S, R); none: a list of S arrays (T_s, D)
    """
    # where nothing is pooled, llama.cpp gives the last hidden states the pooled vector's name
    first = TapExcept(tap, model.output) if tap.active and how == "none" else tap
    with np.errstate(all="ignore"):  # a vector that is not finite is refused at the end: `cut_and_normalize`
        if batch.images:
            from refembed.pipeline.multimodal import forward

            hidden = forward(model, batch, ops, first)  # (T, C)
        else:
            hidden = model.forward(batch, ops, first)
        vectors = pooled(hidden, batch.offsets, how, model, ops, tap)
    return vectors if isinstance(vectors, list) else np.asarray(vectors)  # from a GPU all at once


def cut_and_normalize(
    vector: Float, normalize: int, dimensions: int | None = None, hint: str = Ops.if_not_finite
) -> F32:
    """Keep the first `dimensions` numbers (Matryoshka), normalize, round to float32.

    vector   (D) or, where nothing is pooled, (T, D)
    hint     what to try where it is not finite: `Ops.if_not_finite`
    returns  the same shape, with `dimensions` in place of D

    Raises ModelError for a vector that is not finite.

        >>> cut_and_normalize(np.array([3.0, 4.0, 12.0]), 2, 2)
        array([0.6, 0.8], dtype=float32)
    """
    cut = vector[..., :dimensions]
    if not np.isfinite(cut).all():
        raise ModelError("the model gave a vector that is not finite", hint=hint)
    return normalize_rows(cut, normalize).astype(np.float32)
