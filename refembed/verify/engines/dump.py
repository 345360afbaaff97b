"""What llama.cpp's eval-callback prints of a run (llama-eval-callback, llama-debug), read back and compared.

    common_debug_cb_eval:     inp_embd = (f32)        ADD(node_6{384, 7, 1, 1}, node_4{384, 7, 1, 1}}) = {384, 7, 1, 1}
        [
            [
                [      0.0390,      -0.0123, ...,       0.0041  ],
    ...
        sum = -12.345678

Of each axis longer than 6 the first and last three places are printed, with four decimals; then the sum of all
elements, added up in float32. So an array read back holds what was printed and NaN elsewhere, and two runs are compared
in the places that were printed, and by their sums. Mirrors common/debug.cpp; older builds print `ggml_debug:` in front
and the sum of what they show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64
from refembed.errors import EngineError
from refembed.model.trace import Trace, TracedTensor
from refembed.verify.compare.align import STORES, VIEWS, align, without_empty_cells

HEAD = re.compile(
    r"\b(?:common_debug_cb_eval|ggml_debug): +(?P<name>.*?) = \((?P<type>\w+)\) +(?P<op>\w+)\((?P<src>.*)\) "
    r"= \{(?P<ne>\d+(?:, \d+)*)\}\s*$"
)
NUMBER = re.compile(r"[-+]?(?:\d+\.\d+|nan|inf)\b")
SOURCE = re.compile(r"(.+?)\{\d+(?:, \d+)*\}(?:, |\}|$)")
SUM = re.compile(r"\bsum = ([-+]?(?:\d+\.\d+|nan|inf))")
TOKENS = re.compile(r"^token ids: ((?:\d+, )*\d+)\s*$", re.MULTILINE)  # llama-debug's -prompt.txt
PROMPT = re.compile(
    r'^Input prompt: "(.*?)"\n+Token ids \((\d+)\):\n(.*)', re.MULTILINE | re.DOTALL
)  # its standard output
PIECE = re.compile(r"\((\d+)\) ")  # behind each piece, its id
PRINTED = {"f32", "f16", "bf16", "i8", "i16", "i32", "i64"}  # types whose numbers are printed
PRINTED_PER_END = 3  # places printed at each end of an axis
HALF = 0.5e-4  # half of the last decimal printed


@dataclass(frozen=True)
class ShownDifference:
    """One tensor in the places that were printed."""

    name: str  # in ours
    k: int  # the occurrence index of the of that name, from 0
    theirs: str
    op: str
    shown: int  # elements compared
    max_abs: float  # largest difference of a printed element; infinite where only one side is finite
    worst: tuple[int, ...]  # where
    sum_ours: float
    sum_theirs: float
    sum_noise: float  # how far rounding alone can move a sum of these numbers in float32

    @property
    def excess(self) -> float:
        """By how much the largest difference is more than printing to four decimals explains; 0 where it is not."""
        return max(0.0, self.max_abs - HALF * (1 + 1e-9))

    @property
    def within(self) -> bool:
        """Whether printing alone explains every difference, as between two runs of equal bits."""
        return self.excess == 0 and self.sums_agree

    @property
    def sums_agree(self) -> bool:
        """Whether the sums differ by no more than six printed decimals and float32 additions explain."""
        if not (np.isfinite(self.sum_ours) and np.isfinite(self.sum_theirs)):
            return str(self.sum_ours) == str(self.sum_theirs)
        return abs(self.sum_ours - self.sum_theirs) <= self.sum_noise + 1e-6


def is_dump(text: str) -> bool:
    """Whether the printer's lines are in a text."""
    return any(HEAD.search(line) for line in text.splitlines())


def read_dump(text: str, path: str) -> Trace:
    """The run that a text shows: float64 taps, NaN where nothing was printed. EngineError where there is none.

    meta: "partial" True, "resolution", "text" and "tokens" where they are in it, and "nodes" as `LlamaCpp.trace` has
    them, each with its printed "sum". Quantized tensors, whose numbers are not printed, are left out; so is a tensor
    that the end of the text cuts short: "cut" in meta is its name and the number of the last line.
    """
    lines = text.splitlines()
    heads = [(i, m) for i, line in enumerate(lines) if (m := HEAD.search(line))]
    if not heads:
        raise EngineError(f"{path}: no line of llama.cpp's eval-callback in it")
    taps: list[TracedTensor] = []
    nodes: list[dict[str, Any]] = []
    latest: dict[str, int] = {}  # name -> its last place so far
    cut: list[Any] = []
    for n, (i, head) in enumerate(heads):
        end = heads[n + 1][0] if n + 1 < len(heads) else len(lines)
        body = lines[i + 1 : end]
        ne = [int(x) for x in head["ne"].split(", ")]
        array = array_of(ne, body)
        if array is None:
            if n + 1 < len(heads) and any(NUMBER.search(line) for line in body):
                raise EngineError(f"{path}, line {i + 1}: {head['name']!r} is not printed as its shape {ne} says")
            if n + 1 == len(heads) and head["type"] in PRINTED:
                cut = [head["name"].strip(), len(lines)]
            continue
        sources = [latest.get(s.strip(), s.strip()) for s in SOURCE.findall(head["src"])]
        printed = SUM.findall("\n".join(body))
        about = {"type": head["type"], "sources": sources, "view_of": view_of(head, sources)}
        nodes.append({**about, "sum": float(printed[-1])})
        name = head["name"].lstrip()
        name = f" {name}" if name.startswith("(") else name  # " (view)": derived from a tensor without a name
        latest[name] = len(taps)
        taps.append(TracedTensor(name, array, head["op"]))
    if not taps:
        raise EngineError(f"{path}: no tensor is shown whole in it; the text ends in the first")
    meta: dict[str, Any] = {"engine": "eval-callback", "partial": True, "resolution": HALF, "nodes": nodes}
    return Trace(taps, meta | told_input(text) | ({"cut": cut} if cut else {}))


