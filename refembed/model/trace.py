"""Taps: where a forward pass shows its tensors, under the names llama.cpp's graph gives them.

A forward pass writes `x = tap("inp_embd", x)` after each step. The tap that it was given decides what that does:

    NO_TAP      returns x; this is how embedding runs
    Recorder    keeps x and returns it: a trace
    (replay)    keeps x, and returns another engine's tensor of that name, so that the next operation runs on that
                engine's own numbers: `refembed.verify.compare.replay` measures each operation alone with it

Names repeat, as they do in llama.cpp: `Qcur-0` is the product x Wᵀ, and once more the product plus its bias.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refembed.arrays import Float
from refembed.atomic_write import opened_zip, reading_arrays, replacing
from refembed.errors import RequestError
from refembed.kernels.ops import Tap
from refembed.parse_json import parse_json


class TracedTensor(NamedTuple):
    """One tensor of a run."""

    name: str  # llama.cpp's name, e.g. "kq_soft_max-3"
    array: npt.NDArray[Any]  # as the engine had it: float64 under `exact`, float32 under `fast`
    op: str = ""  # the engine's operation, where it is known: "MUL_MAT", "VIEW" ...


@dataclass
class Trace:
    """Every tensor of one run in order, plus who made it from what (`meta`).

    >>> trace = Trace([TracedTensor("inp_embd", np.zeros((2, 3))), TracedTensor("Qcur-0", np.ones(3)),
    ...                TracedTensor("Qcur-0", np.full(3, 2.0))], {"model": "made by hand"})
    >>> list(trace), len(trace), "kq-0" in trace
    (['inp_embd', 'Qcur-0'], 3, False)
    >>> trace["Qcur-0"], trace["Qcur-0", 0]  # the last one, the first one
    (array([2., 2., 2.]), array([1., 1., 1.]))
    >>> Trace.load(trace.save("run.npz")).meta
    {'model': 'made by hand'}
    """

    tensors: list[TracedTensor] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str | tuple[str, int]) -> npt.NDArray[Any]:
        """`trace[name]` is the last tensor of that name; `trace[name, k]` the k-th, from 0."""
        name, k = key if isinstance(key, tuple) else (key, -1)
        found = [t.array for t in self.tensors if t.name == name]
        if not found or not -len(found) <= k < len(found):
            raise KeyError(f"{name!r} occurs {len(found)} times in this trace")
        return found[k]

    def __contains__(self, name: object) -> bool:
        return any(t.name == name for t in self.tensors)

    def __iter__(self) -> Iterator[str]:
        """Names in order of first occurrence."""
        return iter(dict.fromkeys(t.name for t in self.tensors))

    def __len__(self) -> int:
        return len(self.tensors)

    def save(self, path: str | Path) -> Path:
        """Write `.npz`: arrays `0000/<name>` in order, and `meta.json` next to them. Atomic: no half file is left."""
        target = Path(path)
        with replacing(target) as out, zipfile.ZipFile(out, "w") as z:
            about = {"format": "refembed-trace-1", "ops": [t.op for t in self.tensors], "meta": self.meta}
            z.writestr("meta.json", json.dumps(about, indent=1))
            for i, t in enumerate(self.tensors):
                with z.open(f"{i:04d}/{t.name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(t.array), allow_pickle=False)
        return target

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote. Anything else is a RequestError."""
        try:
            with reading_arrays(), opened_zip(path) as z:
                about = check_about(parse_json(z.read("meta.json")))
                names = sorted(n for n in z.namelist() if n.endswith(".npy"))
                taps = []
                for n, op in zip(names, about["ops"], strict=True):
                    with z.open(n) as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    if array.dtype.kind not in "fiu":
                        raise ValueError(f"{n} is {array.dtype}, not of numbers")
                    taps.append(TracedTensor(n[5:-4], array, op))
        except FileNotFoundError:
            raise RequestError(f"{path}: no such file", hint="`refembed trace --save run.npz` writes one") from None
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, TypeError, MemoryError) as e:
            hint = "a trace is written by `refembed trace --save run.npz`"
            raise RequestError(f"{path}: not a trace: {e}", hint=hint) from None
        return cls(taps, about["meta"])


def check_about(about: Any) -> dict[str, Any]:
    """What meta.json of a trace says. ValueError where it is of another shape."""
    if not isinstance(about, dict) or not isinstance(about.get("meta"), dict):
        raise ValueError("meta.json is no table with a table `meta`")
    ops = about.get("ops")
    if not isinstance(ops, list) or not all(isinstance(op, str) for op in ops):
        raise ValueError("meta.json: `ops` is no list of names")
    text, tokens = about["meta"].get("text"), about["meta"].get("tokens")
    if not isinstance(text, (str, type(None))) or not isinstance(tokens, (list, type(None))):
        raise ValueError(f"meta.json: text {text!r}, tokens {tokens!r}")
    if not all(type(i) is int for i in tokens or ()):
        raise ValueError("meta.json: `tokens` is no list of token ids")
    return about


class Recorder:
    """Keeps a copy of every tensor that is shown to it."""

    active = True

    def __init__(self, meta: Mapping[str, Any] | None = None) -> None:
        self.trace = Trace(meta=dict(meta or {}))

    def __call__(self, name: str, x: Float) -> Float:
        """Keep a copy of x under `name`; return x."""
        self.trace.tensors.append(TracedTensor(name, np.array(x, copy=True)))
        return x


class LayerTap:
    """A tap that puts the number of a layer behind each name."""

    def __init__(self, tap: Tap, il: int) -> None:
        self.tap, self.il, self.active = tap, il, tap.active

    def __call__(self, name: str, x: Float) -> Float:
        """Show x as `name-il`; a name that is empty, as in llama.cpp's graph, stays so and is not shown."""
        return self.tap(f"{name}-{self.il}", x) if name else x


class TapExcept:
    """A tap that one tensor is not given to."""

    def __init__(self, tap: Tap, name: str) -> None:
        self.tap, self.name, self.active = tap, name, tap.active

    def __call__(self, name: str, x: Float) -> Float:
        """Pass x on, unless it has that name."""
        return x if name == self.name else self.tap(name, x)


def at_layer(tap: Tap, il: int) -> Tap:
    """`tap = at_layer(taps, 3)`: tap("kq", x) is taps("kq-3", x)."""
    return LayerTap(tap, il) if tap.active else tap
