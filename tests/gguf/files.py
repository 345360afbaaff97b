"""GGUF files made byte by byte, without refembed: what the reader is tested with.

data, marks = sample()      a small file with every kind of value, and where each of its structural numbers stands
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0, Q8_0, I8 = 0, 1, 2, 8, 24


@dataclass
class Bytes:
    """Bytes under construction. `marks` holds (offset, width) of counts, lengths, types, dimensions and offsets."""

    order: str = "<"
    data: bytearray = field(default_factory=bytearray)
    marks: list[tuple[int, int]] = field(default_factory=list)

    def put(self, code, *numbers):
        self.data += struct.pack(self.order + code, *numbers)

    def mark(self, code, number):
        self.marks.append((len(self.data), struct.calcsize(self.order + code)))
        self.put(code, number)

    def string(self, raw):
        self.mark("Q", len(raw))
        self.data += raw

    def key(self, name, type):
        self.string(name)
        self.mark("I", type)

    def array(self, item, count):
        self.mark("I", item)
        self.mark("Q", count)

    def pad(self, alignment=32):
        self.data += bytes(-len(self.data) % alignment)


def head(n_tensors, n_keys, version=3, order="<"):
    """Magic, version and counts."""
    b = Bytes(order)
    b.data += b"GGUF"
    b.mark("I", version)
    b.mark("Q", n_tensors)
    b.mark("Q", n_keys)
    return b


def keys(*pairs, order="<", version=3):
    """A file of keys only; a pair is (key, type, value's bytes)."""
    b = head(0, len(pairs), version, order)
    for name, type, value in pairs:
        b.key(name, type)
        b.data += value
    return bytes(b.data)


def tensors(*infos, data=bytes(4096), alignment=None):
    """A file of tensors; an info is (name, ne, type, offset)."""
    b = head(len(infos), 0 if alignment is None else 1)
    if alignment is not None:
        b.key(b"general.alignment", UINT32)
        b.put("I", alignment)
    for name, ne, type, offset in infos:
        b.string(name)
        b.put("I", len(ne))
        b.data += b"".join(n.to_bytes(8, "little", signed=n < 0) for n in ne)
        b.put("IQ", type, offset)
    b.pad(alignment or 32)
    return bytes(b.data) + data


SCALARS = (
    (b"a.uint8", UINT8, "B", 200),
    (b"a.int8", INT8, "b", -100),
    (b"a.uint16", UINT16, "H", 60000),
    (b"a.int16", INT16, "h", -30000),
    (b"a.uint32", UINT32, "I", 4_000_000_000),
    (b"a.int32", INT32, "i", -2_000_000_000),
    (b"a.float32", FLOAT32, "f", 0.15625),
    (b"a.bool", BOOL, "B", 1),
    (b"a.uint64", UINT64, "Q", 2**64 - 1),
    (b"a.int64", INT64, "q", -(2**63)),
    (b"a.float64", FLOAT64, "d", -1.1e300),
)
TEXT = "naïve 🦙".encode()
TOKENS = [b"[PAD]", b"", "▁é".encode(), b"\xff\xfe", b"the"]


def sample(order="<", version=3, nested=False):
    """A small file with every kind of value, and the marks of its structural numbers."""
    n_keys = 2 * len(SCALARS) + 4 + nested
    b = head(3, n_keys, version, order)
    b.key(b"general.architecture", STRING)
    b.string(b"bert")
    b.key(b"general.alignment", UINT32)
    b.mark("I", 64)
    for name, type, code, value in SCALARS:
        b.key(name, type)
        b.put(code, value)
        b.key(name + b"s", ARRAY)
        b.array(type, 3)
        b.put(f"3{code}", value, 0, value)
    b.key(b"a.string", STRING)
    b.string(TEXT)
    b.key(b"tokenizer.ggml.tokens", ARRAY)
    b.array(STRING, len(TOKENS))
    for t in TOKENS:
        b.string(t)
    if nested:
        b.key(b"a.nested", ARRAY)
        b.array(ARRAY, 2)
        b.array(INT32, 2)
        b.put("2i", 1, -2)
        b.array(INT32, 1)
        b.put("i", 3)
    for name, ne, type, offset in (
        (b"x", (3, 2), F32, 0),
        (b"blk.0.q.weight", (32, 2), Q8_0, 64),
        (b"s", (), F16, 192),
    ):
        b.string(name)
        b.mark("I", len(ne))
        for n in ne:
            b.mark("Q", n)
        b.mark("I", type)
        b.mark("Q", offset)
    b.pad(64)
    b.put("6f", *range(6))
    b.pad(64)
    b.data += bytes(range(68))
    b.pad(64)
    b.put("e", 1.5)
    b.pad(64)
    return bytes(b.data), b.marks
