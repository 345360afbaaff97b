"""Byte-pair encoding: in each piece of text, the two neighbors that merged first in training merge first.

Sennrich et al. 2016; on bytes, Radford et al. 2019 (GPT-2). `tokenizer.ggml.model` = "gpt2", "gemma4", "whitespace" or
"hybriddna". Mirrors llm_tokenizer_bpe_session and the sessions derived from it in src/llama-vocab.cpp.

    "Hello world"  ->  "Hello", " world"  ->  "H e l l o", "Ġ w o r l d"  ->  ...  ->  "Hello", "Ġworld"

The pieces come from the pre-tokenizer (`pretokenize`). Tokens are spelled in an alphabet in which each byte is a
visible character: a space is Ġ. Some models spell them in UTF-8 instead, with a space as U+2581
(`PreTokenizer.byte_encode`).
"""

from __future__ import annotations

import functools
import heapq
import re
from collections.abc import Callable, Iterable
from itertools import chain, pairwise

import numpy as np

from refembed.errors import ModelError
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.base import WORD_START
from refembed.tokenizer.bounded_cache import BoundedCache
from refembed.tokenizer.bytetokens import ByteTokens
from refembed.tokenizer.pretokenize import defaults_of
from refembed.tokenizer.unicode import decode
from refembed.tokenizer.vocab import Vocab

MAX_SYMBOLS_WITHOUT_HEAP = 48  # symbols: up to here looking through all pairs is quicker than a heap

# GPT-2's alphabet: the visible characters of Latin-1 are themselves, the 68 other bytes U+0100 to U+0143 in order.
VISIBLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
HIDDEN = tuple(b for b in range(256) if b not in VISIBLE)
LETTER_OF_BYTE = {**{b: chr(b) for b in VISIBLE}, **{b: chr(0x100 + i) for i, b in enumerate(HIDDEN)}}
SYMBOL_OF_BYTE = tuple(LETTER_OF_BYTE[b].encode() for b in range(256))
BYTE_OF_LETTER = {letter: bytes([b]) for b, letter in LETTER_OF_BYTE.items()}

TOO_HIGH_LEADS = (b"\xf4", b"\xf5", b"\xf6", b"\xf7")  # code points above U+10FFFF begin with one of these
TOO_HIGH = re.compile(rb"(?:\xf4[\x90-\xbf]|[\xf5-\xf7][\x80-\xbf])[\x80-\xbf]{2}")
SHOWN_AS_IS = Attribute.CONTROL | Attribute.UNKNOWN | Attribute.USER_DEFINED

NEVER = 1 << 62  # the rank of a pair that does not merge


class BPE(ByteTokens):
    """GPT-2, Llama 3, Qwen, ModernBERT, RoBERTa, Gemma 4 and similar models."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        self.pre = defaults_of(vocab.pre, vocab.kind, where)
        if not self.pre.escape_spaces:
            check_letters(vocab, where)
        self.ranks = read_ranks(vocab, self.pre.optional_merges, where)
        cutters = self.pre.cutters()
        if self.pre.escape_spaces and not self.pre.word_starts:
            cutters.append(split_points(self.ranks))
        self.words = BoundedCache(self.match)  # one for each stage of the pre-tokenizer
        for cut in reversed(cutters):
            self.words = BoundedCache(functools.partial(through, cut, self.words))

    def fewest_tokens(self, text: str) -> int:
        """By its length, unless the vocabulary lacks the token of a byte or of a merge: those bytes may vanish."""
        return self.fewest_by_length(text) if self.is_complete else 0

    @functools.cached_property
    def is_complete(self) -> bool:
        """Whether every byte has a token, and every pair that merges is one."""
        names = SYMBOL_OF_BYTE if self.pre.byte_encode else [b"<0x%02X>" % b for b in range(256)]
        ids = self.vocab.ids
        return all(name in ids for name in names) and all(pair.replace(b" ", b"") in ids for pair in self.ranks)

    def encode_text(self, text: bytes) -> list[int]:
        """Spaces as the model spells them, then `encode_spelled`."""
        return self.encode_spelled(self.spell(text))

    def spell(self, text: bytes) -> bytes:
        """A space is U+2581 where the pre-tokenizer wants that."""
        return text.replace(b" ", WORD_START) if self.pre.escape_spaces else text

    def encode_spelled(self, text: bytes) -> list[int]:
        """Text to pieces, pieces to ids."""
        return list(self.words[decode(text)])

    def match(self, piece: str) -> tuple[int, ...]:
        """Ids of one piece."""
        raw = piece.encode("utf-8", "surrogatepass")
        if self.pre.byte_encode:
            symbols = [SYMBOL_OF_BYTE[b] for b in raw]
        else:
            symbols = [c.encode("utf-8", "surrogatepass") for c in piece]
        if self.pre.ignore_merges or (self.pre.whole_newlines and not raw.strip(b"\n")):
            id = self.vocab.ids.get(b"".join(symbols))
            if id is not None:
                return (id,)
        merged = (
            merge(symbols, self.ranks) if len(symbols) <= MAX_SYMBOLS_WITHOUT_HEAP else merge_many(symbols, self.ranks)
        )
        return tuple(i for symbol in merged for i in self.look_up(symbol))

    def look_up(self, symbol: bytes) -> Iterable[int]:
        """The token of a symbol; where none is, those of its bytes; a byte that has none either vanishes."""
        ids = self.vocab.ids
        id = ids.get(symbol)
        if id is not None:
            return (id,)
        names = (bytes([b]) if self.pre.byte_encode else b"<0x%02X>" % b for b in symbol)
        return [ids[name] for name in names if name in ids]

    def decode_text(self, token: bytes) -> bytes:
        """The bytes that a token's letters stand for; a letter that stands for none is spelled out."""
        if self.pre.escape_spaces:
            return super().decode_text(token)
        return b"".join(BYTE_OF_LETTER.get(c) or unknown_letter(c, token) for c in decode(token))


