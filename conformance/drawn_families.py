"""Drawn faults of models with experts, latent attention or layers that keep a state.

`drawn_engine` computes BERT and Qwen 3. Other architectures are broken in refembed's own: a list of faults by which
each architecture's graph goes wrong (`verify_faults`), or a tensor of the file that is spoiled; and what happens to
text, tokens, pooling and vector, as in `drawn_faults`. One fault is drawn at a time, or two of different stages.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance import drawn_faults as kinds
from conformance.drawn_engine import Array, Settings, Weights
from conformance.drawn_faults import Kind, Piece, Rng, Target
from conformance.verify_faults import FAULTS
from conformance.verify_models import DECODERS, cased
from refembed import Embedder
from refembed.gguf import GGUFWriter, open_gguf
from refembed.testing.synthetic import synthetic

FAMILIES = ("qwen3moe", "qwen2moe", "gpt-oss", "lfm2moe", "deepseek2", "k2-horizon", "qwen35", "mamba2", "rwkv7")
KEPT = 4  # engines that are kept open


class FamilyModel:
    """A model as refembed computes it, and what may be wrong in it: `Settings.edit` and `Settings.broken` alone."""

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self.embedder, self.folder, self.file = embedder, folder, open_gguf(embedder.info.path)
        self.arch = embedder.info.architecture
        self.n_layer = embedder.model.hparams.n_layer
        self.weights: Weights = {n: t.dequantize().astype(np.float64) for n, t in self.file.tensors.items()}
        self.engines: dict[tuple[int, int], tuple[Any, Embedder]] = {}

    def hidden(self, texts: Sequence[list[int]], s: Settings) -> list[Array]:
        """States (T, C) of the last layer, of each text alone."""
        e = self.engine(s)
        return [np.asarray(e.forward([ids]), np.float64) for ids in texts]

    def engine(self, s: Settings) -> Embedder:
        """The model with what is wrong."""
        key = id(s.edit), id(s.broken)
        if key not in self.engines:
            e = Embedder.load(self.edited(s), numerics="fast") if s.edit else self.embedder
            e = s.broken(e) if s.broken else e
            while len(self.engines) >= KEPT:
                self.engines.pop(next(iter(self.engines)))
            self.engines[key] = (s, e)
        return self.engines[key][1]

    def edited(self, s: Settings) -> Path:
        """The file with other weights."""
        assert s.edit is not None
        weights = s.edit(dict(self.weights))
        w = GGUFWriter(None)
        w.copy_keys(self.file.metadata)
        for t in self.file.tensors.values():
            w.add_tensor(t.name, np.ascontiguousarray(weights[t.name], np.float32), t.shape, "F32")
        with tempfile.NamedTemporaryFile(suffix=".gguf", dir=self.folder, delete=False) as f:
            pass
        return w.write(Path(f.name))


def targets(folder: Path) -> dict[str, tuple[Embedder, FamilyModel]]:
    """Small models with random weights, by name."""
    size: dict[str, Any] = {"P": 160, "V": 300, "pooling": 3}
    found = {}
    for name in FAMILIES:
        plain = synthetic(folder / f"{name}-u.gguf", name, **size | DECODERS[name])
        e = Embedder.load(cased(plain, folder / f"{name}.gguf"), numerics="fast")
        found[name] = e, FamilyModel(e, folder)
    return found


def graph(rng: Rng, t: Target) -> Piece | None:
    """One of the ways in which this architecture's graph goes wrong."""
    own = [f for f in FAULTS if f.model == t.name and f.broken and not f.wire]
    rows = [f for f in own if not f.unlisted and "" not in f.wanted]
    if not rows:
        return None
    fault = rows[int(rng.integers(len(rows)))]
    names = tuple(re.escape(name) for name in fault.wanted)
    return Piece("model", f"{fault.about} ({fault.id})", names, settings={"broken": fault.broken})


KINDS: Sequence[Kind] = (
    graph, graph, graph, graph, graph, graph, kinds.tensors, kinds.tensors, kinds.tensors, kinds.simple_text,
    kinds.prompt, kinds.cut_tokens, kinds.pooling, kinds.pooling, kinds.vector, kinds.vector, kinds.length,
)  # fmt: skip
