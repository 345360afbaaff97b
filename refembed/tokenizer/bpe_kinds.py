"""Two kinds that wrap byte-pair encoding: "whitespace" and "hybriddna".

Mirrors llm_tokenizer_whitespace_session and llm_tokenizer_hybriddna_session of src/llama-vocab.cpp.
"""

from __future__ import annotations

from refembed.tokenizer.bpe import BPE
from refembed.tokenizer.unicode import SPACES, decode, lower
from refembed.tokenizer.vocab import Vocab


class WhitespaceBPE(BPE):
    """ "whitespace", jina-embeddings-v2-base-zh: white space separates and is lost, nothing else does."""

    def fewest_tokens(self, text: str) -> int:
        """Unknown: white space is lost."""
        return 0

    def encode_spelled(self, text: bytes) -> list[int]:
        """Each run of anything but white space on its own, lower-cased where the model wants that."""
        return [i for word in self.fold(text).split(" ") for i in self.words[word]]

    def fold(self, text: bytes) -> str:
        """White space is U+0020, letters are lower-cased where the model wants that."""
        return decode(text).translate(Folded(self.vocab.lowercase))


class Folded(dict[int, str]):
    """What becomes of a code point, for str.translate: white space is U+0020, others their lowercase or themselves."""

    def __init__(self, lowercase: bool) -> None:
        super().__init__()
        self.lowercase = lowercase

    def __missing__(self, cp: int) -> str:
        self[cp] = " " if cp in SPACES else chr(lower(cp) if self.lowercase else cp)
        return self[cp]


DNA_BEGIN, DNA_END, DNA_UNKNOWN = b"<dna>", b"</dna>", b"<oov>"
DNA_MARK = "\ue000".encode()  # ends the name of a token that stands for bases, so that it is not the word CCCCCC
BASES = 6  # a token stands for


class HybridDNA(BPE):
    """ "hybriddna": byte-pair encoding, and between <dna> and </dna> six bases to a token."""

    def __init__(self, vocab: Vocab, where: str) -> None:
        super().__init__(vocab, where)
        named = [vocab.ids.get(text) for text in (DNA_BEGIN, DNA_END, DNA_UNKNOWN)]
        self.roles = [id for id in named if id is not None]

    def fewest_tokens(self, text: str) -> int:
        """Unknown: a vocabulary need not have a token for what stands in place of bases that it does not know."""
        return 0

    def encode_spelled(self, text: bytes) -> list[int]:
        """Text and DNA in turn. Plain byte-pair encoding where the vocabulary lacks one of the three tokens."""
        if len(self.roles) < 3:
            return super().encode_spelled(text)
        begin, end, _ = self.roles
        found: list[int] = []
        while text:
            plain, opened, text = text.partition(DNA_BEGIN)
            found += super().encode_spelled(plain)
            if opened:
                bases, closed, text = text.partition(DNA_END)
                found += [begin, *self.encode_bases(bases), *([end] if closed else [])]
        return found

    def encode_bases(self, bases: bytes) -> list[int]:
        """Six bases to a token, the last ones filled up with A."""
        bases = bases.upper()
        bases += b"A" * (-len(bases) % BASES)
        unknown = self.roles[2]
        names = (bases[at : at + BASES] + DNA_MARK for at in range(0, len(bases), BASES))
        return [self.vocab.ids.get(name, unknown) for name in names]
