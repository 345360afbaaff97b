"""Mullama's Python interface: Model, Context, ContextParams, PoolingStrategy, EmbeddingGenerator, similarities.

    from refembed.compat.mullama import Model, Context, ContextParams
    context = Context(Model.load("model.gguf"), ContextParams(embeddings=True))
    context.get_embedding("Hello, world!").data      # float32 (D)

Both shapes are there: that of Mullama's embeddings guide (`Context.get_embedding`, `ContextParams`) and that of its
Python binding (`EmbeddingGenerator`, `Context(model, n_ctx, ...)`). Vectors have length 1, as Mullama's EmbeddingConfig
has them. Ignored: n_gpu_layers, use_mmap, use_mlock, vocab_only, n_batch, n_threads. Writing text is refused.
"""

from __future__ import annotations

import enum
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import refembed
from refembed.arrays import F32
from refembed.compat.common import (
    InputValueError,
    StateError,
    metadata_text,
    one_text,
    one_vector,
    refused,
    text_list,
    token_or_null,
    too_long,
)
from refembed.embedder import Embedder
from refembed.errors import RequestError, TooLongError
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.similarity import check_vectors, cosine, dot

TOO_LONG = "cut the text into pieces"
NO_POOLING = "get_embedding(text, PoolingStrategy.Mean), or PoolingStrategy.Last for most decoders"


class PoolingStrategy(enum.Enum):
    """How token vectors become one. The values are refembed's names."""

    Mean = "mean"
    Last = "last"
    First = "cls"
    Max = "max"
    Native = "native"  # what the model's file says


@dataclass(frozen=True)
class Embedding:
    """A vector as `Context.get_embedding` gives it."""

    data: F32  # (D)

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.data)

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class ContextParams:
    """What a Context is made with. embeddings must be True for it to embed; n_ctx 0 is the model's own length."""

    embeddings: bool = False
    n_ctx: int = 0
    n_batch: int = 2048
    n_threads: int = 0


class Model:
    """A loaded model: `Model.load(path)`."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @staticmethod
    def load(
        path: str | Path, n_gpu_layers: int = 0, use_mmap: bool = True, use_mlock: bool = False,
        vocab_only: bool = False, **load: Any,
    ) -> Model:  # fmt: skip
        """Open a GGUF file, or a name that refembed knows. `load` goes to `Embedder.load`: numerics, lora ...

        The other arguments are ignored. Raises GGUFError, ModelError, DownloadError, RequestError.
        """
        return Model(Embedder.load(path, **load))

    def tokenize(self, text: str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids; add_bos: with the model's special tokens, special: `[SEP]` in the text is that token."""
        return self.embedder.tokenize(text, add_special=add_bos, parse_special=special)

    def detokenize(self, tokens: Sequence[int], remove_special: bool = False, unparse_special: bool = False) -> str:
        """The text of token ids."""
        return self.embedder.tokenizer.decode(tokens, remove_special, unparse_special)

    def metadata(self) -> dict[str, str]:
        """The keys of the GGUF file that are no arrays, as text."""
        return metadata_text(self.embedder)

    n_ctx_train = property(lambda self: self.embedder.info.n_ctx, doc="The longest text, in tokens.")
    n_embd = property(lambda self: self.embedder.info.n_embd, doc="{arch}.embedding_length.")
    n_vocab = property(lambda self: self.embedder.info.n_vocab, doc="Tokens of the vocabulary.")
    n_layer = property(lambda self: self.embedder.info.n_layer, doc="{arch}.block_count.")
    n_head = property(lambda self: self.embedder.info.n_head, doc="{arch}.attention.head_count.")
    n_params = property(lambda self: self.embedder.info.n_params, doc="Numbers in all tensors.")
    size = property(lambda self: self.embedder.info.file_size, doc="Bytes of the file.")
    architecture = property(lambda self: self.embedder.info.architecture, doc="general.architecture.")
    name = property(lambda self: self.embedder.info.name, doc="general.name.")
    token_bos = property(
        lambda self: token_or_null(self.embedder.tokenizer.vocab.bos), doc="BOS, -1 where there is none."
    )
    token_eos = property(
        lambda self: token_or_null(self.embedder.tokenizer.vocab.eos), doc="EOS, -1 where there is none."
    )

    @property
    def description(self) -> str:
        """Architecture, size and types."""
        info = self.embedder.info
        return f"{info.architecture} {info.n_params / 1e6:.2f} M {next(iter(info.quant_types))}"

    apply_chat_template = refused("Model.apply_chat_template")
    token_is_eog = refused("Model.token_is_eog")


