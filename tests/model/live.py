"""One model file in both engines: every tensor paired, and how far apart pairs are, alone and in the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import Ops, Tap
from refembed.model import Model, load_model
from refembed.model.batch import pack
from refembed.model.trace import Recorder, Trace
from refembed.pooling.poolers import pool
from refembed.verify.compare.align import align, without_empty_cells
from refembed.verify.compare.arrays import compare
from refembed.verify.compare.replay import LocalDifference, replay
from refembed.verify.engines.llamacpp import LlamaCpp


class Both:
    """A file in refembed, without its tokenizer, and in live llama.cpp: flash attention off, cache of float32."""

    def __init__(self, path: Path, pooling: str = "mean", **options: Any) -> None:
        self.model: Model = load_model(open_gguf(path))
        self.pooling = pooling
        self.engine = LlamaCpp(path, **{"pooling": pooling, "flash_attn": False, "type_kv": "f32", **options})

    def __enter__(self) -> Both:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def vectors(self, ids: Sequence[int], ops: Ops, tap: Tap) -> Any:
        """Our run, pooled; the last tensor bears llama.cpp's name for it."""
        if self.pooling == "none":
            return self.model.forward(pack([ids]), ops, renamed(tap, {self.model.output: "result_embd_pooled"}))
        pooled = pool(self.model.forward(pack([ids]), ops, tap), np.array([0, len(ids)]), self.pooling)
        return tap("result_embd_pooled", pooled)  # type: ignore[arg-type]

    def compare(self, ids: Sequence[int], numerics: str) -> tuple[Trace, list[LocalDifference], dict[str, float]]:
        """Our trace, the local differences, and the propagated ones as rel_peak by name; no tensor may be left over."""
        ops, recorder = load_ops(numerics), Recorder()
        theirs = self.engine.trace(ids)
        self.vectors(ids, ops, recorder)
        ours, found, cut = recorder.trace, align(recorder.trace, theirs), without_empty_cells(theirs)
        assert [ours.tensors[i].name for i in found.ours_only] == []
        assert [theirs.tensors[i].name for i in found.theirs_only] == []
        assert len(found.pairs) == len(ours.tensors)
        propagated: dict[str, float] = {}
        for p in found.pairs:
            x, y = ours.tensors[p.ours].array, cut.tensors[p.theirs].array
            peak = compare(y.reshape(x.shape), x).rel_peak
            propagated[p.name] = max(propagated.get(p.name, 0.0), peak)
        return ours, replay(lambda tap: self.vectors(ids, ops, tap), theirs), propagated


def renamed(tap: Tap, names: dict[str, str]) -> Tap:
    """The tap, with some names changed."""

    class Renamed:
        active = tap.active

        def __call__(self, name: str, x: Any) -> Any:
            return tap(names.get(name, name), x)

    return Renamed()
