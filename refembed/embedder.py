"""From text to vector: the one long path, `Embedder.embed`.

text ─► tokenizer ─► ids ─► pack ─► forward ─► hidden (T, C) ─► pool ─► (S, C) ─► normalize ─► vectors
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from refembed._version import __version__
from refembed.arrays import F32, Float
from refembed.errors import ModelError, RequestError, TooLongError
from refembed.gguf import GGUFFile
from refembed.hub.opening import open_gguf
from refembed.inputs import Input, check_dimensions, check_ids, input_list, ordered
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.kernels.threads import cores, parallel_map
from refembed.model import Model, load_model
from refembed.model.batch import pack
from refembed.model.lora import Adapter, adapted, load_adapter
from refembed.model.published import check_semantics, original
from refembed.model.trace import Recorder, Trace
from refembed.pooling.heads import check_dense, check_rank, pooled, width
from refembed.pooling.normalize import normalize as normalize_rows
from refembed.pooling.poolers import resolve_pooling
from refembed.tokenizer import Tokenizer, load_tokenizer

BATCH_TOKENS = 8192  # of texts that are taken at a time; bounds memory, changes no bits
FORWARD_TOKENS = 256  # of one forward pass of `fast`: few enough that hidden states stay in a core's own cache
UNEVEN = 1.2  # how much more than its part a core may have, before all had better share every operation


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
        digest = hashlib.sha256()
        for path in self.paths or (self.path,):
            with path.open("rb") as f:
                while block := f.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


def read_info(f: GGUFFile, model: Model, numerics: str) -> Info:
    """Collect the record."""
    hp, md = model.hparams, f.metadata
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


class Embedder:
    """A loaded model. `Embedder.load` makes one.

    The same text gives the same bits alone, in any batch and in any order (docs/batch-invariance.md).
    """

    def __init__(
        self, info: Info, tokenizer: Tokenizer, model: Model, ops: Ops, batch_tokens: int = BATCH_TOKENS,
        adapters: Sequence[Adapter] = (),
    ) -> None:  # fmt: skip
        """batch_tokens: texts run together up to so many tokens; a longer text, or with 0 every text, runs alone.

        adapters  what `ops` adds to the weights, for callers that need them
        """
        self.info, self.tokenizer, self.model, self.ops = info, tokenizer, model, ops
        self.batch_tokens, self.adapters = batch_tokens, tuple(adapters)
        self.options: dict[str, Any] = {}  # of `load`

    def __reduce__(self) -> tuple[Callable[..., Embedder], tuple[Path, dict[str, Any]]]:
        """Pickling and copying load the same file again, with the same options; the weights stay mapped, and shared."""
        if not self.options:
            raise TypeError("only an Embedder that Embedder.load made can be pickled or copied")
        return reload, (self.info.path.absolute(), self.options)

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
        batch_invariant: bool = True,
        profile: str = "avx2",
        flash_attn: bool = True,
        repack: bool = True,
        n_ubatch: int = 0,
        lora: Sequence[str | Path] = (),
        memory_budget: int | str | None = None,
        semantics: str = "llama.cpp",
    ) -> Embedder:
        """Open a model.

        model            a GGUF file; a folder as Hugging Face publishes them; or a name that `refembed.hub` knows, such
                         as "minilm" or "organization/model" (fetched and converted once)
        numerics         "exact" float64; "ggml" bit for bit as llama.cpp rounds; "fast" float32; "auto" is fast
        batch_invariant  without effect: a text's bits never depend on its batch. Once False let BLAS mix rows
        lora             adapter files, "FILE" or "FILE:SCALE", added in this order; llama.cpp leaves the order of
                         several to chance (`refembed.model.lora`)
        semantics        "llama.cpp": its graph; "original": the model as published, in `exact` and `fast`
                         (`refembed.model.published`, docs/differences.md)
        memory_budget    bytes of decoded matrices that `fast` and `exact` keep; None: a quarter of the machine's
                         memory; 0 or "mapped": none. Others are decoded as they are used, a panel at a time. Changes
                         memory and speed, no bits (`kernels/quant/row_blocks.py`)

        For `ggml`, which llama.cpp to equal:
        profile     its build: "avx2" (the wheel that refembed is checked against), "avx2-gcc12", "avx512"
        flash_attn  with flash attention, as llama.cpp runs by default
        repack      with weights interleaved at load time, likewise (`--no-repack` turns it off there)
        n_ubatch    texts that fit into so many tokens run together, as llama.cpp runs those that one call brings;
                    there a text's bits depend on its batch. 0: every text alone
        Raises GGUFError for a file that is damaged or no GGUF, ModelError where there is no such model or none that
        refembed can run, DownloadError where it cannot be fetched, RequestError for an option that is not there.

            Embedder.load("minilm", numerics="exact")
        """
        check_semantics(semantics, numerics)
        ops = load_ops(
            numerics, batch_invariant=batch_invariant, profile=profile, flash_attn=flash_attn, repack=repack,
            memory_budget=memory_budget,
        )  # fmt: skip
        f = open_gguf(model)
        loaded = load_model(f)
        check_dense(loaded, str(f.path))
        adapters = [
            load_adapter(spec, f, i) for i, spec in enumerate([lora] if isinstance(lora, (str, Path)) else lora)
        ]
        if adapters:
            side = load_ops(
                numerics, batch_invariant=batch_invariant, profile=profile, repack=False, memory_budget=memory_budget
            )
            ops = adapted(ops, side, adapters)
        together = 0 if loaded.runs_alone else n_ubatch
        batch_tokens = {"ggml": together, "fast": FORWARD_TOKENS}.get(ops.name, BATCH_TOKENS)
        tokenizer = load_tokenizer(f)
        if semantics == "original":
            loaded = original(loaded, f, tokenizer.vocab.sep)
        e = cls(read_info(f, loaded, ops.name), tokenizer, loaded, ops, batch_tokens, adapters)
        e.options = {
            "numerics": ops.name, "profile": profile, "flash_attn": flash_attn, "repack": repack,
            "n_ubatch": n_ubatch, "lora": [f"{a.path.absolute()}:{a.scale!r}" for a in adapters],
            "memory_budget": memory_budget, "semantics": semantics,
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
                    characters, UTF-8 bytes, or, among several, a list of token ids
        pooling     "native" (the model's own), none, mean, cls, last, max, mean_sqrt_len, weightedmean; "rank": a
                    reranker's outputs (R) for texts that are pairs already; `rerank` makes pairs
        normalize   -1 as it is, 0 largest magnitude 32760, 1 taxicab, 2 Euclid, p: llama.cpp's embd_normalize; None is
                    2, but -1 where pooling is rank: scores have no direction
        dimensions  keep the first so many numbers of each vector (Matryoshka), before normalizing
        truncate    cut a text that is too long instead of refusing it; its last special token stays
        returns     (S, D) float32; (D) for one text. pooling "none": a list of (T_i, D); (T, D) for one text
        Raises RequestError for an input that cannot be taken, TooLongError for one of too many tokens, ModelError where
        a vector is not finite.

            e.embed("Hello, world!")                            # (D,)
            e.embed(["a cat", [101, 4937, 102]])                # (2, D): a text, and token ids
            e.embed("a cat", pooling="none", normalize=-1)      # (T, D): each token's hidden state
        """
        inputs, alone = input_list(texts)
        how = resolve_pooling(pooling, self.model.hparams.pooling)
        norm = default_norm(how) if normalize is None else normalize
        dimensions = self.check_options(how, norm, dimensions)
        ids = [self.ids_of(t, i, truncate) for i, t in enumerate(inputs)]
        vectors = self.vectors(ids, how, norm, dimensions)
        if alone:
            return vectors[0]
        if how == "none":
            return vectors
        return np.stack(vectors) if vectors else np.empty((0, dimensions or self.width(how)), np.float32)

    def vectors(
        self, ids: Sequence[Sequence[int]], how: str, normalize: int = -1, dimensions: int | None = None
    ) -> list[F32]:
        """What token ids (S lists, checked) come to: S arrays (D), or, where nothing is pooled, (T_s, D)."""
        vectors: list[F32] = [np.empty(0, np.float32)] * len(ids)

        def run(group: Sequence[int]) -> None:
            texts = [ids[i] for i in group]
            with np.errstate(all="ignore"):
                found = pooled(self.forward(texts), pack(texts).offsets, how, self.model, self.ops)
            for i, vector in zip(group, found, strict=True):
                vectors[i] = finish(vector, normalize, dimensions)

        if runs := side_by_side(ids, self.batch_tokens, cores()) if self.ops.name == "fast" else []:
            parallel_map([partial(run, group) for group in runs])
        else:
            for group in groups(ids, self.batch_tokens):
                run(group)
        return vectors

    def rerank(
        self,
        query: str | bytes,
        documents: Sequence[str | bytes],
        *,
        all_labels: bool = False,
        caller: str = "server",
        truncate: bool = False,
    ) -> F32:
        """How well each document answers the query, as a reranker's head says it: raw, never rescaled.

        documents   each is read together with the query, alone among them
        all_labels  a head may have several outputs, R of them (`info.labels`). False: the first, which is what
                    llama-server calls relevance_score; of Qwen3-Reranker it is P(yes). True: all, as llama-embedding
                    prints them
        caller      "server" or "cli": whose form of a pair (`refembed.tokenizer.pairs`)
        truncate    cut a pair that is too long instead of refusing it; its last token stays
        returns     (N) float32 in the order of the documents, (N, R) with all_labels
        Raises ModelError or RequestError for a model without a head, RequestError for a pair that cannot be taken.
        """
        if isinstance(documents, (str, bytes)):
            raise RequestError("rerank takes a list of documents, not one", hint="rerank(query, [document])")
        if not isinstance(query, (str, bytes)):
            message = f"rerank: the query is a text, not of type {type(query).__name__}"
            raise RequestError(message, hint="rerank(query, [document])")
        documents = ordered(documents, "documents", "rerank(query, [document])")
        check_rank(self.model)
        ids = [self.pair_of(query, document, i, caller, truncate) for i, document in enumerate(documents)]
        found = self.vectors(ids, "rank")
        scores = np.stack(found) if found else np.empty((0, self.info.n_cls_out), np.float32)  # (N, R)
        return scores if all_labels else np.ascontiguousarray(scores[:, 0])

    def pair_of(self, query: str | bytes, document: str | bytes, index: int, caller: str, truncate: bool) -> list[int]:
        """Token ids of a query and one document, not too many."""
        ids = self.tokenizer.encode_pair(query, document, caller)
        return self.truncate_or_raise(ids, f"document {index} and the query", truncate, keep_last=True)

    def width(self, how: str) -> int:
        """Numbers of a vector under a pooling (`resolve_pooling`)."""
        return width(self.model.hparams, how)

    def check_options(self, how: str, normalize: int, dimensions: int | None) -> int | None:
        """Refuse what no vector could satisfy before any work is done; dimensions as a number."""
        if how == "rank":
            check_rank(self.model)
        normalize_rows(np.ones((1, 1), np.float32), normalize)
        return check_dimensions(dimensions, self.width(how))

    def embed_iter(
        self, texts: Iterable[Input], *, batch_tokens: int = BATCH_TOKENS, progress: bool = False, **options: Any
    ) -> Iterator[F32]:
        """Vectors of texts that arrive one by one, in order, some `batch_tokens` worth of text at a time.

        progress  show a bar on stderr, if that is a terminal
        options   as `embed` takes them
        """
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            ordered(texts, "texts", "embed_iter([text]); a generator, a file's lines or a list will do")
        waiting: list[list[int]] = []
        tokens = 0
        with progress_bar(progress) as advance:
            for i, text in enumerate(texts):
                waiting.append(self.ids_of(text, i, options.get("truncate", False)))
                tokens += len(waiting[-1])
                if tokens >= batch_tokens:
                    yield from self.embed(waiting, **options)
                    advance(len(waiting))
                    waiting, tokens = [], 0
            if waiting:
                yield from self.embed(waiting, **options)
                advance(len(waiting))

    def forward(self, ids: Sequence[Sequence[int]], tap: Tap = NO_TAP) -> Float:
        """Hidden states (T, C) of S lists of token ids, end to end, in the dtype of the numerics."""
        with np.errstate(all="ignore"):  # what is not finite in the end is refused there (`finish`)
            return self.model.forward(pack(ids), self.ops, tap)

    def trace(self, text: Input, *, pooling: str = "native", truncate: bool = False, tap: Tap | None = None) -> Trace:
        """Every tensor of one text's run, under llama.cpp's names, up to `result_embd_pooled` (not normalized).

        tap  listens instead of a new Recorder, if given; the Trace is then empty
        """
        ids, how = self.ids_of(text, 0, truncate), resolve_pooling(pooling, self.model.hparams.pooling)
        meta = {"engine": f"refembed {__version__}", "numerics": self.ops.name, "model": str(self.info.path)}
        recorder = Recorder(meta | {"tokens": ids, "pooling": how})
        listener: Tap = tap or recorder
        if how == "rank":
            check_rank(self.model)
        # where nothing is pooled, llama.cpp gives the last hidden states the pooled vector's name
        first = Without(listener, self.model.output) if how == "none" else listener
        pooled(self.forward([ids], first), np.array([0, len(ids)]), how, self.model, self.ops, listener)
        return recorder.trace

    def ids_of(self, text: Input, index: int, truncate: bool) -> list[int]:
        """Token ids of one input, checked: whole, in the vocabulary, not too many."""
        if isinstance(text, (str, bytes, bytearray, memoryview)):
            ids, made = self.tokenize(text if isinstance(text, str) else bytes(text)), True
        else:
            ids, made = check_ids(text, index, self.info.n_vocab), False
        vocab = self.tokenizer.vocab
        return self.truncate_or_raise(
            ids, f"input {index}", truncate, keep_last=made and ids[-1:] in ([vocab.sep], [vocab.eos])
        )

    def truncate_or_raise(self, ids: list[int], what: str, truncate: bool, keep_last: bool) -> list[int]:
        """The ids, if there are some and not too many, or else cut. keep_last: the closing special token stays."""
        if not ids:
            raise RequestError(f"{what}: no tokens", hint="this model adds no special tokens; give it some text")
        limit = self.info.n_ctx
        if len(ids) > limit and not truncate:
            hint = f"cut it into pieces, or pass truncate=True (--truncate) to keep its first {limit} tokens"
            raise TooLongError(f"{what}: {len(ids)} tokens, but the model reads at most {limit}", hint=hint)
        if len(ids) > limit:
            ids = ids[: limit - 1] + ids[-1:] if keep_last else ids[:limit]
        return ids


