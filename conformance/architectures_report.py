"""What `python -m conformance architectures` prints, saves and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from conformance.architectures import BOUNDS, Row, judge, load_own_bounds, run, select, with_new_rows
from conformance.architectures_page import PAGE, page
from conformance.bounds import HEADER, write_bounds
from conformance.toml import write_whole
from refembed.errors import RequestError
from refembed.kernels.threads import cores

OWN_HEADER = """\
# Written by `python -m conformance architectures --write`, which adds rows and loosens none: delete a row to have it
# measured anew. local: an operation of llama.cpp's, on its own inputs; whole: any tensor of a run; both
# max |ours - theirs| / max |theirs|. distance: 1 - cos of the vector. whole and distance by architecture and type.
#   bound  what a run is held to          worst, at  the largest value measured, and where          least  the smallest
"""
FORMAT = "refembed-architectures-1"
COLUMNS = ("architecture", "variant", "numerics", "tensors", "unaligned", "worst", "tensor", "1 - cos", "floor", "bits")


def report(
    patterns: Sequence[str],
    json_file: Path | None,
    write: bool,
    jobs: int | None,
    where: Mapping[str, str],
    date: str,
    console: Console,
) -> int:
    """Measure, print the table and what fails; returns how many rows fail.

    write  add rows that the bounds lack, then write the page; RequestError where not everything was measured
    """
    variants = select(patterns)
    if write and patterns:
        raise RequestError("--write is for the whole table: leave the patterns out")
    bounds, rows = load_own_bounds(), list[Row]()
    for n, found in enumerate(run(variants, bounds, jobs or cores()), 1):
        rows += found
        say(console, line(n, len(variants), [] if write else found, variants[n - 1].id))
    if write:
        bounds = with_new_rows(rows, bounds, {**where, "date": date})
        rows = [judge(row, bounds) for row in rows]
    console.print(table(rows))
    for row in rows:
        for failure in row.failed:
            say(console, f"{row.arch}/{row.variant}, {row.numerics}: {failure}")
    if json_file:
        data = {"format": FORMAT, "environment": dict(where), "rows": [asdict(row) for row in rows]}
        write_whole(json_file, (json.dumps(data, indent=1) + "\n").encode())
    failed = sum(bool(row.failed) for row in rows)
    if write and not failed:
        write_bounds(bounds, BOUNDS)
        write_whole(BOUNDS, BOUNDS.read_bytes().replace(HEADER.encode(), OWN_HEADER.encode()))
        write_whole(PAGE, page(rows, where, date).encode())
        say(console, f"wrote {BOUNDS} and {PAGE}")
    architectures, tensors = {row.arch for row in rows}, sum(row.tensors for row in rows)
    console.print(
        f"{len(architectures)} architectures, {len(variants)} variants, {tensors:,} tensors, {failed} rows fail",
        highlight=False,
    )
    return failed


def say(console: Console, text: str) -> None:
    """Print a line as it stands."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def line(n: int, of: int, rows: Sequence[Row], name: str) -> str:
    """One variant, done; what fails is known only then, when bounds are to be written."""
    failed = sum(len(row.failed) for row in rows)
    return f"{n:3} of {of}  {name}" + (f": {failed} failures" if failed else "")


def table(rows: Sequence[Row]) -> Table:
    """Architecture x variant x numerics -> worst tensor."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        left = name in ("architecture", "variant", "numerics", "tensor")
        shown.add_column(name, justify="left" if left else "right", overflow="fold")
    for row in rows:
        bits = row.batch if row.numerics != "ggml" else len(row.wrong) + row.vectors + row.batch
        error, at = row.worst
        far = ("", "") if row.numerics == "ggml" else (f"{row.distance:.1e}", f"{row.floor:.1e}")
        cells = (row.arch, row.variant, row.numerics, f"{row.tensors}", str(len(row.unaligned)))
        shown.add_row(*cells, f"{error:.1e}" if error else "0", at.split(",")[0] if error else "", *far, str(bits))
    return shown
