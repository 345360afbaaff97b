"""A corpus to vectors in a file: .parquet, .npy or .jsonl, in constant memory, resumable after a kill.

texts ─► vectors ─► FILE.part (journal.py: a checked record a text) ─► FILE, written at the end, moved there in one step

A run that is killed at any moment leaves FILE.part, and the next one goes on behind its last whole record. FILE is a
function of the records alone: after any number of kills it is, byte for byte, what an undisturbed run writes. While it
is being written both are on the disk.

    .parquet   columns index, id, text, tokens, embedding; how it was made is in the schema's metadata, `refembed`
    .npy       float32 (S, D); how it was made is in FILE.meta.json
    .jsonl     a line a text: index, id, text, tokens, embedding; FILE.meta.json likewise
"""

from __future__ import annotations

import importlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from refembed.atomic_write import replacing
from refembed.corpus.fingerprint import Record, describe
from refembed.corpus.journal import Journal, Row, digest_of
from refembed.embedder import BATCH_TOKENS, Embedder
from refembed.errors import RequestError
from refembed.hub.prompts import add
from refembed.pipeline.batches import take_batch
from refembed.tokenizer.base import as_bytes

if TYPE_CHECKING:
    from refembed.corpus.vector_cache import Cache

SUFFIXES = (".parquet", ".npy", ".jsonl")
FIRST_TOKENS = 256  # computed before the first write
FLUSH_SECONDS = 0.5  # between two writes
GROUP = 32 << 20  # bytes of vectors in a row group of Parquet


@dataclass(frozen=True)
class Corpus:
    """What was written."""

    path: Path
    count: int  # texts
    resumed: int  # of them, how many an earlier run had embedded
    cut: int  # of those embedded now, how many were too long
    dimension: int
    run: Record  # how it was made


def embed_corpus(
    embedder: Embedder,
    texts: Iterable[str | bytes],
    path: str | Path,
    *,
    keys: Iterable[str] | None = None,
    keep_text: bool = True,
    resume: bool = False,
    prefix: str = "",
    truncate: bool = False,
    cache: Cache | None = None,
    batch_tokens: int = BATCH_TOKENS,
    where: Callable[[int], str] = "input {}".format,
    advance: Callable[[], object] = lambda: None,
    **options: Any,
) -> Corpus:
    """Embed texts into a file.

    path       ends in .parquet, .npy or .jsonl; an older file is replaced when all is done
    keys       one for each text, the column `id`; .npy has no place for them
    keep_text  the column `text`; .npy never has it
    resume     go on behind what an interrupted run of the same texts, model and options left in FILE.part; without
               it, such a file is an error
    prefix     goes before each text (`refembed.hub.prompts`); the column `text` is without it
    truncate, pooling, normalize, dimensions  as Embedder.embed takes them; pooling none has no row a text
    cache      take vectors from it, and put those that are not in it there
    where      names text `index` in an error
    advance    called for each text that is done, also for those of an earlier run
    Raises RequestError for texts that cannot be taken, where nothing can be written, where FILE.part is of another
    run, where pyarrow is not installed; what was embedded by then stays in FILE.part.

    >>> from refembed import Embedder
    >>> corpus = embed_corpus(Embedder.load("minilm"), ["a cat", "a dog"], "vectors.npy")
    >>> corpus.count, np.load("vectors.npy").shape
    (2, (2, 384))
    """
    path, record = Path(path), describe(embedder, **options)
    check(path, record, keys is not None)
    keep_text = keep_text and path.suffix.lower() != ".npy"
    run = record | {"prefix": prefix, "truncate": truncate, "keys": keys is not None, "text": keep_text}
    resolved = record["pooling"], record["normalize"], record["dimensions"]
    width, cut = record["dimensions"] or embedder.width(record["pooling"]), 0
    with Journal(path.with_name(path.name + ".part"), run, width, resume=resume) as journal:
        resumed, pairs = journal.count, pair(texts, keys, where)
        for i, row in enumerate(journal.rows()):
            check_same(row, next(pairs, None), where(i), journal)
            advance()
        numbered, pace = enumerate(pairs, start=resumed), Pace(embedder, batch_tokens)
        stream = ((i, text, key, embedder.tokenize(add(prefix, text))) for i, (text, key) in numbered)
        while batch := take_batch(stream, pace.tokens, lambda item: len(item[-1])):
            lists = [truncated(embedder, ids, where(i), truncate) for i, _, _, ids in batch]
            cut += sum(len(short) < len(item[-1]) for short, item in zip(lists, batch, strict=True))
            made = cache.vectors(embedder, lists, record) if cache else embedder.vectors(lists, *resolved)
            for (_, text, key, _), ids, vector in zip(batch, lists, made, strict=True):
                kept = text if keep_text else None
                journal.append(Row(digest_of(text, key), len(ids), key, kept, vector))
            journal.flush()
            pace.done()
            for _ in batch:
                advance()
        corpus = Corpus(path, journal.count, resumed, cut, width, run)
        write(journal, corpus)
        journal.remove()
        return corpus


