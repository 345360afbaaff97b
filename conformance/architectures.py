"""Every architecture, with every optional tensor there and not there, against live llama.cpp. `architectures` runs it.

A variant is a row of architectures.json: a small model with random weights (`refembed.testing.synthetic`). llama.cpp
runs it three ways, and refembed, through its public `Embedder`, in each numerics:

    unaligned   0: tensors of a trace, on either side, that have no partner
    local       each operation on llama.cpp's own inputs: `exact`, `fast` within the bound of its kind; `ggml` 0 bits
    whole       each tensor of the run as it is, max |ours - theirs| / max |theirs|: within the bound of its group
    1 - cos     of the vector: within its bound, and the floor
    vectors     `ggml` 0: numbers that have other bits than llama.cpp's, with flash attention and without
    batch       0: numbers that have other bits in a batch than alone (`exact`, `fast`), or than llama.cpp's in the same
                batch (`ggml`)

The floor is llama.cpp's own: how far it is from itself on these very texts with flash attention, with weights
interleaved, in a batch, with a cache of float32; with quantized weights, on the same ones in float32; where its graph
has GELU, which it looks up in a table of float16 numbers, with weights of float16. Nothing of refembed is in it; the
rule is that of refembed/verify/compare/floor.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from conformance import FOLDER
from conformance.bounds import Bound, Bounds, bound_for, load_bounds
from refembed import Embedder
from refembed.arrays import F32
from refembed.errors import RefembedError, RequestError
from refembed.gguf import GGUFWriter, open_gguf
from refembed.model import ARCHITECTURES
from refembed.model.batch import pack
from refembed.model.trace import Recorder, Trace
from refembed.pipeline.vectors import forward_and_pool
from refembed.testing.synthetic import synthetic
from refembed.verify.compare.align import align, without_empty_cells
from refembed.verify.compare.floor import BOUND, BUILDS, LEAST, OTHER_TYPES, distance
from refembed.verify.compare.replay import LocalDifference, ReplayTap
from refembed.verify.engines.llamacpp import LlamaCpp

DATA, BOUNDS = FOLDER / "architectures.json", FOLDER / "architectures-bounds.toml"
NUMERICS = ("exact", "fast", "ggml")
LENGTHS = (1, 2, 7, 33, 70, 131)  # tokens of texts alone; from 64 rows on flash attention works in tiles
TOGETHER = (33, 1, 70, 7)  # of texts in one batch
TRACED = (1, 33, 70)
TRACED_RANK = (2, 33, 70)  # picking the first row of one row computes nothing, so that it pairs with nothing
GELU = ("GELU", "GEGLU")
ORDERS = ("argsort", "topk")  # tensors of places: where two are nearly equal, a whole run may turn them round
LONGEST = 256  # {arch}.context_length, where a variant names none

Errors: TypeAlias = "dict[str, tuple[float, str]]"  # kind -> the worst of them, and where


@dataclass(frozen=True)
class Variant:
    """A row of architectures.json."""

    arch: str
    name: str
    options: Mapping[str, Any]  # of `synthetic`
    rank: bool  # pooled by a reranker's head

    @property
    def id(self) -> str:
        """`gemma3/no window`."""
        return f"{self.arch}/{self.name}"

    @property
    def pooling(self) -> str:
        """What is asked of both engines."""
        return "rank" if self.rank else "mean"

    @property
    def traced(self) -> tuple[int, ...]:
        """Tokens of the texts that are traced."""
        return TRACED_RANK if self.rank else TRACED

    @property
    def type_name(self) -> str:
        """Of its matrices."""
        return str(self.options.get("type_name", "F32"))

    @property
    def group(self) -> str:
        """Row of the bounds of whole runs: `gemma3`, `gemma3 Q8_0`."""
        return self.arch if self.type_name == "F32" else f"{self.arch} {self.type_name}"

    def write(self, path: Path, **more: Any) -> Path:
        """The model file. more: options instead of the variant's own."""
        options = {"P": LONGEST, "seed": len(self.name), **self.options, **more}
        keys = {key: (value, kind) for key, (value, kind) in options.pop("keys", {}).items()}
        return synthetic(path, self.arch, keys=keys, **options)


