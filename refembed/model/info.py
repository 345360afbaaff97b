"""What a loaded model is: the record that `refembed info` prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refembed.gguf import GGUFFile
from refembed.gguf.digest import sha256_of
from refembed.model.hparams import Hparams


@dataclass(frozen=True)
class Info:
    """What a loaded model is, as `refembed info` prints it."""

    path: Path
    name: str  # general.name
    architecture: str  # general.architecture
    n_embd: int  # {arch}.embedding_length
    n_embd_out: int  # length of a vector: {arch}.embedding_length_out, else n_embd
    n_ctx: int  # {arch}.context_length: the longest text, in tokens
    n_layer: int
    n_head: int
    n_vocab: int
    pooling: str  # what pooling="native" means: {arch}.pooling_type, or "none" where the key is absent
    tokenizer: str  # tokenizer.ggml.model
    quant_types: dict[str, int]  # tensor type -> how many tensors have it
    n_params: int
    file_size: int  # bytes
    numerics: str
    n_cls_out: int = 1  # outputs of a reranker for one pair
    labels: tuple[str, ...] = ()  # {arch}.classifier.output_labels: what they stand for, where the file says so
    paths: tuple[Path, ...] = ()  # of all shards

    @property
    def sha256(self) -> str:
        """Of the whole file, or of all shards one after the other; read when asked for."""
        return sha256_of(self.paths or (self.path,))


def read_info(f: GGUFFile, hp: Hparams, numerics: str) -> Info:
    """The record of an open file."""
    md = f.metadata
    return Info(
        path=f.path,
        name=md.string("general.name", f.path.stem),
        architecture=hp.arch,
        n_embd=hp.n_embd,
        n_embd_out=hp.n_embd_out,
        n_ctx=hp.n_ctx,
        n_layer=hp.n_layer,
        n_head=hp.n_head,
        n_vocab=hp.n_vocab,
        pooling=hp.pooling or "none",
        tokenizer=md.string("tokenizer.ggml.model"),
        quant_types=dict(Counter(t.type.name for t in f.tensors.values()).most_common()),
        n_params=sum(int(np.prod(t.shape)) for t in f.tensors.values()),
        file_size=f.size,
        numerics=numerics,
        n_cls_out=hp.n_cls_out,
        labels=hp.labels,
        paths=f.paths,
    )
