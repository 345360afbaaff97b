"""Byte tokens, `<0x41>`: what SPM, Unigram and byte-pair encoding turn them into on the way back to text."""

from __future__ import annotations

import re

import numpy as np

from refembed.errors import ModelError
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.base import Tokenizer
from refembed.tokenizer.vocab import Vocab

SHOWN_AS_TEXT = Attribute.CONTROL | Attribute.UNKNOWN | Attribute.USER_DEFINED | Attribute.NORMAL
DIGITS = slice(3, 5)  # of `<0x41>`
NUMBER = re.compile(rb"[\t-\r ]*([+-]?[0-9A-Fa-f]+)")  # as C's strtol reads it


class ByteTokens(Tokenizer):
    """A tokenizer whose vocabulary can have tokens of the type BYTE."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        only_byte = (vocab.attributes & (SHOWN_AS_TEXT | Attribute.BYTE)) == Attribute.BYTE
        self.byte_pieces = {int(id): byte_piece(vocab.tokens[id], where) for id in np.flatnonzero(only_byte)}

    def piece(self, id: int, special: bool = True) -> bytes:
        """Bytes of one token; a byte token is its byte. Arguments and errors as in `Tokenizer.piece`."""
        text = super().piece(id, special)
        return self.byte_pieces.get(int(id), text)


def byte_piece(token: bytes, where: str) -> bytes:
    """`<0x41>` -> `A`. Text without digits in their place is byte 0, as llama.cpp reads it."""
    if len(token) < DIGITS.start:
        raise ModelError(
            f"{where}: tokenizer.ggml.token_type: token {token.decode(errors='replace')!r} is a byte; which one?",
            hint="a byte token is spelled <0x41>; llama.cpp refuses the file as well",
        )
    number = NUMBER.match(token[DIGITS])
    return bytes([int(number[1], 16) & 0xFF]) if number else b"\0"
