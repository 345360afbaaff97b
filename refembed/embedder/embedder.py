"""`Embedder` loads a model, and `Embedder.embed` runs the steps of `refembed.pipeline`.

text ─► tokenize ─► truncate ─► pack ─► forward ─► hidden (T, C) ─► pool ─► (S, D) ─► normalize ─► vectors
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from refembed._version import __version__
from refembed.arrays import F32, Float
from refembed.embedder.base import Parts
from refembed.embedder.images import TextsWithImages
from refembed.embedder.parts_of_texts import PartsOfTexts
from refembed.embedder.pools import Pools
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.gguf import GGUFFile
from refembed.kernels.numerics import load_ops, remark_on, spell_numerics
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.threads import configure, cores, parallel_map
from refembed.model import Model, load_model
from refembed.model.batch import pack
from refembed.model.info import Info, read_info
from refembed.model.trace import Recorder, Trace
from refembed.pipeline.batches import pack_batches, spread_batches, take_batch
from refembed.pipeline.inputs import Input, check_dimensions, check_ids, has_image, input_list, ordered
from refembed.pipeline.opening import open_gguf
from refembed.pipeline.progress import Bar
from refembed.pipeline.truncate import truncate as truncate_ids
from refembed.pipeline.vectors import VectorOptions, cut_and_normalize, forward_and_pool
from refembed.pooling.heads import check_dense, check_rank, width
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.pooling.poolers import resolve_pooling
from refembed.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:  # what not every model needs
    from refembed.model.lora import Adapter
    from refembed.model.vision import Tower
    from refembed.pipeline.processes import ProcessPool

BATCH_TOKENS = 8192  # of texts that are taken at a time; bounds memory, changes no bits
FORWARD_TOKENS = 256  # of one forward pass of `fast`: few enough that hidden states stay in a core's own cache


class Embedder(PartsOfTexts, TextsWithImages, Pools):
    """A loaded model. `Embedder.load` makes one.

    The same text gives the same bits alone, in any batch and in any order (docs/batch-invariance.md).

    >>> e = Embedder.load("minilm")
    >>> e.tokenize("Hello, world!"), e.detokenize([101, 7592, 102])
    ([101, 7592, 1010, 2088, 999, 102], '[CLS] hello[SEP]')
    >>> e.embed("Hello, world!").shape, e.embed(["a cat", [101, 1037, 4937, 102]]).shape  # one; a text, and token ids
    ((384,), (2, 384))
    >>> e.embed("a cat", pooling="none", normalize=-1).shape, len(list(e.embed_iter(["a cat", "a dog"])))  # 4 tokens
    ((4, 384), 2)
    >>> e.file.tensors["token_embd.weight"].shape  # the open GGUF file
    (30522, 384)
    >>> e.trace("a cat")["kq_soft_max-0"].shape  # 12 heads, 4 queries, 4 keys
    (12, 4, 4)
    """

    def __init__(
        self, info: Info, tokenizer: Tokenizer, model: Model, ops: Ops, batch_tokens: int = BATCH_TOKENS,
        adapters: Sequence[Adapter] = (), file: GGUFFile | None = None, tower: Tower | None = None,
    ) -> None:  # fmt: skip
        """batch_tokens: texts run together up to so many tokens; a longer text, or with 0 every text, runs alone.

        adapters  what `ops` adds to the weights, for callers that need them
        file      the open file of the model; None: `info.path`, opened when it is asked for
        tower     what images go through
        """
        self.info, self.tokenizer, self.model, self.ops = info, tokenizer, model, ops
        self.batch_tokens, self.adapters, self._file = batch_tokens, tuple(adapters), file
        self.tower = tower
        self.options: dict[str, Any] = {}  # of `load`
        self.pool: ProcessPool | None = None  # `start_pool`

    @property
    def file(self) -> GGUFFile:
        """The open GGUF file: `file.metadata["general.architecture"]`, `file.tensors["token_embd.weight"]`."""
        if self._file is None:
            self._file = open_gguf(self.info.path)
        return self._file

    def __reduce__(self) -> tuple[Callable[..., Embedder], tuple[Any, ...]]:
        """Pickling and copying load the same file again, with the same options; the weights stay mapped, and shared.

        The files' SHA-256 goes along: where they are others by then, loading is a ModelError.
        """
        if not self.options:
            raise TypeError("only an Embedder that Embedder.load made can be pickled or copied")
        return load_again, (self.info.path.absolute(), self.options, digests_of(self))

    def paths(self) -> list[Path]:
        """All files that the vectors depend on: the model's shards, the adapters', the tower's."""
        tower = [] if self.tower is None else [Path(self.tower.path)]
        return [*self.file.paths, *(path for adapter in self.adapters for path in adapter.paths), *tower]

    def __repr__(self) -> str:
        """One line: the model, and what its vectors are."""
        i = self.info
        return (
            f"<Embedder {i.name!r}: {i.architecture}, numerics {i.numerics}, {i.n_embd_out} dimensions, "
            f"pooling {i.pooling}, at most {i.n_ctx} tokens>"
        )

    @classmethod
    def load(
        cls,
        model: str | Path = "minilm",
        *,
        numerics: str = "auto",
        profile: str = "avx2",
        flash_attn: bool = True,
        repack: bool = True,
        n_ubatch: int = 0,
        lora: Sequence[str | Path] = (),
        mmproj: str | Path | None = None,
        memory_budget: int | str | None = None,
        semantics: str = "llama.cpp",
        mmap: bool = True,
        device: int | None = None,
        precision: str = "float32",
        threads: int | None = None,
    ) -> Embedder:
        """Open a model.

        model            a GGUF file; a folder as Hugging Face publishes them; or a name that `refembed.hub` knows, such
                         as "minilm" or "organization/model" (fetched and converted once)
        numerics         "exact" float64; "ggml" bit for bit as llama.cpp rounds; "fast" float32; "int8" the
                         same, with activations rounded to 8 bits where weights are quantized; "bf16" with weights and
                         activations rounded to bfloat16; "cupy" float32 on an NVIDIA GPU; "auto" is fast
        device           which GPU (`cupy` only), as CUDA counts them; None: the first
        precision        of products with the model's matrices (`cupy` only): "float32", or on tensor cores "tf32",
                         "fp16" or "bf16", with sums in float32; all else is of float32 (docs/gpu.md)
        lora             adapter files, "FILE" or "FILE:SCALE", added in this order; llama.cpp leaves the order of
                         several to chance (`refembed.model.lora`)
        mmproj           the GGUF file of the model's vision tower: `embed` then takes images too (docs/images.md)
        semantics        "llama.cpp": its graph; "original": the model as published, in `exact` and `fast`
                         (`refembed.model.published`, docs/differences.md)
        memory_budget    bytes of decoded matrices that all numerics but `ggml` keep; None: a quarter of the machine's
                         memory, three quarters of a GPU's; 0 or "mapped": none. Others are decoded as they are used, a
                         panel at a time. Changes memory and speed, no bits (`kernels/quant/row_blocks.py`)
        mmap             the weights stay in the file, mapped into memory, and must not change there; False copies the
                         file into memory first
        threads          cores to use, also by BLAS; None: as many as REFEMBED_THREADS says, else all that this process
                         may use. It is the process that has them: all its models share the number given last. Changes
                         speed, no bits

        For `ggml`, which llama.cpp to equal:
        profile     its build: "avx2" (the wheel that refembed is checked against), "avx2-gcc12", "avx512", "neon" and
                    others, rows of kernels/ggml/profile.py
        flash_attn  with flash attention, as llama.cpp runs by default
        repack      with weights interleaved at load time, likewise (`--no-repack` turns it off there)
        n_ubatch    texts that fit into so many tokens run together, as llama.cpp runs those that one call brings;
                    there a text's bits depend on its batch. 0: every text alone
        Warns where `int8` changes nothing, since no weight is quantized.
        Raises GGUFError for a file that is damaged or no GGUF, ModelError where there is no such model or none that
        refembed can run, DownloadError where it cannot be fetched, RequestError for an option that is not there.
        """
        if semantics != "llama.cpp":
            from refembed.model.published import check_semantics

            check_semantics(semantics, numerics)
        configure(threads)
        switches: dict[str, Any] = {
            "profile": profile, "flash_attn": flash_attn, "repack": repack, "memory_budget": memory_budget,
            "device": device, "precision": precision,
        }  # fmt: skip
        ops = load_ops(numerics, **switches)
        f = open_gguf(model, mmap)
        if remark := remark_on(ops, f.tensors.values()):
            warnings.warn(f"{f.path}: {remark}", stacklevel=2)
        parts = Parts(load_model(f), ops)
        check_dense(parts.model, str(f.path))
        tokenizer = load_tokenizer(f)
        if semantics != "llama.cpp" or mmproj is not None or lora not in ((), []):
            from refembed.embedder.additions import with_additions

            side = partial(load_ops, numerics, **switches | {"flash_attn": True, "repack": False})
            asked: dict[str, Any] = {"lora": lora, "mmproj": mmproj, "semantics": semantics, "mmap": mmap}
            parts = with_additions(parts, f, tokenizer.vocab.sep, side, **asked)
        loaded, ops, adapters, tower = parts
        together = 0 if loaded.runs_alone else n_ubatch
        batch_tokens = FORWARD_TOKENS if ops.one_text_a_core else together if ops.name == "ggml" else BATCH_TOKENS
        info = read_info(f, loaded.hparams, spell_numerics(ops))
        e = cls(info, tokenizer, loaded, ops, batch_tokens, adapters, f, tower)
        lora = [f"{a.path.absolute()}:{a.scale!r}" for a in adapters]
        e.options = switches | {
            "numerics": ops.name, "n_ubatch": n_ubatch, "lora": lora, "semantics": semantics, "mmap": mmap,
            "mmproj": None if mmproj is None else Path(mmproj).absolute(),
            "threads": threads,
        }  # fmt: skip
        return e

    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text. parse_special: `[SEP]` in it is the token, as in llama-embedding and llama-server."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text that token ids stand for, special tokens shown."""
        return self.tokenizer.decode(ids)

    @overload
    def embed(
        self,
        texts: str | bytes,
        *,
        pooling: str = ...,
        normalize: int | None = ...,
        dimensions: int | None = ...,
        truncate: bool = ...,
    ) -> F32: ...
    @overload
    def embed(
        self,
        texts: Sequence[Input],
        *,
        pooling: str = ...,
        normalize: int | None = ...,
        dimensions: int | None = ...,
        truncate: bool = ...,
    ) -> F32 | list[F32]: ...
    def embed(
        self,
        texts: str | bytes | Sequence[Input],
        *,
        pooling: str = "native",
        normalize: int | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> F32 | list[F32]:
        """Vectors of texts.

        texts       one text, or several in order: a list, a tuple, an array, a Series or a generator. A text is
                    characters, UTF-8 bytes, or, among several, a list of token ids. With `mmproj`, also a text with
                    images: {"text": "...", "image": path, bytes, array or a list of them}, as `image_input` says
        pooling     "native" (the model's own), none, mean, cls, last, max, mean_sqrt_len, weightedmean; "rank": a
                    reranker's outputs (R) for texts that are pairs already; `rerank` makes pairs
        normalize   -1 as it is, 0 largest magnitude 32760, 1 taxicab, 2 Euclid, p: llama.cpp's embd_normalize; None is
                    2, but -1 where pooling is rank: scores have no direction
        dimensions  keep the first so many numbers of each vector (Matryoshka), before normalizing
        truncate    cut a text that is too long instead of refusing it; its last special token stays
        returns     (S, D) float32; (D) for one text. pooling "none": a list of (T_i, D); (T, D) for one text
        Raises RequestError for an input that cannot be taken, TooLongError for one of too many tokens, ModelError where
        a vector is not finite.
        """
        inputs, alone = input_list(texts)
        options = self.resolve_options(pooling, normalize, dimensions)
        if any(map(has_image, inputs)):
            vectors = [self.vector_of(given, i, options, truncate) for i, given in enumerate(inputs)]
            return vectors[0] if alone else self.stack(vectors, options.pooling, options.dimensions)
        ids = [self.ids_of(text, i, truncate) for i, text in enumerate(inputs)]  # tokenize, truncate
        vectors = self.vectors(ids, *options)  # pack, forward, pool, normalize
        return vectors[0] if alone else self.stack(vectors, options.pooling, options.dimensions)

    def vectors(
        self, ids: Sequence[Sequence[int]], how: str, normalize: int = -1, dimensions: int | None = None
    ) -> list[F32]:
        """Vectors of token ids (S lists, checked): S arrays (D), or, where nothing is pooled, (T_s, D).

        how, normalize, dimensions  as `resolve_options` gives them
        """
        vectors: list[F32] = [np.empty(0, np.float32)] * len(ids)

        def compute(batch: Sequence[int]) -> None:
            packed = pack([ids[i] for i in batch])  # the ids of these texts, end to end
            rows = forward_and_pool(self.model, self.ops, packed, how)
            for i, row in zip(batch, rows, strict=True):
                vectors[i] = cut_and_normalize(row, normalize, dimensions, self.ops.if_not_finite)

        lengths = [len(text) for text in ids]
        if (pool := self.running_pool()) is not None and len(ids) > 1:
            return pool.vectors(ids, how, normalize, dimensions)
        if self.ops.one_text_a_core and (batches := spread_batches(lengths, self.batch_tokens, cores())):
            parallel_map([partial(compute, batch) for batch in batches])
        else:
            for batch in pack_batches(lengths, self.batch_tokens):
                compute(batch)
        return vectors

    def stack(self, vectors: list[F32], how: str, dimensions: int | None = None) -> F32 | list[F32]:
        """Vectors (D) of S texts as one array (S, D); where nothing is pooled, the list as it is."""
        if how == "none":
            return vectors
        return np.stack(vectors) if vectors else np.empty((0, dimensions or self.width(how)), np.float32)

    def resolve_options(
        self, pooling: str = "native", normalize: int | None = None, dimensions: Any = None
    ) -> VectorOptions:
        """The options of `embed` with the model's pooling for "native", and the default norm for None.

        Raises RequestError or ModelError for options that no vector could satisfy, before any work is done.
        """
        how = resolve_pooling(pooling, self.model.hparams.pooling)
        if how == "rank":
            check_rank(self.model)
        norm = normalize if normalize is not None else -1 if how == "rank" else 2
        normalize_rows(np.ones((1, 1), np.float32), norm)  # for its check
        return VectorOptions(how, norm, check_dimensions(dimensions, self.width(how)))

    def rerank(
        self,
        query: str | bytes,
        documents: Sequence[str | bytes],
        *,
        all_labels: bool = False,
        caller: str = "server",
        instruction: str | bytes | None = None,
        truncate: bool = False,
    ) -> F32:
        """How well each document answers the query, as a reranker's head says it: raw, never rescaled.

        documents   each is read together with the query, alone among them
        all_labels  a head may have several outputs, R of them (`info.labels`). False: the first, which is what
                    llama-server calls relevance_score; of Qwen3-Reranker it is P(yes). True: all, as llama-embedding
                    prints them
        caller      "server" or "cli": whose form of a pair (`refembed.tokenizer.pairs`)
        instruction  what Qwen3-Reranker is to look for, a sentence; None: "Given a web search query, retrieve relevant
                    passages that answer the query"
        truncate    cut a pair that is too long instead of refusing it; its last token stays
        returns     (N) float32 in the order of the documents, (N, R) with all_labels
        Raises ModelError or RequestError for a model without a head, RequestError for a pair that cannot be taken.

        >>> from refembed.testing.synthetic import synthetic  # a reranker with random weights
        >>> model = synthetic("reranker.gguf", "bert", pooling=4, optional={"cls.weight", "cls.output.weight"})
        >>> Embedder.load(model).rerank("the cat", ["a dog", "the cat sat"]).shape
        (2,)
        """
        from refembed.tokenizer.pairs import encode_pair

        if isinstance(documents, (str, bytes)):
            raise RequestError("rerank takes a list of documents, not one", hint="rerank(query, [document])")
        if not isinstance(query, (str, bytes)):
            message = f"rerank: the query is a text, not of type {type(query).__name__}"
            raise RequestError(message, hint="rerank(query, [document])")
        documents = ordered(documents, "documents", "rerank(query, [document])")
        check_rank(self.model)
        pairs = [encode_pair(self.tokenizer, query, document, caller, instruction) for document in documents]
        ids = [
            self.truncate_or_raise(pair, f"document {i} and the query", truncate, keep_last=True)
            for i, pair in enumerate(pairs)
        ]
        scores = np.asarray(self.stack(self.vectors(ids, "rank"), "rank"))  # (N, R)
        return scores if all_labels else np.ascontiguousarray(scores[:, 0])

    def width(self, how: str) -> int:
        """Numbers of a vector under a resolved pooling."""
        return width(self.model.hparams, how)

    def embed_iter(
        self, texts: Iterable[Input], *, batch_tokens: int = BATCH_TOKENS, progress: bool = False,
        tokenizers: int | None = None, **options: Any,
    ) -> Iterator[F32]:  # fmt: skip
        """Vectors of texts that arrive one by one, in order, some `batch_tokens` worth of text at a time.

        progress    show a bar on stderr, if that is a terminal
        tokenizers  so many processes tokenize ahead of what is being computed, and read as many texts ahead; they end
                    with the iterator. It pays where one core tokenizes more slowly than all others compute
                    (docs/scale.md). None: tokenize here, and read no text before it is its turn
        options     as `embed` takes them

        >>> sum(1 for vector in Embedder.load("minilm").embed_iter(["a cat", "a dog"], tokenizers=1))
        2
        """
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            ordered(texts, "texts", "embed_iter([text]); a generator, a file's lines or a list will do")
        truncate = options.pop("truncate", False)
        resolved = self.resolve_options(**options)
        pool = self.running_pool() if self.tower is None else None  # whose processes take token ids alone
        read: Callable[[Any, int, bool], Any] = self.streamed if pool is None else self.ids_of
        stream: Any = (read(text, i, truncate) for i, text in enumerate(texts))
        if tokenizers is not None:
            stream = self.tokenized_ahead(texts, read, truncate, tokenizers)
        batches = iter(lambda: take_batch(stream, batch_tokens), [])
        found = pool.stream(batches, *resolved) if pool else (self.vectors_of(inputs, resolved) for inputs in batches)
        with closing(stream), Bar(None, wanted=progress) as bar:
            for vectors in found:
                for vector in vectors:
                    yield vector
                    bar.advance(0)

    def forward(self, ids: Sequence[Sequence[int]], tap: Tap = NO_TAP) -> Float:
        """Hidden states (T, C) of S lists of token ids, end to end, in the dtype of the numerics."""
        with np.errstate(all="ignore"):  # what is not finite in the end is refused there (`cut_and_normalize`)
            return np.asarray(self.model.forward(pack(ids), self.ops, tap))

    def trace(
        self, text: Input, *, pooling: str = "native", truncate: bool = False, tap: Tap | None = None,
        ops: Ops | None = None,
    ) -> Trace:  # fmt: skip
        """Every tensor of one text's run, under llama.cpp's names, up to `result_embd_pooled` (not normalized).

        text  may have images: the trace is of the text model then, `trace_image` of the tower
        tap  is given each tensor in place of a new Recorder; the Trace is then empty
        ops  computes in place of the embedder's own operations
        """
        how = self.resolve_options(pooling).pooling
        given: Any = text
        batch = self.image_batch(given) if has_image(given) else pack([self.ids_of(given, 0, truncate)])
        meta = {"engine": f"refembed {__version__}", "numerics": spell_numerics(self.ops), "model": str(self.info.path)}
        recorder = Recorder(meta | {"tokens": batch.ids.tolist(), "pooling": how})
        forward_and_pool(self.model, ops or self.ops, batch, how, tap or recorder)
        return recorder.trace

    def ids_of(self, text: Input, index: int, truncate: bool) -> list[int]:
        """Token ids of one input, checked: whole, in the vocabulary, not too many."""
        if isinstance(text, (str, bytes, bytearray, memoryview)):
            ids = self.tokenize(text if isinstance(text, str) else bytes(text))
            keep_last = self.tokenizer.vocab.is_closed(ids)
        else:
            ids, keep_last = check_ids(text, index, self.info.n_vocab), False
        return self.truncate_or_raise(ids, f"input {index}", truncate, keep_last)

    def truncate_or_raise(self, ids: list[int], what: str, truncate: bool, keep_last: bool) -> list[int]:
        """The ids, truncated if that is asked for (`pipeline.truncate`).

        Raises RequestError where there are none, TooLongError where there are too many. what: the text, for errors.
        """
        if not ids:
            raise RequestError(f"{what}: no tokens", hint="this model adds no special tokens; give it some text")
        limit = self.info.n_ctx
        if len(ids) > limit and not truncate:
            hint = f"cut it into pieces, or pass truncate=True (--truncate) to keep its first {limit} tokens"
            raise TooLongError(f"{what}: {len(ids)} tokens, but the model reads at most {limit}", hint=hint)
        return truncate_ids(ids, limit, keep_last=keep_last)


def digests_of(embedder: Embedder) -> list[str]:
    """SHA-256 of each file that the vectors depend on."""
    from refembed.hub import digests

    return digests.digests_of(embedder.paths())


def load_again(path: Path, options: dict[str, Any], digests: list[str]) -> Embedder:
    """The Embedder that was pickled. ModelError where a file is another one by now."""
    embedder = Embedder.load(path, **options)
    for file, digest, now in zip(embedder.paths(), digests, digests_of(embedder), strict=False):
        if digest != now:
            raise ModelError(
                f"{file}: another file than the Embedder was made of: SHA-256 {now[:12]}..., not {digest[:12]}...",
                hint="copy the same file to each machine, under the same path",
            )
    return embedder
