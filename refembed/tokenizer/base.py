"""What every tokenizer does: cut out special tokens, encode what lies between, add front and back; and the way back.

Mirrors llama_vocab::impl::tokenize, token_to_piece and detokenize.
"""

from __future__ import annotations

import functools
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from refembed.errors import ModelError, RequestError
from refembed.tokenizer.attributes import Attribute
from refembed.tokenizer.special import Fragment, partition, specials
from refembed.tokenizer.vocab import Vocab

log = logging.getLogger(__name__)

WORD_START = "▁".encode()  # U+2581, what a space is in most vocabularies

# Kind -> the special tokens of which llama.cpp warns when the text already had the one that add_special adds
DOUBLED = {
    "llama": ("bos",),
    "t5": ("bos",),
    "plamo2": ("bos",),
    **dict.fromkeys(("gpt2", "whitespace", "hybriddna", "gemma4"), ("bos", "eos")),
}


class Tokenizer(ABC):
    """Text -> token ids and back. One subclass for each row of `refembed.tokenizer.TOKENIZERS`. Safe to share."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        """`where` names the file in errors."""
        self.vocab, self.where = vocab, where
        self._warned: set[str] = set()
        self._specials = {parse: specials(vocab, parse) for parse in (False, True)}

    def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        text           characters, or bytes that are meant as UTF-8; bytes that are not are no error
        add_special    put the kind's special tokens in front and behind
        parse_special  a special token spelled out in the text becomes that token

        RequestError for a text that is neither str nor bytes, or has a code point above U+10FFFF; ModelError where a
        special token has to be added that the model does not name.
        """
        ids = self.encode_fragments(self.fragments(text, parse_special))
        return self.surround(ids) if add_special else ids

    def fragments(self, text: str | bytes, parse_special: bool) -> list[Fragment]:
        """The first step: special tokens as ids, what lies between as bytes."""
        return partition(as_bytes(text), self._specials[bool(parse_special)])

    def surround(self, ids: Sequence[int]) -> list[int]:
        """The last step: the kind's special tokens in front and behind."""
        ids = [*self.front(), *ids, *self.back()]
        self.warn_doubled(ids)
        return ids

    def fewest_tokens(self, text: str) -> int:
        """At least so many tokens a text has, found without tokenizing it: 0 where nothing can be said for certain.

        A text whose fewest tokens are too many need not be tokenized. Linear in the text, and much quicker than that.
        """
        return 0

    @functools.cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token: as it is stored, which is never shorter than the text that it stands for."""
        return max(map(len, self.vocab.tokens), default=0)

    @functools.cached_property
    def specials_strip(self) -> bool:
        """Whether special tokens take white space along, which then has no token of its own."""
        return any(s.lstrip or s.rstrip for s in self._specials[True])

    def fewest_by_length(self, text: str) -> int:
        """`fewest_tokens` where every byte of a text is in some token."""
        if self.specials_strip or not self.longest_token:
            return 0
        return -(-len(text.encode("utf-8", "surrogatepass")) // self.longest_token)

    def encode_fragments(self, fragments: Sequence[Fragment]) -> list[int]:
        """Each raw fragment on its own, special tokens as they are."""
        return [i for f in fragments for i in ([f] if isinstance(f, int) else self.encode_text(f))]

    @abstractmethod
    def encode_text(self, text: bytes) -> list[int]:
        """Token ids of one raw fragment."""

    def front(self) -> list[int]:
        """What add_special puts in front."""
        return [self.role("bos")] if self.vocab.add_bos else []

    def back(self) -> list[int]:
        """What add_special puts behind."""
        return [self.role("eos")] if self.vocab.add_eos else []

    def warn_doubled(self, ids: Sequence[int]) -> None:
        """Log, once, that a special token which was added stands there twice. As in llama.cpp nothing is removed."""
        vocab = self.vocab
        for role in DOUBLED.get(vocab.kind, ()):
            neighbor = ids[1:2] if role == "bos" else ids[-2:-1]
            if role not in self._warned and getattr(vocab, f"add_{role}") and neighbor == [getattr(vocab, role)]:
                self._warned.add(role)
                log.warning("%s: %s was added to a text that has it already: there are two", self.where, role.upper())

    def role(self, name: str) -> int:
        """The id of a special token that is needed now. ModelError where the model names none."""
        id: int | None = getattr(self.vocab, name)
        if id is None:
            raise ModelError(
                f"{self.where}: the tokenizer needs its {name} token; none of the {len(self.vocab)} tokens is that",
                hint="tokenizer.ggml.*_token_id is absent or beyond the vocabulary; convert the model again",
            )
        return id

    def decode(self, ids: Sequence[int], remove_special: bool = False, unparse_special: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. Arguments and errors as `decode_bytes`."""
        return self.decode_bytes(ids, remove_special, unparse_special).decode(errors="replace")

    def decode_bytes(self, ids: Sequence[int], remove_special: bool = False, unparse_special: bool = True) -> bytes:
        """Text of token ids, as bytes (llama_detokenize).

        remove_special   drop a first BOS and a last EOS, each only where the model says that it adds them
        unparse_special  spell out control tokens; otherwise they leave nothing

        RequestError for an id that is not in the vocabulary.
        """
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            found = "None" if ids is None else f"{ids!r:.60} of type {type(ids).__name__}"
            raise RequestError(f"token ids: a list of whole numbers is wanted, not {found}", hint="decode([101, 102])")
        vocab, ids = self.vocab, list(ids)
        no_bos = remove_special and vocab.add_bos and ids[:1] == [vocab.bos]
        no_eos = remove_special and vocab.add_eos and ids[-1:] == [vocab.eos]
        pieces = [self.piece(i, unparse_special) for i in ids[no_bos : len(ids) - no_eos]]
        if pieces and vocab.add_space_prefix and not no_bos:
            pieces[0] = pieces[0].removeprefix(b" ")
        text = b"".join(pieces)
        return clean_spaces(text) if vocab.clean_spaces else text

    def piece(self, id: int, special: bool = True) -> bytes:
        """Bytes of one token (llama_token_to_piece); with special=False control and unknown tokens have none."""
        if not (isinstance(id, (int, np.integer)) and 0 <= id < len(self.vocab)):
            hint = f"ids are 0 to {len(self.vocab) - 1}"
            raise RequestError(f"token id {id!r} is not in the vocabulary", hint=hint)
        text, bits = self.vocab.tokens[id], Attribute(int(self.vocab.attributes[id]))
        if bits & (Attribute.CONTROL | Attribute.UNKNOWN):
            return text if special else b""
        if bits & Attribute.USER_DEFINED:
            return text
        return self.decode_text(text) if bits & Attribute.NORMAL else b""

    def decode_text(self, token: bytes) -> bytes:
        """What an ordinary token stands for."""
        return token.replace(WORD_START, b" ")


def as_bytes(text: str | bytes) -> bytes:
    """A text as UTF-8; surrogates, which a str can hold, as the three bytes they would have."""
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    raise RequestError(f"a text is str or bytes, not {type(text).__name__}", hint="one text at a time")


def clean_spaces(text: bytes) -> bytes:
    """Drop the space before ?!., then those around a lone apostrophe, then the one before 's 'm 're 've."""
    text = re.sub(rb" (?=[?!.,])", b"", text)
    text = re.sub(rb" ' ", b"'", text)
    return re.sub(rb" (?='(?:s|m|re|ve))", b"", text)
