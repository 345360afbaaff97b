"""One mmproj file in refembed and in live libmtmd: every tensor of the tower paired, and how far apart pairs are."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from refembed.arrays import U8, Float
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import Ops, Tap
from refembed.model.trace import Recorder, Trace
from refembed.model.vision import Tower, load_tower
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from refembed.verify.compare.align import align
from refembed.verify.compare.arrays import compare
from refembed.verify.compare.replay import LocalDifference, replay
from refembed.verify.engines.llamacpp import LlamaCpp

SIZES = itertools.cycle([(30, 20), (42, 42), (9, 61), (1, 1), (100, 80)])  # width, height


def picture(width: int, height: int, seed: int = 0) -> U8:
    """Random pixels (height, width, 3), the same each time."""
    return np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), np.uint8)


def text_model(folder: Path, arch: str = "gemma-embedding", C: int = 36, **more: Any) -> Path:
    """A small text model to open a tower with."""
    more = {"keys": {"attention.sliding_window_pattern": (2, "UINT32")}} | more  # llama.cpp aborts where all have one
    return synthetic(folder / f"{arch}.gguf", arch, **{"C": C, "n_layer": 2, "P": 256} | more)


def qwen_text_model(folder: Path, C: int = 36, n_deepstack: int = 1, **more: Any) -> Path:
    """A small Qwen3-VL, which has room for what DeepStack adds."""
    keys = {"n_deepstack_layers": (n_deepstack, "UINT32")}
    return synthetic(folder / "qwen3vl.gguf", "qwen3vl", C=C, n_layer=3, P=256, keys=keys, **more)


class Towers:
    """A tower in both engines."""

    def __init__(self, folder: Path, flash_attn: bool = False, **sizes: Any) -> None:
        qwen = sizes.get("projector") == "qwen3vl_merger"
        self.path = synthetic_mmproj(folder / "mmproj.gguf", **sizes)
        self.tower: Tower = load_tower(open_gguf(self.path))
        self.flash_attn = flash_attn
        E, n = self.tower.width, self.tower.n_further
        model = qwen_text_model(folder, E, n) if qwen else text_model(folder, C=E)
        self.engine = LlamaCpp(model, mmproj=self.path, flash_attn=flash_attn)

    def __enter__(self) -> Towers:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def ops(self, numerics: str) -> Ops:
        """Operations as the engine runs."""
        return (
            load_ops(numerics, flash_attn=self.flash_attn, repack=False) if numerics == "ggml" else load_ops(numerics)
        )

    def rows(self, image: U8, numerics: str) -> Float:
        """Ours."""
        return self.tower.rows(image, self.ops(numerics))

    def local(self, image: U8, numerics: str, theirs: Trace) -> list[LocalDifference]:
        """Differences of each operation alone, on llama.cpp's own inputs."""
        ops = self.ops(numerics)

        def run(tap: Tap) -> Float:
            return self.tower.rows(image, ops, tap)

        return replay(run, theirs)

    def unpaired(self, image: U8, theirs: Trace) -> tuple[list[str], list[str]]:
        """Names of tensors that only one of the two has."""
        recorder = Recorder()
        self.tower.rows(image, self.ops("ggml"), recorder)  # which shows as much with flash attention as llama.cpp
        found = align(recorder.trace, theirs)
        ours = [recorder.trace.tensors[i].name for i in found.ours_only]
        return ours, [theirs.tensors[i].name for i in found.theirs_only]

    def propagated(self, image: U8, numerics: str, theirs: Trace) -> dict[str, float]:
        """The largest difference of each tensor in whole runs, over its largest value."""
        recorder = Recorder()
        self.tower.rows(image, self.ops(numerics), recorder)
        worst: dict[str, float] = {}
        for p in align(recorder.trace, theirs).pairs:
            x, y = recorder.trace.tensors[p.ours].array, theirs.tensors[p.theirs].array
            worst[p.name] = max(worst.get(p.name, 0.0), compare(y.reshape(x.shape), x).rel_peak)
        return worst

    def first_wrong(self, image: U8, theirs: Trace, module: ModuleType) -> str:
        """The first tensor, as "name[k]", that is not llama.cpp's when that module computes the tower."""
        faulty = Tower(self.tower.path, self.tower.hparams, self.tower.weights, module)
        ops = self.ops("ggml")

        def run(tap: Tap) -> Float:
            return faulty.rows(image, ops, tap)

        return next(f"{d.name}[{d.k}]" for d in replay(run, theirs) if not d.difference.identical)
