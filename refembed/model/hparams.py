"""The numbers a model is built from: keys `{arch}.*` of a GGUF file as one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from refembed.errors import ModelError
from refembed.gguf import GGUFFile

POOLING_NAMES = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # enum llama_pooling_type; -1 is "unspecified"


@dataclass(frozen=True)
class Hparams:
    """Sizes and constants. The letter in brackets is the one that shapes use."""

    arch: str  # general.architecture
    n_vocab: int  # (V) length of tokenizer.ggml.tokens
    n_embd: int  # (C) {arch}.embedding_length
    n_ctx: int  # (P) {arch}.context_length: the longest text the model was trained on, in tokens
    n_layer: int  # {arch}.block_count
    n_head: int  # (H) {arch}.attention.head_count
    n_ff: int  # (F) {arch}.feed_forward_length
    n_token_types: int  # tokenizer.ggml.token_type_count
    n_cls_out: int  # (R) length of {arch}.classifier.output_labels, 1 where there are none
    norm_eps: float  # {arch}.attention.layer_norm_epsilon
    pooling: str | None  # {arch}.pooling_type; None where the key is absent

    @property
    def sizes(self) -> dict[str, int]:
        """Letter -> number, for the shapes that architectures declare."""
        sizes = {"V": self.n_vocab, "C": self.n_embd, "P": self.n_ctx, "F": self.n_ff, "3C": 3 * self.n_embd}
        return sizes | {"types": self.n_token_types, "R": self.n_cls_out}

    @property
    def n_embd_head(self) -> int:
        """(D) width of a head."""
        return self.n_embd // self.n_head


def read_hparams(f: GGUFFile) -> Hparams:
    """Read and check the record. A missing or mistyped key is a GGUFError, an impossible value a ModelError."""
    md = f.metadata
    arch = md.string("general.architecture")
    number = md.uint(f"{arch}.pooling_type", None)
    if number is not None and number not in POOLING_NAMES and number not in (-1, 2**32 - 1):
        known = ", ".join(f"{i} {name}" for i, name in POOLING_NAMES.items())
        raise ModelError(f"{f.path}: {arch}.pooling_type is {number}", hint=f"llama.cpp knows {known}")
    hp = Hparams(
        arch=arch,
        n_vocab=len(md.strings("tokenizer.ggml.tokens")),
        n_embd=md.uint(f"{arch}.embedding_length"),
        n_ctx=md.uint(f"{arch}.context_length"),
        n_layer=md.uint(f"{arch}.block_count"),
        n_head=md.uint(f"{arch}.attention.head_count"),
        n_ff=md.uint(f"{arch}.feed_forward_length"),
        n_token_types=md.uint("tokenizer.ggml.token_type_count", 0),
        n_cls_out=len(md.strings(f"{arch}.classifier.output_labels", ())) or 1,
        norm_eps=md.float(f"{arch}.attention.layer_norm_epsilon"),
        pooling=None if number is None else POOLING_NAMES.get(number),
    )
    for key, value in (
        ("block_count", hp.n_layer),
        ("attention.head_count", hp.n_head),
        ("embedding_length", hp.n_embd),
    ):
        if not 1 <= value <= 1 << 20:
            raise ModelError(f"{f.path}: {arch}.{key} is {value}")
    if hp.n_embd % hp.n_head:
        raise ModelError(f"{f.path}: {hp.n_embd} channels do not divide into {hp.n_head} heads")
    return hp
