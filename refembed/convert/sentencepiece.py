"""SentencePiece's own file, tokenizer.model, spiece.model or sentencepiece.bpe.model: its pieces and its settings.

A ModelProto (sentencepiece_model.proto), read without the `sentencepiece` library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refembed.convert.files import check_listed
from refembed.convert.rules import refuse, warn, warn_beyond
from refembed.convert.wordpiece import NORMAL, UNUSED, USER_DEFINED
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

UNKNOWN, CONTROL, BYTE = 2, 3, 6  # tokenizer.ggml.token_type
UNIGRAM, BPE = 1, 2  # TrainerSpec.model_type


@dataclass
class Pieces:
    """Tokens by id, [PADn] where there is none."""

    tokens: list[str]
    scores: list[float]
    kinds: list[int]
    add_space_prefix: bool = True
    remove_extra_whitespaces: bool = True
    charsmap: bytes = b""
    unigram: bool = True
    count: int = 0  # of pieces that the file holds
    roles: dict[str, str] = field(default_factory=dict)  # "bos", "eos" ... -> the piece's text
    path: Path = Path()

    @classmethod
    def blank(cls, size: int, path: Path) -> Pieces:
        """Nothing but padding."""
        return cls([f"[PAD{i}]" for i in range(size)], [-10000.0] * size, [UNUSED] * size, path=path)

    def put(self, i: int, token: str, score: float, kind: int) -> None:
        """Token i. ModelError where config.json has no such id."""
        if not 0 <= i < len(self.tokens):
            found = f"{self.path}: token {i}, but config.json has a vocab_size of {len(self.tokens):,}"
            raise ModelError(found, hint="are these files of one model?")
        self.tokens[i], self.scores[i], self.kinds[i] = token, score, kind

    def put_added(self, i: int, token: str, score: float, kind: int) -> None:
        """Token i, which was added to the vocabulary; left out where the table of embeddings has no row for it."""
        if i >= len(self.tokens):
            warn_beyond(self.path.parent, token, i, len(self.tokens))
        else:
            self.put(i, token, score, kind)

    def id_of(self, text: str | None) -> int | None:
        """The id of a token."""
        return self.tokens.index(text) if text in self.tokens else None


def read_sentencepiece(path: Path, size: int) -> Pieces:
    """The pieces and settings that matter here, in a vocabulary of `size` tokens; 0: as many as there are pieces.

    ModelError where it is no SentencePiece model, or of a kind that no file of GGUF's is.
    """
    try:
        data = check_listed(path).read_bytes()
        parts = list(fields(data))
        facts: list[dict[int, Any]] = [
            {1: b"", 2: 0.0, 3: NORMAL} | dict(fields(value)) for number, value in parts if number == 1
        ]
        trainer = dict(fields(b"".join(value for number, value in parts if number == 2)))
        normalizer = dict(fields(b"".join(value for number, value in parts if number == 3)))
        read = [(fact[1].decode(), float(fact[2]), fact[3]) for fact in facts]
        named = {name: trainer.get(key, of) for name, (key, of) in ROLES.items()}
    except (IndexError, ValueError, TypeError, AttributeError, struct.error) as e:
        raise ModelError(f"{path}: not a SentencePiece model: {e}", hint="is the file whole?") from None
    if not read:
        raise ModelError(f"{path}: not a SentencePiece model: no pieces in it", hint="is the file whole?")
    check_kind(path, trainer, normalizer)
    pieces = Pieces.blank(size or len(read), path)
    pieces.count, pieces.unigram = len(read), trainer.get(3, UNIGRAM) == UNIGRAM
    pieces.charsmap = normalizer.get(2, b"")
    pieces.add_space_prefix, pieces.remove_extra_whitespaces = bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
    pieces.roles = {name: read[i][0] for name, i in named.items() if 0 <= i < len(read)}
    for i, (text, score, kind) in enumerate(read):
        if i < len(pieces.tokens):
            pieces.put(i, text.replace("▁", " ") if kind == USER_DEFINED else text, score, kind)
    if len(read) > len(pieces.tokens):
        warn_of_rest(pieces, [text for text, _, _ in read[len(pieces.tokens) :]])
    return pieces


ROLES = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}  # TrainerSpec's fields and their defaults


def check_kind(path: Path, trainer: dict[int, Any], normalizer: dict[int, Any]) -> None:
    """ModelError for settings that llama.cpp has no counterpart of."""
    if trainer.get(3, UNIGRAM) not in (UNIGRAM, BPE):
        raise refuse(path, "a vocabulary", f"model_type {trainer[3]}", "refembed converts Unigram (1) and BPE (2)")
    if trainer.get(24):
        raise refuse(path, "a setting", "treat_whitespace_as_suffix", "llama.cpp puts spaces in front of words")
    if not normalizer.get(5, 1):
        raise refuse(path, "a setting", "escape_whitespaces false", "llama.cpp spells spaces as U+2581")


def warn_of_rest(pieces: Pieces, rest: list[str]) -> None:
    """Say which pieces have no row in the table of embeddings."""
    listed = ", ".join(map(quote, rest[:3])) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")
    warn(
        f"{pieces.path}: pieces {listed} have ids from {len(pieces.tokens)} on, but config.json has a vocab_size of "
        f"{len(pieces.tokens):,}: they are left out; are these files of one model?"
    )


def realign(pieces: Pieces) -> Pieces:
    """XLM-RoBERTa's numbers: <s>, <pad>, </s>, <unk>, then the pieces from the fourth on, one later; <mask> last."""
    size = len(pieces.tokens)
    moved = Pieces.blank(size, pieces.path)
    moved.add_space_prefix, moved.charsmap = pieces.add_space_prefix, pieces.charsmap
    moved.remove_extra_whitespaces, moved.roles = pieces.remove_extra_whitespaces, XLM_ROBERTA_ROLES
    for i, token in enumerate(("<s>", "<pad>", "</s>", "<unk>")):
        moved.put(i, token, 0.0, UNKNOWN if token == "<unk>" else CONTROL)
    for i in range(3, pieces.count):
        moved.put(i + 1, pieces.tokens[i], pieces.scores[i], pieces.kinds[i])
    if pieces.count + 1 < size:
        moved.put(pieces.count + 1, "<mask>", 0.0, CONTROL)
    return moved


XLM_ROBERTA_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a protocol buffer: number and value, in order. ValueError or IndexError where there are none."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        match tag & 7:
            case 0:
                value, at = varint(data, at)
                yield tag >> 3, value
            case 2:
                length, at = varint(data, at)
                if at + length > len(data):
                    raise ValueError("it ends in the middle of a field")
                yield tag >> 3, data[at : at + length]
                at += length
            case 1 | 5 as kind:
                form = "<d" if kind == 1 else "<f"
                yield tag >> 3, struct.unpack_from(form, data, at)[0]
                at += struct.calcsize(form)
            case kind:
                raise ValueError(f"a field of kind {kind}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")
