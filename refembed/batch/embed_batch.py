"""`EmbedBatch`: what Ray Data, Spark, Dask or datasets.map call with a batch of rows."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.batch.columns import Vectors, check_new, names_of, texts_of, with_columns
from refembed.corpus.fingerprint import Record, describe, differences, digest
from refembed.embedder import Embedder
from refembed.errors import ModelError, RefembedError, RequestError
from refembed.hub.prompts import add, find, prefix_for
from refembed.kernels.threads import renew_after_fork, use

log = logging.getLogger("refembed.batch")

EMBED = ("pooling", "normalize", "dimensions")  # options of a vector; all others are of `Embedder.load`
DTYPES = ("float32", "float16")
GO_ON = 'on_error="column" (--on-error column) goes on without it'
MIXED = ("machine",)  # what may differ from worker to worker with allow_mixed: processor, NumPy, Numba


class Models:
    """The models of this process, each loaded once."""

    def __init__(self) -> None:
        self.loaded: dict[str, Embedder] = {}
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, whose parent may have been loading."""
        self.lock = threading.Lock()

    def get(self, model: str, options: Mapping[str, Any]) -> Embedder:
        """The model, loaded now if it was not. Raises what `Embedder.load` does."""
        key = repr((model, sorted(options.items())))
        with self.lock:
            if key not in self.loaded:
                self.loaded[key] = Embedder.load(model, **options)
            return self.loaded[key]


models = Models()


