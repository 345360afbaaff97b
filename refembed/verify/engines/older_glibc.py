"""Lets a library that was compiled against glibc 2.38 load where glibc is older, if all it lacks are number parsers.

Headers of glibc 2.38 turn strtol, strtoul, sscanf and similar functions into `__isoc23_strtol` ..., which also read
binary numbers ("0b11"). Wheels compiled on a recent Ubuntu ask for those, and for nothing else of 2.38. In a copy of
the library each such name is cut back to the old one, and its version to that of the old one (x86-64's first,
GLIBC_2.2.5). No instruction is changed: what is computed stays what it was.

ELF for 64-bit little-endian machines; System V gABI, chapters 4 and 5, and the LSB's symbol versions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PREFIX = b"__isoc23_"
NEW, OLD = b"GLIBC_2.38", b"GLIBC_2.2.5"
DYNSYM, VERNEED, VERSYM = 11, 0x6FFFFFFE, 0x6FFFFFFF  # types of sections


@dataclass(frozen=True)
class Section:
    """A section of the file: where it lies, and the section that it refers to (its strings)."""

    kind: int
    offset: int
    size: int
    link: int


def for_older_glibc(data: bytes) -> bytes:
    """The library with its number parsers renamed.

    As it was where it needs nothing of 2.38, or more than those, and where it is no whole ELF file of 64 bits.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        return data
    try:
        return renamed(data)
    except (struct.error, ValueError, IndexError):  # tables that lead out of the file: loading it says so
        return data


def renamed(data: bytes) -> bytes:
    """The same of an ELF file of 64 bits. struct.error, ValueError or IndexError where a table leads out of it."""
    sections = list(read_sections(data))
    by_kind = {section.kind: section for section in sections}
    if not {DYNSYM, VERNEED, VERSYM} <= by_kind.keys():
        return data
    strings = sections[by_kind[DYNSYM].link]
    text = data[strings.offset : strings.offset + strings.size]
    old = text.find(b"\0" + OLD + b"\0") + 1
    versions = [(at, index) for at, index, name in needed(data, by_kind[VERNEED], text) if name == NEW]
    asking = list(symbols_of(data, by_kind, {index for _, index in versions}))
    if not (old and versions) or not all(name_at(text, name).startswith(PREFIX) for _, name in asking):
        return data
    made = bytearray(data)
    for at, _ in versions:  # vna_hash, vna_flags, vna_other stay in place; vna_name is the third field of four
        struct.pack_into("<I", made, at, elf_hash(OLD))
        struct.pack_into("<I", made, at + 8, old)
    for at, name in asking:
        struct.pack_into("<I", made, at, name + len(PREFIX))
    return bytes(made)


def read_sections(data: bytes) -> Iterator[Section]:
    """The table of sections."""
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    for i in range(count):
        _, kind, _, _, offset, length, link, _, _, _ = struct.unpack_from("<IIQQQQIIQQ", data, table + i * size)
        yield Section(kind, offset, length, link)


def needed(data: bytes, section: Section, text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Each version that the library needs: where its record is, its index, its name."""
    at = section.offset
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", data, at)
        record = at + first
        for _ in range(count):
            _, _, index, name, onward = struct.unpack_from("<IHHII", data, record)
            yield record, index, name_at(text, name)
            record += onward
        if not following:
            return
        at += following


def symbols_of(data: bytes, sections: dict[int, Section], indexes: set[int]) -> Iterator[tuple[int, int]]:
    """Symbols with one of these version indexes: where each is in the file, and where its name is in the strings."""
    table, versions = sections[DYNSYM], sections[VERSYM]
    for i in range(table.size // 24):
        (index,) = struct.unpack_from("<H", data, versions.offset + 2 * i)
        if index & 0x7FFF in indexes:
            at = table.offset + 24 * i
            yield at, struct.unpack_from("<I", data, at)[0]


def name_at(text: bytes, at: int) -> bytes:
    """The string that begins there."""
    return text[at : text.index(b"\0", at)]


def elf_hash(name: bytes) -> int:
    """The hash of a version's name (gABI, figure 5-13)."""
    h = 0
    for byte in name:
        h = (h << 4) + byte
        high = h & 0xF0000000
        h = (h ^ (high >> 24)) & ~high
    return h & 0xFFFFFFFF
