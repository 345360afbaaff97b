"""Files that appear, or grow, whole or not at all, and archives that are not larger inside than they may be."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import zipfile

FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, or a quota, is full
MOST_TIMES_LARGER = 100  # a member unpacked, to what it is packed; float32 numbers come to 1.1, runs of zeros to 1,000
SMALL_MEMBER = 64 << 20  # bytes of a member that may be packed as tightly as it likes


@contextlib.contextmanager
def opened_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive to read. zipfile.BadZipFile where a member would unpack to many times its size, OSError."""
    import zipfile

    with reading_arrays():
        archive = zipfile.ZipFile(path)
    with archive as z:
        for member in z.infolist():
            if member.file_size > max(SMALL_MEMBER, MOST_TIMES_LARGER * member.compress_size):
                size = f"{member.compress_size} bytes would unpack to {member.file_size}"
                raise zipfile.BadZipFile(f"{member.filename}: {size}, which no array of numbers does")
        yield z


@contextlib.contextmanager
def reading_arrays() -> Iterator[None]:
    """Make a ValueError of whatever NumPy and zipfile raise while they read a damaged .npy or .npz file.

    NumPy's parser of heads lets errors of Python's own tokenizer and compiler through, zipfile those of zlib and
    struct, and both warn. OSError and zipfile.BadZipFile stay what they are.
    """
    import warnings
    import zipfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, OSError, zipfile.BadZipFile):
        raise
    except Exception as e:
        raise ValueError(f"{type(e).__name__}: {e}") from None


@contextlib.contextmanager
def replacing(target: str | Path, *, temporary: str | None = None) -> Iterator[BinaryIO]:
    """A stream for bytes into a file next to `target` that takes its place, and its permissions, when all is written.

    After an error there is none, and an older `target` is untouched. A link stays one: what it names is replaced. What
    is not a plain file (a pipe, /dev/null) is written to, never replaced.

    temporary  the file's name, for callers who let no other process write it: what a kill leaves is written over by the
               next run. Else a fresh name
    Raises OSError, which names `target`.
    """
    target = Path(os.path.realpath(target))
    with naming(target):
        if target.exists() and not target.is_file():
            with target.open("wb") as device:
                yield device
        else:
            with whole(target, temporary) as out:
                yield out


def append_whole(file: BinaryIO, path: Path, data: bytes, *, to_disk: bool = False) -> None:
    """Append bytes to a file that is open for it without a buffer: all of them, or, after an error, none.

    path     of the file
    to_disk  return when they are on the disk
    Raises OSError.
    """
    end = path.stat().st_size
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
        if to_disk:
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.truncate(path, end)
        raise


@contextlib.contextmanager
def naming(target: Path) -> Iterator[None]:
    """Errors of opening and writing name the file that is wanted, not the temporary one, nor none."""
    try:
        yield
    except OSError as e:
        full = e.filename is None and e.errno in FULL
        temporary = (
            isinstance(e.filename, str) and e.filename != str(target) and Path(e.filename).parent == target.parent
        )
        if not full and not (temporary and Path(str(e.filename)).name.startswith(".")):
            raise
        raise OSError(e.errno, e.strerror, str(target)) from None


@contextlib.contextmanager
def whole(target: Path, temporary: str | None) -> Iterator[BinaryIO]:
    """The temporary file, moved to its place at the end."""
    if temporary is None:
        import tempfile  # takes time, and reading a model needs none

        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        out, part = os.fdopen(handle, "wb"), Path(name)
    else:
        part = target.with_name(temporary)
        out = part.open("wb")
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.chmod(mode_of(target))
        part.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise


def mode_of(target: Path) -> int:
    """Permissions of the file that is replaced, or those a new file gets."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
