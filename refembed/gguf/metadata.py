"""Metadata: the keys and values at the head of a GGUF file.

A value is a number, a string or an array (gguf.h, enum gguf_type). Opening a file walks past the values and keeps where
each begins; a value is decoded when it is asked for. So a vocabulary that is not read costs one pass over its lengths.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from refembed.gguf.cursor import MOST, Cursor, quote
from refembed.gguf.strings import StringArray

MAX_KEYS = 65_536  # far above any model; bounds what a hostile file can cost
MAX_KEY_BYTES = 65_535  # the GGUF specification's own limit
KEYS_BEGIN = 24  # the byte of the first key, behind magic, version and two counts
MAX_DEPTH = 8  # arrays inside each other: the specification allows them, llama.cpp refuses them


@dataclass(frozen=True)
class ValueType:
    """One type of value."""

    id: int  # the number in the file, enum gguf_type
    name: str
    size: int  # bytes it takes; for STRING and ARRAY the fewest
    code: str  # its struct letter


VALUE_TYPES = (
    #         id  name     bytes code
    ValueType( 0, "UINT8",    1, "B"),
    ValueType( 1, "INT8",     1, "b"),
    ValueType( 2, "UINT16",   2, "H"),
    ValueType( 3, "INT16",    2, "h"),
    ValueType( 4, "UINT32",   4, "I"),
    ValueType( 5, "INT32",    4, "i"),
    ValueType( 6, "FLOAT32",  4, "f"),
    ValueType( 7, "BOOL",     1, "?"),  # any byte but 0 is true
    ValueType( 8, "STRING",   8, ""),   # uint64 length, bytes
    ValueType( 9, "ARRAY",   12, ""),   # uint32 type of its items, uint64 count, items
    ValueType(10, "UINT64",   8, "Q"),
    ValueType(11, "INT64",    8, "q"),
    ValueType(12, "FLOAT64",  8, "d"),
)  # fmt: skip

TYPE_BY_NAME = {t.name: t for t in VALUE_TYPES}
STRING, ARRAY = TYPE_BY_NAME["STRING"], TYPE_BY_NAME["ARRAY"]
FLOATS = ("FLOAT32", "FLOAT64")
INTEGERS = tuple(t.name for t in VALUE_TYPES if "INT" in t.name)

Numbers: TypeAlias = npt.NDArray[Any]
Value: TypeAlias = int | float | bool | str | Numbers | StringArray | list[Any]
Float: TypeAlias = float  # Metadata has a method of that name
T = TypeVar("T")


class Missing(Enum):
    """The type of MISSING: no default was given."""

    MISSING = 0


MISSING = Missing.MISSING


@dataclass(frozen=True)
class Field:
    """Where one value lies in the file."""

    type: ValueType
    offset: int  # byte of the value
    strings: StringArray | None  # an array of strings: finding its end meant finding every string


class Metadata(Mapping[str, Value]):
    """Key -> value, in file order.

    Numbers are int, float or bool; strings are str; arrays of numbers are read-only NumPy arrays in the machine's
    byte order; arrays of strings are StringArray; arrays of arrays are lists. An absent key, or a value of another type
    than a look-up wants, is a GGUFError; a look-up that is given a default returns it where the key is absent. Two
    Metadata are equal only if they are the same object.

    >>> from refembed import open_gguf
    >>> m = open_gguf("minilm").metadata
    >>> m["general.architecture"], m.type_name("general.architecture")
    ('bert', 'STRING')
    >>> m.uint("bert.block_count"), m.integer("bert.pooling_type"), m.flag("bert.attention.causal")
    (6, 1, False)
    >>> f"{m.float('bert.attention.layer_norm_epsilon'):.0e}", m.string("tokenizer.ggml.model")
    ('1e-12', 'bert')
    >>> m.raw_string("tokenizer.ggml.model"), m.strings("tokenizer.ggml.tokens")[101]
    (b'bert', '[CLS]')
    >>> m.ints("tokenizer.ggml.token_type")[:2]  # a control token, a normal one
    array([3, 1], dtype=int32)
    >>> m.floats("tokenizer.ggml.scores", None), m.get("bert.rope.freq_base", 10000.0)  # keys it does not have
    (None, 10000.0)
    >>> m.offset("general.architecture")  # head 24, length 8, the key 20, type 4
    56
    >>> m["bert.block_cout"]
    Traceback (most recent call last):
        ...
    refembed.errors.GGUFError: ...: reading bert.block_cout at byte 0x18: no such key among ...
      hint: did you mean bert.block_count?
    """

    def __init__(self, cursor: Cursor, fields: dict[str, Field]) -> None:
        self._data, self._path, self._byteorder = cursor.data, cursor.path, cursor.byteorder
        self._fields = fields
        self._decoded: dict[str, Value] = {}

    def __getitem__(self, key: str) -> Value:
        if key not in self._decoded:
            field = self._field(key)
            cursor = self._at(field.offset)
            self._decoded[key] = read_value(cursor, field.type, quote(key)) if field.strings is None else field.strings
        return self._decoded[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where the key is absent."""
        return self[key] if key in self._fields else default

    def of_type(self, key: str, kind: type[T]) -> T | None:
        """The value, if it is there and of that Python type exactly (int, float, bool, str); else None.

        For programs that describe a file: a value of another type is for the program that runs the model to refuse.

        >>> from refembed import open_gguf
        >>> metadata = open_gguf("minilm").metadata
        >>> metadata.of_type("bert.block_count", int), metadata.of_type("bert.block_count", str)
        (6, None)
        """
        value = self[key] if key in self._fields else None
        return value if type(value) is kind else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def type_name(self, key: str) -> str:
        """The type as stored: "UINT32", "ARRAY[STRING]", "ARRAY[ARRAY[INT32]]" (arrays of arrays go by their first)."""
        field = self._field(key)
        return spell_type(self._at(field.offset), field.type, quote(key))

    def offset(self, key: str) -> int:
        """The byte of the file at which the value begins."""
        return self._field(key).offset

    def uint(self, key: str, default: T | Missing = MISSING) -> int | T:
        """A UINT32: llama.cpp refuses a model whose numbers have another width, and so does refembed."""
        return self._look_up(key, default, "UINT32", lambda t, v: t == "UINT32")

    def integer(self, key: str, default: T | Missing = MISSING) -> int | T:
        """An integer of any width that is not negative, for keys whose width another check judges."""
        return self._look_up(key, default, "an integer, 0 or more", lambda t, v: t in INTEGERS and v >= 0)

    def float(self, key: str, default: T | Missing = MISSING) -> Float | T:
        """A FLOAT32."""
        return self._look_up(key, default, "FLOAT32", lambda t, v: t == "FLOAT32")

    def flag(self, key: str, default: T | Missing = MISSING) -> bool | T:
        """A BOOL."""
        return self._look_up(key, default, "BOOL", lambda t, v: t == "BOOL")

    def string(self, key: str, default: T | Missing = MISSING) -> str | T:
        """A STRING. Bytes that are not UTF-8 become U+FFFD."""
        return self._look_up(key, default, "STRING", lambda t, v: t == "STRING")

    def raw_string(self, key: str, default: T | Missing = MISSING) -> bytes | T:
        """A STRING as its bytes."""
        value = self._look_up(key, default, "STRING", lambda t, v: t == "STRING")
        return bytes(self._at(self.offset(key)).string(key)) if key in self._fields else value

    def strings(self, key: str, default: T | Missing = MISSING) -> StringArray | T:
        """An ARRAY[STRING]."""
        return self._look_up(key, default, "ARRAY[STRING]", lambda t, v: isinstance(v, StringArray))

    def ints(self, key: str, default: T | Missing = MISSING) -> npt.NDArray[np.integer[Any]] | T:
        """An array of integers, in the width that is stored."""
        return self._look_up(key, default, "an array of integers", lambda t, v: t[6:-1] in INTEGERS)

    def floats(self, key: str, default: T | Missing = MISSING) -> npt.NDArray[np.floating[Any]] | T:
        """An ARRAY[FLOAT32] or ARRAY[FLOAT64]."""
        return self._look_up(key, default, "ARRAY[FLOAT32]", lambda t, v: t[6:-1] in FLOATS)

    def _look_up(self, key: str, default: Any, expected: str, accepts: Callable[[str, Any], bool]) -> Any:
        if default is not MISSING and key not in self._fields:
            return default
        found, value = self.type_name(key), self[key]
        if not accepts(found, value):
            if isinstance(value, (int, float)):
                found += f" {value}"
            hint = "another type than llama.cpp takes where it reads this key; convert the model again"
            raise self._at(0).fail(quote(key), f"{found}, not {expected}", self.offset(key), hint)
        return value

    def _field(self, key: str) -> Field:
        if key not in self._fields:
            hint = nearest(key, self._fields)
            raise self._at(0).fail(quote(key), f"no such key among {len(self)}", KEYS_BEGIN, hint)
        return self._fields[key]

    def _at(self, offset: int) -> Cursor:
        return Cursor(self._data, self._path, self._byteorder, offset)


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint that names what a missing name may have meant; "" where nothing comes near."""
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"did you mean {' or '.join(map(quote, close))}?" if close else ""


def read_metadata(cursor: Cursor, count: int) -> Metadata:
    """Walk past `count` keys and values. The cursor stands on the first key, and afterwards behind the last value."""
    fields: dict[str, Field] = {}
    for i in range(count):
        what, start = f"key {i} of {count}", cursor.pos
        key = read_name(cursor, what, MAX_KEY_BYTES)
        if not key or key in fields:
            raise cursor.fail(what, f"{quote(key)} for the second time" if key else "an empty key", start)
        kind = read_type(cursor, quote(key))
        offset = cursor.pos
        fields[key] = Field(kind, offset, skip_value(cursor, kind, quote(key)))
    return Metadata(cursor, fields)


def read_name(cursor: Cursor, what: str, most: int) -> str:
    """A key or a tensor's name: UTF-8 of at most `most` bytes."""
    start = cursor.pos
    raw = cursor.string(what)
    if len(raw) > most:
        raise cursor.fail(what, f"a name of {len(raw):,} bytes; at most {most:,} are allowed", start)
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise cursor.fail(what, f"{bytes(raw[:40])!r} is not UTF-8", start + 8) from None