def reload(path: Path, options: dict[str, Any]) -> Embedder:
    """The Embedder that was pickled."""
    return Embedder.load(path, **options)


class Without:
    """A tap that does not show one tensor."""

    def __init__(self, tap: Tap, name: str) -> None:
        self.tap, self.name, self.active = tap, name, tap.active

    def __call__(self, name: str, x: Float) -> Float:
        """Show x."""
        return x if name == self.name else self.tap(name, x)


def default_norm(how: str) -> int:
    """How vectors are normalized by default: Euclid, but scores of a reranker not at all."""
    return -1 if how == "rank" else 2


def groups(ids: Sequence[Sequence[int]], limit: int) -> Iterator[list[int]]:
    """Cut inputs into runs of at most `limit` tokens, in order; a longer input runs alone."""
    group: list[int] = []
    tokens = 0
    for i, sequence in enumerate(ids):
        if group and tokens + len(sequence) > limit:
            yield group
            group, tokens = [], 0
        group.append(i)
        tokens += len(sequence)
    if group:
        yield group


def side_by_side(ids: Sequence[Sequence[int]], limit: int, n: int) -> list[list[int]]:
    """Texts that n cores run at the same time, in groups of some `limit` tokens; none where a core would be idle.

    The longest are first, so that all cores end together.
    """
    lengths = [len(text) for text in ids]
    if sum(lengths) < limit:
        return []
    if sum(lengths) <= n * limit and (bins := balance(lengths, n)):
        return bins
    order = sorted(range(len(ids)), key=lambda i: -lengths[i])
    found = [[order[p] for p in places] for places in groups([ids[i] for i in order], limit)]
    return found if len(found) >= n else []


