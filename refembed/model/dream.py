"""Dream 7B, a diffusion model: it writes a text in any order, so every token sees all.

Ye et al. 2025, "Dream 7B: Diffusion Large Language Models": the graph is Qwen 2's, without a cache and a causal mask,
whatever attention.causal says. Mirrors llama.cpp's src/models/dream.cpp.
"""

from __future__ import annotations

from refembed.arrays import Float
from refembed.kernels.ops import Ops, Tap
from refembed.model import qwen2
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams, Traits

TRAITS = Traits(norm="rms", rope="neox", heads="fill", encoder=True)


Weights = qwen2.Weights


def forward(w: qwen2.Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return qwen2.forward(w, hp, batch, ops, taps, cached=False)
