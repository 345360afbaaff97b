"""Writes charsmaps as SentencePiece does: a double-array trie of keys, then replacements. Independent of refembed.

write_charsmap({"Ａ".encode(): b"A"})  # the value of tokenizer.ggml.precompiled_charsmap
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Mapping

HAS_LEAF, SHIFTED, IS_VALUE = 1 << 8, 1 << 9, 1 << 31
BLOCK = 256


class Node(dict[int, "Node"]):
    """A node of the trie: byte -> child; `value` where a key ends."""

    value: int | None = None


def write_charsmap(pairs: Mapping[bytes, bytes]) -> bytes:
    """Key -> replacement, as a blob. Neither may have a NUL; replacements need not be UTF-8."""
    root, pool = Node(), bytearray()
    for key, replacement in pairs.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, Node())
        node.value = len(pool)
        pool += replacement + b"\0"
    units = lay_out(root)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + bytes(pool)


def lay_out(root: Node) -> list[int]:
    """The units. Node by node, each gets the first base, no other node's, where the places of all children are free."""
    units: dict[int, int] = {0: 0}
    bases: set[int] = set()
    todo, first_free = [(root, 0, 0)], 1
    while todo:
        node, at, label = todo.pop()
        wanted = [*([0] if node.value is not None else []), *node]
        while first_free in units:
            first_free += 1
        base = first_free
        while base in bases or any(base ^ byte in units for byte in wanted):
            base += 1
        bases.add(base)
        units[at] = label | offset(base ^ at) | (HAS_LEAF if node.value is not None else 0)
        if node.value is not None:
            units[base] = IS_VALUE | node.value
        for byte, child in node.items():
            units[base ^ byte] = 0  # taken
            todo.append((child, base ^ byte, byte))
    size = -(-(max(units) + 1) // BLOCK) * BLOCK
    free = IS_VALUE  # a label that no byte has
    return [units.get(i, free) for i in range(size)]


def offset(distance: int) -> int:
    """Bits 9 to 30; the short form and, where it fits, the shifted one, so that tests meet both."""
    if distance % 256 == 0:
        return distance >> 8 << 10 | SHIFTED
    assert distance < 1 << 21
    return distance << 10


def nfkc_pairs() -> dict[bytes, bytes]:
    """A small nmt_nfkc: compatibility characters, compositions, controls; and keys made to confuse a longest match."""
    blocks = (range(0xA0, 0x180), range(0x1E00, 0x1F00), range(0x2070, 0x20A0), range(0x2100, 0x2190))
    blocks += (range(0x2460, 0x2480), range(0x3300, 0x3320), range(0xFB00, 0xFB07), range(0xFF01, 0xFFA0))
    pairs = {}
    for char in map(chr, (cp for block in blocks for cp in block)):
        composed = unicodedata.normalize("NFC", unicodedata.normalize("NFD", char))
        if unicodedata.normalize("NFKC", char) != char:
            pairs[char] = unicodedata.normalize("NFKC", char)
        elif unicodedata.normalize("NFD", char) != char and composed == char:
            pairs[unicodedata.normalize("NFD", char)] = char
    pairs |= {chr(c): "" for c in (*range(1, 9), 0x7F, 0x200B, 0xFEFF)}
    pairs |= dict.fromkeys("\t\n\r\xa0\u3000�", " ")
    pairs |= {"ab": "<ab>", "abcd": "<abcd>", "bc": "", "x": "  x ", "▁": " ", "и\u0306": "й", "z▁": "▁"}
    return {key.encode(): value.encode() for key, value in pairs.items()}


BROKEN_PAIRS = {b"q": b"\xe2\x96", b"\xc3": b"<C3>", b"w": b"\xff", b"\xe2\x82\xac": b"\x81x"}  # no UTF-8 on one side