def read_type(cursor: Cursor, what: str) -> ValueType:
    """The type of a value, or of an array's items."""
    start = cursor.pos
    number = cursor.u32(f"type of {what}")
    if number >= len(VALUE_TYPES):
        known = ", ".join(f"{t.id} {t.name}" for t in VALUE_TYPES)
        raise cursor.fail(f"type of {what}", f"{number}, not one of {known}", start)
    return VALUE_TYPES[number]


def read_array_head(cursor: Cursor, what: str, depth: int) -> tuple[ValueType, int]:
    """Type and number of an array's items; the items are known to have room in the file."""
    start = cursor.pos
    if depth > MAX_DEPTH:
        raise cursor.fail(what, f"arrays nested more than {MAX_DEPTH} deep", start)
    item = read_type(cursor, f"the items of {what}")
    return item, cursor.count(f"number of items of {what}", item.size, MOST)


def skip_value(cursor: Cursor, kind: ValueType, what: str, depth: int = 1) -> StringArray | None:
    """Move past a value, checking it on the way. An array of strings comes back, as all of it has been seen."""
    if kind is STRING:
        cursor.string(what)
    elif kind is not ARRAY:
        cursor.take(kind.size, what)
    else:
        item, count = read_array_head(cursor, what, depth)
        if item is STRING:
            start = cursor.pos
            return StringArray(cursor.data, start, cursor.string_ends(count, what))
        if item is not ARRAY:
            cursor.take(count * item.size, what)
        else:
            for i in range(count):
                skip_value(cursor, ARRAY, f"{what}[{i}]", depth + 1)
    return None