def truncated(embedder: Embedder, ids: list[int], what: str, truncate: bool) -> list[int]:
    """The token ids of a text, cut where they are too many and that is asked for; what: the text, for errors."""
    return embedder.truncate_or_raise(ids, what, truncate, keep_last=embedder.tokenizer.vocab.is_closed(ids))


class Pace:
    """How many tokens to compute between two writes: few at first, then what takes about `FLUSH_SECONDS`.

    A run that is killed again and again, each time soon after it began, still gets on. Where a text's bits depend on
    its batch (`ggml` with n_ubatch), all batches have `most` tokens.
    """

    def __init__(self, embedder: Embedder, most: int) -> None:
        steady = embedder.ops.name == "ggml" and embedder.batch_tokens > 0
        self.most, self.least = most, most if steady else min(FIRST_TOKENS, most)
        self.tokens, self.last = self.least, time.monotonic()

    def done(self) -> None:
        """A batch is written: the next may be twice as large, or must be smaller."""
        now = time.monotonic()
        factor = FLUSH_SECONDS / max(now - self.last, 1e-3)
        self.tokens = max(min(int(self.tokens * min(max(factor, 0.5), 2.0)), self.most), self.least)
        self.last = now


def check(path: Path, record: Record, keys: bool) -> None:
    """Refuse what cannot be written before any work is done."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(f"{path}: not a format of a corpus", hint=f"a name that ends in {', '.join(SUFFIXES)}")
    if record["pooling"] == "none":
        raise RequestError("a corpus has one row a text, and pooling none gives one a token", hint="--pooling mean")
    if keys and suffix == ".npy":
        raise RequestError(f"{path}: .npy has no place for keys", hint=".parquet or .jsonl; its rows are in order")
    if suffix == ".parquet":
        load_pyarrow()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RequestError(f"{path}: {'a folder' if path.is_dir() else 'its folder does not exist'}")


def pair(
    texts: Iterable[str | bytes], keys: Iterable[str] | None, where: Callable[[int], str]
) -> Iterator[tuple[bytes, bytes]]:
    """Each text with its key, empty where there are none. RequestError where there are not as many keys as texts."""
    rest = iter(keys) if keys is not None else itertools.repeat("")
    n = 0
    for text in texts:
        key = next(rest, None)
        if key is None:
            raise RequestError(f"{where(n)}: there is no key for it; there are {n} keys", hint="one key a text")
        yield as_bytes(text), as_bytes(key)
        n += 1
    if keys is not None and next(rest, None) is not None:
        raise RequestError(f"there are {n} texts, but more keys", hint="one key a text")


def check_same(row: Row, found: tuple[bytes, bytes] | None, where: str, journal: Journal) -> None:
    """Refuse to go on behind texts that were others."""
    if found is None:
        message = f"{journal.path}: holds {journal.count} texts, but now there are fewer"
    elif digest_of(*found) != row.digest:
        message = f"{where}: not the text that {journal.path} has there, or not its key"
    else:
        return
    raise RequestError(message, hint=f"give the same texts, or delete {journal.path} to start anew")


def write(journal: Journal, corpus: Corpus) -> None:
    """Write the file from the journal, and move it to its place. RequestError where that fails."""
    path, suffix = corpus.path, corpus.path.suffix.lower()
    description = {"count": corpus.count, "dimension": corpus.dimension, "run": corpus.run}
    meta = json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False).encode()
    try:
        with replacing(path, temporary=f".{path.name}.refembed") as out:
            if suffix == ".parquet":
                write_parquet(out, journal, corpus, meta)
            elif suffix == ".npy":
                write_npy(out, journal, corpus)
            else:
                write_jsonl(out, journal)
        if suffix != ".parquet":
            meta_path = path.with_name(path.name + ".meta.json")
            with replacing(meta_path, temporary=f".{meta_path.name}.refembed") as out:
                out.write(meta + b"\n")
    except OSError as e:
        hint = f"make room, or a place; {journal.path} keeps the {corpus.count} vectors, and --resume writes them"
        raise RequestError(f"{path}: cannot be written: {e.strerror or e}", hint=hint) from None


def write_npy(out: BinaryIO, journal: Journal, corpus: Corpus) -> None:
    """NumPy's format 1.0: a head, then the rows."""
    shape = (corpus.count, corpus.dimension)
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for row in journal.rows():
        out.write(row.vector.tobytes())


