"""Token ids in, hidden states out. One architecture, one flat file; nothing here knows text, or how sums are done."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from refembed.arrays import Float
from refembed.errors import ModelError
from refembed.gguf import GGUFFile
from refembed.kernels.ops import Ops
from refembed.model import bert
from refembed.model.batch import Batch
from refembed.model.hparams import Hparams, read_hparams
from refembed.model.trace import SILENT, TapLike
from refembed.model.weights import bind

ARCHITECTURES: dict[str, ModuleType] = {"bert": bert}  # general.architecture -> the file that computes it


@dataclass(frozen=True)
class Model:
    """An architecture with its weights."""

    hparams: Hparams
    weights: Any  # the architecture's Weights
    module: ModuleType

    def forward(self, batch: Batch, ops: Ops, tap: TapLike = SILENT) -> Float:
        """Token ids (T) of S texts -> hidden states (T, C), in the dtype of `ops`."""
        hidden: Float = self.module.forward(self.weights, self.hparams, batch, ops, tap)
        return hidden


def load_model(f: GGUFFile) -> Model:
    """Read sizes, bind tensors. Raises ModelError for an unknown architecture or tensors that do not fit."""
    arch = f.metadata.string("general.architecture")
    if arch not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ModelError(f"{f.path}: refembed does not compute architecture {arch!r}", hint=f"it computes {known}")
    module, hp = ARCHITECTURES[arch], read_hparams(f)
    weights = bind(module.Weights, f.tensors, hp.sizes, hp.n_layer, str(f.path))
    return Model(hp, weights, module)
