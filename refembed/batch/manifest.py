"""`_manifest.jsonl` in a folder of vectors: of which run they are, and which parts are written.

first line   {"run": ...}: model, numerics, options, processor (`refembed.corpus.fingerprint`), column, rows of a part
other lines  {"part": "b/c-00000.jsonl", "source": "b/c.jsonl", "size": bytes, "changed": ns, "rows": 9000, "failed": 0}

A line is added when its file is in place, so a part is done, or computed again. A kill may tear the last line. What
reads a folder of Parquet or JSON Lines (Arrow, Spark, `parts.find_sources`) passes over names that begin with _.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from refembed.atomic_write import append_whole
from refembed.batch.embed_batch import MIXED
from refembed.batch.parts import Part, Source
from refembed.corpus.fingerprint import Record, differences
from refembed.corpus.journal import WINDOWS
from refembed.errors import RequestError
from refembed.hub.cache import try_lock
from refembed.parse_json import parse_object

NAME = "_manifest.jsonl"
TEMPORARY = ".*.part"  # what a killed worker leaves (`refembed.atomic_write`)


class Manifest:
    """The folder's manifest, open for more; other jobs are kept out until it is closed.

    folder   for the vectors; made where it is not there
    run      what decides about the vectors
    sources  the files that are read now
    resume   go on behind what an earlier run has written; else that is an error
    mixed    let the processor and the versions of libraries differ from that run's
    Raises RequestError where the folder has something else in it, where that run, or a file that it read, was another,
    and while another job writes into the folder.
    """

    def __init__(
        self, folder: Path, run: Record, sources: Sequence[Source], *, resume: bool, mixed: bool = False
    ) -> None:
        self.folder, self.path, self.run = folder, folder / NAME, run
        self.done: dict[str, dict[str, Any]] = {}  # by the part's name
        self.file: BinaryIO | None = None
        self.lock_path = folder / f"{NAME}.lock" if WINDOWS else self.path
        self.lock_file: BinaryIO | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self.path.exists() and any(folder.iterdir()):
                hint = "give a new folder, or an empty one"
                raise RequestError(f"{folder}: there are files in it, and no {NAME} of an earlier run", hint=hint)
            self.file = self.path.open("a+b", buffering=0)
            self.lock_file = self.lock_path.open("ab") if WINDOWS else self.file
            self.lock(self.lock_file)
            self.begin(self.file, resume, mixed)
            self.check_sources(sources)
            for left in folder.rglob(TEMPORARY):
                left.unlink()
        except OSError as e:
            self.close()
            hint = "is the output a folder that can be written, and is there room?"
            raise RequestError(f"{e.filename or folder}: {e.strerror or e}", hint=hint) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        for file in (self.file, self.lock_file):
            if file is not None:
                file.close()
        if self.lock_path != self.path:
            with contextlib.suppress(OSError):  # another job has it open
                self.lock_path.unlink()

    def lock(self, file: BinaryIO) -> None:
        """Keep other jobs out."""
        file.seek(0)
        try:
            try_lock(file)
        except (BlockingIOError, PermissionError):
            message = f"{self.path}: another job is writing into this folder"
            raise RequestError(message, hint="wait, or end it") from None
        except OSError:
            pass  # a file system without locks

    def begin(self, file: BinaryIO, resume: bool, mixed: bool) -> None:
        """Read what is there, cut a torn end off, or write the first line."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        lines = content[:end].splitlines()
        if content and not content.startswith(b'{"run": '[: len(content)]):
            raise RequestError(f"{self.path}: not written by refembed", hint="it is left as it is: give another folder")
        if len(lines) > 1 and not resume:
            message = f"{self.folder}: an earlier run has written {len(lines) - 1} parts here"
            raise RequestError(message, hint="--resume goes on behind them; another folder begins anew")
        try:
            first, *others = [parse_object(line) for line in lines] or [{"run": {}}]
            then = dict(first["run"])
            self.done = {line["part"]: line for line in others if (self.folder / line["part"]).exists()}
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{self.path}: damaged", hint="another folder begins anew") from None
        if not others:
            file.truncate(0)
            self.write({"run": self.run})
            return
        if changed := differences(*(compared(run, mixed) for run in (then, self.run))):
            hint = "give the same model and options, or another folder"
            raise RequestError(f"{self.path}: begun by a run that differs: {'; '.join(changed)}", hint=hint)
        if end < len(content):
            file.truncate(end)

    def check_sources(self, sources: Sequence[Source]) -> None:
        """Refuse to go on where a file that was embedded is another one now, or not among those that are read."""
        now = {source.name: source for source in sources}
        for name, line in self.done.items():
            source = now.get(line["source"])
            if source is None:
                message = f"{self.folder / name}: its texts are of {line['source']}, which is not among the files now"
                raise RequestError(message, hint="give the same files, or delete it")
            if (source.size, source.changed) != (line["size"], line["changed"]):
                message = f"{source.path}: changed since its texts were embedded"
                hint = f"delete {self.folder / name} and its other parts: they are made anew"
                raise RequestError(message, hint=hint)

    def add(self, part: Part, rows: int, failed: int, **more: Any) -> None:
        """Note that a part is written. RequestError where the disk is full."""
        source = part.source
        line = {"part": part.name, "source": source.name, "size": source.size, "changed": source.changed}
        self.done[part.name] = line | {"rows": rows, "failed": failed} | more
        try:
            self.write(self.done[part.name])
        except OSError as e:
            raise RequestError(f"{self.path}: {e.strerror or e}", hint="--resume goes on") from None

    def write(self, line: dict[str, Any]) -> None:
        """One line, on the disk before this returns; all of it, or nothing."""
        assert self.file is not None
        append_whole(self.file, self.path, json.dumps(line).encode() + b"\n", to_disk=True)


def compared(run: Record, mixed: bool) -> Record:
    """What of a run is compared: with `mixed`, all but the machine."""
    return {name: value for name, value in run.items() if not (mixed and name in MIXED)}