@dataclass
class Row:
    """One variant in one numerics."""

    arch: str
    variant: str
    group: str
    numerics: str
    tensors: int = 0  # compared, of all texts
    unaligned: list[str] = field(default_factory=list)
    local: Errors = field(default_factory=dict)  # operation -> worst
    whole: float = 0.0
    whole_at: str = ""
    wrong: list[str] = field(default_factory=list)  # tensors that differ in a bit on llama.cpp's own inputs (`ggml`)
    vectors: int = 0  # numbers of vectors that differ in a bit (`ggml`)
    batch: int = 0
    distance: float = 0.0  # 1 - cos, the worst text
    floor: float = 0.0  # up to which it is rounding
    broke: str = ""  # why there is no number: an engine refused the file, or aborted
    failed: list[str] = field(default_factory=list)  # sentences

    @property
    def worst(self) -> tuple[float, str]:
        """The largest local error and its tensor."""
        return max(self.local.values(), default=(0.0, ""))


@dataclass(frozen=True)
class Theirs:
    """What llama.cpp answers in one configuration."""

    alone: list[F32]
    together: list[F32]
    traces: list[Trace]


def load_data(path: Path = DATA) -> dict[str, Any]:
    """architectures.json."""
    try:
        return {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k != "//"}
    except (OSError, ValueError) as e:
        raise RequestError(f"{path}: {e}") from None


@cache
def load_variants() -> tuple[Variant, ...]:
    return tuple(
        Variant(arch, name, {k: v for k, v in options.items() if k != "rank"}, bool(options.get("rank")))
        for arch, about in load_data().items()
        for name, options in about["variants"].items()
    )


def select(patterns: Iterable[str] = ()) -> list[Variant]:
    """Variants whose architecture or id fits a pattern with * and ?; all of them where there is none."""
    wanted, chosen = list(patterns), load_variants()
    for p in wanted:
        if not any(fits(v, p) for v in chosen):
            hint = f"architectures are {', '.join(sorted(ARCHITECTURES))}"
            raise RequestError(f"no variant fits {p!r}", hint=hint)
    return [v for v in chosen if not wanted or any(fits(v, p) for p in wanted)]


def fits(v: Variant, pattern: str) -> bool:
    """Whether the pattern means this variant."""
    return fnmatchcase(v.arch, pattern) or fnmatchcase(v.id, pattern)


def some_ids(n: int) -> list[int]:
    """n token ids, the same each time."""
    return [int(i) for i in np.random.default_rng(n).integers(0, 101, n)]


# -- the two engines ---------------------------------------------------------------------------------------------------


def ask(path: Path, v: Variant, traced: Sequence[int], **options: Any) -> Theirs:
    """llama.cpp, one thread."""
    with LlamaCpp(path, pooling=v.pooling, **options) as engine:
        alone = engine.embed([some_ids(n) for n in LENGTHS])
        together = engine.embed([some_ids(n) for n in TOGETHER], batched=True)
        return Theirs(alone, together, [engine.trace(some_ids(n)) for n in traced])


def alone(e: Embedder, v: Variant, lengths: Sequence[int]) -> list[F32]:
    """Our vectors, a call a text."""
    return [np.asarray(e.embed([some_ids(n)], pooling=v.pooling, normalize=-1)[0]) for n in lengths]


def together(e: Embedder, v: Variant) -> list[F32]:
    """Our vectors of texts that llama.cpp gets in one call: one run, or each behind the last one's cells (LFM2)."""
    texts, ops, found = [some_ids(n) for n in TOGETHER], e.ops, []
    for group in [[t] for t in texts] if e.model.runs_alone else [texts]:
        found += list(forward_and_pool(e.model, ops, pack(group), v.pooling))
        if e.model.runs_alone:
            ops.first += len(group[0])  # type: ignore[attr-defined]  # of `Ggml`
    if e.model.runs_alone:
        ops.first = 0  # type: ignore[attr-defined]
    return [np.asarray(x) for x in found]


