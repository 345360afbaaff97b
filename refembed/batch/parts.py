"""Files of rows, and the parts that they are embedded in: one after the other by any worker, each into a file.

texts/a.parquet, 45,000 rows ─► a-00000.parquet (20,000)  a-00001.parquet (20,000)  a-00002.parquet (5,000)
texts/b/c.jsonl,  9,000 lines ─► b/c-00000.jsonl (9,000)

A part is written whole or not at all, so a job that was killed goes on with the parts that are not there.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refembed.batch.columns import check_column, check_new
from refembed.corpus.writer import load_pyarrow
from refembed.errors import RequestError

PARQUET, JSONL = ".parquet", ".jsonl"
SUFFIXES = (PARQUET, JSONL)
ROWS = 20_000  # of a part: minutes of a core, and 31 MB of 384 numbers each in float32


@dataclass(frozen=True)
class Source:
    """A file of rows, as it was when the job began."""

    path: Path
    name: str  # below the folder that all files are in, with /
    size: int  # bytes
    changed: int  # time of the last change, in ns

    @property
    def suffix(self) -> str:
        """What kind of file it is, one of SUFFIXES."""
        return self.path.suffix.lower()

    def is_as_it_was(self) -> bool:
        """Whether size and time of change are still the same. OSError where it is gone."""
        state = self.path.stat()
        return (state.st_size, state.st_mtime_ns) == (self.size, self.changed)


@dataclass(frozen=True)
class Part:
    """Rows of a file, begin:end, counted from 0; of JSONL, lines."""

    source: Source
    number: int
    begin: int
    end: int
    offset: int  # byte at which line `begin` begins; 0 in Parquet
    weight: int  # bytes of the file that it stands for

    @property
    def name(self) -> str:
        """The file with its vectors, below the folder for all of them."""
        stem, suffix = os.path.splitext(self.source.name)  # noqa: PTH122  # keeps the folders before it, and their /
        return f"{stem}-{self.number:05}{suffix}"


def find_sources(given: Sequence[str]) -> list[Source]:
    """The files of folders, patterns and single files, in order of their names.

    A folder is searched whole but for names that begin with . or _, which hold what is no data (Spark's _SUCCESS).
    Raises RequestError where there is nothing, or what is neither .parquet nor .jsonl.
    """
    found: dict[Path, Path] = {}  # file -> the folder that it was found from
    for one in given:
        path = Path(one)
        if "://" in one:
            hint = "mount it, so that each machine has it under the same path"
            raise RequestError(f"{one}: an address; --engine reads files and folders", hint=hint)
        if path.is_dir():
            files, folder = files_below(path), path
            if not files:
                raise RequestError(f"{one}: no {' or '.join(SUFFIXES)} file in it")
            found |= {file.absolute(): folder.absolute() for file in files}
        elif path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise RequestError(f"{one}: neither {' nor '.join(SUFFIXES)}", hint="--file takes a file of lines")
            found[path.absolute()] = path.absolute().parent
        else:
            matches = [Path(m).absolute() for m in glob.glob(one, recursive=True)]  # noqa: PTH207  # ** and absolute
            matches = [m for m in matches if m.suffix.lower() in SUFFIXES and m.is_file()]
            if not matches:
                what = "no .parquet or .jsonl file matches it" if glob.has_magic(one) else "no such file or folder"
                raise RequestError(f"{one}: {what}")
            found |= {m: m.parent for m in matches}
    root = Path(os.path.commonpath(list(found.values())))
    return [source_of(file, file.relative_to(root).as_posix()) for file in sorted(found)]


def files_below(folder: Path) -> list[Path]:
    """Files of rows in a folder and those in it."""
    names = (file.relative_to(folder).parts for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    shown = [folder.joinpath(*parts) for parts in names if not any(part[0] in "._" for part in parts)]
    return [file for file in shown if file.is_file()]


def source_of(path: Path, name: str) -> Source:
    """The file as it is now."""
    state = path.stat()
    return Source(path, name, state.st_size, state.st_mtime_ns)


def check_columns(source: Source, column: str, added: Sequence[str] = ()) -> None:
    """Refuse a Parquet file without a column of texts, or with one of those to be added, before anything is computed.

    JSONL is looked at as it is read.
    """
    if source.suffix != PARQUET:
        return
    pa, schema = load_pyarrow(), parquet_file(source.path).schema_arrow
    check_column(schema.names, column, f"{source.path}: ", "--column names it; ")
    check_new(schema.names, added, f"{source.path}: ")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    strings = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_null")
    if not any(getattr(pa.types, test)(kind) for test in strings if hasattr(pa.types, test)):
        raise RequestError(f"{source.path}: column {column!r} has no texts, but {kind}", hint="--column names it")


def parquet_file(path: Path) -> Any:
    """The file, opened. RequestError where it is none, or damaged at its end."""
    pa = load_pyarrow()
    try:
        return pa.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise RequestError(f"{path}: not a Parquet file that can be read: {first_line(e)}") from None


def first_line(e: BaseException) -> str:
    """What went wrong, without the details that some libraries add."""
    return str(e).strip().partition("\n")[0] or type(e).__name__


def parts_of(source: Source, rows: int = ROWS) -> Iterator[Part]:
    """A file in parts of so many rows, at least one. RequestError where it cannot be read."""
    try:
        yield from parts_of_parquet(source, rows) if source.suffix == PARQUET else parts_of_jsonl(source, rows)
    except OSError as e:
        raise RequestError(f"{source.path}: {e.strerror or e}") from None


def parts_of_parquet(source: Source, rows: int) -> Iterator[Part]:
    """By the number of rows that its footer has."""
    with parquet_file(source.path) as file:
        total = int(file.metadata.num_rows)
    for number, begin in enumerate(range(0, max(total, 1), rows)):
        end = min(begin + rows, total)
        yield Part(source, number, begin, end, 0, source.size * (end - begin) // max(total, 1))


def parts_of_jsonl(source: Source, rows: int) -> Iterator[Part]:
    """By its line ends, as a reader that wants the next part comes to them."""
    begin = offset = at = number = line = 0
    with source.path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            at += len(raw)
            if line == begin + rows:
                yield Part(source, number, begin, line, offset, at - offset)
                begin, offset, number = line, at, number + 1
    if line > begin or not number:
        yield Part(source, number, begin, line, offset, at - offset)
