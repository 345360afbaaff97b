"""StringArray: a GGUF array of strings, left in the mapped file until it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

from refembed.arrays import I64

Bytes: TypeAlias = bytes  # the class below has a method of that name


class StringArray(Sequence[str]):
    """Strings of the mapped file, decoded as they are asked for.

    Bytes that are not UTF-8 become U+FFFD in a str; `bytes` and `to_bytes` give them as they are. Equal to a list or
    tuple of the same strings.

    data    the whole file
    start   the byte at which the first string's length stands
    ends    (count) the byte after each string, as Cursor.string_ends found them

    >>> from refembed import open_gguf
    >>> pieces = open_gguf("minilm").metadata["tokenizer.ggml.tokens"]
    >>> len(pieces), pieces[101:103], pieces.index("[SEP]")
    (30522, ['[CLS]', '[SEP]'], 102)
    >>> pieces.bytes(101), pieces.to_bytes()[102]
    (b'[CLS]', b'[SEP]')
    """

    def __init__(self, data: memoryview, start: int, ends: I64) -> None:
        self._data, self._start, self._ends = data, start, ends

    def bytes(self, i: int) -> Bytes:
        """String i as stored; i counts as in a list. IndexError past either end."""
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"string {i} of {n}")
        i %= n
        begin = int(self._ends[i - 1]) if i else self._start
        return bytes(self._data[begin + 8 : int(self._ends[i])])

    def to_bytes(self) -> list[Bytes]:
        """All strings as stored, at once: the quick way to a whole vocabulary."""
        if len(self) == 0:
            return []
        blob = bytes(self._data[self._start : int(self._ends[-1])])
        ends = (self._ends - self._start).tolist()
        return [blob[begin + 8 : end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self.bytes(i).decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return (s.decode("utf-8", "replace") for s in self.to_bytes())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StringArray):
            return self.to_bytes() == other.to_bytes()
        return list(self) == list(other) if isinstance(other, (list, tuple)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to lists, and those have none

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"StringArray([{shown}{', ...' if len(self) > 3 else ''}], {len(self):,} strings)"
