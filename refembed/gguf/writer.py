"""GGUFWriter: metadata and tensors -> a GGUF file that llama.cpp and gguf-py read.

    w = GGUFWriter("bert")
    w.add("bert.block_count", 6, "UINT32")
    w.add("tokenizer.ggml.tokens", ["[PAD]", "[UNK]"], "ARRAY[STRING]")
    w.add_tensor("token_embd.weight", table, table.shape, "F32")
    w.write("model.gguf")

Layout: gguf.h. Types are spelled as Metadata.type_name spells them; `copy_keys` copies those of an open file.
"""

from __future__ import annotations

import math
import operator
import os
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.atomic_write import replacing
from refembed.errors import RequestError
from refembed.gguf.cursor import ByteOrder
from refembed.gguf.metadata import ARRAY, MAX_DEPTH, MAX_KEY_BYTES, STRING, TYPE_BY_NAME, Metadata, Value, ValueType
from refembed.gguf.quants import QuantType, quant_type
from refembed.gguf.strings import StringArray
from refembed.gguf.tensor import INT64_MAX, MAX_DIMS, MAX_NAME_BYTES

CHUNK = 1 << 24  # bytes written at a time

Data: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]


@dataclass(frozen=True)
class Pending:
    """A tensor that waits to be written."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    data: Data | Callable[[], Data]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, padding not counted."""
        return math.prod(self.shape) // self.type.weights * self.type.nbytes


