"""SPM, `tokenizer.ggml.model` = "llama": SentencePiece's BPE, where the score of a token says how early it is merged.

Kudo & Richardson 2018, after Sennrich et al. 2016; as llama.cpp has it (llm_tokenizer_spm_session): no normalization.

    "the cat"  ->  "▁the▁cat"  ->  ▁ t h e ▁ c a t  ->  ▁ t he ▁ c at  ->  ...  ->  "▁the" "▁cat"

Of all neighbors that together are a token, those with the highest score merge first, of equals the leftmost. A symbol
that ends as no token is spelled in byte tokens, `<0xE2>`; so nothing is ever unknown.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from refembed.errors import ModelError
from refembed.tokenizer.base import WORD_START
from refembed.tokenizer.bytetokens import ByteTokens
from refembed.tokenizer.special import Fragment
from refembed.tokenizer.split_points import SplitPoints, cached_by_piece
from refembed.tokenizer.vocab import Vocab

# A symbol before any merge: as many bytes as its first one announces, UTF-8 or not (unicode_len_utf8)
SYMBOL = re.compile(rb"[\x00-\xbf]|[\xc0-\xdf].?|[\xe0-\xef].{0,2}|[\xf0-\xff].{0,3}", re.DOTALL)
BROKEN = re.compile("([\udc00-\udcff]+)")  # bytes of symbols that are no UTF-8, as `by_symbol` decodes them


class SPM(ByteTokens):
    """Llama 1 and 2, Mistral, Phi-3, Gemma 1 to 3, EmbeddingGemma and similar models."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        if np.isnan(vocab.scores).any():
            hint = "no order of merging follows from that; convert the model again"
            raise ModelError(f"{where}: tokenizer.ggml.scores: a score is NaN", hint=hint)
        self.ranks: list[float] = (-vocab.scores).tolist()  # the lowest merges first
        self.split_points = SplitPoints(vocab.tokens)
        self.has_broken_tokens = not is_utf8(b"\0".join(vocab.tokens))
        self.parts = cached_by_piece(self.merge)

    def encode_fragments(self, fragments: Sequence[Fragment]) -> list[int]:
        """Each raw fragment on its own; one that follows no other raw fragment may get a space in front."""
        ids: list[int] = []
        prefix = self.vocab.add_space_prefix
        for f in fragments:
            if isinstance(f, int):
                ids.append(f)
            else:
                ids += self.encode_spelled(self.spell(f, prefix))
            prefix = self.vocab.add_space_prefix and isinstance(f, int)
        return ids

    def fewest_tokens(self, text: str) -> int:
        """By its length: nothing is normalized, and what is no token is spelled in bytes."""
        return self.fewest_by_length(text)

    def spell(self, text: bytes, prefix: bool) -> bytes:
        """Spaces as ▁, and one in front if the file says so: `prefix`."""
        return (b" " + text if prefix else text).replace(b" ", WORD_START)

    def encode_text(self, text: bytes) -> list[int]:
        """Spaces to ▁, none in front."""
        return self.encode_spelled(self.spell(text, False))

    def encode_spelled(self, text: bytes) -> list[int]:
        """Each part between two split points is merged on its own."""
        try:
            parts = self.split_points.cut(text.decode())
        except UnicodeDecodeError:
            return self.encode_broken(text)
        return [i for part in parts for i in self.parts[part]]

    def encode_broken(self, text: bytes) -> list[int]:
        """A text that is no UTF-8: each symbol that is none is spelled in byte tokens, unless there are such tokens."""
        if self.has_broken_tokens:
            return self.merge(text)
        ids: list[int] = []
        for k, part in enumerate(BROKEN.split(text.decode("utf-8", "refembed.symbols"))):
            ids += [self.byte_id(ord(c) & 0xFF) for c in part] if k % 2 else self.encode_spelled(part.encode())
        return ids

    def merge(self, text: bytes) -> list[int]:
        """Ids of a part of a text; or of a whole one, even if it is no UTF-8."""
        starts = [match.start() for match in SYMBOL.finditer(text)]
        ends = [*starts, len(text)][1:]  # symbol i is text[starts[i]:ends[i]]; ends[i] = 0 once it is merged away
        before, after = list(range(-1, len(starts) - 1)), [*range(1, len(starts)), -1]
        ids, ranks = self.vocab.ids, self.ranks
        queue: list[tuple[float, int, int, int]] = []

        def add(left: int, right: int) -> None:
            """Put two neighbors in the queue, if they are there and together a token."""
            if left >= 0 and right >= 0:
                id = ids.get(text[starts[left] : ends[right]])
                if id is not None:
                    heappush(queue, (ranks[id], left, right, ends[right]))

        for right in range(1, len(starts)):
            add(right - 1, right)
        while queue:
            _, left, right, end = heappop(queue)
            if not ends[left] or ends[right] != end:
                continue  # one of them has been merged since
            ends[left], ends[right] = end, 0
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            add(before[left], left)
            add(left, after[left])
        symbols = (text[start:end] for start, end in zip(starts, ends, strict=True) if end)
        return [id for symbol in symbols for id in self.of_symbol(symbol)]

    def of_symbol(self, symbol: bytes) -> Sequence[int]:
        """The token of that text; else one byte token for each byte."""
        id = self.vocab.ids.get(symbol)
        return (id,) if id is not None else [self.byte_id(b) for b in symbol]

    def byte_id(self, byte: int) -> int:
        """The token of a byte: `<0xE2>`, or the bare byte. ModelError where the vocabulary has neither."""
        name = f"<0x{byte:02X}>"
        id = self.vocab.ids.get(name.encode(), self.vocab.ids.get(bytes([byte])))
        if id is None:
            raise ModelError(
                f"{self.where}: the text has a character that is no token, and its byte {name} is none either",
                hint="the vocabulary lacks byte tokens; llama.cpp fails on such a text as well",
            )
        return id


def by_symbol(error: UnicodeError) -> tuple[str, int]:
    """Go on where strict UTF-8 stops: the bytes of one symbol as U+DC00 to U+DCFF. Returns them and where to go on."""
    assert isinstance(error, UnicodeDecodeError)
    symbol = SYMBOL.match(error.object, error.start)
    assert symbol  # any byte begins one
    return "".join(chr(0xDC00 + b) for b in symbol[0]), symbol.end()


def is_utf8(text: bytes) -> bool:
    """Whether it can be decoded."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


codecs.register_error("refembed.symbols", by_symbol)
