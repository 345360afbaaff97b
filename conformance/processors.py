"""llama.cpp on other processors: is a profile of the `ggml` numerics what it computes there, to the bit?

    python -m conformance processors neon --python "qemu-aarch64 -L ROOT ROOT/usr/bin/python3" --write

The command of another Python runs the wheel, on that processor or in an emulator of it (docs/numerics.md has how to
make one). Each model is traced with flash attention off and on; tensors are compared in llama.cpp's order, bit by bit,
and once more one by one, each operation on the other side's inputs. What it computed is kept in expected/processors/,
so that every machine can hold the profile against it (tests/kernels/ggml/test_neon.py).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from conformance.models import model_path
from conformance.oracle import RECORDED
from conformance.toml import write_whole
from refembed import Embedder, Trace
from refembed.kernels.ops import Tap
from refembed.verify.compare.align import align
from refembed.verify.compare.replay import replay
from refembed.verify.engines.llamacpp import LlamaCpp

FOLDER = RECORDED / "processors"
MODELS = ("minilm-f32", "minilm-f16", "minilm-bf16", "minilm-q8_0")
TEXTS = (  # lengths that leave something over at the end of every register: 3, 4, 6, 9, 12, 18, 22, 70
    "a",
    "a cat",
    "Hello, world!",
    "The quick brown fox jumps over",
    "The quick brown fox jumps over the lazy dog.",
    "Rain fell on the harbour all night, and by morning the boats were full.",
    "An engine that rounds differently is right; one that forgets a token is not, whatever it says.",
    "Prices rose by 4.2% in 2023, then fell again after the summer. " * 4,
)


@dataclass(frozen=True)
class Row:
    """One model in one setting."""

    model: str
    flash_attn: bool
    texts: int
    tensors: int
    equal: int  # tensors without one bit that differs, each run from its beginning
    operations: int  # operations that are equal on the other side's own inputs
    vectors: int  # texts whose vector is the same
    first: str  # the first tensor that differs, in the shortest text where one does

    def line(self) -> str:
        """For people."""
        flash = "on" if self.flash_attn else "off"
        said = f"{self.model}, flash attention {flash}: {self.vectors} of {self.texts} vectors, {self.equal} of "
        said += f"{self.tensors} tensors, {self.operations} of {self.tensors} operations equal"
        return said + (f"; first that differs: {self.first}" if self.first else "")


def differing(ours: Trace, theirs: Trace) -> list[tuple[str, int]]:
    """Every pair of tensors in llama.cpp's order, and how many of its numbers differ in a bit."""
    found = []
    for pair in align(ours, theirs).pairs:
        a, b = (np.ascontiguousarray(t, np.float32) for t in
                (ours.tensors[pair.ours].array, theirs.tensors[pair.theirs].array))  # fmt: skip
        n = int((a.reshape(-1).view(np.int32) != b.reshape(-1).view(np.int32)).sum())
        found.append((f"{pair.name}[{pair.k}]" if pair.k else pair.name, n))
    return found


def traced(e: Embedder, ids: list[int], tap: Tap) -> None:
    """Show a run to a tap."""
    e.trace(ids, tap=tap)


def row(model: str, flash: bool, profile: str, traces: Sequence[Trace], vectors: Sequence[Any]) -> Row:
    """Compare one model's runs with the profile's."""
    e = Embedder.load(model_path(model), numerics="ggml", profile=profile, flash_attn=flash)
    tensors = equal = operations = same = 0
    first = ""
    for trace, vector in zip(traces, vectors, strict=True):
        ids = list(trace.meta["tokens"])
        pairs = differing(e.trace(ids), trace)
        tensors += len(pairs)
        equal += sum(not n for _, n in pairs)
        operations += sum(d.difference.identical for d in replay(partial(traced, e, ids), trace))
        same += bool(np.array_equal(e.embed([ids], normalize=-1)[0], vector))
        wrong = next((f"{name}, {n} numbers" for name, n in pairs if n), "")
        first = first or (f"{wrong} ({len(ids)} tokens)" if wrong else "")
    return Row(model, flash, len(traces), tensors, equal, operations, same, first)


def run(
    profile: str, python: Sequence[str], models: Sequence[str], say: Callable[[str], object]
) -> Iterator[tuple[Row, list[list[int]], list[Any], dict[str, Any]]]:
    """Each model and setting: its row, ids, vectors, and the build that gave them."""
    for model in models:
        for flash in (False, True):
            with LlamaCpp(model_path(model), flash_attn=flash, python=python, timeout=3600) as engine:
                ids = [engine.tokenize(t, add_special=True, parse_special=True) for t in TEXTS]
                vectors = engine.embed(ids)
                traces = [engine.trace(i) for i in ids]
                build = engine.build
            found = row(model, flash, profile, traces, vectors)
            say(found.line())
            yield found, ids, vectors, build


def write(profile: str, found: Sequence[tuple[Row, list[list[int]], list[Any], dict[str, Any]]], date: str) -> Path:
    """Keep ids, vectors and the build."""
    arrays: dict[str, Any] = {}
    for r, ids, vectors, _ in found:
        arrays[f"{r.model}/{'flash' if r.flash_attn else 'plain'}"] = np.stack(vectors)
        arrays[f"{r.model}/ids"] = np.array([i for one in ids for i in one], np.int32)
        arrays[f"{r.model}/ends"] = np.cumsum([len(one) for one in ids]).astype(np.int32)
    build = found[0][3]
    build["files"] = [{**f, "path": Path(f["path"]).name} for f in build["files"]]
    rows = [vars(r) for r, *_ in found]
    arrays["about"] = np.array(json.dumps({"profile": profile, "date": date, "build": build, "rows": rows}))
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_whole(FOLDER / f"{profile}.npz", out.getvalue())
    return FOLDER / f"{profile}.npz"


def command(
    profile: str, python: Sequence[str], models: Sequence[str], write_: bool, date: str, say: Callable[[str], object]
) -> bool:
    """Compare, print, and with `write_` keep; whether every vector is the same."""
    found = list(run(profile, python, models or MODELS, say))
    if write_:
        say(f"wrote {write(profile, found, date)}")
    return all(r.vectors == r.texts for r, *_ in found)
