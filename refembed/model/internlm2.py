"""InternLM 2 and 2.5.

Cai et al. 2024, "InternLM2 Technical Report": the graph is Qwen 2's, RoPE turns neighboring channels. Mirrors
llama.cpp's src/models/internlm2.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.arrays import Float
from refembed.kernels.ops import Ops, Tap
from refembed.model import qwen2
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams, Traits
from refembed.model.weights import Affine, affine

TRAITS = Traits(norm="rms", rope="norm", heads="fill")


@dataclass(frozen=True)
class Weights(qwen2.Weights):
    """Every tensor of the architecture: Qwen 2's. A shape is rows first: GGUF's `ne` reversed."""

    output: Affine = affine("V C", bias="absent")  # guesses the next token; embedding needs it not


def forward(w: Weights, hp: Hparams, batch: Batch, ops: Ops, taps: Tap) -> Float:
    """Token ids (T) -> hidden states (T, C)."""
    return qwen2.forward(w, hp, batch, ops, taps)