class EmbedBatch:
    """A callable: a batch of rows to the same rows with a column of vectors.

    It is pickled as its arguments, a few hundred bytes, and loads the model once in each process that calls it, so an
    engine may send it to as many workers, and as often, as it likes. A batch is a dictionary of lists or arrays, a
    pandas DataFrame, or an Arrow Table or RecordBatch; what comes back is of the same kind (`refembed.batch.columns`).

    model          a path, or a name, that means the same file on each machine
    column, into   the column of the texts, and a new one for the vectors: an array (S, D), arrays (D), or a
                   fixed_size_list<float>[D]; rows that have a column of that name already are an error
    threads        cores of each process; engines start one process a core, so 1. None: REFEMBED_THREADS, else all
    memory_budget  as `Embedder.load` takes it, but for each process: a machine with N workers needs N times as much.
                   None: a quarter of the machine's memory, divided by its cores / threads
    prompt_name, prefix  what goes before each text (`refembed.hub.prompts`)
    truncate       cut a text that is too long instead of refusing it
    dtype          "float32", or "float16", which halves the output
    on_error       "raise": a text that cannot be embedded fails its batch. "column": it has no vector (null, None; NaN
                   in an array), and why is in the column `into` + "_error", null for the others
    expect         what `fingerprint` gave where the job was started: a worker whose vectors may have other bits refuses
                   to begin, and says what differs. None: not looked at
    allow_mixed    let processors and versions of NumPy and Numba differ from `expect`; a warning names them
    options        pooling, normalize, dimensions as `Embedder.embed` takes them; others are for `Embedder.load`

    Raises RequestError for options that contradict each other; when it is called, what `Embedder.load` and `embed` do.

    >>> batch = EmbedBatch("minilm", on_error="column", dtype="float16")
    >>> rows = batch({"id": [7, 8], "text": ["a cat", None]})
    >>> rows["embedding"].shape, rows["embedding"].dtype, list(rows["embedding_error"])
    ((2, 384), dtype('float16'), [None, "row 1 of column 'text': no text, but None"])
    >>> batch.width
    384
    >>> worker = EmbedBatch("minilm", dtype="float16", expect=batch.fingerprint())
    >>> worker({"text": ["a cat"]})["embedding"].shape
    (1, 384)
    """

    def __init__(
        self, model: str | Path = "minilm", column: str = "text", into: str = "embedding", *, threads: int | None = 1,
        memory_budget: int | str | None = None, prompt_name: str | None = None, prefix: str | None = None,
        truncate: bool = False, dtype: str = "float32", on_error: str = "raise",
        expect: Mapping[str, Any] | str | None = None, allow_mixed: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        if isinstance(model, Embedder):
            raise RequestError("EmbedBatch takes the model's path or name: each process loads it", hint="e.info.path")
        if dtype not in DTYPES:
            raise RequestError(f"dtype {dtype!r}", hint=f"one of {', '.join(DTYPES)}")
        if on_error not in ("raise", "column"):
            raise RequestError(f"on_error {on_error!r}", hint="raise or column")
        if column in (into, into + "_error"):
            message = f"column {column!r} has the texts: vectors in {into!r} would be written over them"
            raise RequestError(message, hint="another name for `into` (--into)")
        if allow_mixed and not isinstance(expect, Mapping):
            raise RequestError("allow_mixed: of what is expected?", hint="expect=the record that `fingerprint` gives")
        self.model, self.column, self.into = str(model), column, into
        self.prompt_name, self.prefix, self.truncate = prompt_name, prefix, truncate
        self.dtype, self.on_error, self.allow_mixed = dtype, on_error, allow_mixed
        self.expect = dict(expect) if isinstance(expect, Mapping) else expect
        self.embed = {name: options.pop(name) for name in EMBED if name in options}
        self.load = options | {"threads": threads, "memory_budget": memory_budget}
        self._ready: Ready | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": None}  # each process loads its own

    def __call__(self, batch: Any) -> Any:
        """The rows with their vectors.

        Raises RequestError where a text cannot be embedded, ModelError where its vector is not finite, both with its
        row, unless on_error is "column"; RequestError where `column` is absent, or a column to be added is there.
        """
        return self.embed_rows(batch, lambda i: f"row {i} of column {self.column!r}")

    def embed_rows(self, batch: Any, where: Callable[[int], str]) -> Any:
        """The same; where: names a row in an error, by its number in the batch."""
        texts = texts_of(batch, self.column)
        check_new(names_of(batch), self.added)
        found, errors = self.vectors(self.ready(), texts, where)
        columns: dict[str, Any] = {self.into: found}
        if self.on_error == "column":
            columns[self.into + "_error"] = errors
        return with_columns(batch, columns)

    @property
    def added(self) -> tuple[str, ...]:
        """Columns that the rows get: that of the vectors, and with on_error="column" that of the reasons.

        >>> EmbedBatch("model.gguf", into="vector", on_error="column").added
        ('vector', 'vector_error')
        """
        return (self.into, self.into + "_error") if self.on_error == "column" else (self.into,)

    @property
    def width(self) -> int:
        """Numbers of a vector; loads the model."""
        return self.ready().width

    def fingerprint(self) -> Record:
        """All that decides about a vector's bits here, for `expect` elsewhere: model, numerics, options, processor."""
        return self.ready().record

    def ready(self) -> Ready:
        """The model, loaded and compared with what is expected. RequestError where it is another."""
        if self._ready is None:
            load = dict(self.load)
            if load["memory_budget"] is None and load.get("numerics") != "ggml":
                load["memory_budget"] = share_of_memory(load["threads"])
            embedder = models.get(self.model, load)
            ready = Ready(embedder, self)
            self.compare(ready.record)
            self._ready = ready
        if (threads := self.load["threads"]) is not None:
            use(threads)  # another model may have set another number since
        return self._ready

    def compare(self, record: Record) -> None:
        """Refuse to compute what may have other bits than expected."""
        expect = self.expect
        if expect is None:
            return
        if isinstance(expect, str):
            if digest(record).hex() != expect:
                hint = "expect=the record that `fingerprint` gives says what it is"
                raise RequestError(
                    f"another model, processor or version than expected: {digest(record).hex()}", hint=hint
                )
            return
        lines = differences(expect, record)
        if not lines:
            return
        host = f"process {os.getpid()} on {os.uname().nodename}" if hasattr(os, "uname") else f"process {os.getpid()}"
        message = f"{host} would compute other vectors than where the job began: {'; '.join(lines)}"
        if not self.allow_mixed or any(expect.get(name) != record[name] for name in record if name not in MIXED):
            raise RequestError(message, hint="allow_mixed=True lets processors and library versions differ")
        log.warning("%s", message)

    def vectors(self, ready: Ready, texts: list[Any], where: Callable[[int], str]) -> tuple[Vectors, list[str | None]]:
        """Vectors of all texts, and why those have none that have none."""
        errors: list[str | None] = [None] * len(texts)
        ids: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            try:
                ids[i] = self.ids_of(ready, text, where(i))
            except RefembedError as e:
                errors[i] = self.refused(e)
        x = np.full((len(texts), ready.width), np.nan, np.float32)
        try:
            found: list[F32] = ready.embedder.vectors(list(ids.values()), *ready.options)
            for i, vector in zip(ids, found, strict=True):
                x[i] = vector
        except ModelError:  # of which row?
            for i, tokens in ids.items():
                try:
                    x[i] = ready.embedder.vectors([tokens], *ready.options)[0]
                except ModelError as e:
                    errors[i] = self.refused(ModelError(f"{where(i)}: {e.message}", hint=e.hint))
        with np.errstate(over="ignore"):
            rounded = x.astype(self.dtype, copy=False)
        for i in np.flatnonzero(np.isinf(rounded).any(axis=1)).tolist():
            what = f"{where(i)}: a number of its vector, {np.abs(x[i]).max():.6g}, is too large for {self.dtype}"
            errors[i] = self.refused(RequestError(what, hint='normalize=2, or dtype="float32"'))
            rounded[i] = np.nan
        return Vectors(rounded, np.array([e is None for e in errors], bool)), errors

    def refused(self, error: RefembedError) -> str:
        """What is said of a row in its column; raises the error where it fails the batch."""
        if self.on_error == "raise":
            raise error
        return error.message

    def ids_of(self, ready: Ready, text: Any, where: str) -> list[int]:
        """Token ids of one row, its prompt in front."""
        if not isinstance(text, (str, bytes)):
            raise RequestError(f"{where}: no text, but {str(text)[:40]}", hint=GO_ON)
        embedder = ready.embedder
        ids = embedder.tokenize(add(ready.prefix, text))
        return embedder.truncate_or_raise(ids, where, self.truncate, embedder.tokenizer.vocab.is_closed(ids))


class Ready:
    """An EmbedBatch's model in this process, and what it resolves to."""

    def __init__(self, embedder: Embedder, batch: EmbedBatch) -> None:
        self.embedder = embedder
        self.options = embedder.resolve_options(**batch.embed)
        if self.options.pooling == "none":
            raise RequestError(
                "pooling none gives a vector a token, and a row has one", hint="pooling='mean', 'last' ..."
            )
        self.width = self.options.dimensions or embedder.width(self.options.pooling)
        folder = batch.model if Path(batch.model).is_dir() else None
        found = find(embedder.file, folder)
        self.prefix = prefix_for(found, batch.prompt_name, batch.prefix, batch.model)
        said = {"prefix": self.prefix, "truncate": batch.truncate, "dtype": batch.dtype}
        self.record = describe(embedder, **batch.embed) | said


def share_of_memory(threads: int | None) -> int:
    """A quarter of the machine's memory, divided among the processes that its cores have room for."""
    from refembed.kernels.quant.row_blocks import comfortable
    from refembed.kernels.threads import available

    return comfortable() // max(available() // threads, 1) if threads else comfortable()
