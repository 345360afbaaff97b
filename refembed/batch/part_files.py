"""One part of a file, from its texts to its file of vectors: what a worker of an engine does.

.parquet  the same columns and the vectors, a fixed_size_list<float>[D]; how they were made is in the schema's metadata
.jsonl    the same objects, character by character, with the vector in the fewest digits that read back to the same
          float32
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from refembed.atomic_write import replacing
from refembed.batch.columns import check_new
from refembed.batch.embed_batch import EmbedBatch
from refembed.batch.parts import PARQUET, Part, first_line, parquet_file
from refembed.corpus.fingerprint import Record
from refembed.corpus.writer import GROUP, load_pyarrow
from refembed.errors import RequestError
from refembed.parse_json import parse_object

ROWS = 1024  # computed at a time


@dataclass(frozen=True)
class Written:
    """What became of a part."""

    rows: int
    failed: int  # rows without a vector
    machine: str  # where it was computed (`refembed.corpus.fingerprint`)


def embed_part(batch: EmbedBatch, part: Part, folder: Path, run: Record) -> Written:
    """Read a part, embed it, and write its file below the folder: whole, or not at all.

    Raises RequestError that names the file and the row of a text that cannot be embedded, where the file has changed
    since the job began, and where nothing can be written.
    """
    source, target = part.source, folder / part.name
    try:
        if not source.is_as_it_was():
            raise RequestError(f"{source.path}: changed since the job began", hint="start the job again")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as out:
            write = write_parquet if source.suffix == PARQUET else write_jsonl
            rows, failed = write(out, batch, part, run)
    except OSError as e:
        raise RequestError(f"{e.filename or target}: {e.strerror or first_line(e)}") from None
    return Written(rows, failed, batch.fingerprint()["machine"])


def naming(part: Part, unit: str, first: int) -> Callable[[int], str]:
    """Names row i of those that begin with `first`."""
    return lambda i: f"{part.source.path}: {unit} {first + i}"


def write_parquet(out: BinaryIO, batch: EmbedBatch, part: Part, run: Record) -> tuple[int, int]:
    """Rows, and how many of them have no vector."""
    pa = load_pyarrow()
    rows = failed = 0
    writer: Any = None
    waiting: list[Any] = []
    with parquet_file(part.source.path) as file:
        meta = (file.schema_arrow.metadata or {}) | {b"refembed": json.dumps({"run": run}, sort_keys=True).encode()}
        try:
            for first, read in record_batches(file, part):
                found = batch.embed_rows(read, naming(part, "row", first)).replace_schema_metadata(meta)
                rows, failed = rows + len(found), failed + found[batch.into].null_count
                waiting.append(found)
                if writer is None:
                    writer = pa.parquet.ParquetWriter(out, found.schema, compression="zstd")
                if sum(table.nbytes for table in waiting) > GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting.clear()
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        finally:
            if writer is not None:
                writer.close()
    return rows, failed


def record_batches(file: Any, part: Part) -> Iterator[tuple[int, Any]]:
    """The part's rows as tables of at most ROWS, each with the number of its first row; a part of no rows as one."""
    pa = load_pyarrow()
    edges = [0, *itertools.accumulate(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))]
    groups = [i for i, (a, b) in enumerate(itertools.pairwise(edges)) if a < part.end and b > part.begin]
    if part.begin == part.end:
        yield part.begin, file.schema_arrow.empty_table()
        return
    at = edges[groups[0]]
    for found in batches_of(file, groups, part.source.path):
        begin, end = max(part.begin - at, 0), min(part.end - at, len(found))
        if begin < end:
            yield at + begin, pa.Table.from_batches([found.slice(begin, end - begin)])
        at += len(found)


def batches_of(file: Any, groups: list[int], path: Path) -> Iterator[Any]:
    """All rows of these row groups. RequestError where the file is damaged."""
    try:
        yield from file.iter_batches(batch_size=ROWS, row_groups=groups)
    except (load_pyarrow().ArrowException, OSError) as e:
        raise RequestError(f"{path}: cannot be read: {first_line(e)}") from None


def write_jsonl(out: BinaryIO, batch: EmbedBatch, part: Part, run: Record) -> tuple[int, int]:
    """Rows, and how many of them have no vector. Blank lines are no rows."""
    rows = failed = 0
    for lines in lines_of(part):
        if not rows and batch.column not in lines[0].row:
            hint = f"--column names it; there are {', '.join(lines[0].row)}"
            raise RequestError(f"{lines[0].name}: there is no {batch.column!r}", hint=hint)
        for line in lines:
            check_new(line.row, batch.added, f"{line.name}: ")
        texts = [line.row.get(batch.column) for line in lines]
        found = batch.embed_rows({batch.column: texts}, [line.name for line in lines].__getitem__)
        errors = found.get(batch.into + "_error", itertools.repeat(None))
        for line, vector, error in zip(lines, found[batch.into], errors, strict=False):
            numbers = "null" if error else f"[{','.join(vector.astype(str).tolist())}]"
            out.write(line.with_members(dict(zip(batch.added, (numbers, json.dumps(error)), strict=False))))
            failed += error is not None
        rows += len(lines)
    return rows, failed


@dataclass(frozen=True)
class Line:
    """A line of JSON Lines."""

    name: str  # the file and the line's number, counted from 1
    text: str  # the object as it is spelled: its numbers may have more digits, or be larger, than Python's floats
    row: dict[str, Any]

    def with_members(self, more: dict[str, str]) -> bytes:
        """The line with more members, name -> JSON, at the end of its object."""
        begun = self.text[:-1].rstrip()
        behind = ", ".join(f"{json.dumps(name)}: {value}" for name, value in more.items())
        return f"{begun}{', ' if self.row else ''}{behind}}}\n".encode()


def lines_of(part: Part) -> Iterator[list[Line]]:
    """The part's objects, at most ROWS at a time."""
    with part.source.path.open("rb") as file:
        file.seek(part.offset)
        numbered = zip(range(part.begin + 1, part.end + 1), file, strict=False)
        lines = (parsed(line, f"{part.source.path}: line {number}") for number, line in numbered if line.strip())
        while some := list(itertools.islice(lines, ROWS)):
            yield some


def parsed(line: bytes, name: str) -> Line:
    """The object of a line. RequestError where it is none."""
    try:
        text = line.decode("utf-8-sig").strip()
        return Line(name, text, parse_object(text, parse_constant=refused_constant))
    except ValueError as e:
        raise RequestError(f"{name}: no JSON object: {e}") from None


def refused_constant(name: str) -> Any:
    """ValueError for what Python's parser takes and other languages' do not."""
    raise ValueError(f"{name} is no number of JSON; null is what stands for none")
