"""How vectors are written: one class a format, text by text, so that a corpus never has to fit in memory.

                 one text                      holds                                  reads back
    text         columns of numbers            a head per text where there are more   7 digits
    json         one object                    how it was made; all vectors           bit for bit
    jsonl        a line                        index, text, tokens, vector            bit for bit
    csv          a row                         index, text, one column a number       bit for bit
    npy          a row of a float32 array      (S, D)                                 bit for bit
    raw          a line                        numbers and spaces, as llama-embedding prints them: 7 decimals

With pooling `none` a text has one vector per token, (T, D): text, csv and raw have a block, row or line per token,
json and jsonl an array of arrays, and npy takes one text only, whose (T, D) it is.
"Bit for bit": each number has the fewest digits that read back to the same float32.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from refembed.arrays import F32
from refembed.cli.show import decode, escape
from refembed.errors import RequestError

NPY_IN_MEMORY = 64 << 20  # bytes of vectors that wait for the header in memory; more wait in a temporary file


@dataclass(frozen=True)
class Run:
    """How vectors were made."""

    model: str
    pooling: str  # the rule itself, never "native"
    normalize: int
    dimension: int
    labels: tuple[str, ...] = ()  # of a reranker's outputs

    @property
    def per_token(self) -> bool:
        """True where a text has one vector per token."""
        return self.pooling == "none"


@dataclass(frozen=True)
class Item:
    """A text on its way."""

    index: int  # from 0
    text: str | bytes
    ids: list[int]
    pieces: list[bytes]  # its tokens as the vocabulary has them, where each has a vector; else empty
    done: int = 0  # how far `Texts` had come with it


def shortest(vector: F32) -> list[str]:
    """Each number (D) in the fewest digits that read back to the same float32. All are valid JSON."""
    digits: list[str] = vector.astype(str).tolist()
    return digits


def array(vector: F32) -> str:
    """A vector (D) or matrix (T, D) as JSON."""
    if vector.ndim > 1:
        return "[" + ",".join(map(array, vector)) + "]"
    return "[" + ",".join(shortest(vector)) + "]"


class Writer:
    """Writes the vectors of one run. `write` in the order of the texts, then `finish`."""

    binary = False

    def __init__(self, out: BinaryIO, run: Run) -> None:
        self.out, self.run, self.count = out, run, 0

    def write(self, item: Item, vector: F32) -> None:
        """Take the vector (D) of a text, or its (T, D)."""
        self.add(item, vector)
        self.count += 1

    def add(self, item: Item, vector: F32) -> None:
        """What a format does with it."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what comes last."""

    def close(self) -> None:
        """Let go of what was held, finished or not."""

    def put(self, text: str) -> None:
        """Write UTF-8."""
        self.out.write(text.encode())


class TextWriter(Writer):
    """For people: six numbers a line. Two texts and more, and tokens, have heads."""

    def __init__(self, out: BinaryIO, run: Run) -> None:
        super().__init__(out, run)
        self.alone: tuple[Item, F32] | None = None

    def add(self, item: Item, vector: F32) -> None:
        """Keep the first back until it is clear whether it stays alone."""
        if self.count == 0:
            self.alone = item, vector
            return
        if self.alone:
            self.block(*self.alone)
            self.alone = None
        self.block(item, vector)

    def finish(self) -> None:
        """A single text has no head, so that its numbers are all there is."""
        if self.alone:
            item, vector = self.alone
            self.block(item, vector) if self.run.per_token else self.numbers(vector)

    def block(self, item: Item, vector: F32) -> None:
        """A head and its numbers."""
        if not self.run.per_token:
            self.put(f"[{item.index}] {escape(item.text, 80)}\n")
            self.numbers(vector)
            return
        for t, (token, piece, row) in enumerate(zip(item.ids, item.pieces, vector, strict=True)):
            self.put(f"[{item.index}.{t}] {escape(piece)} ({token})\n")
            self.numbers(row)

    def numbers(self, vector: F32) -> None:
        """The numbers (D)."""
        cells = [f"{v: .7g}".ljust(14) for v in vector.tolist()]
        for i in range(0, len(cells), 6):
            self.put("".join(cells[i : i + 6]).rstrip() + "\n")