def told_input(text: str) -> dict[str, Any]:
    """The "text" and the "tokens" of the run, as far as llama-debug has printed them around it."""
    if ids := TOKENS.search(text):
        return {"tokens": [int(i) for i in ids[1].split(", ")]}
    if m := PROMPT.search(text):
        found = [int(i) for i in PIECE.findall(m[3])[: int(m[2])]]
        return {"text": m[1], "tokens": found} if len(found) == int(m[2]) else {"text": m[1]}
    return {}


def view_of(head: re.Match[str], sources: list[Any]) -> Any:
    """What a node is a view of: its source, or the cache that it writes to (the printer does not name it)."""
    if head["op"] in VIEWS:
        return sources[0] if sources else None
    written = head["name"].strip().removesuffix(" (view)")
    return written if head["op"] in STORES and written.startswith("cache") else None


def array_of(ne: list[int], body: list[str]) -> F64 | None:
    """The tensor that the lines show, (ne reversed), at least 2-D; None where they do not show it to its end."""
    numbers = [float(x) for line in body if "sum =" not in line for x in NUMBER.findall(line)]
    printed = places(tuple(reversed(ne)))
    if len(numbers) != int(np.prod([len(axis) for axis in printed])) or not any(SUM.search(line) for line in body):
        return None
    x = np.full(ne[::-1], np.nan)
    x[np.ix_(*printed)] = np.reshape(numbers, [len(axis) for axis in printed])
    while x.ndim > 2 and x.shape[0] == 1:
        x = x[0]
    return x


def places(shape: tuple[int, ...]) -> list[list[int]]:
    """The places printed along each axis: all but the middle. Every matrix of the outermost of four axes is printed."""
    full = (1,) * (4 - len(shape)) + shape
    cut = [
        [*range(PRINTED_PER_END), *range(n - PRINTED_PER_END, n)] if n > 2 * PRINTED_PER_END else list(range(n))
        for n in full
    ]
    return [list(range(full[0])), *cut[1:]][4 - len(shape) :]


def compare_shown(ours: Trace, theirs: Trace) -> list[ShownDifference]:
    """Every tensor of ours that the dump shows as well, in our order, compared where it was printed.

    ours    a whole trace of the same token ids
    theirs  of `read_dump`
    """
    found = []
    own = without_empty_cells(theirs)
    for pair in align(ours, theirs).pairs:
        tap, cut = theirs.tensors[pair.theirs], own.tensors[pair.theirs].array
        x = np.asarray(ours.tensors[pair.ours].array)
        whole = x.reshape(cut.shape)
        axes = [[i for i in axis if i < n] for axis, n in zip(places(tap.array.shape), cut.shape, strict=True)]
        at = np.ix_(*axes)
        a, b = whole[at].astype(np.float64), cut[at]
        fine = np.isfinite(a) & np.isfinite(b)
        gap = np.where(fine, np.abs(np.where(fine, a, 0) - np.where(fine, b, 0)), np.where(same(a, b), 0.0, np.inf))
        worst = np.unravel_index(int(gap.argmax()), gap.shape)
        place = tuple(int(axis[i]) for axis, i in zip(axes, worst, strict=True))
        printed = theirs.meta["nodes"][pair.theirs]["sum"]
        mine = total(whole)
        shown_only = total(b.astype(np.float32))  # an older build adds up what it prints
        if tap.array.size > b.size and abs(shown_only - printed) <= HALF * b.size:
            mine = total(a.astype(np.float32))
        if cut.size < tap.array.size:  # the sum counts cells of the cache that hold no token
            mine = printed
        noise = float(np.abs(whole[np.isfinite(whole)]).sum()) * whole.size * 2.0**-24
        found.append(
            ShownDifference(pair.name, pair.k, tap.name, tap.op, b.size, float(gap.max()), place, mine, printed, noise)
        )
    return found


def same(a: F64, b: F64) -> npt.NDArray[np.bool_]:
    """Where both are the same infinity, or NaN."""
    return (a == b) | (np.isnan(a) & np.isnan(b))


def total(x: npt.NDArray[Any]) -> float:
    """The sum as the printer adds it up: one element after the other, in float32."""
    flat = np.ascontiguousarray(x, np.float32).ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.cumsum(flat, dtype=np.float32)[-1]) if flat.size else 0.0