def read_value(cursor: Cursor, kind: ValueType, what: str, depth: int = 1) -> Value:
    """Decode a value; see Metadata for what becomes of each type."""
    if kind is STRING:
        return str(cursor.string(what), "utf-8", "replace")
    if kind is not ARRAY:
        return cursor.number(kind.code, what)
    item, count = read_array_head(cursor, what, depth)
    if item is STRING:
        start = cursor.pos
        return StringArray(cursor.data, start, cursor.string_ends(count, what))
    if item is ARRAY:
        return [read_value(cursor, ARRAY, f"{what}[{i}]", depth + 1) for i in range(count)]
    return read_numbers(cursor, item, count, what)


def read_numbers(cursor: Cursor, item: ValueType, count: int, what: str) -> Numbers:
    """`count` numbers as a read-only array in the machine's byte order."""
    raw = cursor.take(count * item.size, what)
    stored = np.frombuffer(raw, "u1" if item.code == "?" else cursor.byteorder + item.code, count)
    numbers = stored != 0 if item.code == "?" else stored.astype(stored.dtype.newbyteorder("="))
    numbers.flags.writeable = False
    return numbers


def spell_type(cursor: Cursor, kind: ValueType, what: str) -> str:
    """The spelling of a value's type; the cursor stands on the value."""
    if kind is not ARRAY:
        return kind.name
    item, count = read_array_head(cursor, what, 1)
    return f"ARRAY[{spell_type(cursor, item, what) if count else item.name}]"
