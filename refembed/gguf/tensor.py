"""Tensors: a name, a shape, a row of the type table, and the mapped bytes."""

from __future__ import annotations

import importlib
import math
import operator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, U8
from refembed.errors import RequestError
from refembed.gguf.cursor import TRUNCATED, ByteOrder, Cursor, quote
from refembed.gguf.metadata import nearest, read_name
from refembed.gguf.quants import BY_ID, BY_NAME, REMOVED, QuantType

MAX_TENSORS = 65_536  # far above any model; bounds what a hostile file can cost
MAX_NAME_BYTES = 63  # bytes: GGML_MAX_NAME less its terminator
MAX_DIMS = 4  # GGML_MAX_DIMS
LEAST_INFO = 24  # bytes of the shortest entry of the tensor table: no name, no dimensions
INT64_MAX = 2**63 - 1
MAX_EMPTY = 2**40  # the product of an empty tensor's other dimensions; NumPy cannot shape much more


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor as stored. Nothing is copied or decoded until it is asked for.

    >>> from refembed.gguf import BY_NAME
    >>> raw = np.array([[1, 2, 3], [4, 5, 6]], np.float32).view(np.uint8).reshape(-1)
    >>> w = Tensor("token_embd.weight", (2, 3), BY_NAME["F32"], raw, 0, "<")
    >>> w.nbytes, w.dequantize()[1].tolist(), w.rows([1, 0, 1])[:, 0].tolist()
    (24, [4.0, 5.0, 6.0], [4.0, 1.0, 4.0])
    >>> w.rows([2])
    Traceback (most recent call last):
        ...
    refembed.errors.RequestError: token_embd.weight: rows 2 to 2 asked for, there are 0 to 1
    """

    name: str
    shape: tuple[int, ...]  # NumPy order, GGUF's `ne` reversed: the last axis is contiguous; () is one number
    type: QuantType
    raw: U8 = field(repr=False)  # (nbytes) read-only view of the mapped file
    offset: int  # of the first byte in the file
    byteorder: ByteOrder
    derived: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)  # its entries and other shapes

    @classmethod
    def of(cls, x: npt.ArrayLike, name: str = "w") -> Tensor:
        """An array as a tensor of type F32, such as a file would hold it.

        >>> Tensor.of([[1, 2], [3, 4]]).rows([1])
        array([[3., 4.]], dtype=float32)
        """
        stored = np.array(x, "<f4")
        return cls(name, stored.shape, BY_NAME["F32"], stored.reshape(-1).view(np.uint8), 0, "<")

    @property
    def nbytes(self) -> int:
        """Bytes in the file, padding not counted."""
        return self.raw.size

    def dequantize(self) -> F32:
        """The whole tensor as float32 of `shape`."""
        return decode(self.raw, self.type, self.byteorder).reshape(self.shape)

    def rows(self, indices: npt.ArrayLike) -> F32:
        """Some rows as float32: x[indices] along the first axis, decoding nothing else.

        indices  (N) whole numbers, 0 <= i < shape[0]; any other is a RequestError
        returns  (N, *shape[1:])
        """
        if len(self.shape) < 2:
            raise RequestError(f"{self.name} has no rows to take: its shape is {self.shape}")
        n = self.shape[0]
        wanted = row_numbers(self.name, indices, n)
        raw = self.raw.reshape(n, self.nbytes // n if n else 0)[wanted]  # (N, bytes per row)
        return decode(raw.reshape(-1), self.type, self.byteorder).reshape(len(wanted), *self.shape[1:])

    def entry(self, i: int) -> Tensor:
        """x[i] along the first axis as a tensor, such as one expert's matrix; asked for again, the same object.

        Operations keep what they decode by tensor, so what stands for the same numbers has to be the same object.

        >>> w = Tensor.of([[[1, 2]], [[3, 4]]])
        >>> w.entry(1).dequantize().tolist(), w.entry(1) is w.entry(1)
        ([[3.0, 4.0]], True)
        """
        if i not in self.derived:
            nbytes = self.nbytes // self.shape[0]
            begin = i * nbytes
            raw = self.raw[begin : begin + nbytes]
            new = replace(self, name=f"{self.name}[{i}]", shape=self.shape[1:], raw=raw, offset=self.offset + begin)
            self.derived.setdefault(i, new)  # another thread may have been the first
        return self.derived[i]

    def reshape(self, *shape: int) -> Tensor:
        """The same numbers in another shape; asked for again, the same object.

        >>> Tensor.of([[1, 2], [3, 4]]).reshape(4).dequantize().tolist()
        [1.0, 2.0, 3.0, 4.0]
        """
        if shape not in self.derived:
            self.derived.setdefault(shape, replace(self, shape=shape))
        return self.derived[shape]


def row_numbers(name: str, indices: npt.ArrayLike, n: int) -> npt.NDArray[np.integer[Any]]:
    """Row numbers (N) of a tensor of n rows, or the RequestError that says what is wrong with them."""
    try:
        wanted = np.asarray(indices)
    except ValueError:  # lists of different lengths
        wanted = np.empty((0, 0))
    if wanted.shape == (0,):
        return np.empty(0, np.int64)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise RequestError(f"{name}: row numbers are a list of whole numbers")
    if wanted.min() < 0 or wanted.max() >= n:
        raise RequestError(f"{name}: rows {wanted.min()} to {wanted.max()} asked for, there are 0 to {n - 1}")
    return wanted


def decode(raw: U8, type: QuantType, byteorder: ByteOrder) -> F32:
    """Blocks (nbytes) -> float32 (weights), flat.

    The one plug-in seam of the package: gguf/ is the lowest layer and knows no math, so the decoder, which stands
    above it, is loaded by name when the first tensor is decoded.
    """
    if raw.size == 0:
        return np.empty(0, np.float32)
    decoder: Any = importlib.import_module("refembed.kernels.quant.dequant")
    x: F32 = decoder.dequantize(raw, type, byteorder)
    return x


class Tensors(dict[str, Tensor]):
    """Name -> tensor, in file order. A name that is not there is a GGUFError."""

    def __init__(self, cursor: Cursor, table: int) -> None:
        super().__init__()
        self._cursor, self._table = cursor, table

    def __missing__(self, name: str) -> Tensor:
        hint = nearest(name, self)
        raise self._cursor.fail(f"tensor {quote(name)}", f"no such name among {len(self)}", self._table, hint)


@dataclass(frozen=True)
class Info:
    """One entry of the tensor table."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    offset: int  # from the start of the data
    nbytes: int
    at: int  # the byte of the file where `offset` stands


