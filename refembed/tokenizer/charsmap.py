"""The charsmap of a "t5" vocabulary: which sequences of bytes are replaced by which, mostly Unicode's NFKC.

`tokenizer.ggml.precompiled_charsmap` is SentencePiece's format: 4 bytes n; n bytes of a double-array trie (llama.cpp
calls it an XCDA), 4 bytes a unit; then the replacements, each ended by a NUL. The bits of a unit:

    0-7 and 31   the byte that leads here, bit 31 clear          10-30   where the next bytes lie: their base,
    8            a key ends here                                 9       shifted left by 8 if this is set
    0-30         of the unit at the base of a key's end: where its replacement begins

A unit is found at `base of the one before XOR byte`. As llama.cpp has it: llm_tokenizer_ugm_session::xcda_array_view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refembed.errors import ModelError
from refembed.gguf import Metadata

KEY = "tokenizer.ggml.precompiled_charsmap"
LABEL = 0x800000FF
KEY_ENDS = 1 << 8
SHIFTED = 1 << 9
VALUE = 0x7FFFFFFF


@dataclass(frozen=True)
class Charsmap:
    """Sequences of bytes and what replaces them: 225,000 in the map of XLM-RoBERTa, mostly of Hangul."""

    units: list[int]
    replacements: bytes
    where: str  # the file, for errors

    def longest(self, text: bytes, at: int) -> tuple[bytes, int] | None:
        """What replaces the longest key that the text goes on with from `at`, and how many bytes that key has.

        None where no key fits. ModelError where the trie leads out of itself, as llama.cpp throws.
        """
        size = value = 0
        base = self.base(0)
        for k in range(at, len(text)):
            here = self.child(base, text[k])
            if here is None:
                break
            base = here ^ self.base(here)
            if self.units[here] & KEY_ENDS:
                size, value = k - at + 1, self.unit(base) & VALUE
        return (self.replacement(value), size) if size else None

    def child(self, base: int, byte: int) -> int | None:
        """The unit that a byte leads to. None where it leads nowhere; NUL never does."""
        here = base ^ byte
        return here if byte and self.unit(here) & LABEL == byte else None

    def base(self, at: int) -> int:
        """Bits 10 to 30, shifted left by 8 where bit 9 says so."""
        unit = self.unit(at)
        return unit >> 10 << (8 if unit & SHIFTED else 0)

    def unit(self, at: int) -> int:
        if at >= len(self.units):
            raise damaged(self.where, f"the trie leads to unit {at} of {len(self.units)}")
        return self.units[at]

    def replacement(self, begin: int) -> bytes:
        """The bytes up to the NUL."""
        end = self.replacements.find(b"\0", begin)
        if end < 0:
            raise damaged(self.where, f"a replacement at {begin} of {len(self.replacements)} bytes does not end")
        return self.replacements[begin:end]

    def after(self, begin: bytes) -> set[int] | None:
        """The bytes with which keys that begin so go on; none if there are no such keys. None if a key ends in it."""
        base = self.base(0)
        for byte in begin:
            here = self.child(base, byte)
            if here is None:
                return set()
            if self.units[here] & KEY_ENDS:
                return None
            base = here ^ self.base(here)
        return {b for b in range(1, 0x100) if base ^ b >= len(self.units) or self.child(base, b) is not None}


def read_charsmap(metadata: Metadata, where: str) -> Charsmap | None:
    """The charsmap of a file; None where it has none. ModelError for one whose parts do not fit."""
    if KEY not in metadata:
        return None
    stored = metadata.type_name(KEY)
    if stored not in ("ARRAY[UINT8]", "ARRAY[INT8]"):
        raise damaged(where, f"{stored}, not ARRAY[UINT8]")
    raw = np.asarray(metadata.ints(KEY)).astype(np.uint8).tobytes()
    size = int.from_bytes(raw[:4], "little")
    if len(raw) < 4 or size + 4 >= len(raw):
        raise damaged(where, f"{len(raw)} bytes cannot hold a trie of {size} and replacements")
    units = np.frombuffer(raw, "<u4", size // 4, 4).tolist()
    return Charsmap(units, raw[4 + size :], where) if units else None


def damaged(where: str, found: str) -> ModelError:
    """The error for a charsmap that is none."""
    return ModelError(f"{where}: {KEY}: {found}", hint="the file is damaged; convert the model again")
