"""Reading safetensors, the format Hugging Face publishes weights in.

    length of the header: uint64 | header: JSON, name -> {"dtype", "shape", "data_offsets"} | data, end to end

Mirrors the format and the checks of the safetensors project (README.md, tensor.rs), which decides what is valid.
Nothing in the file is trusted, nothing of it is executed, and values stay in the mapped file until they are used.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.arrays import U8
from refembed.errors import ModelError
from refembed.gguf.cursor import DAMAGED, TRUNCATED, quote
from refembed.parse_json import parse_json

MAX_HEADER = 100_000_000  # bytes; tensor.rs refuses longer ones
LENGTH = 8  # bytes before the header
U64_MAX = 2**64 - 1

DTYPES = {  # dtype in the file -> NumPy's; BF16 is the upper half of a float32
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip

Span: TypeAlias = "tuple[str, tuple[int, ...], int, int]"  # dtype, shape, first byte and end within the data


@dataclass(frozen=True)
class Entry:
    """One tensor of the file."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]  # NumPy order, which is also the file's
    raw: U8  # its bytes, mapped, read-only

    def values(self) -> npt.NDArray[Any]:
        """The numbers, of `shape`. BF16 is widened to float32, which is exact; every other type is left as it is."""
        stored = self.raw.view(DTYPES[self.dtype])
        if self.dtype == "BF16":
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.reshape(self.shape)


class SafetensorsFile(Mapping[str, Entry]):
    """An open safetensors file: name -> Entry, in the order of the data. ModelError where it is not a sound one.

    path      the file
    metadata  its `__metadata__`, e.g. {"format": "pt"}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._data = self._map()
        start = LENGTH + self._header_length()
        header = self._header(bytes(self._data[LENGTH:start]))
        self.metadata = self._metadata(header.pop("__metadata__", {}))
        spans = {name: self._span(name, info) for name, info in header.items()}
        self._entries = dict(self._place(spans, start))

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _fail(self, what: str, found: str, hint: str, at: int = LENGTH) -> NoReturn:
        raise ModelError(f"{self.path}: reading {what} at byte {at:#x}: {found}", hint=hint)

    def _map(self) -> memoryview:
        try:
            with self.path.open("rb") as f:
                size = os.fstat(f.fileno()).st_size
                if size < LENGTH:
                    self._fail("the header's length", f"needs {LENGTH} bytes, {size} left", TRUNCATED, 0)
                return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as e:  # ValueError: a path with a NUL in it
            self._fail("the file", f"cannot be opened: {getattr(e, 'strerror', None) or e}", "check the path", 0)

    def _header_length(self) -> int:
        first = bytes(self._data[: LENGTH + 1])
        length, left = int.from_bytes(first[:LENGTH], "little"), len(self._data) - LENGTH
        if first.startswith(b"version "):
            self._fail("the header's length", "a Git LFS pointer, not the file itself", "fetch it: git lfs pull", 0)
        if length > MAX_HEADER:
            found = f"{length:,} bytes, but {MAX_HEADER:,} at most are allowed"
            self._fail("the header's length", found, "is this a safetensors file?", 0)
        if length > left:
            self._fail("the header", f"needs {length:,} bytes, {left:,} left", TRUNCATED)
        if not length or first[LENGTH:] != b"{":
            self._fail("the header", f"{first[LENGTH:]!r}, not b'{{'", "is this a safetensors file?")
        return length

    def _header(self, raw: bytes) -> dict[str, Any]:
        """The header as JSON, without what the format forbids: keys given twice, NaN, negative numbers."""
        try:
            return dict(parse_json(raw.decode(), object_pairs_hook=unique, parse_constant=no_number, parse_int=natural))
        except ValueError as e:
            self._fail("the header", f"not the JSON that belongs there: {e}", DAMAGED)

    def _metadata(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self._fail("__metadata__", f"{quote(str(value))}, not strings by name", DAMAGED)
        return value

    def _span(self, name: str, info: Any) -> Span:
        """A header entry, checked on its own."""
        what = f"tensor {quote(name)}"
        if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
            self._fail(what, f"{quote(str(info))}, not a dtype, a shape and data_offsets", DAMAGED)
        dtype, shape, span = info["dtype"], info["shape"], info["data_offsets"]
        for numbers in (shape, span):
            if not isinstance(numbers, list) or not all(type(n) is int and n <= U64_MAX for n in numbers):
                self._fail(what, f"{quote(str(numbers))}, not a list of sizes", DAMAGED)
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._fail(what, f"dtype {quote(str(dtype))}", "save the model with one of " + ", ".join(DTYPES))
        if len(span) != 2 or span[0] > span[1]:
            self._fail(what, f"data_offsets {quote(str(span))}, not a beginning and an end", DAMAGED)
        size = np.dtype(DTYPES[dtype]).itemsize
        for n in shape:
            size *= n
            if size > U64_MAX:
                self._fail(what, f"shape {quote(str(shape))} is beyond 64 bits", DAMAGED)
        if size != span[1] - span[0]:
            found = f"data_offsets {span} hold {span[1] - span[0]:,} bytes, {dtype} {quote(str(shape))} takes {size:,}"
            self._fail(what, found, DAMAGED)
        return dtype, tuple(shape), span[0], span[1]

    def _place(self, spans: dict[str, Span], start: int) -> Iterator[tuple[str, Entry]]:
        """The entries in the order of the data, which they have to cover without a gap or an overlap."""
        size, end = len(self._data) - start, 0
        for name, (dtype, shape, begin, stop) in sorted(spans.items(), key=lambda item: item[1][2:]):
            what = f"tensor {quote(name)}"
            if begin != end:
                kind = "overlaps" if begin < end else f"leaves {begin - end:,} bytes behind"
                self._fail(what, f"its data begins at {begin:,}: it {kind} the tensor before", DAMAGED, start + begin)
            if stop > size:
                self._fail(what, f"needs {stop - begin:,} bytes, {size - begin:,} left", TRUNCATED, start + begin)
            raw = np.frombuffer(self._data, np.uint8, stop - begin, start + begin)
            yield name, Entry(name, dtype, shape, raw)
            end = stop
        if size != end:
            self._fail("the end of the data", f"{size - end:,} bytes belong to no tensor", DAMAGED, start + end)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. ValueError where a key stands in it twice, or is no Unicode."""
    seen = dict(pairs)
    if len(seen) < len(pairs):
        raise ValueError("a key stands there twice")
    "".join(seen).encode()  # raises for half a surrogate pair
    return seen


def natural(digits: str) -> int:
    """A whole number, not negative. ValueError for others."""
    if digits.startswith("-"):
        raise ValueError(f"{quote(digits)}, a negative number")
    return int(digits)


def no_number(name: str) -> NoReturn:
    """ValueError: Python's JSON reader knows NaN and Infinity, JSON does not."""
    raise ValueError(f"{name} is not JSON")
