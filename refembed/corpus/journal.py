"""A file of checked records that only grows: a process that is killed while writing it leaves whole ones and a torn
end.

"rfembed1", then records: length (u32), CRC-32 of the payload (u32), payload; all little-endian
first payload   JSON: of what run these are
other payloads  `Row`: BLAKE2b of text and key (16), tokens (u32), length of key (u32), length of text (u32;
                2^32-1: not kept), key, text, the vector's float32 numbers
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from refembed.arrays import F32
from refembed.atomic_write import append_whole
from refembed.corpus.fingerprint import Record, differences
from refembed.errors import RequestError
from refembed.hub.cache import try_lock
from refembed.parse_json import parse_object

MAGIC = b"rfembed1"
HEAD = struct.Struct("<II")  # length, CRC-32
ROW = struct.Struct("<16sIII")  # digest, tokens, lengths of key and text
NO_TEXT = 0xFFFFFFFF
MAX_PAYLOAD_BYTES = 1 << 30  # bytes of a payload; more is damage
BUFFER = 1 << 20
WINDOWS = sys.platform == "win32"  # a locked byte cannot be read there, an open file not be removed


@dataclass(frozen=True)
class Row:
    """One text and its vector."""

    digest: bytes  # `digest_of` text and key
    tokens: int
    key: bytes  # UTF-8; empty where the corpus has no keys
    text: bytes | None  # None: not kept
    vector: F32  # (D)

    def pack(self) -> bytes:
        """The payload."""
        text, length = (b"", NO_TEXT) if self.text is None else (self.text, len(self.text))
        head = ROW.pack(self.digest, self.tokens, len(self.key), length)
        return head + self.key + text + np.ascontiguousarray(self.vector, "<f4").tobytes()

    @classmethod
    def unpack(cls, payload: bytes) -> Row:
        """The way back. ValueError where the payload is not a row."""
        if len(payload) < ROW.size:
            raise ValueError(f"{len(payload)} bytes are no row")
        digest, tokens, n_key, n_text = ROW.unpack_from(payload)
        begin = ROW.size + n_key
        end = begin + (0 if n_text == NO_TEXT else n_text)
        if end > len(payload) or (len(payload) - end) % 4:
            raise ValueError(f"a key of {n_key} bytes and a text of {end - begin} do not fit {len(payload)} bytes")
        text = None if n_text == NO_TEXT else payload[begin:end]
        return cls(digest, tokens, payload[ROW.size : begin], text, np.frombuffer(payload, "<f4", offset=end))


def digest_of(text: bytes, key: bytes) -> bytes:
    """16 bytes that stand for a text and its key."""
    return hashlib.blake2b(text, digest_size=16, salt=hashlib.sha256(key).digest()[:16]).digest()


class Journal:
    """A journal, open for more.

    path    of the journal
    run     of what run its records are; another one in the file is refused
    width   numbers of each vector
    resume  False: records of an earlier run are an error
    Raises RequestError for these, for a file of another program, and while another process writes it.
    """

    def __init__(self, path: Path, run: Record, width: int, *, resume: bool) -> None:
        self.path, self.run, self.width = path, run, width
        self.count = 0  # rows
        self.waiting: list[bytes] = []
        with self.reported():
            self.file: BinaryIO = path.open("a+b", buffering=0)
            self.lock_path = path.with_name(f"{path.name}.lock") if WINDOWS else path
            self.lock_file = self.lock_path.open("ab") if WINDOWS else self.file
        try:
            with self.reported():
                self.lock()
                self.begin(resume)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self.file.close()
        self.lock_file.close()
        if self.lock_path != self.path:
            with contextlib.suppress(OSError):  # another process has it open
                self.lock_path.unlink()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and close; without any row the file goes."""
        with contextlib.suppress(RequestError):
            self.flush()
        self.close()
        if not self.count:
            self.remove()

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Turn the disk's errors into one that says what is left."""
        try:
            yield
        except OSError as e:
            kept = f"{self.path} keeps the {self.count} texts that are done; --resume goes on behind them"
            hint = f"make room; {kept}" if e.errno in (errno.ENOSPC, errno.EDQUOT) else kept if self.count else ""
            raise RequestError(f"{self.path}: {e.strerror or e}", hint=hint) from None

    def lock(self) -> None:
        """Keep other processes out for as long as the file is open."""
        self.lock_file.seek(0)
        try:
            try_lock(self.lock_file)
        except (BlockingIOError, PermissionError):
            raise RequestError(f"{self.path}: another process is writing it", hint="wait, or end that one") from None
        except OSError:
            pass  # a file system without locks
        if not self.path.exists() or self.path.stat().st_ino != os.fstat(self.file.fileno()).st_ino:
            raise RequestError(f"{self.path}: another process has just finished it", hint="look at what it wrote")

    def begin(self, resume: bool) -> None:
        """Look at what is there: cut a torn end off, or begin where nothing is."""
        size = self.path.stat().st_size
        with self.path.open("rb") as f:
            if not MAGIC.startswith(f.read(len(MAGIC))):
                hint = "it is left as it is: move it away, or give another name"
                raise RequestError(f"{self.path}: not left by refembed", hint=hint)
        payloads = self.payloads()
        first = next(payloads, None)
        if first is None and size > BUFFER:
            raise RequestError(f"{self.path}: damaged at its beginning", hint="delete it to start anew")
        then = self.read_run(first[1]) if first else None
        end = first[0] if first else 0
        for behind, _ in payloads:
            end = behind
            self.count += 1
        if self.count:
            self.check(then or {}, resume)
        if self.count and end < size:  # torn by a kill, or damaged: what follows is done anew
            os.truncate(self.path, end)
        if not self.count:
            self.file.truncate(0)
            self.write(MAGIC + framed(json.dumps(self.run, sort_keys=True).encode()))

    def read_run(self, payload: bytes) -> Record:
        """The first record. RequestError where it is not a run's."""
        try:
            return parse_object(payload)
        except ValueError:
            raise self.damaged("its first record does not say which run it is of") from None

    def damaged(self, what: str) -> RequestError:
        """The error for a file whose records are whole and still not this project's."""
        return RequestError(f"{self.path}: {what}", hint="delete it to start anew")

    def check(self, then: Record, resume: bool) -> None:
        """Refuse to go on with what another run began, or unasked."""
        found = differences(then, self.run)
        if resume and found:
            listed = "; ".join(found)
            hint = f"give the same model and options, or delete {self.path} to start anew"
            raise RequestError(f"{self.path}: begun by a run that differs: {listed}", hint=hint)
        if not resume:
            message = f"{self.path}: an interrupted run left {self.count} texts here"
            raise RequestError(message, hint="--resume goes on behind them; delete the file to start anew")

    def payloads(self) -> Iterator[tuple[int, bytes]]:
        """Each whole payload with the byte behind it, up to the first that is torn or damaged."""
        with self.path.open("rb", buffering=BUFFER) as f:
            if f.read(len(MAGIC)) != MAGIC:
                return
            while len(head := f.read(HEAD.size)) == HEAD.size:
                length, crc = HEAD.unpack(head)
                payload = f.read(length) if length <= MAX_PAYLOAD_BYTES else b""
                if len(payload) != length or zlib.crc32(payload) != crc:
                    return
                yield f.tell(), payload

    def rows(self) -> Iterator[Row]:
        """The rows that are written, in order. RequestError at one whose vector cannot be of this run."""
        payloads = self.payloads()
        next(payloads, None)
        for i, (_, payload) in zip(range(self.count), payloads, strict=False):
            try:
                row = Row.unpack(payload)
            except ValueError as e:
                raise self.damaged(f"text {i}: {e}") from None
            if len(row.vector) != self.width:
                raise self.damaged(f"text {i}: its vector has {len(row.vector)} numbers, not {self.width}")
            if not np.isfinite(row.vector).all():
                raise self.damaged(f"text {i}: its vector is not finite")
            yield row

    def append(self, row: Row) -> None:
        """Add a row; `flush` writes it."""
        self.waiting.append(framed(row.pack()))

    def flush(self) -> None:
        """Write what waits. RequestError where that fails; what was written before stays whole."""
        if self.waiting:
            with self.reported():
                self.write(b"".join(self.waiting))
            self.count += len(self.waiting)
            self.waiting.clear()

    def write(self, data: bytes) -> None:
        """All of it, or nothing."""
        append_whole(self.file, self.path, data)

    def remove(self) -> None:
        if WINDOWS:
            self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def framed(payload: bytes) -> bytes:
    return HEAD.pack(len(payload), zlib.crc32(payload)) + payload