class JsonWriter(Writer):
    """One object: model, pooling, normalize, dimension, then `embeddings`, then `tokens`, the lengths of the texts."""

    def __init__(self, out: BinaryIO, run: Run) -> None:
        super().__init__(out, run)
        self.tokens: list[int] = []

    def add(self, item: Item, vector: F32) -> None:
        """One line of `embeddings`."""
        self.put(",\n  " if self.count else self.head())
        self.put(array(vector))
        self.tokens.append(len(item.ids))

    def head(self) -> str:
        """Everything up to the first vector."""
        about = {k: getattr(self.run, k) for k in ("model", "pooling", "normalize", "dimension")}
        return json.dumps(about, ensure_ascii=False)[:-1] + ', "embeddings": [\n  '

    def finish(self) -> None:
        """Close what is open."""
        self.put(f'\n], "tokens": {json.dumps(self.tokens)}}}\n')


class JsonlWriter(Writer):
    """One object a line: index, text, tokens (how many), embedding. Bytes that are not UTF-8 are U+FFFD in `text`."""

    def add(self, item: Item, vector: F32) -> None:
        about: dict[str, Any] = {"index": item.index, "text": decode(item.text), "tokens": len(item.ids)}
        self.put(json.dumps(about, ensure_ascii=False)[:-1] + f', "embedding": {array(vector)}}}\n')


class CsvWriter(Writer):
    """A head, then index, text, e0, e1 ... For tokens: index, token, id, piece, e0 ... Quoted as RFC 4180 says."""

    def add(self, item: Item, vector: F32) -> None:
        """A row, or a row per token."""
        if self.count == 0:
            lead = ["index", "token", "id", "piece"] if self.run.per_token else ["index", "text"]
            self.row(lead, [f"e{i}" for i in range(vector.shape[-1])])
        if not self.run.per_token:
            self.row([str(item.index), cell(item.text)], shortest(vector))
            return
        for t, (token, piece, row) in enumerate(zip(item.ids, item.pieces, vector, strict=True)):
            self.row([str(item.index), str(t), str(token), cell(piece)], shortest(row))

    def row(self, lead: list[str], numbers: list[str]) -> None:
        self.put(",".join(lead + numbers) + "\n")


def cell(text: str | bytes) -> str:
    """A text as CSV. (Python's csv module leaves a lone carriage return bare where lines end in `\\n`.)"""
    shown = decode(text)
    return '"' + shown.replace('"', '""') + '"' if any(c in shown for c in ',"\r\n') else shown


class RawWriter(Writer):
    """A vector a line, as `llama-embedding --embd-output-format raw`: 7 decimals, none where normalize is 0."""

    def add(self, item: Item, vector: F32) -> None:
        """A line, or a line per token."""
        form = "%.0f" if self.run.normalize == 0 else "%.7f"
        for row in np.atleast_2d(vector).tolist():
            self.put(" ".join([form % v for v in row]) + "\n")


class NpyWriter(Writer):
    """NumPy's format. Its head states the number of rows, so the rows wait until all are known."""

    binary = True

    def __init__(self, out: BinaryIO, run: Run) -> None:
        super().__init__(out, run)
        self.rows = tempfile.SpooledTemporaryFile(NPY_IN_MEMORY)  # noqa: SIM115  # `close` closes it
        self.shape = (0, run.dimension)

    def add(self, item: Item, vector: F32) -> None:
        if self.run.per_token and self.count:
            message = "npy holds one array, and with pooling none each text has as many rows as it has tokens"
            raise RequestError(message, hint="--format jsonl, or one text at a time")
        self.rows.write(vector.astype("<f4").tobytes())
        self.shape = (self.shape[0] + len(np.atleast_2d(vector)), self.run.dimension)

    def finish(self) -> None:
        """Head, then rows."""
        about = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self.out, about)
        self.rows.seek(0)
        shutil.copyfileobj(self.rows, self.out, 1 << 20)

    def close(self) -> None:
        """Delete the temporary file."""
        self.rows.close()


FORMATS: dict[str, type[Writer]] = {
    "text": TextWriter,
    "json": JsonWriter,
    "jsonl": JsonlWriter,
    "npy": NpyWriter,
    "csv": CsvWriter,
    "raw": RawWriter,
}
