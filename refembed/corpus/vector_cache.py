"""Vectors that were computed before: `Cache` keeps them in an SQLite file, a hit has the bits of computing.

key    = BLAKE2b(digest of `fingerprint.describe`, token ids): model files, adapters, numerics, options, versions, text
vector = raw little-endian float32, with a CRC-32 of key and bytes

Token ids stand for the text: they are what the model sees, cut where the text was too long.

Any number of processes may use one file at once (SQLite's write-ahead log); a process that is killed loses at most the
vectors it had not stored yet. What was not used for longest goes first when the limit is reached. A file that is
damaged, or of another program, is an error and stays as it is; a single damaged vector is computed anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.corpus.fingerprint import Record, describe, digest
from refembed.embedder import BATCH_TOKENS, Embedder
from refembed.errors import RequestError
from refembed.hub.cache import cache_folder
from refembed.pipeline.batches import pack_batches, take_batch
from refembed.pipeline.inputs import Input, input_list

APPLICATION = 0x72666276  # "rfbv" in the file's head: whose file it is
VERSION = 1  # of the tables
LIMIT = 1 << 30  # bytes
KEEP = 0.9  # share of the limit that is left when the oldest are removed
LOCK_TIMEOUT = 30.0  # seconds to wait for another process
CLOSING_SECONDS = 0.5  # seconds to wait for another process when only the order of removal is to be written
ASKED = 400  # keys a query asks for

PAGE_SIZE = 16384  # bytes: a vector of 384 or 1024 numbers fills such pages well

TABLES = f"""
CREATE TABLE vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL, crc INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE INDEX by_use ON vectors (used);
CREATE TABLE clock (now INTEGER NOT NULL);
INSERT INTO clock VALUES (0);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds."""

    path: Path
    vectors: int
    bytes: int  # that they take in the file, keys and all
    limit: int
    file_size: int  # of the file and its log


def default_path() -> Path:
    """`vectors.sqlite` in the folder where models are kept."""
    return cache_folder() / "vectors.sqlite"


class Cache:
    """A file of vectors.

        with Cache("vectors.sqlite", limit=1 << 30) as cache:
            cache.embed(embedder, ["a text", "another"], pooling="mean")

    path   None: `default_path()`. The file is made where there is none, and its folder
    limit  bytes; the file grows little beyond it
    say    given each problem that does not stop the work (a full disk, a damaged vector), once; None: a warning
    Raises RequestError where the file is not a cache, is damaged, or cannot be opened.

    >>> from refembed import Embedder
    >>> e = Embedder.load("minilm")
    >>> with Cache("vectors.sqlite", limit=1 << 30) as cache:
    ...     first = cache.embed(e, ["a cat", "a dog"])  # computed
    ...     second = [vector for vector in cache.embed_iter(e, ["a dog", "a cat"])]  # read
    ...     print(cache.hits, cache.misses, cache.info().vectors, cache.check(), cache.prune(), cache.clear())
    2 2 2 [] 0 2
    >>> bool((first[1] == second[0]).all()), cache.close()  # the same bits; closing twice does nothing
    (True, None)
    """

    def __init__(
        self, path: str | Path | None = None, *, limit: int = LIMIT, say: Callable[[str], None] | None = None
    ) -> None:
        if limit < 1:
            raise RequestError(f"cache: a limit of {limit} bytes")
        self.path, self.limit = default_path() if path is None else Path(path), limit
        self.say = say or (lambda message: warnings.warn(message, stacklevel=3))
        self.hits = self.misses = 0  # texts, since it was opened
        self.used: set[bytes] = set()  # keys that were hits, not written down yet
        self.reports: set[str] = set()
        self.writable = True  # False once a vector could not be stored
        with self.reported():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.db = connect(self.path)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write down what was used, and close the file."""
        with contextlib.suppress(RequestError, sqlite3.Error):  # only the order of removal is at stake
            if self.used and self.writable:
                self.db.execute(f"PRAGMA busy_timeout = {int(CLOSING_SECONDS * 1000)}")
                self.store({})
        self.db.close()

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Turn SQLite's errors into one that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as e:
            raise problem(self.path, e) from None

    def embed(self, embedder: Embedder, texts: Any, **options: Any) -> Any:
        """What `embedder.embed(texts, **options)` gives, bit for bit; only what is not in the file is computed.

        Raises RequestError also where bits depend on the other texts of the batch (`ggml` with n_ubatch).
        """
        inputs, alone = input_list(texts)
        truncate = options.pop("truncate", False)
        record = describe(embedder, **options)
        ids = [embedder.ids_of(text, i, truncate) for i, text in enumerate(inputs)]
        vectors = self.vectors(embedder, ids, record)
        return vectors[0] if alone else embedder.stack(vectors, record["pooling"], record["dimensions"])

    def embed_iter(
        self, embedder: Embedder, texts: Iterable[Input], *, batch_tokens: int = BATCH_TOKENS, **options: Any
    ) -> Iterator[F32]:
        """As `embedder.embed_iter`: texts that arrive one by one, some `batch_tokens` worth at a time."""
        truncate = options.pop("truncate", False)
        record = describe(embedder, **options)
        stream = (embedder.ids_of(text, i, truncate) for i, text in enumerate(texts))
        while ids := take_batch(stream, batch_tokens):
            yield from self.vectors(embedder, ids, record)

    def vectors(self, embedder: Embedder, ids: Sequence[Sequence[int]], record: Record) -> list[F32]:
        """Vectors of token ids, each (D), or (T, D) where nothing is pooled; record: `fingerprint.describe`."""
        how = record["pooling"]
        width = record["dimensions"] or embedder.width(how)
        shape = (-1, width) if how == "none" else (width,)
        context = digest(record)
        keys = [key_of(context, i) for i in ids]
        found = self.find(set(keys), [len(i) * width for i in ids] if how == "none" else [width] * len(ids), keys)
        missing = {key: i for key, i in zip(keys, ids, strict=True) if key not in found}
        self.hits += sum(key in found for key in keys)
        self.misses += sum(key not in found for key in keys)
        lists = list(missing.values())
        for batch in pack_batches(map(len, lists), BATCH_TOKENS):  # stored as they come: a killed run keeps those
            part = embedder.vectors([lists[i] for i in batch], how, record["normalize"], record["dimensions"])
            made = dict(zip([list(missing)[i] for i in batch], part, strict=True))
            found |= made
            self.keep(made)
        return [np.asarray(found[key]).reshape(shape).copy() for key in keys]

    def find(self, wanted: set[bytes], sizes: Sequence[int], keys: Sequence[bytes]) -> dict[bytes, F32]:
        """Those of the keys that are in the file, as flat vectors; sizes: how many numbers each of `keys` has."""
        found: dict[bytes, F32] = {}
        size_of = dict(zip(keys, sizes, strict=True))
        asked = sorted(wanted)
        with self.reported():
            for begin in range(0, len(asked), ASKED):
                page = asked[begin : begin + ASKED]
                marks = ",".join("?" * len(page))
                for key, raw, crc in self.db.execute(
                    f"SELECT key, vector, crc FROM vectors WHERE key IN ({marks})", page
                ):
                    sound = key in size_of and whole(key, raw, crc, 4 * size_of[key])
                    vector = np.frombuffer(raw if sound else b"", "<f4").astype(np.float32, copy=False)
                    if not sound or not np.isfinite(vector).all():
                        self.report(f"cache {self.path}: a damaged vector; it is computed anew")
                        continue
                    found[key] = vector
        self.used |= found.keys()
        return found

    def keep(self, made: dict[bytes, F32]) -> None:
        """Store vectors, if that is possible; it is no error if not."""
        if not self.writable:
            return
        try:
            self.store(made)
        except RequestError as e:
            self.writable = False
            self.report(f"{str(e).splitlines()[0]}; going on without storing")

    def store(self, made: dict[bytes, F32]) -> None:
        """Write vectors and what was used in one transaction; make room. RequestError where that fails."""
        rows = []
        for key, vector in made.items():
            raw = np.ascontiguousarray(vector, "<f4").tobytes()
            rows.append((key, raw, zlib.crc32(raw, zlib.crc32(key))))
        with self.reported(), transaction(self.db):
            self.db.execute("UPDATE clock SET now = now + 1")
            now = max(*self.db.execute("SELECT now FROM clock").fetchone() or (0,), 0)
            self.db.executemany("UPDATE vectors SET used = ? WHERE key = ?", [(now, key) for key in self.used])
            self.db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", [(*row, now) for row in rows])
            if taken(self.db) > self.limit:
                remove_oldest(self.db, int(self.limit * KEEP))
        self.used.clear()

    def prune(self, limit: int | None = None) -> int:
        """Remove what was not used for longest until at most `limit` bytes are left; returns how many vectors went.

        limit  None: the cache's own. The file shrinks.
        """
        with self.reported():
            with transaction(self.db):
                before = count(self.db)
                remove_oldest(self.db, self.limit if limit is None else limit)
                gone = before - count(self.db)
            self.db.execute("VACUUM")
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def clear(self) -> int:
        """Remove every vector; returns how many there were."""
        return self.prune(0)

    def info(self) -> CacheInfo:
        """What is in it."""
        with self.reported():
            files = [self.path, self.path.with_name(self.path.name + "-wal")]
            size = sum(p.stat().st_size for p in files if p.exists())
            return CacheInfo(self.path, count(self.db), taken(self.db), self.limit, size)

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file, reading all of it; nothing where it is sound."""
        with self.reported():
            found = [row[0].decode(errors="replace") for row in self.db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def report(self, message: str) -> None:
        """Say a problem once."""
        if message not in self.reports:
            self.reports.add(message)
            self.say(message)


def key_of(context: bytes, ids: Sequence[int]) -> bytes:
    """20 bytes that stand for one text under one record (`fingerprint.digest`)."""
    return hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=20, key=context).digest()


def whole(key: bytes, raw: object, crc: object, size: int) -> bool:
    """Whether a vector is what was stored under the key."""
    return isinstance(raw, bytes) and len(raw) == size and zlib.crc32(raw, zlib.crc32(key)) == crc


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, or make it. sqlite3.Error or RequestError where it is no cache."""
    db = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None)
    db.text_factory = bytes  # there is no text in it, but damage may look like some
    try:
        db.execute(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT * 1000)}")
        check_owner(db, path)
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")  # of a file that is still to be made
        patiently(lambda: db.execute("PRAGMA journal_mode = WAL"))
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last vectors, never the file
        if not owner(db):
            with transaction(db):
                if not owner(db):  # nor did another process make it meanwhile
                    for statement in split(TABLES):
                        db.execute(statement)
        db.execute("SELECT key, used FROM vectors LIMIT 1").fetchone()  # whether the tables are there
    except BaseException:
        db.close()
        raise
    return db


