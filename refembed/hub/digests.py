"""SHA-256 of model files.

Each is hashed once: `sha256.json` in the model cache remembers it by its path, size, times and inode.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from refembed.atomic_write import replacing
from refembed.errors import RequestError
from refembed.gguf.digest import sha256_of
from refembed.hub.cache import cache_folder
from refembed.parse_json import parse_object

SETTLED = 2.0  # seconds after which a file's time of change differs from that of a later change
MAX_FILES_CACHED = 500  # files


def digests_of(paths: Iterable[Path]) -> list[str]:
    """SHA-256 of each file, in hexadecimal; a file that has not changed since it was last hashed is not read.

    All shards of a split model are `Embedder.file.paths`. Raises RequestError where a file cannot be read.
    """
    notes, changed, digests = read_notes(), False, []
    for path in paths:
        place = str(path.resolve())
        try:
            identity = identity_of(path)
            note = notes.get(place)
            if not (isinstance(note, list) and note[:1] == [identity] and is_sha256(note[-1])):
                note = [identity, sha256_of([path])]
                if time.time() - max(identity[1:3]) / 1e9 > SETTLED and identity_of(path) == identity:
                    notes.pop(place, None)
                    notes[place], changed = note, True
        except OSError as e:
            raise RequestError(f"{path}: {e.strerror or e}") from None
        digests.append(note[-1])
    if changed:
        write_notes(dict(list(notes.items())[-MAX_FILES_CACHED:]))
    return digests


def is_sha256(value: Any) -> bool:
    """Whether this is a hash as `sha256_of` writes it."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def identity_of(path: Path) -> list[int]:
    """Size, time of change of the content and of the entry (ns), inode, device."""
    s = path.stat()
    return [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev]


def notes_path() -> Path:
    """Where hashes are cached."""
    return cache_folder() / "sha256.json"


def read_notes() -> dict[str, Any]:
    """Path -> [identity, SHA-256]; nothing where the notes are absent or damaged."""
    try:
        return parse_object(notes_path().read_bytes())
    except (OSError, ValueError):
        return {}


def write_notes(notes: Mapping[str, Any]) -> None:
    """Replace the notes in one step. Where nothing can be written, files are hashed anew next time."""
    with contextlib.suppress(OSError):
        notes_path().parent.mkdir(parents=True, exist_ok=True)
        with replacing(notes_path()) as out:
            out.write(json.dumps(notes).encode())