# -- one variant -------------------------------------------------------------------------------------------------------


def measure(v: Variant, folder: Path) -> list[Row]:
    """Everything about one variant: a row a numerics."""
    path = v.write(folder / "m.gguf")
    off = ask(path, v, v.traced, flash_attn=False)
    on = ask(path, v, (), flash_attn=True, extra_buffer_types=True)
    encoder = ARCHITECTURES[v.arch].TRAITS.encoder  # without a cache there is nothing to keep in float32
    wide = off if encoder else ask(path, v, v.traced, flash_attn=False, type_kv="f32")
    runs = [off, on, wide]
    if v.type_name != "F32":
        runs.append(ask(decoded(path, folder / "float.gguf"), v, (), flash_attn=False))
    elif any(tap.op in GELU for trace in off.traces for tap in trace.tensors):
        runs.append(ask(v.write(folder / "half.gguf", type_name="F16"), v, (), flash_attn=False))
    floor = floor_of(v, runs)
    rows = [floating(v, path, numerics, wide, floor) for numerics in ("exact", "fast")]
    return [*rows, to_the_bit(v, path, off, on)]


def decoded(path: Path, to: Path) -> Path:
    """The same model with its weights in float32."""
    f = open_gguf(path)
    w = GGUFWriter(f.metadata.string("general.architecture"))
    w.copy_keys(f.metadata)
    for t in f.tensors.values():
        w.add_tensor(t.name, t.dequantize(), t.shape, "F32")
    return w.write(to)


def apart(y: F32, x: F32) -> float:
    """1 - cos of two vectors; of two scores half the square of how far they are."""
    return distance(np.asarray(y, np.float64), np.asarray(x, np.float64))


def floor_of(v: Variant, runs: Sequence[Theirs]) -> float:
    """How far llama.cpp is from itself: 1 - cos of the texts' worst; BOUND times that is rounding, for us as for it."""
    spread = [apart(y, x) for a, b in combinations(runs, 2) for x, y in zip(a.alone, b.alone, strict=True)]
    spread += [apart(y, r.alone[LENGTHS.index(n)]) for r in runs for n, y in zip(TOGETHER, r.together, strict=True)]
    builds = BUILDS.get(v.type_name, OTHER_TYPES)
    return max(BOUND * max(*spread, builds / 10), LEAST)


def floating(v: Variant, path: Path, numerics: str, theirs: Theirs, floor: float) -> Row:
    """`exact` or `fast`, whose distance is measured."""
    e, row = Embedder.load(path, numerics=numerics), Row(v.arch, v.name, v.group, numerics, floor=floor)
    for trace in theirs.traces:
        for d in traced(e, v, trace, row):
            worse(row.local, kind_of(d, v), d.difference.rel_peak, place(d, trace))
    ours = alone(e, v, LENGTHS)
    row.distance = max(apart(x, y) for x, y in zip(ours, theirs.alone, strict=True))
    batch = e.embed([some_ids(n) for n in TOGETHER], pooling=v.pooling, normalize=-1)
    row.batch = sum(unequal(x, ours[LENGTHS.index(n)]) for n, x in zip(TOGETHER, batch, strict=True))
    return row


def to_the_bit(v: Variant, path: Path, off: Theirs, on: Theirs, profile: str = "avx2") -> Row:
    """`ggml`, which has llama.cpp's bits. profile: of the build that was asked."""
    row = Row(v.arch, v.name, v.group, "ggml")
    for flash, theirs in ((False, off), (True, on)):
        e = Embedder.load(path, numerics="ggml", profile=profile, flash_attn=flash, repack=flash)
        row.vectors += sum(unequal(x, y) for x, y in zip(alone(e, v, LENGTHS), theirs.alone, strict=True))
        row.batch += sum(unequal(x, y) for x, y in zip(together(e, v), theirs.together, strict=True))
        for trace in theirs.traces:
            for d in traced(e, v, trace, row):
                worse(row.local, kind_of(d, v), d.difference.rel_peak, place(d, trace))
                row.wrong += [] if d.difference.identical else [place(d, trace)]
    return row


