"""Granite 3 with experts: 1B-A400M and 3B-A800M.

The graph is Granite's, and RoPE is always on. Mirrors llama.cpp's src/models/granite-moe.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from refembed.arrays import Float
from refembed.kernels.ops import Ops, Tap
from refembed.model import granite
from refembed.model.batch import Batch
from refembed.model.granite import TRAITS, Weights
from refembed.model.hparams import Hparams

__all__ = ["TRAITS", "Weights", "forward"]


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return granite.forward(w, turning(hp), batch, ops, taps)


@lru_cache(maxsize=8)  # so that a model has one such record, by which `fast` knows its computation again
def turning(hp: Hparams) -> Hparams:
    """With RoPE."""
    return replace(hp, rope_finetuned=True)
