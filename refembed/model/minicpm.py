"""MiniCPM 1 and 2, and embedders made from them.

Hu et al. 2024, "MiniCPM": the graph is Granite's. A file that gives no scales has those of the first models: what goes
in is multiplied by 12, what a layer adds by 1.4 / sqrt(n_layer). Mirrors llama.cpp's src/models/minicpm.cpp.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from refembed.arrays import Float
from refembed.kernels.ops import Ops, Tap
from refembed.model import granite, llama
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams

TRAITS = granite.TRAITS
Weights = llama.Weights
EMBEDDING_SCALE = 12.0


def forward(w: granite.Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return granite.forward(w, with_scales(hp), batch, ops, taps)


@lru_cache(maxsize=8)  # so that a model has one such record, by which `fast` knows its computation again
def with_scales(hp: Hparams) -> Hparams:
    """The scales of the first models where the file gives none, and no keys that only Granite reads."""
    scaled = EMBEDDING_SCALE if hp.embedding_scale is None else hp.embedding_scale
    added = residual_scale(hp.n_layer) if hp.residual_scale is None else hp.residual_scale
    hp = replace(hp, embedding_scale=scaled, residual_scale=added)
    return replace(hp, attention_scale=0.0, rope_finetuned=True, n_ff_shexp=0)


def residual_scale(n_layer: int) -> float:
    """1.4 / sqrt(n_layer), a float32."""
    return float(np.float32(1.4) / np.sqrt(np.float32(n_layer)))
