"""llama-crab's embedding and reranking interface, in Python spelling.

    from refembed.compat.llama_crab import Llama, LlamaParams, PoolingType
    llama = Llama.load(LlamaParams("model.gguf").with_embeddings(True).with_pooling_type(PoolingType.Cls))
    llama.embed("Rust is memory-safe.", True)        # float32 (D), length 1

`Llama("model.gguf", n_ctx=512, embeddings=True, pooling_type="cls")` is the same. As in llama-crab special tokens that
are spelled out in a text stay text. Without a pooling type the model's file decides, and mean where it says nothing.
`rerank` builds pairs as llama-server does; llama-crab leaves out the separator between query and document, and the
scores of most models suffer. Ignored: GPU layers, mmap, batch sizes, threads, KV offload. Writing text is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refembed.arrays import F32
from refembed.compat.common import StateError, one_text, refused, text_list, too_long
from refembed.embedder import Embedder
from refembed.errors import RequestError, TooLongError


class PoolingType(enum.IntEnum):
    """llama.cpp's enum llama_pooling_type. Python has a None already, so that member is `NONE`."""

    Unspecified = -1
    NONE = 0
    Mean = 1
    Cls = 2
    Last = 3
    Rank = 4


NAMES = {
    PoolingType.Unspecified: "native", PoolingType.NONE: "none", PoolingType.Mean: "mean", PoolingType.Cls: "cls",
    PoolingType.Last: "last", PoolingType.Rank: "rank",
}  # fmt: skip


def pooling_type(value: PoolingType | int | str | None) -> PoolingType:
    """A pooling type from itself, its number or its name in any case; None is Unspecified."""
    if isinstance(value, str):
        found = next((p for p in PoolingType if value.lower() in (p.name.lower(), NAMES[p])), None)
    else:
        found = next((p for p in PoolingType if p == (-1 if value is None else value)), None)
    if found is None:
        raise RequestError(f"pooling_type {value!r}", hint=f"one of {', '.join(p.name for p in PoolingType)}")
    return found


@dataclass(frozen=True)
class LlamaParams:
    """What `Llama.load` takes; each with_... gives a copy. n_ctx 0 is the model's own length."""

    model_path: str | Path = ""
    n_ctx: int = 0
    embeddings: bool = False
    pooling_type: PoolingType = PoolingType.Unspecified
    flash_attn: bool = True
    ignored: dict[str, Any] = field(default_factory=dict)  # what makes no difference here, by its name

    @classmethod
    def new(cls, model_path: str | Path) -> LlamaParams:
        """`LlamaParams::new`."""
        return cls(model_path)

    def with_model_path(self, path: str | Path) -> LlamaParams:
        """The GGUF file."""
        return replace(self, model_path=path)

    def with_n_ctx(self, n: int) -> LlamaParams:
        """The longest text, in tokens."""
        return replace(self, n_ctx=n)

    def with_embeddings(self, yes: bool) -> LlamaParams:
        """Whether it embeds."""
        return replace(self, embeddings=yes)

    def with_pooling_type(self, pooling: PoolingType | int | str) -> LlamaParams:
        """How token vectors become one."""
        return replace(self, pooling_type=pooling_type(pooling))

    def with_flash_attn(self, yes: bool) -> LlamaParams:
        """As `Embedder.load` takes it: for numerics "ggml" alone."""
        return replace(self, flash_attn=yes)

    def ignore(self, name: str, value: Any) -> LlamaParams:
        """Keep what makes no difference."""
        return replace(self, ignored=self.ignored | {name: value})

    def with_n_gpu_layers(self, n: int) -> LlamaParams:
        """Ignored."""
        return self.ignore("n_gpu_layers", n)

    def with_use_mmap(self, yes: bool) -> LlamaParams:
        """Ignored."""
        return self.ignore("use_mmap", yes)

    def with_n_batch(self, n: int) -> LlamaParams:
        """Ignored."""
        return self.ignore("n_batch", n)

    def with_n_ubatch(self, n: int) -> LlamaParams:
        """Ignored."""
        return self.ignore("n_ubatch", n)

    def with_n_threads(self, n: int) -> LlamaParams:
        """Ignored."""
        return self.ignore("n_threads", n)

    def with_n_threads_batch(self, n: int) -> LlamaParams:
        """Ignored."""
        return self.ignore("n_threads_batch", n)

    def with_offload_kqv(self, yes: bool) -> LlamaParams:
        """Ignored."""
        return self.ignore("offload_kqv", yes)