def write_jsonl(out: BinaryIO, journal: Journal) -> None:
    """As `refembed embed --format jsonl` writes it: numbers in the fewest digits that read back to the same float32."""
    for i, row in enumerate(journal.rows()):
        line: dict[str, Any] = {"index": i}
        line |= {"id": row.key.decode("utf-8", "replace")} if journal.run["keys"] else {}
        line |= {} if row.text is None else {"text": row.text.decode("utf-8", "replace")}
        line["tokens"] = row.tokens
        numbers = ",".join(row.vector.astype(str).tolist())
        out.write(f'{json.dumps(line, ensure_ascii=False)[:-1]}, "embedding": [{numbers}]}}\n'.encode())


def load_pyarrow() -> Any:
    """The library, or a RequestError that says how to get it."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise RequestError(".parquet needs pyarrow", hint="pip install pyarrow (refembed's extra `parquet`)") from None


def write_parquet(out: BinaryIO, journal: Journal, corpus: Corpus, meta: bytes) -> None:
    """Columns as the head of this file lists them; `embedding` is a fixed_size_list<float>[D]."""
    pa, D = load_pyarrow(), corpus.dimension
    fields = [pa.field("index", pa.int64(), False)]
    fields += [pa.field("id", pa.string(), False)] if journal.run["keys"] else []
    fields += [pa.field("text", pa.string(), False)] if journal.run["text"] else []
    fields += [pa.field("tokens", pa.int32(), False), pa.field("embedding", pa.list_(pa.float32(), D), False)]
    schema = pa.schema(fields, metadata={b"refembed": meta})
    rows, at_once = journal.rows(), max(1, GROUP // (4 * D))
    with pa.parquet.ParquetWriter(out, schema, compression="zstd", use_dictionary=False) as writer:
        begin = 0
        while group := list(itertools.islice(rows, at_once)):
            columns = [pa.array(range(begin, begin + len(group)), pa.int64())]
            if journal.run["keys"]:
                columns.append(pa.array([r.key.decode("utf-8", "replace") for r in group], pa.string()))
            if journal.run["text"]:
                columns.append(pa.array([(r.text or b"").decode("utf-8", "replace") for r in group], pa.string()))
            columns.append(pa.array([r.tokens for r in group], pa.int32()))
            numbers = pa.array(np.concatenate([r.vector for r in group]), pa.float32())
            columns.append(pa.FixedSizeListArray.from_arrays(numbers, D))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            begin += len(group)
