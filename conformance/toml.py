"""The TOML of this folder: read with the standard library (or its backport), written in whole and at once."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from refembed.errors import RequestError

if sys.version_info >= (3, 11):
    import tomllib
else:  # Python 3.10 has no TOML reader
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as e:
        raise RequestError(f"{path}: {e}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that half of it is never seen."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as out:
        try:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
            Path(out.name).chmod(0o644)
            Path(out.name).replace(path)
        except BaseException:
            Path(out.name).unlink(missing_ok=True)
            raise
