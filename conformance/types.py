"""Every tensor type: are its decoders ggml's own bits, and how fast are they? `python -m conformance report types`.

Random bytes, 2^22 weights a type, are decoded by the definition and by its Numba version; each number that is not, bit
for bit, what ggml's `to_float` makes of the same bytes is a mismatch (any NaN is any other), and gguf-py is asked as
well.

Speed is GB/s, bytes read plus bytes written: blocks in, float32 out. A copy reads and writes float32. The competitors
take turns, round after round, on the same machine; a turn is the best of three runs, as others may use the machine too,
and the medians of the rounds are shown: so it is the ratios that count. `compiled` is the compiled version
on one thread, `threads` on all cores. ggml runs in a process of its own, on one thread; it and the compiled versions
write into a buffer that is in use already, gguf-py makes its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version

import gguf
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from conformance.environment import cpu_name
from conformance.to_float import Ggml
from refembed.arrays import F32, U8
from refembed.gguf import QUANT_TYPES
from refembed.gguf.quants import QuantType
from refembed.kernels.quant.dequant import FAMILY, decode_compiled, decode_defined
from refembed.kernels.threads import cores

WEIGHTS = 1 << 22  # a type; 16 MiB of float32: no core's own cache holds it
ROUNDS, RUNS = 7, 3
COLUMNS = ("type", "bytes tried", "≠ ggml", "≠ gguf-py", "compiled", "threads", "ggml", "gguf-py", "copy")
RATIOS = ("of copy", "x ggml", "x gguf-py")


@dataclass
class Row:
    """What was found about one type. A mismatch count is None, a speed 0, where there is no other decoder."""

    type: str
    nbytes: int  # bytes tried
    ggml: int | None  # mismatches of definition and compiled version together
    gguf_py: int | None
    speed: dict[str, float] = field(default_factory=dict)  # who -> GB/s

    @property
    def mismatches(self) -> int:
        return (self.ggml or 0) + (self.gguf_py or 0)


def differ(a: F32, b: F32) -> int:
    """How many numbers differ in any bit; any NaN is any other."""
    return int(np.count_nonzero((a.view(np.int32) != b.view(np.int32)) & ~(np.isnan(a) & np.isnan(b))))


def gguf_py(type: QuantType, raw: U8) -> F32 | None:
    """gguf-py's decoding; None where it has no decoder."""
    try:
        with np.errstate(all="ignore"):
            decoded: F32 = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(type.id))
    except (NotImplementedError, ValueError):
        return None
    return decoded.reshape(-1)


def examine(type: QuantType, ggml: Ggml, rounds: int = ROUNDS, weights: int = WEIGHTS) -> Row:
    """Decode random bytes with everybody; `rounds` timings each."""
    raw = np.random.default_rng(type.id).integers(0, 256, weights // type.weights * type.nbytes, np.uint8)
    blocks, out = raw.view(type.block), np.empty(weights, np.float32)
    theirs = ggml.decode(type.id, raw) if ggml.types[type.id].decodes else None
    python = gguf_py(type, raw)
    row = Row(type.name, raw.size, None if theirs is None else 0, None if python is None else 0)
    for decode in (decode_defined, decode_compiled):
        with np.errstate(all="ignore"):
            decode(blocks, type, out)
        if row.ggml is not None and theirs is not None:
            row.ggml += differ(out, theirs)
        if row.gguf_py is not None and python is not None:
            row.gguf_py += differ(out, python)
    row.speed = race(type, raw, out, ggml if theirs is not None else None, python is not None, rounds)
    return row


def race(type: QuantType, raw: U8, out: F32, ggml: Ggml | None, python: bool, rounds: int) -> dict[str, float]:
    """GB/s of each, median of the rounds, each the best of three runs."""
    blocks, copied = raw.view(type.block), np.zeros_like(out)

    def timed(run: Callable[[], object]) -> Callable[[], float]:
        def once() -> float:
            seconds = []
            for _ in range(RUNS):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            return min(seconds)

        return once

    runners = {
        "compiled": timed(lambda: decode_compiled(blocks, type, out, threads=1)),
        "threads": timed(lambda: decode_compiled(blocks, type, out)),
        "copy": timed(lambda: np.copyto(copied, out)),
    }
    if ggml is not None:
        runners["ggml"] = lambda: min(ggml.seconds(type.id, RUNS))
    if python:
        runners["gguf-py"] = timed(lambda: gguf_py(type, raw))
    seconds: dict[str, list[float]] = {who: [] for who in runners}
    for _ in range(rounds):
        for who, run in runners.items():
            seconds[who].append(run())
    moved = {who: (2 * out.nbytes if who == "copy" else raw.nbytes + out.nbytes) for who in runners}
    return {who: moved[who] / statistics.median(s) / 1e9 for who, s in seconds.items()}


def examine_all(rounds: int = ROUNDS) -> Iterator[Row]:
    """One row a type that has a decoder."""
    with Ggml() as ggml:
        for type in QUANT_TYPES:
            if type.name in FAMILY:
                yield examine(type, ggml, rounds)


def table_of(rows: list[Row]) -> Table:
    """The rows for people."""
    table = Table(
        title="decoding: mismatches in float32 numbers; speed in GB/s, read + written",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in (*COLUMNS, *RATIOS):
        table.add_column(name, justify="left" if name == "type" else "right", no_wrap=True)
    for row in rows:
        counts = ["none to ask" if n is None else str(n) for n in (row.ggml, row.gguf_py)]
        speeds = [f"{row.speed[who]:.1f}" if who in row.speed else "" for who in COLUMNS[4:]]
        compiled = row.speed["compiled"]
        ratios = [f"{compiled / row.speed['copy']:.0%}"]
        ratios += [f"{compiled / row.speed[who]:.1f}" if who in row.speed else "" for who in ("ggml", "gguf-py")]
        table.add_row(row.type, f"{row.nbytes:,}", *counts, *speeds, *ratios)
    return table


def report(console: Console) -> int:
    """Print the table; returns the mismatches of all types together."""
    asked = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "gguf", "xllamacpp"))
    console.print(f"{cpu_name()}, {cores()} cores; {asked}", highlight=False)
    rows = list(examine_all())
    console.print(table_of(rows))
    mismatches = sum(row.mismatches for row in rows)
    tried = sum(row.nbytes for row in rows)
    console.print(f"{len(rows)} types, {tried:,} bytes, {mismatches} mismatches", highlight=False)
    return mismatches
