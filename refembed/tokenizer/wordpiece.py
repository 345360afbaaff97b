"""WordPiece, `tokenizer.ggml.model` = "bert": lower-cased words, each cut greedily into the longest tokens.

Devlin et al. 2018, after Schuster & Nakajima 2012; as llama.cpp has it (llm_tokenizer_wpm_session), which is not quite
BERT's own: accents go by the first code point of the decomposition, and a word may have any length.

    "Unaffable!"  ->  "unaffable", "!"  ->  "▁una" "ffa" "ble" "▁!"

A token that starts a word carries U+2581; one that continues a word stands bare (BERT's own files say "una", "##ffa").
"""

from __future__ import annotations

import functools

import numpy as np

from refembed.errors import ModelError
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.base import WORD_START, Tokenizer
from refembed.tokenizer.bounded_cache import BoundedCache
from refembed.tokenizer.special import C_SPACES
from refembed.tokenizer.unicode import REPLACEMENT, SPACES, category, decode, first_decomposed, lower
from refembed.tokenizer.vocab import Vocab

# Ideographs that are words of their own. 2B920 is llama.cpp's; BERT has 2B820.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

ENDS = np.zeros(256, np.uint8)  # of a byte: 1 a letter or digit, 2 a space or the end of a line
ENDS[list(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")] = 1
ENDS[list(b" \n")] = 2

KEPT_CHARACTERS = 1 << 14  # cached at most, so that no text makes memory grow for good


class WordPiece(Tokenizer):
    """BERT, MiniLM, BGE, E5 and similar models."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        check_no_bytes(vocab, where)
        self.characters = Characters(vocab.lowercase, vocab.strip_accents)
        self.words = BoundedCache(self.match)
        self.sizes = sorted(set(map(len, vocab.tokens)), reverse=True)  # of tokens, in bytes

    def front(self) -> list[int]:
        """[CLS], which is BOS: always, whatever add_bos_token says."""
        return [self.role("bos")]

    def back(self) -> list[int]:
        """[SEP], always."""
        return [self.role("sep")]

    def fewest_tokens(self, text: str) -> int:
        """Its words: [UNK] may stand for a whole word, whatever its length, but for no more than one.

        Counted are the ends of words in ASCII: letters and digits are never dropped, and a space always ends a word.
        """
        if self.specials_hold_spaces:
            return 0
        kinds = ENDS[np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)]
        return int(np.count_nonzero((kinds[:-1] == 1) & (kinds[1:] == 2)))

    @functools.cached_property
    def specials_hold_spaces(self) -> bool:
        """Whether a special token that is searched in texts stands for more than one word."""
        return any(any(b in C_SPACES for b in special.text) for special in self._specials[True])

    def encode_text(self, text: bytes) -> list[int]:
        """Words, then the ids of each."""
        return [i for word in self.split(text) for i in self.words[word]]

    def split(self, text: bytes) -> list[str]:
        """Words: lower-cased and without accents where the model wants that, punctuation as words of their own."""
        return decode(text).translate(self.characters).split()  # of all white space only U+0020 is left

    def match(self, word: str) -> tuple[int, ...]:
        """Ids of one word: at each byte the longest token that starts there; [UNK] alone if anywhere none does."""
        ids, sizes = self.vocab.ids, self.sizes
        text = WORD_START + word.encode()
        found, at = [], 0
        while at < len(text):
            for size in sizes:
                id = ids.get(text[at : at + size])
                if id is not None:
                    found.append(id)
                    at += len(self.vocab.tokens[id])
                    break
            else:
                return (self.role("unk"),)
        return tuple(found)


def check_no_bytes(vocab: Vocab, where: str) -> None:
    """ModelError for a byte token: WordPiece has none, and llama.cpp ends the process on one."""
    raw = Attribute.CONTROL | Attribute.UNKNOWN | Attribute.USER_DEFINED
    for id in np.flatnonzero((vocab.attributes & (raw | Attribute.BYTE)) == Attribute.BYTE):
        text = vocab.tokens[id].decode(errors="replace")
        raise ModelError(
            f"{where}: tokenizer.ggml.token_type: token {id}, {text!r}, is a byte; WordPiece has no byte tokens",
            hint="llama.cpp aborts on such a file; convert the model again",
        )


class Characters(dict[int, "str | None"]):
    """What becomes of a code point, for str.translate: filled as they occur.

    " " ends the word; None drops the character; " x " makes x a word of its own; "x" goes on with the word.
    """

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self.lowercase, self.strip_accents = lowercase, strip_accents

    def __missing__(self, cp: int) -> str | None:
        result = self.of(cp)
        if len(self) < KEPT_CHARACTERS:
            self[cp] = result
        return result

    def of(self, cp: int) -> str | None:
        if self.strip_accents:
            cp = first_decomposed(cp)
        kind = category(cp)
        if cp in SPACES:
            return " "
        if cp in (0, REPLACEMENT) or kind == "C" or (kind == "M" and self.strip_accents):
            return None
        char = chr(lower(cp) if self.lowercase else cp)
        alone = kind == "P" or (kind == "S" and cp < 0x7F) or any(a <= cp <= b for a, b in IDEOGRAPHS)
        return f" {char} " if alone else char
