"""Special tokens and letters: what a tokenizer's keys say, held against what the model needs.

Missing closing tokens are the most frequent fault of embedders in GGUF: llama.cpp#14234, #14252, #14280;
QwenLM/Qwen3-Embedding#54; sentence-transformers#2591. Letters that never reach the vocabulary: llama.cpp#23899, #24371.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from refembed.tokenizer.vocab import ROLE_KEYS, Vocab

if TYPE_CHECKING:
    from refembed.verify.doctor.finding import Finding, ModelFile

END_OF_TURN = (b"<|im_end|>", b"<|eot_id|>", b"<end_of_turn>", b"<|end|>")  # ends a chat's turn, not a text
MANY = 0.01  # share of the vocabulary
UNIGRAM_SPECIALS = ("bert",)  # architectures whose SentencePiece models stand between <s> and </s>: XLM-R, BGE-M3, E5


def check_tokens(p: ModelFile) -> Iterator[Finding]:
    """Findings about a file's tokenizer."""
    yield from beyond(p)
    if p.tokenizer is None:
        return
    vocab = p.tokenizer.vocab
    yield from closing(p, vocab)
    yield from between(p, vocab)
    yield from unnamed(p, vocab)
    yield from letters(vocab)


def finding(severity: str, check: str, says: str, do: str, where: str = "") -> Finding:
    """A Finding; the class is a neighbor's."""
    from refembed.verify.doctor.finding import Finding

    return Finding(severity, check, says, do, where)


def beyond(p: ModelFile) -> Iterator[Finding]:
    """Ids that the vocabulary does not have."""
    n = len(p.md.strings("tokenizer.ggml.tokens", ()))
    for _, name in ROLE_KEYS:
        key = f"tokenizer.ggml.{name}"
        id = p.md.of_type(key, int)
        if n and id is not None and id >= n and id != 2**32 - 1:
            says = f"id {id} of {n} tokens: llama.cpp ignores it"
            yield finding("warning", "special tokens", says, "convert again, or set the right id", key)


def closing(p: ModelFile, vocab: Vocab) -> Iterator[Finding]:
    """What stands at the end, where pooling takes the last token."""
    if p.pooling != "last" or vocab.kind == "bert":
        return
    key = "tokenizer.ggml.add_eos_token"
    if not vocab.add_eos and not (vocab.add_sep and vocab.sep is not None):
        says = "pooling takes the last token, but no EOS is added: the vector is that of the text's last piece"
        do = f"set {key} to true (gguf-set-metadata, or convert again); until then end each text with EOS yourself"
        yield finding("error", "special tokens", says, do, key)
    elif vocab.eos is not None and vocab.tokens[vocab.eos] in END_OF_TURN:
        says = f"EOS is {spell(vocab, vocab.eos)}, which ends a turn of a chat; embedders mostly end in <|endoftext|>"
        do = "compare with the model card: tokenizer.ggml.eos_token_id, and padding_token_id, must be the embedder's"
        yield finding("warning", "special tokens", says, do, "tokenizer.ggml.eos_token_id")


def between(p: ModelFile, vocab: Vocab) -> Iterator[Finding]:
    """What an encoder's text stands between."""
    if not p.is_encoder:
        return
    if vocab.kind == "bert":
        for role, name, id in (("CLS", "bos_token_id", vocab.bos), ("SEP", "seperator_token_id", vocab.sep)):
            piece = b"" if id is None else vocab.tokens[id]
            if role.encode() not in piece.upper() and piece not in (b"<s>", b"</s>"):
                says = f"{role} is {spell(vocab, id)}, an ordinary token" if id is not None else f"there is no {role}"
                do = f"set tokenizer.ggml.{name}; absent, llama.cpp takes 101 and 102, which fit BERT's own list"
                yield finding("error", "special tokens", says, do, f"tokenizer.ggml.{name}")
        return
    if p.arch in ("gemma-embedding", "gemma-embedding2", *UNIGRAM_SPECIALS) or p.pooling == "cls":
        for flag, on in (("add_bos_token", vocab.add_bos), ("add_eos_token", vocab.add_eos)):
            if not on:
                says = f"nothing adds the {'opening' if 'bos' in flag else 'closing'} special token to a text"
                do = f"set tokenizer.ggml.{flag} to true: the model was trained on texts between the two"
                yield finding("error", "special tokens", says, do, f"tokenizer.ggml.{flag}")


def unnamed(p: ModelFile, vocab: Vocab) -> Iterator[Finding]:
    """Tokens that are to be added and that no key names."""
    wanted = (("bos", vocab.add_bos, vocab.bos), ("eos", vocab.add_eos, vocab.eos), ("sep", vocab.add_sep, vocab.sep))
    for role, on, id in wanted:
        if on and id is None:
            name = "seperator" if role == "sep" else role
            says = f"{role.upper()} is to be added, but no key says which token that is"
            yield finding(
                "error",
                "special tokens",
                says,
                f"set tokenizer.ggml.{name}_token_id",
                f"tokenizer.ggml.{name}_token_id",
            )


def letters(vocab: Vocab) -> Iterator[Finding]:
    """Tokens that no text can reach, because it is lower-cased or loses its accents first."""
    if vocab.kind != "bert":
        return
    words = [t.decode("utf-8", "replace") for t in vocab.tokens if not t.startswith((b"[", b"<"))]
    for on, key, what, share in (
        (vocab.lowercase, "lowercase", "capital letters", sum(w != w.lower() for w in words)),
        (vocab.strip_accents, "strip_accents", "accents", sum(map(accented, words))),
    ):
        if on and share > MANY * len(words):
            says = f"{share:,} of {len(words):,} tokens have {what}, but every text loses its own before it is cut up"
            do = f"set tokenizer.ggml.normalizer.{key} to false, as the model's tokenizer.json has it"
            yield finding("error", "letters", says, do, f"tokenizer.ggml.normalizer.{key}")


def accented(word: str) -> bool:
    """Whether a word would lose an accent: a Latin letter with a mark."""
    return any(unicodedata.decomposition(c) and c.isalpha() and ord(c) < 0x250 for c in word)


def spell(vocab: Vocab, id: int) -> str:
    """A token, quoted."""
    return repr(vocab.tokens[id].decode("utf-8", "replace"))
