"""PLaMo-2, `tokenizer.ggml.model` = "plamo2": the tokens whose scores have the highest sum, found from the end.

As llama.cpp has it (llm_tokenizer_plamo2). Scores are whole ten-thousandths. A character that no token covers costs
UNKNOWN and is spelled in byte tokens.

At each character the automaton (Aho & Corasick 1975, read backwards) knows the longest *tail* that the text goes on
with: a token, or a token without its first characters. Every token that begins here is then a beginning of that tail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from refembed.errors import ModelError
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.base import Tokenizer
from refembed.tokenizer.unicode import decode
from refembed.tokenizer.vocab import Vocab

UNKNOWN = -10_000_000  # the score of a character that no token covers
HELPER = -20_000_000  # up to this, nothing is ever chosen: tails that are no tokens, tokens of no usable score
BYTE = 6  # tokenizer.ggml.token_type
HIDDEN = Attribute.CONTROL | Attribute.UNKNOWN
BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2})>")
TOO_HIGH = re.compile(rb"((?:\xf4[\x90-\xbf]|[\xf5-\xf7][\x80-\xbf])[\x80-\xbf]{2})")  # above U+10FFFF
KEPT_STEPS = 1 << 17  # cached at most, so that no text makes memory grow for good
BYTE_ORDER_MARK = "\ufeff"


class Beginning(NamedTuple):
    """A token, or tail, that the text goes on with."""

    text: str
    size: int  # characters
    score: int
    id: int | None  # None: in byte tokens

    @property
    def stops(self) -> bool:
        """Shorter ones are not looked at. Meant for ONE_CHARACTER, but llama.cpp asks for the score alone."""
        return self.score == UNKNOWN


ONE_CHARACTER = Beginning("", 1, UNKNOWN, None)  # in byte tokens; as a tail it is none


class Plamo2(Tokenizer):
    """PLaMo 2 and 3."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        self.bytes = byte_ids(vocab, where)
        self.tails = tails(vocab, where)
        self.steps = Steps(self.tails)

    def encode_text(self, text: bytes) -> list[int]:
        """The best path, without a byte order mark. What is above U+10FFFF, which only bytes can spell, is no token."""
        ids: list[int] = []
        for k, part in enumerate(TOO_HIGH.split(text)):
            if k % 2:
                ids += [self.bytes[b] for b in part]
            else:
                ids += self.best_path(decode(part).removeprefix(BYTE_ORDER_MARK if k == 0 else ""))
        return ids

    def best_path(self, text: str) -> list[int]:
        """Ids of the tokens with the highest sum of scores. Equal sums: the longer first token."""
        best = [0] * (len(text) + 1)  # of all paths from each character on: the highest sum
        first = [ONE_CHARACTER] * len(text)
        tail = ""
        for at in range(len(text) - 1, -1, -1):
            tail, tokens = self.steps[text[at], tail]
            first[at] = max(tokens, key=lambda token: best[at + token.size] + token.score)
            best[at] = best[at + first[at].size] + first[at].score
        ids: list[int] = []
        at = 0
        while at < len(text):
            id = first[at].id
            ids += [self.bytes[b] for b in text[at].encode("utf-8", "surrogatepass")] if id is None else [id]
            at += first[at].size
        return ids

    def piece(self, id: int, special: bool = True) -> bytes:
        """Bytes of one token: as it is stored, or its byte. Arguments and errors as in `Tokenizer.piece`."""
        super().piece(id, special)  # for its check of the id
        bits, token = self.vocab.attributes[id], self.vocab.tokens[id]
        if not special and bits & HIDDEN:
            return b""
        byte = BYTE_TOKEN.fullmatch(token) if bits & Attribute.BYTE else None
        return bytes([int(byte[1], 16)]) if byte else token


class Steps(dict[tuple[str, str], tuple[str, tuple[Beginning, ...]]]):
    """The automaton. Character, tail behind it -> tail from the character on, tokens that can begin there.

    Filled as they occur, started anew when full.
    """

    def __init__(self, tails: dict[str, Beginning]) -> None:
        super().__init__()
        self.tails = tails

    def __missing__(self, key: tuple[str, str]) -> tuple[str, tuple[Beginning, ...]]:
        character, behind = key
        longer = (character + begin.text for begin in self.beginnings(behind))
        tail = next((text for text in longer if text in self.tails), "")
        step = tail, tuple(begin for begin in self.beginnings(tail) if begin.score > HELPER)
        if len(self) >= KEPT_STEPS:
            self.clear()
        self[key] = step
        return step

    def beginnings(self, tail: str) -> Iterator[Beginning]:
        """All that this tail begins with, the longest first."""
        for size in range(len(tail), 0, -1):
            if tail[:size] in self.tails:
                yield self.tails[tail[:size]]
                if self.tails[tail[:size]].stops:
                    return
        yield ONE_CHARACTER


def tails(vocab: Vocab, where: str) -> dict[str, Beginning]:
    """Every token but byte tokens, and every token without its first characters."""
    found: dict[str, Beginning] = {}
    scores = vocab.scores.tolist()
    for id, token in enumerate(vocab.tokens):
        if vocab.types[id] == BYTE:
            continue
        if TOO_HIGH.search(token):
            raise ModelError(
                f"{where}: tokenizer.ggml.tokens: token {id} has a code point above 10FFFF: {token.hex(' ')}",
                hint="llama.cpp refuses the file as well; convert the model again",
            )
        text = decode(token)
        for k in range(1, len(text)):
            found.setdefault(text[k:], Beginning(text[k:], len(text) - k, HELPER, None))
        if text.encode("utf-8", "surrogatepass") == token:  # else no text spells it
            found[text] = Beginning(text, len(text), whole(scores[id]), id)
    return found


def whole(score: float) -> int:
    """Ten-thousandths, halves away from zero; HELPER where that is no int32."""
    if not abs(score) < 2**31 / 1e4:  # also NaN
        return HELPER
    return int(math.copysign(math.floor(abs(score) * 1e4 + 0.5), score))


def byte_ids(vocab: Vocab, where: str) -> list[int]:
    """The token of each byte (256). ModelError where one has none, or it is token 0, which llama.cpp takes for none."""
    ids = [0] * 256
    for id in np.flatnonzero(vocab.types == BYTE).tolist():
        if byte := BYTE_TOKEN.fullmatch(vocab.tokens[id]):
            ids[int(byte[1], 16)] = id
    if 0 in ids:
        raise ModelError(
            f"{where}: tokenizer.ggml.tokens: no byte token <0x{ids.index(0):02X}>",
            hint="PLaMo-2 needs all 256; llama.cpp refuses the file as well",
        )
    return ids