def read_infos(cursor: Cursor, count: int) -> list[Info]:
    """Read the tensor table: what each tensor is, checked on its own and against the names before it."""
    infos: dict[str, Info] = {}
    for i in range(count):
        start = cursor.pos
        name = read_name(cursor, f"name of tensor {i} of {count}", MAX_NAME_BYTES)
        if name in infos:
            raise cursor.fail(f"name of tensor {i} of {count}", f"{quote(name)} for the second time", start)
        infos[name] = read_info(cursor, name)
    return list(infos.values())


def read_info(cursor: Cursor, name: str) -> Info:
    """The rest of an entry, behind the name."""
    shape = read_shape(cursor, name)
    at = cursor.pos
    type = read_quant_type(cursor, name)
    width = shape[-1] if shape else 1
    if width % type.weights:
        found = f"rows of {width:,}, not a multiple of the {type.weights} weights of a {type.name} block"
        raise cursor.fail(f"type of tensor {quote(name)}", found, at)
    nbytes = math.prod(shape) // type.weights * type.nbytes
    at = cursor.pos
    return Info(name, shape, type, cursor.u64(f"offset of tensor {quote(name)}"), nbytes, at)


def read_shape(cursor: Cursor, name: str) -> tuple[int, ...]:
    """The dimensions, in NumPy order."""
    start = cursor.pos
    n_dims = cursor.u32(f"number of dimensions of tensor {quote(name)}")
    if n_dims > MAX_DIMS:
        raise cursor.fail(
            f"number of dimensions of tensor {quote(name)}", f"{n_dims:,}; at most {MAX_DIMS} are allowed", start
        )
    ne = [cursor.u64(f"dimension {j} of tensor {quote(name)}") for j in range(n_dims)]
    largest = max(accumulate(ne, operator.mul), default=1)  # as llama.cpp does: ne[0], ne[0] ne[1] ...
    if max(largest, *ne, 0) > INT64_MAX:
        raise cursor.fail(f"dimensions of tensor {quote(name)}", f"{ne}: more numbers than 2^63 - 1", start + 4)
    if 0 in ne and math.prod(n for n in ne if n) > MAX_EMPTY:
        found = f"{ne}: no numbers, yet dimensions no array can have"
        raise cursor.fail(f"dimensions of tensor {quote(name)}", found, start + 4)
    return tuple(reversed(ne))


def read_quant_type(cursor: Cursor, name: str) -> QuantType:
    """The tensor type, a row of QUANT_TYPES."""
    start = cursor.pos
    number = cursor.u32(f"type of tensor {quote(name)}")
    if number in REMOVED:
        hint = "llama.cpp removed this type; quantize the original model again, to Q4_0 for example"
        raise cursor.fail(f"type of tensor {quote(name)}", f"{number} ({REMOVED[number]}, removed)", start, hint)
    if number not in BY_ID:
        known = ", ".join(f"{id} {t.name}" for id, t in sorted(BY_ID.items()))
        hint = "a newer kind of file than this version of refembed knows, or a damaged one"
        raise cursor.fail(f"type of tensor {quote(name)}", f"{number}, not one of {known}", start, hint)
    return BY_ID[number]


def place(cursor: Cursor, infos: list[Info], start: int, alignment: int, table: int) -> tuple[Tensors, int]:
    """Check that the tensors follow each other without gap or overlap, as llama.cpp wants, and map them.

    start    byte where the data begins
    table    byte where the tensor table begins, for messages
    returns  the tensors, and the byte after the last one's padding
    """
    data = np.frombuffer(cursor.data, np.uint8)
    if infos and start > data.size:
        cursor.take(start - cursor.pos, "padding before the data")
    tensors = Tensors(cursor, table)
    expected = 0
    for info in infos:
        what = f"tensor {quote(info.name)}"
        if info.offset != expected:
            found = f"{info.offset:,}, where the tensors before it end at {expected:,}"
            hint = "tensors must follow each other in the order listed, each padded to the alignment"
            raise cursor.fail(f"offset of {what}", found, info.at, hint)
        begin = start + info.offset
        if begin + info.nbytes > data.size:
            found = f"needs {info.nbytes:,} bytes, {max(data.size - begin, 0):,} left: its data is not within the file"
            raise cursor.fail(f"data of {what}", found, begin, TRUNCATED)
        raw = data[begin : begin + info.nbytes]
        tensors[info.name] = Tensor(info.name, info.shape, info.type, raw, begin, cursor.byteorder)
        expected += info.nbytes + -info.nbytes % alignment
    return tensors, start + expected
