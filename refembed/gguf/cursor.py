"""Bounds-checked reading: every byte of a GGUF header goes through a Cursor, and errors say what was being read."""

from __future__ import annotations

import struct
from array import array
from typing import Literal, TypeAlias

import numpy as np

from refembed.arrays import I64
from refembed.errors import GGUFError

ByteOrder: TypeAlias = Literal["<", ">"]  # as in struct and NumPy: little, big

MOST = 2**30  # bytes of a string, items of an array: GGUF_MAX_STRING_LENGTH and GGUF_MAX_ARRAY_ELEMENTS (gguf.cpp)

TRUNCATED = "the file looks truncated or damaged; compare its size and sha256 with the publisher's"
DAMAGED = "the file looks damaged; compare its sha256 with the publisher's"


def quote(name: str) -> str:
    """A name from the file as it can stand in a message: short, one line, nothing a terminal would obey."""
    short = name if len(name) <= 80 else name[:77] + "..."
    return short if short and short.isprintable() else ascii(short)


class Cursor:
    """A position in the mapped file. Each read moves it, or raises GGUFError and names file, byte and purpose.

    data       the whole file
    path       for messages only
    byteorder  of the numbers in the file; the reader sets it when it has seen the version
    """

    def __init__(self, data: memoryview, path: str, byteorder: ByteOrder = "<", pos: int = 0) -> None:
        self.data, self.path, self.byteorder, self.pos = data, path, byteorder, pos

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
        return len(self.data) - self.pos

    def fail(self, what: str, found: str, pos: int, hint: str = DAMAGED) -> GGUFError:
        """The error to raise: `what` was being read at byte `pos`, `found` is what stood there."""
        return GGUFError(f"reading {what}", path=self.path, offset=pos, found=found, hint=hint)

    def take(self, n: int, what: str) -> memoryview:
        """Return the next n bytes, or say exactly where the file falls short."""
        if n > self.left:
            raise self.fail(what, f"needs {n:,} bytes, {self.left:,} left", self.pos, TRUNCATED)
        self.pos += n
        return self.data[self.pos - n : self.pos]

    def number(self, code: str, what: str) -> int | float | bool:
        """The next number; `code` is its struct letter: "I" is uint32."""
        layout = struct.Struct(self.byteorder + code)
        value: int | float | bool = layout.unpack(self.take(layout.size, what))[0]
        return value

    def u32(self, what: str) -> int:
        """The next uint32."""
        return int(self.number("I", what))

    def u64(self, what: str) -> int:
        """The next uint64."""
        return int(self.number("Q", what))

    def string(self, what: str) -> memoryview:
        """The next string: its uint64 length, then that many bytes, which are returned."""
        start = self.pos
        n = self.u64(f"length of {what}")
        if n > MOST and n <= self.left:
            raise self.fail(f"length of {what}", f"{n:,} bytes; at most {MOST:,} are allowed", start)
        return self.take(n, what)

    def count(self, what: str, each: int, most: int | None = None) -> int:
        """The next uint64: how many of something follow that takes `each` bytes or more.

        More than fit in the file, or more than `most`, is an error at once: nothing is ever allocated on a claim.
        """
        start = self.pos
        n = self.u64(what)
        if n * each > self.left:
            raise self.fail(
                what, f"{n:,}, of {each} bytes each or more, but {self.left:,} bytes are left", start, TRUNCATED
            )
        if most is not None and n > most:
            raise self.fail(what, f"{n:,}; refembed takes at most {most:,}", start)
        return n

    def string_ends(self, count: int, what: str) -> I64:
        """Walk past `count` strings and return where each ends: (count) positions in the file.

        The one loop that must be quick: vocabularies have 262,144 strings. `count` was checked against the bytes left.
        """
        unpack = struct.Struct(self.byteorder + "Q").unpack_from
        data, pos, size = self.data, self.pos, len(self.data)
        ends = array("q")
        append = ends.append
        for _ in range(count):
            if pos + 8 > size:
                raise self.fail(f"length of {what}[{len(ends)}]", f"needs 8 bytes, {size - pos} left", pos, TRUNCATED)
            n = unpack(data, pos)[0]
            pos += 8 + n
            if pos > size:
                at = pos - n
                raise self.fail(f"{what}[{len(ends)}]", f"needs {n:,} bytes, {size - at:,} left", at, TRUNCATED)
            append(pos)
        begin, self.pos = self.pos, pos
        if not ends:
            return np.empty(0, np.int64)
        positions = np.frombuffer(ends, np.int64)
        if pos - begin > MOST and np.diff(positions, prepend=begin).max() > MOST + 8:
            i = int(np.diff(positions, prepend=begin).argmax())
            raise self.fail(f"length of {what}[{i}]", f"more than {MOST:,} bytes", begin)
        return positions
