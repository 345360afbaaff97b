"""No vocabulary, `tokenizer.ggml.model` = "no_vocab" or "none": a model that takes token ids ready made."""

from __future__ import annotations

from refembed.errors import RequestError
from refembed.tokenizer.base import Tokenizer


class NoVocab(Tokenizer):
    """Knows how many ids there are, `{arch}.vocab_size`, and no texts. Detokenizing gives nothing, as in llama.cpp."""

    def encode(self, text: str | bytes, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """RequestError, whatever the text is; llama.cpp ends the process."""
        raise RequestError(
            f"{self.where}: tokenizer.ggml.model is {self.vocab.kind!r}: this model has no tokenizer",
            hint="give token ids instead of text",
        )

    def encode_text(self, text: bytes) -> list[int]:
        """See `encode`."""
        return self.encode(text)
