"""SentencePiece models by hand: a ModelProto (sentencepiece_model.proto) of a few pieces and settings."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
UNIGRAM, BPE, WORD = 1, 2, 3


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(field << 3) + varint(value & (2**64 - 1))


def part(field: int, data: bytes) -> bytes:
    """A field that is bytes."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Seven bits a byte."""
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def sentencepiece(pieces: Sequence[tuple[str, float, int]], kind: int = BPE, **settings: Any) -> bytes:
    """A model. settings: add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, treat_whitespace_as_suffix,
    and bos_id, eos_id, unk_id.
    """
    trainer = number(3, kind)
    for name, field in (("treat_whitespace_as_suffix", 24), ("unk_id", 40), ("bos_id", 41), ("eos_id", 42)):
        if name in settings:
            trainer += number(field, int(settings[name]))
    normalizer = part(1, b"identity")
    for name, field in (("add_dummy_prefix", 3), ("remove_extra_whitespaces", 4), ("escape_whitespaces", 5)):
        normalizer += number(field, int(settings.get(name, name != "remove_extra_whitespaces")))
    found = b"".join(
        part(1, part(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + number(3, type_))
        for text, score, type_ in pieces
    )
    return found + part(2, trainer) + part(3, normalizer)


def llama_pieces() -> list[tuple[str, float, int]]:
    """<unk>, <s>, </s>, 256 bytes, then a few pieces: "the", "cat" and what they are merged from."""
    found = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    found += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    merged = ["th", "the", "▁the", "ca", "cat", "▁cat"]
    found += [(text, -1.0 - i, NORMAL) for i, text in enumerate(merged)]
    return found + [(text, -20.0 - i, NORMAL) for i, text in enumerate("▁theca")]