class Context:
    """Where texts become vectors.

    model       a Model
    params      a ContextParams, or n_ctx as a number (the binding's second argument)
    n_ctx ...   the same options by name; they go over those of params
    """

    def __init__(
        self, model: Model, params: ContextParams | int | None = None, n_batch: int | None = None,
        n_threads: int | None = None, embeddings: bool | None = None, *, n_ctx: int | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(model, Model):
            raise RequestError(f"Context takes a Model, not {type(model).__name__}", hint="Model.load(path)")
        base = params if isinstance(params, ContextParams) else ContextParams(n_ctx=params or 0)
        self.model = model
        self.n_ctx = (base.n_ctx if n_ctx is None else n_ctx) or model.n_ctx_train
        self.n_batch = base.n_batch if n_batch is None else n_batch
        self.embeddings = base.embeddings if embeddings is None else embeddings
        self.decoded: F32 | None = None
        self._told = False

    def get_embedding(
        self, text: str, pooling: PoolingStrategy | str | None = None, normalize: bool = True
    ) -> Embedding:
        """The vector of one text.

        pooling    None: mean, as Mullama's guide says, with a warning where the model's file says otherwise
        normalize  to length 1
        Raises RequestError (a RuntimeError too) unless the Context was made with embeddings=True, RequestError for a
        text that is too long, ModelError for PoolingStrategy.Native where the model's file names no pooling.
        """
        return self.get_embedding_batch([one_text(text, "get_embedding")], pooling, normalize)[0]

    def get_embedding_batch(
        self, texts: Sequence[str], pooling: PoolingStrategy | str | None = None, normalize: bool = True
    ) -> list[Embedding]:
        """Vectors of texts, in order; the same as one by one. Arguments and errors as `get_embedding`."""
        if not self.embeddings:
            hint = "Context(model, ContextParams(embeddings=True))"
            raise StateError("this Context was made without embeddings", hint=hint)
        embedder = self.model.embedder
        how = self.default_pooling() if pooling is None else strategy(pooling).value
        how = one_vector(embedder, how, NO_POOLING)
        with too_long(TOO_LONG):
            ids = [embedder.ids_of(text, i, False) for i, text in enumerate(text_list(texts, "get_embedding_batch"))]
        for i, tokens in enumerate(ids):
            if len(tokens) > self.n_ctx:
                hint = (
                    f"{TOO_LONG}, or make the Context with a larger n_ctx"
                    if self.n_ctx < self.model.n_ctx_train
                    else TOO_LONG
                )
                raise TooLongError(f"input {i}: {len(tokens)} tokens, but the context has {self.n_ctx}", hint=hint)
        return [Embedding(row) for row in embedder.embed(ids, pooling=how, normalize=2 if normalize else -1)]

    def default_pooling(self) -> str:
        """mean; says once where that is not the model's own."""
        own = self.model.embedder.info.pooling
        if own not in ("mean", "none") and not self._told:
            self._told = True
            warnings.warn(
                f"Mullama's default is mean pooling, but the model's file says {own}: its vectors want "
                "pooling=PoolingStrategy.Native",
                stacklevel=4,
            )
        return "mean"

    def decode(self, tokens: Sequence[int]) -> None:
        """Run token ids, for `get_embeddings`. ModelError where the model's file names no pooling."""
        embedder = self.model.embedder
        how = one_vector(embedder, "native", NO_POOLING)
        with too_long("pass fewer tokens"):
            self.decoded = embedder.embed([list(tokens)], pooling=how, normalize=-1)[0]

    def get_embeddings(self) -> F32 | None:
        """The vector of what `decode` ran last, by the model's own pooling and not normalized; None before that."""
        return self.decoded if self.embeddings else None

    def clear_cache(self) -> None:
        """Forget what `decode` ran."""
        self.decoded = None

    generate = refused("Context.generate")
    generate_stream = refused("Context.generate_stream")


class EmbeddingGenerator:
    """The binding's way: `embed` and `embed_batch` give bare float32 vectors, by the model's own pooling."""

    def __init__(self, model: Model, n_ctx: int = 512, normalize: bool = True) -> None:
        self.context = Context(
            model, ContextParams(embeddings=True, n_ctx=min(n_ctx or model.n_ctx_train, model.n_ctx_train))
        )
        self.normalize = normalize

    def embed(self, text: str) -> F32:
        """The vector (D) of a text."""
        return self.embed_batch([one_text(text, "embed")])[0]

    def embed_batch(self, texts: Sequence[str]) -> list[F32]:
        """Vectors (D) of texts, in order."""
        found = self.context.get_embedding_batch(texts, PoolingStrategy.Native, self.normalize)
        return [embedding.data for embedding in found]

    @property
    def n_embd(self) -> int:
        """Numbers of a vector."""
        return self.context.model.embedder.info.n_embd_out


def strategy(pooling: PoolingStrategy | str) -> PoolingStrategy:
    """A PoolingStrategy, by its value or by its name. RequestError (a ValueError too) for anything else."""
    if isinstance(pooling, PoolingStrategy):
        return pooling
    known = {name: member for member in PoolingStrategy for name in (member.value, member.name.lower())}
    if not isinstance(pooling, str) or pooling.lower() not in known:
        hint = f"one of {', '.join(f'PoolingStrategy.{member.name}' for member in PoolingStrategy)}"
        raise InputValueError(f"pooling {pooling!r}: there is no such PoolingStrategy", hint=hint)
    return known[pooling.lower()]


def pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two vectors of one length, or RequestError (a ValueError too)."""
    x, y = check_vectors(a, "the first"), check_vectors(b, "the second")
    if x.ndim != 1 or x.shape != y.shape:
        raise InputValueError(f"two vectors of one length are wanted, not of shapes {x.shape} and {y.shape}")
    return x, y


def cosine_similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """`refembed.cosine` of two vectors, kept within -1 and 1; 0 where either is zero, as in Mullama.

    Raises RequestError (a ValueError too) for vectors of different lengths.
    """
    x, y = pair(a, b)
    return float(np.clip(cosine(x, y), -1, 1)) if x.any() and y.any() else 0.0


def dot_product(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """`refembed.dot` of two vectors. Errors as of `cosine_similarity`."""
    return float(dot(*pair(a, b)))


def normalize(v: npt.ArrayLike) -> npt.NDArray[Any]:
    """The vector with length 1; a zero vector stays zero."""
    return normalize_rows(check_vectors(v, "the"), 2)


def backend_init() -> None:
    """Nothing has to be started."""


def backend_free() -> None:
    """Nothing has to be freed."""


def supports_gpu_offload() -> bool:
    """False: refembed computes on the CPU."""
    return False


def system_info() -> str:
    return f"refembed {refembed.__version__}, Python {platform.python_version()}, NumPy {np.__version__}"


def max_devices() -> int:
    """The CPU is one."""
    return 1
