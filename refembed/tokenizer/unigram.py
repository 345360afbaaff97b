"""Unigram, `tokenizer.ggml.model` = "t5": the tokens whose scores, log-probabilities, have the highest sum.

Kudo 2018, SentencePiece's Unigram; as llama.cpp has it (llm_tokenizer_ugm_session).

    "ﬁne  ①"  ->  "▁fine▁1"  ->  "▁fine" "▁1"

First `Normalizer`: characters are composed where the file asks for it and replaced by the charsmap, spaces become ▁.
Then the best path (Viterbi). A character that no token covers alone may be unknown, for 10 less than the lowest score;
unknowns in a row are one token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from refembed.arrays import F32
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.base import WORD_START
from refembed.tokenizer.bytetokens import ByteTokens
from refembed.tokenizer.charsmap import Charsmap, read_charsmap
from refembed.tokenizer.compose import COMPOSES, characters, compose
from refembed.tokenizer.split_points import SplitPoints, cached_by_piece, sizes
from refembed.tokenizer.unicode import REPLACEMENT
from refembed.tokenizer.vocab import Vocab

NORMAL, USER_DEFINED, UNUSED = 1, 4, 5  # tokenizer.ggml.token_type
UNKNOWN_PENALTY = np.float32(10)
LOWEST = -float(np.finfo(np.float64).max)  # C's -DBL_MAX
MOST_AT_ONCE = 256  # characters: `re` needs 160 bytes of memory for each of a run
NO_UNK = -1  # stands for the unknown token of a vocabulary that has none

SEQUENCE = re.compile(rb"[\x00-\x7f]|[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3}")
NO_SEQUENCE = chr(REPLACEMENT).encode()
SYMBOL_SIZE = [*[1] * 0xC0, *[2] * 0x20, *[3] * 0x10, *[4] * 0x10]  # bytes of a character, by the first of them


class Unigram(ByteTokens):
    """T5, XLM-RoBERTa, BGE-M3, multilingual E5, Nomic MoE and similar models."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        self.normalizer = Normalizer(vocab, where)
        self.unk = NO_UNK if vocab.unk is None else vocab.unk
        matched = np.flatnonzero(np.isin(vocab.types, (NORMAL, USER_DEFINED, UNUSED))).tolist()
        scores = np.where(vocab.attributes & Attribute.USER_DEFINED, np.float32(0), vocab.scores).tolist()
        self.tokens = {vocab.tokens[id]: (id, scores[id]) for id in matched}
        self.unk_score = unknown_score(vocab.scores[vocab.types == NORMAL])
        self.sizes = sizes(self.tokens)
        self.split_points = SplitPoints(self.tokens)
        self.parts = cached_by_piece(self.best_path)
        self.most = exact_length(self.tokens, self.unk_score)

    def encode_text(self, text: bytes) -> list[int]:
        """Normalize; find the best path; make one of unknowns in a row."""
        text = self.normalizer(text)
        ids = self.best_path_by_parts(text) if len(text) <= self.most else self.best_path(text)
        if self.unk in ids:
            ids = [id for id, last in zip(ids, [None, *ids], strict=False) if not id == last == self.unk]
            self.role("unk")
        return ids

    def best_path_by_parts(self, text: bytes) -> list[int]:
        """As `best_path`, each part between two split points on its own: the same ids, as long as sums are exact."""
        try:
            parts = self.split_points.cut(text.decode())
        except UnicodeDecodeError:  # half a user-defined token, or a charsmap that puts such bytes in
            return self.best_path(text)
        return [i for part in parts for i in self.parts[part]]

    def best_path(self, text: bytes) -> list[int]:
        """Ids of the tokens with the highest sum of scores, unknowns one by one. Equal sums: the longer last token."""
        if not text:
            return []
        n = len(text)
        best = [LOWEST] * (n + 1)  # of all paths to each byte: the highest sum
        last = [(self.unk, 0)] * (n + 1)  # its last token, and where that begins
        best[0] = 0.0
        at = 0
        while at < n:
            end = min(at + SYMBOL_SIZE[text[at]], n)
            covered = False
            for size in self.sizes.get(text[at], ()):
                token = self.tokens.get(text[at : at + size]) if at + size <= n else None
                if token is not None:
                    covered |= at + size == end
                    if best[at] + token[1] > best[at + size]:
                        best[at + size], last[at + size] = best[at] + token[1], (token[0], at)
            if not covered and best[at] + self.unk_score > best[end]:
                best[end], last[end] = best[at] + self.unk_score, (self.unk, at)
            at = end
        path = []
        while True:
            id, n = last[n]
            path.append(id)
            if n == 0:
                return path[::-1]


def unknown_score(scores: F32) -> float:
    """10 less than the lowest score of a normal token, in float32."""
    lowest = np.fmin.reduce(scores, initial=np.finfo(np.float32).max)
    return float(np.float32(lowest) - UNKNOWN_PENALTY)