def traced(e: Embedder, v: Variant, theirs: Trace, row: Row) -> list[LocalDifference]:
    """Local differences of one text; counts into the row what has no partner, and the whole run's errors."""
    ids, recorder = theirs.meta["tokens"], Recorder()
    e.trace(ids, pooling=v.pooling, tap=recorder)
    ours, cut = recorder.trace, without_empty_cells(theirs)
    found = align(ours, theirs)
    row.unaligned += [ours.tensors[i].name for i in found.ours_only] + [
        theirs.tensors[i].name for i in found.theirs_only
    ]
    row.tensors += len(found.pairs)
    for p in found.pairs:
        x, tap = ours.tensors[p.ours].array, cut.tensors[p.theirs]
        y = tap.array if tap.array.size == x.size else theirs.tensors[p.theirs].array  # `ggml` has the empty cells too
        error = peak(x, y.reshape(x.shape)) if not any(o in p.name for o in ORDERS) else 0.0
        if not error <= row.whole or not row.whole_at:
            row.whole, row.whole_at = error, f"{p.name}[{p.k}], {len(ids)} tokens"
    again = ReplayTap(ours, theirs, found)
    e.trace(ids, pooling=v.pooling, tap=again)
    return again.differences


def peak(x: Any, y: Any) -> float:
    """max |x - y| / max |y|, 0/0 is 0; infinite where anything is not finite, but in both the same infinity (masks)."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    masked = np.isinf(b) & (a == b)
    a, b = np.where(masked, 0, a), np.where(masked, 0, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    gap, most = float(np.abs(a - b).max(initial=0)), float(np.abs(b).max(initial=0))
    return 0.0 if gap == 0 else gap / most if most else math.inf


def kind_of(d: LocalDifference, v: Variant) -> str:
    """llama.cpp's operation; of a product with weights that are not of float32, and of sums, their type as well.

    `MUL_MAT Q8_0`. The product in a sum, or behind a reshaped tensor, may have no name of its own. A score is one
    number, of which sums may leave little: `MUL_MAT of a head`; and so is a shared expert's gate. What a delta net
    gives is a view of more, `VIEW of a state`; Falcon-H1's last sum has no name, but the rows that are taken of it:
    `GET_ROWS of a sum`.
    """
    if d.op == "MUL_MAT" and d.name.startswith("cls"):
        return f"{d.op} of a head"
    if d.op == "MUL_MAT" and d.name.startswith("shared_expert_gate-"):
        return f"{d.op} {v.type_name} of a shared expert's gate"
    if d.op == "VIEW" and d.name.startswith("attn_output-"):
        return f"{d.op} of a state"
    if d.op == "GET_ROWS" and d.name.startswith("ffn_inp-"):
        return f"{d.op} of a sum"
    weights = d.op.startswith(("MUL_MAT", "ADD", "RESHAPE")) and d.name.split("-")[0] not in ("kq", "kqv")
    return f"{d.op} {v.type_name}" if weights and v.type_name != "F32" else d.op


def place(d: LocalDifference, theirs: Trace) -> str:
    """`Qcur-0[1] ROPE, 33 tokens`."""
    return f"{d.name}[{d.k}] {d.op}, {len(theirs.meta['tokens'])} tokens"


def worse(errors: Errors, kind: str, error: float, at: str) -> None:
    """Keep the larger."""
    errors[kind] = max(errors.get(kind, (0.0, at)), (error, at), key=lambda pair: pair[0])


def unequal(x: Any, y: Any) -> int:
    """Numbers of two arrays that differ in any bit; all of them where shapes do."""
    a, b = (np.ascontiguousarray(z, np.float32).reshape(-1).view(np.uint32) for z in (x, y))
    return int((a != b).sum()) if a.size == b.size else max(a.size, b.size)


# -- bounds and verdicts -----------------------------------------------------------------------------------------------


def errors_of(row: Row) -> Iterator[tuple[str, str, float, str]]:
    """What is held to a measured bound: table, row, value and place."""
    if row.numerics == "ggml" or row.broke:
        return
    for kind, (error, at) in row.local.items():
        yield f"architectures.local.{row.numerics}", kind, error, f"{row.arch}/{row.variant}: {at}"
    yield f"architectures.whole.{row.numerics}", row.group, row.whole, f"{row.arch}/{row.variant}: {row.whole_at}"
    yield f"architectures.distance.{row.numerics}", row.group, row.distance, f"{row.arch}/{row.variant}"


def judge(row: Row, bounds: Bounds) -> Row:
    """Fill in what fails."""
    if row.broke:
        row.failed = [row.broke]
        return row
    failed = [f"{name} has no partner" for name in row.unaligned] + [f"{at} has other bits" for at in row.wrong]
    failed += [f"{row.vectors} numbers of vectors have other bits"] if row.vectors else []
    failed += [f"{row.batch} numbers change with the batch"] if row.batch else []
    for table, name, error, at in errors_of(row):
        bound = bounds.tables.get(table, {}).get(name)
        if bound is None:
            failed.append(f"[{table}] has no row {name!r}; --write adds it")
        elif not error <= bound.bound:
            failed.append(f"{at}: {error:.2e} is beyond {bound.bound:.2e} of {name} in [{table}]")
    if row.numerics != "ggml" and not row.distance <= row.floor:
        failed.append(f"1 - cos {row.distance:.2e} is beyond the floor, {row.floor:.2e}")
    row.failed = failed
    return row


def with_new_rows(rows: Sequence[Row], bounds: Bounds, measured: dict[str, Any]) -> Bounds:
    """Bounds with rows for what had none. One that is there is never loosened: delete it to have it measured anew."""
    tables = {table: dict(found) for table, found in bounds.tables.items()}
    fresh: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in rows:
        for table, name, error, at in errors_of(row):
            if name not in bounds.tables.get(table, {}):
                fresh.setdefault((table, name), []).append((error, at))
    for (table, name), errors in sorted(fresh.items()):
        worst, at = max(errors)
        tables.setdefault(table, {})[name] = Bound(bound_for(table, name, worst), worst, min(errors)[0], at)
    machine = dict(bounds.measured or measured)
    if bounds.measured and fresh:
        here = f"{len(fresh)} rows on {measured['date']}: {measured['cpu']}, {measured['blas']}"
        machine["added"] = [*machine.get("added", []), here]
    return Bounds(machine, {t: dict(sorted(found.items())) for t, found in sorted(tables.items())})


def load_own_bounds() -> Bounds:
    """architectures-bounds.toml."""
    return load_bounds(BOUNDS)


def run(variants: Sequence[Variant], bounds: Bounds, jobs: int = 1) -> Iterator[list[Row]]:
    """The rows of each variant, judged, in order. jobs: processes that measure."""
    if jobs == 1:
        found = map(measure_alone, variants)
        yield from ([judge(row, bounds) for row in rows] for rows in found)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for rows in pool.map(measure_alone, variants):
            yield [judge(row, bounds) for row in rows]


def measure_alone(v: Variant) -> list[Row]:
    """`measure`, in a folder of its own; where an engine gives up, rows that say so."""
    with TemporaryDirectory(prefix="refembed-") as folder:
        try:
            return measure(v, Path(folder))
        except RefembedError as e:
            return [Row(v.arch, v.name, v.group, numerics, broke=str(e)) for numerics in NUMERICS]