class GGUFWriter:
    """Collects keys and tensors, then writes them in that order.

    architecture  GGUF `general.architecture`, the first key; None leaves it out
    version       2 or 3; the files differ in nothing but the number
    byteorder     "<", or ">" for a big-endian file, which llama.cpp reads on big-endian machines only
    alignment     a power of two; any but 32 is stored as GGUF `general.alignment`

    What cannot be stored is a RequestError that names the key or tensor.

    >>> w = GGUFWriter("bert")
    >>> w.add("bert.block_count", 1, "UINT32")
    >>> w.add_tensor("output_norm.weight", np.array([1.5, -2.0], np.float32), (2,), "F32")
    >>> w.write("small.gguf").stat().st_size  # head and table padded to 160 bytes, the data to 32
    192
    """

    def __init__(
        self, architecture: str | None, version: int = 3, byteorder: ByteOrder = "<", alignment: int = 32
    ) -> None:
        if version not in (2, 3):
            raise RequestError(f"GGUF version {version} cannot be written", hint="2 or 3")
        if byteorder not in ("<", ">"):
            raise RequestError(f"{byteorder!r} is no byte order", hint='"<" or ">"')
        if not 0 < alignment < 2**32 or alignment & (alignment - 1):
            raise RequestError(f"an alignment of {alignment} is not a power of two below 2^32")
        self._version, self._byteorder, self._alignment = version, byteorder, alignment
        self._fields: dict[str, bytes] = {}  # key -> type and value as they stand in the file
        self._tensors: dict[str, Pending] = {}
        if architecture is not None:
            self.add("general.architecture", architecture, "STRING")
        if alignment != 32:
            self.add("general.alignment", alignment, "UINT32")

    def add(self, key: str, value: Value | bytes | Sequence[Any], type_name: str, *, replace: bool = False) -> None:
        """Add a key. A string is str or bytes; an array is any sequence, or 1-D NumPy array, of what the type says.

        replace  take the place of a key of that name, if there is one: the later value counts, as in gguf-py

        >>> w = GGUFWriter("bert")
        >>> w.add("bert.attention.causal", False, "BOOL")
        >>> w.add("tokenizer.ggml.tokens", ["[PAD]", "[UNK]"], "ARRAY[STRING]")
        >>> w.add("bert.block_count", -1, "UINT32")
        Traceback (most recent call last):
            ...
        refembed.errors.RequestError: bert.block_count: -1 cannot be stored as UINT32: ...
        """
        check_name(f"key {shorten(key)}", key, () if replace else self._fields, 1, MAX_KEY_BYTES)
        if key == "general.alignment" and (type_name != "UINT32" or value != self._alignment):
            raise RequestError(f"{key} is {self._alignment} in this file", hint="GGUFWriter takes the alignment itself")
        try:
            kind, item = parse_type(type_name)
            self._fields[key] = self._pack("I", kind.id) + self._value(value, kind, item)
        except (ValueError, TypeError, OverflowError, struct.error) as e:
            raise RequestError(f"{key}: {shorten(value)} cannot be stored as {type_name}: {e}") from None

    def __contains__(self, key: str) -> bool:
        """Whether there is a key of that name."""
        return key in self._fields

    def copy_keys(self, metadata: Metadata, but: Collection[str] = ()) -> None:
        """Add the keys of an open file as they stand there, in that order.

        Left out: those in `but`, those that are here already, and the alignment, which is this file's own.

        >>> from refembed import open_gguf
        >>> w = GGUFWriter(None)
        >>> w.copy_keys(open_gguf("minilm").metadata, but=["general.name"])
        >>> "bert.block_count" in w, "general.name" in w
        (True, False)
        """
        for key in metadata:
            if key not in but and key not in self._fields and key != "general.alignment":
                kind = metadata.type_name(key)
                self.add(key, metadata.raw_string(key) if kind == "STRING" else metadata[key], kind)

    def add_tensor(self, name: str, data: Data | Callable[[], Data], shape: Sequence[int], type_name: str) -> None:
        """Add a tensor; `data` is only referred to, and read when the file is written.

        data       bytes, or a uint8 array: the blocks as they are to stand in the file, in the file's byte order;
                   an array of the type's own numbers (float32 for "F32", uint16 for "BF16") or blocks: values;
                   a function without arguments that returns one of these, called when the tensor's turn comes
        shape      NumPy order, at most 4 axes
        type_name  a name of QUANT_TYPES

        >>> from refembed.kernels.quant.quantize import quantize
        >>> w, x = GGUFWriter("bert"), np.ones((2, 32), np.float32)
        >>> w.add_tensor("blk.0.ffn_up.weight", x, x.shape, "F32")
        >>> w.add_tensor("blk.0.ffn_down.weight", quantize(x, "Q8_0"), x.shape, "Q8_0")
        >>> w.add_tensor("blk.0.attn_q.weight", x[:, :5], (2, 5), "Q8_0")
        Traceback (most recent call last):
            ...
        refembed.errors.RequestError: tensor 'blk.0.attn_q.weight': rows of 5 are not whole Q8_0 blocks of 32 weights
        """
        type, shape = quant_type(type_name), tuple(operator.index(n) for n in shape)
        what, width = f"tensor {shorten(name)}", shape[-1] if shape else 1
        check_name(what, name, self._tensors, 0, MAX_NAME_BYTES)
        if len(shape) > MAX_DIMS or min(shape, default=0) < 0 or math.prod(shape) > INT64_MAX:
            raise RequestError(f"{what}: shape {shape} cannot be stored", hint=f"at most {MAX_DIMS} axes")
        if width % type.weights:
            raise RequestError(f"{what}: rows of {width} are not whole {type_name} blocks of {type.weights} weights")
        tensor = Pending(name, shape, type, data)
        if not callable(data):
            as_stored(tensor, data, self._byteorder)
        self._tensors[name] = tensor

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file whole or not at all: in its folder under another name, then moved to its place. Returns path.

        >>> GGUFWriter("bert").write("empty.gguf").read_bytes()[:4]
        b'GGUF'
        """
        target = Path(path)
        try:
            with replacing(target) as out:
                self.write_to(out)
        except OSError as e:
            hint = "check the folder and the disk"
            raise RequestError(f"{target} cannot be written: {e.strerror or e}", hint=hint) from None
        return target

    def write_to(self, out: BinaryIO) -> None:
        """Write the file's bytes to a stream, a piece of a tensor at a time.

        >>> import io
        >>> GGUFWriter(None).write_to(out := io.BytesIO())
        >>> len(out.getvalue())  # magic, version, two counts: 4 + 4 + 8 + 8
        24
        """
        out.write(self._head())
        for tensor in self._tensors.values():
            data = tensor.data() if callable(tensor.data) else tensor.data
            array, dtype = as_stored(tensor, data, self._byteorder)
            step = CHUNK // dtype.itemsize
            for i in range(0, array.size, step):
                out.write(array[i : i + step].astype(dtype, copy=False).view(np.uint8).data)
            out.write(bytes(-tensor.nbytes % self._alignment))

    def _head(self) -> bytes:
        """Everything before the tensors' data."""
        parts = [b"GGUF", self._pack("IQQ", self._version, len(self._tensors), len(self._fields))]
        for key, value in self._fields.items():
            parts += [self._string(key), value]
        offset = 0
        for t in self._tensors.values():
            ne = t.shape[::-1]
            parts += [self._string(t.name), self._pack(f"I{len(ne)}QIQ", len(ne), *ne, t.type.id, offset)]
            offset += t.nbytes + -t.nbytes % self._alignment
        head = b"".join(parts)
        return head + bytes(-len(head) % self._alignment if self._tensors else 0)

    def _pack(self, code: str, *numbers: Any) -> bytes:
        return struct.pack(self._byteorder + code, *numbers)

    def _string(self, value: str | bytes) -> bytes:
        raw = text(value)
        return self._pack("Q", len(raw)) + raw

    def _value(self, value: Any, kind: ValueType, item: str, depth: int = 1) -> bytes:
        """A value as it stands in the file; `item` is the spelled type of an array's items."""
        if kind is STRING:
            return self._string(value)
        if kind is not ARRAY:
            return self._numbers([value], kind)
        if depth > MAX_DEPTH:
            raise ValueError(f"arrays nested more than {MAX_DEPTH} deep")
        if isinstance(value, (str, bytes)):
            raise TypeError("a string is not an array")
        inner, inner_item = parse_type(item)
        if inner is STRING:
            items = value.to_bytes() if isinstance(value, StringArray) else value
            body = b"".join(map(self._string, items))
        elif inner is ARRAY:
            body = b"".join(self._value(v, inner, inner_item, depth + 1) for v in value)
        else:
            body = self._numbers(value, inner)
        return self._pack("IQ", inner.id, len(value)) + body

    def _numbers(self, values: Sequence[Any] | npt.NDArray[Any], kind: ValueType) -> bytes:
        """Numbers of one type. ValueError if one of them does not fit; floats are rounded to the width asked for."""
        array = np.asarray(values)
        dtype = np.dtype(self._byteorder + kind.code)
        if array.dtype.kind in "fO" and all(type(v) is int for v in values):
            # NumPy makes floats of integers that lie on both sides of 2^63
            array = np.asarray(values, np.uint64 if min(values, default=0) >= 0 else np.int64)
        if array.ndim != 1:
            raise ValueError("not a flat list of numbers")
        if array.size == 0:
            return b""
        if array.dtype.kind not in {"f": "fiu", "b": "b", "i": "iu", "u": "iu"}[dtype.kind]:
            raise ValueError(f"not all of it is {kind.name}")
        with np.errstate(over="ignore", invalid="ignore"):
            stored = array.astype(dtype)
        same = np.isinf(stored) == np.isinf(array) if dtype.kind == "f" else stored == array
        if not np.all(same):
            raise ValueError(f"out of the range of {kind.name}")
        return stored.tobytes()