def unknown_letter(letter: str, token: bytes) -> bytes:
    """What llama.cpp writes in place of a letter that is not of the alphabet: its bytes, and the whole token."""
    return b"[UNK_BYTE_0x%s%s]" % (letter.encode("utf-8", "surrogatepass").hex().encode(), token)


def check_letters(vocab: Vocab, where: str) -> None:
    """ModelError for a token whose bytes have the shape of a code point above U+10FFFF: it cannot be decoded."""
    joined = b"".join(vocab.tokens)
    if not any(lead in joined for lead in TOO_HIGH_LEADS):
        return
    decoded = (vocab.attributes & (Attribute.NORMAL | SHOWN_AS_IS)) == Attribute.NORMAL
    for id in np.flatnonzero(decoded):
        if TOO_HIGH.search(vocab.tokens[id]):
            spelled = vocab.tokens[id].hex(" ").upper()
            raise ModelError(
                f"{where}: tokenizer.ggml.tokens: {id} has a code point above U+10FFFF (bytes {spelled})",
                hint="llama.cpp refuses such a file; convert the model again",
            )


# -- merging ---------------------------------------------------------------------------------------------------------


def read_ranks(vocab: Vocab, optional: bool, where: str) -> dict[bytes, int]:
    """`tokenizer.ggml.merges`: "left right" -> rank. The lower merges first; a pair listed twice has its first rank.

    As in llama.cpp a merge ends at its first NUL. No symbol has a space in it (llama.cpp ends the process at one that
    has), so the line itself will do as a key.

    ModelError where the merges are absent and not optional; GGUFError where they are no strings.
    """
    key = "tokenizer.ggml.merges"
    if key not in vocab.metadata:
        if optional:
            return {}
        hint = "the file was converted without its merges; convert the model again"
        raise ModelError(f"{where}: {key} is absent, and tokenizer.ggml.model {vocab.kind!r} needs it", hint=hint)
    merges = vocab.metadata.strings(key).to_bytes()
    if b"\0" in b"".join(merges):
        merges = [m.partition(b"\0")[0] for m in merges]
    return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))


def merge(symbols: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """Merge neighbors until none are in `ranks`: always the pair of lowest rank, of equal ones the leftmost."""
    symbols = list(symbols)
    rank = [ranks.get(left + b" " + right, NEVER) for left, right in pairwise(symbols)]  # of i and i + 1
    while rank and (lowest := min(rank)) != NEVER:
        at = rank.index(lowest)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        del rank[at]
        if at > 0:
            rank[at - 1] = ranks.get(symbols[at - 1] + b" " + symbols[at], NEVER)
        if at < len(rank):
            rank[at] = ranks.get(symbols[at] + b" " + symbols[at + 1], NEVER)
    return symbols


def merge_many(symbols: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """As `merge`, in n log n steps for n symbols: a heap of pairs, a list that is linked both ways.

    A pair is one number, rank * n + index of its left symbol, so that the smallest is the next to merge. One whose left
    symbol has by now another rank with its neighbor is out of date.
    """
    n = len(symbols)
    symbols = list(symbols)
    before, behind = list(range(-1, n - 1)), list(range(1, n + 1))
    rank = [ranks.get(left + b" " + right, NEVER) for left, right in pairwise(symbols)]  # with the one behind
    rank.append(NEVER)
    heap = [r * n + i for i, r in enumerate(rank) if r != NEVER]
    heapq.heapify(heap)
    while heap:
        lowest, left = divmod(heapq.heappop(heap), n)
        if rank[left] != lowest:
            continue
        right = behind[left]
        symbols[left] += symbols[right]
        symbols[right], rank[right] = b"", NEVER
        follower = behind[left] = behind[right]
        rank[left] = NEVER
        if follower < n:
            before[follower] = left
            new = rank[left] = ranks.get(symbols[left] + b" " + symbols[follower], NEVER)
            if new != NEVER:
                heapq.heappush(heap, new * n + left)
        leader = before[left]
        if leader >= 0:
            new = rank[leader] = ranks.get(symbols[leader] + b" " + symbols[left], NEVER)
            if new != NEVER:
                heapq.heappush(heap, new * n + leader)
    return [s for s in symbols if s]


# -- cutting pieces further ------------------------------------------------------------------------------------------


def through(cut: Callable[[str], list[str]], finer: BoundedCache, piece: str) -> tuple[int, ...]:
    """Ids of a piece that is cut further."""
    return tuple(chain.from_iterable(map(finer.__getitem__, cut(piece))))


def split_points(ranks: dict[bytes, int]) -> Callable[[str], list[str]]:
    """How to cut pieces before a U+2581 where no merge reaches across: that changes no id, and words come again.

    A line is one piece to Gemma 4. Its merges join U+2581 only to what is before it in `▁▁`, and in `>▁</`.
    """
    lines, joined = b"\n".join(ranks), {"▁"}
    for found in re.finditer(b" " + WORD_START, lines):
        left = lines[max(0, found.start() - 4) : found.start()]  # ends in the character before
        if not TOO_HIGH.search(left):
            joined.update(decode(left)[-1:])
    return re.compile(f"(?<=[^{re.escape(''.join(sorted(joined)))}])(?=▁)").split