@dataclass(frozen=True)
class EmbedOptions:
    """How one text is embedded: normalize to length 1; start_token False leaves out what the model puts in front."""

    normalize: bool = True
    start_token: bool = True

    @classmethod
    def new(cls) -> EmbedOptions:
        """`EmbedOptions::new`."""
        return cls()

    def with_normalize(self, yes: bool) -> EmbedOptions:
        """To length 1."""
        return replace(self, normalize=yes)

    def with_start_token(self, yes: bool) -> EmbedOptions:
        """BOS, or [CLS], in front."""
        return replace(self, start_token=yes)


class Llama:
    """A model that embeds, or reranks. `load` keywords go to `Embedder.load`: numerics, lora ..."""

    def __init__(
        self, model_path: str | Path, *, n_ctx: int = 0, embeddings: bool = False,
        pooling_type: PoolingType | int | str | None = None, flash_attn: bool = True, **load: Any,
    ) -> None:  # fmt: skip
        params = LlamaParams(model_path, n_ctx, embeddings, flash_attn=flash_attn)
        self.open(params.with_pooling_type(PoolingType.Unspecified if pooling_type is None else pooling_type), load)

    @classmethod
    def load(cls, params: LlamaParams, **load: Any) -> Llama:
        """`Llama::load`. Raises GGUFError, ModelError, DownloadError, RequestError."""
        llama = cls.__new__(cls)
        llama.open(params, load)
        return llama

    def open(self, params: LlamaParams, load: dict[str, Any]) -> None:
        """Load the model that the parameters name."""
        self.params = params
        self.embedder = Embedder.load(params.model_path, **{"flash_attn": params.flash_attn} | load)
        own = self.embedder.info.pooling
        asked = NAMES[params.pooling_type]
        self.pooling = asked if asked != "native" else "mean" if own == "none" else own
        self.n_ctx = params.n_ctx or self.embedder.info.n_ctx

    def embed(self, text: str, normalize: bool) -> F32:
        """The vector (D) of a text; with PoolingType.NONE a matrix (T, D).

        Raises RequestError (a RuntimeError too) where embeddings were not asked for, or a text is too long.
        """
        return self.embed_with_options(text, EmbedOptions(normalize))

    def embed_with_options(self, text: str, options: EmbedOptions) -> F32:
        """As `embed`."""
        return self.embed_texts_with_options([one_text(text, "embed")], options)[0]

    def embed_texts(self, texts: Sequence[str], normalize: bool) -> list[F32]:
        """Vectors of texts, in order; the same as one by one."""
        return self.embed_texts_with_options(texts, EmbedOptions(normalize))

    def embed_texts_with_options(self, texts: Sequence[str], options: EmbedOptions) -> list[F32]:
        """As `embed_texts`."""
        if not self.params.embeddings:
            raise StateError("embedding mode is not enabled", hint="LlamaParams(path).with_embeddings(True)")
        ids = [self.ids_of(text, i, options.start_token) for i, text in enumerate(text_list(texts, "embed_texts"))]
        with too_long("cut the text into pieces"):
            return list(self.embedder.embed(ids, pooling=self.pooling, normalize=2 if options.normalize else -1))

    def ids_of(self, text: str, index: int, start_token: bool) -> list[int]:
        """Token ids of a text, not too many."""
        ids = self.embedder.tokenize(text, parse_special=False)
        front = len(self.embedder.tokenizer.front())
        ids = ids if start_token else ids[front:]
        if len(ids) > self.n_ctx:
            hint = "cut the text into pieces, or open the model with a larger n_ctx"
            raise TooLongError(f"input {index}: {len(ids)} tokens, but the context has {self.n_ctx}", hint=hint)
        return ids

    def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """A raw score for each document, in their order: `Embedder.rerank`.

        Raises RequestError where embeddings or PoolingType.Rank are missing, ModelError for a model without a head.
        """
        if not self.params.embeddings:
            raise StateError("embedding mode is not enabled", hint="LlamaParams(path).with_embeddings(True)")
        if self.pooling != "rank":
            hint = "LlamaParams(path).with_pooling_type(PoolingType.Rank)"
            raise StateError(f"a reranker wants pooling rank, and this is {self.pooling}", hint=hint)
        with too_long("cut the document into pieces"):
            found: list[float] = self.embedder.rerank(query, text_list(documents, "rerank")).tolist()
        return found

    create_completion = refused("Llama.create_completion")
    create_completion_with_options = refused("Llama.create_completion_with_options")
    create_completion_stream = refused("Llama.create_completion_stream")
    create_chat_completion = refused("Llama.create_chat_completion")
    create_chat_completion_stream = refused("Llama.create_chat_completion_stream")