def patiently(do: Callable[[], object]) -> None:
    """Do it again while another process is in the way: SQLite does not wait for changes of the journal's mode."""
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            do()
            return
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def check_owner(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database of another program, or of a later refembed."""
    empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    theirs = owner(db)  # second: a process that creates the file meanwhile creates the tables and this number at once
    if theirs != APPLICATION and not (empty and theirs == 0):
        raise RequestError(f"{path}: a database, but not a cache of refembed", hint="give another file")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if theirs == APPLICATION and version != VERSION:
        raise RequestError(f"{path}: a cache of version {version}, not {VERSION}", hint="give another file")


def owner(db: sqlite3.Connection) -> int:
    """The number in the file's head that says whose it is; 0 in a new file."""
    return int(db.execute("PRAGMA application_id").fetchone()[0])


def split(script: str) -> Iterator[str]:
    """The statements of a script."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; other writers wait."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def taken(db: sqlite3.Connection) -> int:
    """Bytes of the file's pages that are in use."""
    pages, free = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    return int((pages - free) * db.execute("PRAGMA page_size").fetchone()[0])


def count(db: sqlite3.Connection) -> int:
    """How many vectors there are."""
    return int(db.execute("SELECT count(*) FROM vectors").fetchone()[0])


def remove_oldest(db: sqlite3.Connection, limit: int) -> None:
    """Remove what was not used for longest until `limit` bytes are taken, or nothing is left."""
    while (now := taken(db)) > limit and (n := count(db)):
        surplus = -(-n * (now - limit) // now)  # as many as that are on average
        oldest = "SELECT rowid FROM vectors ORDER BY used, rowid LIMIT ?"
        db.execute(f"DELETE FROM vectors WHERE rowid IN ({oldest})", (surplus,))


def problem(path: Path, e: sqlite3.Error | OSError | UnicodeDecodeError) -> RequestError:
    """What went wrong, and what to do."""
    # damaged names in SQLite's own message cannot be decoded
    message = "malformed" if isinstance(e, UnicodeDecodeError) else str(e)
    if isinstance(e, OSError):
        return RequestError(f"cache {path}: {e.strerror or e}")
    if isinstance(e, sqlite3.ProgrammingError):  # closed, or another thread's
        hint = "one thread may use it, the one that opened it, until it is closed; open the file once more"
        return RequestError(f"cache {path}: {message}", hint=hint)
    if "not a database" in message:
        return RequestError(f"{path}: not a cache of refembed; it is left as it is", hint="give another file")
    if "locked" in message:
        return RequestError(f"cache {path}: another process has held it for {LOCK_TIMEOUT:.0f} s", hint="try again")
    if "full" in message or "disk I/O" in message:
        return RequestError(f"cache {path}: cannot be written: {message}", hint="is the disk full?")
    if "unable to open" in message or "readonly" in message:
        return RequestError(f"cache {path}: {message}", hint="a file in a folder that can be written to")
    hint = f"delete it, with {path.name}-wal and {path.name}-shm: every vector can be computed anew"
    return RequestError(f"cache {path}: damaged: {message}", hint=hint)
