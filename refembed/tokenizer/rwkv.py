"""RWKV, `tokenizer.ggml.model` = "rwkv": at each byte the longest token that starts there.

As llama.cpp has it (llm_tokenizer_rwkv_session). GGUF keeps tokens escaped, as in a Python literal: `\\n`, `\\xe4`.
"""

from __future__ import annotations

import re

from refembed.errors import ModelError
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.base import Tokenizer
from refembed.tokenizer.split_points import sizes
from refembed.tokenizer.vocab import Vocab

ESCAPE = re.compile(rb"\\(x.{0,2}|.)?", re.DOTALL)
ESCAPED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}
HIDDEN = Attribute.CONTROL | Attribute.UNKNOWN


class RWKV(Tokenizer):
    """RWKV-5 World to RWKV-7. No special token is ever added."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        self.pieces = [unescape(token) for token in vocab.tokens]
        self.ids = {piece: id for id, piece in enumerate(self.pieces)}  # of equal ones the last
        self.sizes = sizes(self.ids)

    def front(self) -> list[int]:
        """Nothing, whatever add_bos_token says."""
        return []

    def back(self) -> list[int]:
        return []

    def fewest_tokens(self, text: str) -> int:
        """By its length: each byte is in a token, or is one that is unknown."""
        return self.fewest_by_length(text)

    def encode_text(self, text: bytes) -> list[int]:
        """The longest token at each byte; the unknown token for a byte that begins none.

        ModelError for bytes that begin tokens but are none: there llama.cpp never ends.
        """
        found: list[int] = []
        at = 0
        while at < len(text):
            for size in self.sizes.get(text[at], ()):
                id = self.ids.get(text[at : at + size])
                if id is not None:
                    found.append(id)
                    at += len(self.pieces[id])
                    break
            else:
                found.append(self.unknown(text[at]))
                at += 1
        return found

    def unknown(self, byte: int) -> int:
        """The id for a byte at which no token ends."""
        if byte in self.sizes:
            raise ModelError(
                f"{self.where}: tokens begin with byte {byte:#04x}, but neither as the text goes on nor with it alone",
                hint="llama.cpp never ends on such a text; the vocabulary has to have all 256 bytes",
            )
        return self.role("unk")

    def piece(self, id: int, special: bool = True) -> bytes:
        """Bytes of one token. Arguments and errors as in `Tokenizer.piece`."""
        super().piece(id, special)  # for its check of the id
        return self.pieces[id] if special or not self.vocab.attributes[id] & HIDDEN else b""


def unescape(token: bytes) -> bytes:
    """`\\t`, `\\n`, `\\r`, `\\xe4` to the bytes they stand for; any other character behind a backslash to itself."""
    return ESCAPE.sub(lambda match: unescaped(match[1] or b""), token)


def unescaped(escape: bytes) -> bytes:
    """What follows a backslash -> the byte it stands for. Of \\x without two digits nothing is left."""
    if escape[:1] != b"x":
        return ESCAPED.get(escape, escape)
    digits = [b - ord("a") + 10 if ord("a") <= b < 0x80 else b - ord("0") for b in escape[1:]]
    return bytes([(digits[0] * 16 + digits[1]) & 0xFF]) if len(digits) == 2 else b""