def text(value: str | bytes) -> bytes:
    """A string's bytes. ValueError for what is no string, or holds half of a surrogate pair."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is not a string")
    return value.encode()


def check_name(what: str, name: str, taken: Collection[str], least: int, most: int) -> None:
    """RequestError for a key or tensor name that no reader would take."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{what} is not Unicode text") from None
    if name in taken:
        raise RequestError(f"{what} is there already")
    if not least <= size <= most:
        raise RequestError(f"{what} has {size:,} bytes; {least} to {most:,} are allowed")


def parse_type(name: str) -> tuple[ValueType, str]:
    """Read a type as Metadata.type_name spells it: "ARRAY[STRING]" -> (ARRAY, "STRING"), "UINT32" -> (UINT32, "")."""
    if name.startswith("ARRAY[") and name.endswith("]"):
        return ARRAY, name[6:-1]
    if name not in TYPE_BY_NAME or name == "ARRAY":
        names = ", ".join(n for n in TYPE_BY_NAME if n != "ARRAY")
        raise ValueError(f"no such type; one of {names}, or ARRAY[one of them]")
    return TYPE_BY_NAME[name], ""


def shorten(value: Any) -> str:
    """A value as it can stand in a message."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def as_stored(tensor: Pending, data: Data, byteorder: ByteOrder) -> tuple[npt.NDArray[Any], np.dtype[Any]]:
    """A tensor's data as one flat array, and the dtype it has to have in the file. RequestError if it does not fit."""
    what = f"tensor {shorten(tensor.name)}"
    if not isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
        raise RequestError(f"{what}: its data is bytes or an array, not {type(data).__name__}")
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    own = tensor.type.block["x"] if tensor.type.weights == 1 else tensor.type.block
    if array.dtype == np.uint8:
        dtype = array.dtype
    elif array.dtype.newbyteorder("=") == own.newbyteorder("="):
        dtype = own.newbyteorder(byteorder)
    else:
        raise RequestError(f"{what}: {tensor.type.name} is stored from {own} or uint8, not {array.dtype}")
    if array.size * dtype.itemsize != tensor.nbytes:
        needed = f"{tensor.type.name} {tensor.shape} takes {tensor.nbytes:,}"
        raise RequestError(f"{what}: {array.size * dtype.itemsize:,} bytes, but {needed}")
    return array.reshape(-1), dtype