def balance(lengths: Sequence[int], n: int) -> list[list[int]]:
    """Texts for n cores, the longest first, each to the core that has least; none where one would have far too much."""
    bins: list[list[int]] = [[] for _ in range(n)]
    loads = [0] * n
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = loads.index(min(loads))
        bins[least].append(i)
        loads[least] += lengths[i]
    return [bin_ for bin_ in bins if bin_] if max(loads) <= UNEVEN * sum(loads) / n else []


def finish(vector: Float, normalize: int, dimensions: int | None) -> F32:
    """Cut, normalize, round to float32: vector (D) or, for pooling none, (T, D)."""
    cut = vector[..., :dimensions]
    if not np.isfinite(cut).all():
        hint = "`refembed doctor MODEL` looks for NaN in the weights"
        raise ModelError("the model gave a vector that is not finite", hint=hint)
    return normalize_rows(cut, normalize).astype(np.float32)


@contextlib.contextmanager
def progress_bar(wanted: bool) -> Iterator[Callable[[int], object]]:
    """Count finished texts on stderr, if wanted and if that is a terminal. Yields the function that adds n."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("embedding"), MofNCompleteColumn(), TextColumn("texts"), TimeElapsedColumn())
    console = Console(stderr=True)  # redirecting is off, else rich would send stdout there too
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("embedding", total=None)
        yield lambda n: bar.advance(task, n)
