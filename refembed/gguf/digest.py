"""SHA-256 of files: which file it is, whatever its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def sha256_of(paths: Iterable[Path]) -> str:
    """SHA-256 in hexadecimal of a file, or of all shards of a split model end to end. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