def exact_length(tokens: dict[bytes, tuple[int, float]], unk_score: float) -> int:
    """How many bytes a text can have so that no sum of scores is ever rounded: then a sum may begin anywhere.

    Every score is a multiple of the lowest bit of the smallest, and a double holds 2^53 of that. The best path sums at
    least to what characters one by one do, at most to the highest score for each.
    """
    scores = np.abs([unk_score, *(score for _, score in tokens.values())])
    if not np.isfinite(scores).all():
        return 0
    one_by_one = [score for text, (_, score) in tokens.items() if len(text) == SYMBOL_SIZE[text[0]] or score > 0]
    step = max(np.abs([unk_score, *one_by_one]).max(), 1e-30)
    _, exponent = np.frexp(scores[scores > 0].min())
    return int((2.0 ** (int(exponent) - 24 + 53) - scores.max()) / step)


class Normalizer:
    """What a text becomes before tokens are looked for. Keys: tokenizer.ggml.normalizer.nfc, precompiled_charsmap,
    add_space_prefix, remove_extra_whitespaces.
    """

    def __init__(self, vocab: Vocab, where: str) -> None:
        self.composes = vocab.metadata.flag(COMPOSES, False)
        self.charsmap = read_charsmap(vocab.metadata, where)
        user_defined = [vocab.tokens[i] for i in np.flatnonzero(vocab.types == USER_DEFINED)]
        self.prefixes = {token[:k] for token in user_defined for k in range(1, len(token) + 1)}
        self.plain = plain(self.charsmap, self.prefixes)
        self.space_prefix = vocab.add_space_prefix
        self.merge_spaces = vocab.metadata.flag("tokenizer.ggml.remove_extra_whitespaces", False)

    def __call__(self, text: bytes) -> bytes:
        """The text with its characters replaced, and ▁ for spaces."""
        if self.composes and not text.isascii():
            text = compose(characters(text)).encode("utf-8", "surrogatepass")
        return self.escape(self.replace(text))

    def replace(self, text: bytes) -> bytes:
        """Replace every character; runs that stay as they are in one go."""
        done, at = [], 0
        while at < len(text):
            same = self.plain.match(text, at)
            if same:
                done.append(same[0])
                at = same.end()
            else:
                replacement, size = self.replace_one(text, at)
                done.append(replacement)
                at += size
        return b"".join(done)

    def replace_one(self, text: bytes, at: int) -> tuple[bytes, int]:
        """What becomes of the bytes from `at` on, and how many of them that is. The first rule that fits counts."""
        size = 0
        while text[at : at + size + 1] in self.prefixes and at + size < len(text):
            size += 1
        if size:  # it begins like a user-defined token: that much, though it be half a character, stays
            return text[at : at + size], size
        replaced = self.charsmap.longest(text, at) if self.charsmap else None
        if replaced:
            return replaced
        sequence = SEQUENCE.match(text, at)
        return (sequence[0], len(sequence[0])) if sequence else (NO_SEQUENCE, 1)

    def escape(self, text: bytes) -> bytes:
        """Spaces to ▁: one before each word and no others (remove_extra_whitespaces), or each where it is."""
        if self.merge_spaces:
            return b"".join(WORD_START + word for word in text.split(b" ") if word)
        rest = text.lstrip(b" ")
        prefix = WORD_START if self.space_prefix and rest else b""
        return WORD_START * (len(text) - len(rest)) + prefix + rest.replace(b" ", WORD_START)


def plain(charsmap: Charsmap | None, prefixes: set[bytes]) -> re.Pattern[bytes]:
    """What `replace_one` would copy character by character: matches a run of characters of one or two bytes that begin
    no key, or only longer ones that do not go on as the text does.
    """
    tokens = {prefix[0] for prefix in prefixes}
    characters = [c for c in map(str.encode, map(chr, range(0x800))) if c[0] not in tokens]
    after = {c: charsmap.after(c) if charsmap else set() for c in characters}
    free = one_of(c for c in characters if after[c] == set())
    longer = one_of(c for c in characters if after[c])
    follow = one_of({bytes([b]) for bytes_after in after.values() for b in bytes_after or ()})
    return re.compile(b"(?:%b|(?:%b)(?!%b)){1,%d}" % (free, longer, follow, MOST_AT_ONCE))


def one_of(characters: Iterable[bytes]) -> bytes:
    """A regular expression for any of these characters of one or two bytes."""
    ends: dict[bytes, list[bytes]] = {}  # all but the last byte -> the last bytes
    for character in sorted(characters):
        ends.setdefault(character[:-1], []).append(b"\\x%02x" % character[-1])
    return b"|".join(b"%b[%b]" % (re.escape(begin), b"".join(last)) for begin, last in ends.items()) or b"(?!)"
