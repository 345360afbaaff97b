"""One GGUF file: bytes -> metadata and mapped tensors. split.py opens files, and models of several files.

    magic "GGUF" | version | number of tensors | number of keys | keys and values | tensor table | padding | data

Mirrors gguf_init_from_file (gguf.cpp) and its checks, and takes big-endian files as well, as gguf-py does.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import BinaryIO

from refembed.errors import GGUFError
from refembed.gguf.cursor import ByteOrder, Cursor
from refembed.gguf.metadata import MAX_KEYS, Metadata, read_metadata
from refembed.gguf.tensor import LEAST_INFO, MAX_TENSORS, Tensor, Tensors, place, read_infos

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
LEAST_FIELD = 13  # bytes of the shortest key with its value: length, type, one byte

# What other files begin with, and what to do about them.
OTHER_MAGICS = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", "convert the model to GGUF first"),
    (b"\x80\x02", "a Python pickle, perhaps a PyTorch checkpoint", "convert the model to GGUF first"),
    (b"FUGG", "a GGUF magic in reverse", "no program writes this; the file is damaged"),
    (b"lmgg", "the ggml format of early 2023", "convert the original model to GGUF"),
    (b"fmgg", "the ggmf format of early 2023", "convert the original model to GGUF"),
    (b"tjgg", "the ggjt format of early 2023", "convert the original model to GGUF"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (b"<", "markup, perhaps an error page saved under the model's name", "download the file again"),
    (b"\x1f\x8b", "gzip", "unpack it first"),
)


class GGUFFile:
    """An open GGUF file, or with `open_gguf` a model of several. Use as a context manager, or call close().

    What was taken from it (tensors, metadata) stays valid after close; the mapping goes when the last of it does.
    The file must not be shortened while it is mapped, as the system would end the program; GGUFWriter never does.

    >>> from refembed import open_gguf
    >>> with open_gguf("minilm") as f:
    ...     print(f.version, f.alignment, f.metadata["bert.block_count"], len(f.tensors))
    3 32 6 101
    """

    path: Path
    paths: tuple[Path, ...]  # of the file; of a split model all shards, in order
    size: int  # bytes of the file, or of all shards together
    version: int  # 2 or 3
    byteorder: ByteOrder  # "<" little-endian, ">" big-endian
    alignment: int  # bytes: GGUF `general.alignment`, 32 where absent
    data_offset: int  # byte where the tensors' data begins; of a split model, in the first shard
    trailing: int  # bytes behind the last tensor's padding, of all shards together: 0 in ordinary files

    def __init__(self, path: str | os.PathLike[str], mmap: bool = True) -> None:
        """mmap: False reads the whole file into memory, so that later changes of it cannot matter."""
        self.path = Path(path)
        self.paths = (self.path,)
        data = map_file(self.path) if mmap else read_file(self.path)
        self.size = len(data)
        cursor = Cursor(data, str(self.path))
        self.version = read_version(cursor)
        self.byteorder = cursor.byteorder
        n_tensors = cursor.count("number of tensors", LEAST_INFO, MAX_TENSORS)
        n_keys = cursor.count("number of keys", LEAST_FIELD, MAX_KEYS)
        self._metadata: Metadata | None = read_metadata(cursor, n_keys)
        self.alignment = read_alignment(self._metadata, cursor)
        table = cursor.pos
        infos = read_infos(cursor, n_tensors)
        self.data_offset = cursor.pos + (-cursor.pos % self.alignment if n_tensors else 0)
        tensors, end = place(cursor, infos, self.data_offset, self.alignment, table)
        self.trailing = max(self.size - end, 0)
        self._tensors: Tensors | None = tensors

    @property
    def metadata(self) -> Metadata:
        """Key -> value, in file order.

        >>> from refembed import open_gguf
        >>> open_gguf("minilm").metadata["bert.embedding_length"]
        384
        """
        if self._metadata is None:
            raise self._closed()
        return self._metadata

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Name -> tensor, in file order.

        >>> from refembed import open_gguf
        >>> open_gguf("minilm").tensors["token_embd.weight"].shape  # 30,522 word pieces of 384 channels
        (30522, 384)
        """
        if self._tensors is None:
            raise self._closed()
        return MappingProxyType(self._tensors)

    def join(self, shards: Sequence[GGUFFile]) -> None:
        """Take in the tensors of a split model's other shards, in order. split.py has checked that they belong here.

        >>> from refembed.gguf import GGUFWriter
        >>> for name in ("a", "b"):
        ...     w = GGUFWriter(None)
        ...     w.add_tensor(f"{name}.weight", bytes(4), (1,), "F32")
        ...     path = w.write(f"{name}.gguf")
        >>> first = GGUFFile("a.gguf")
        >>> first.join([GGUFFile("b.gguf")])
        >>> list(first.tensors)
        ['a.weight', 'b.weight']
        """
        if self._tensors is None:
            raise self._closed()
        for shard in shards:
            self._tensors.update(shard.tensors)
            self.paths += shard.paths
            self.size += shard.size
            self.trailing += shard.trailing

    def close(self) -> None:
        """Let go of the file. Closing twice does nothing.

        >>> from refembed import open_gguf
        >>> f = open_gguf("minilm")
        >>> bias = f.tensors["blk.0.attn_q.bias"]
        >>> f.close()
        >>> bias.dequantize().shape  # what was taken stays
        (384,)
        >>> f.tensors
        Traceback (most recent call last):
            ...
        refembed.errors.GGUFError: ...: reading at byte 0x0: the file is closed
          hint: open it again
        """
        self._metadata = self._tensors = None

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<GGUFFile {self.path}, version {self.version}, {self.size:,} bytes>"

    def _closed(self) -> GGUFError:
        return GGUFError("reading", path=str(self.path), offset=0, found="the file is closed", hint="open it again")


def map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped read-only. GGUFError for what is not a file, cannot be read or is empty."""
    return load(path, lambda f: mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))


def read_file(path: Path) -> memoryview:
    """The bytes of a file, copied into memory. Errors as `map_file`."""
    return load(path, lambda f: f.read())


def load(path: Path, how: Callable[[BinaryIO], mmap.mmap | bytes]) -> memoryview:
    """The bytes of a file, as `how` makes them of the open file."""

    def fail(found: str, hint: str) -> GGUFError:
        return GGUFError("reading magic", path=str(path), offset=0, found=found, hint=hint)

    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise fail("a directory", "name the .gguf file in it")
        if not stat.S_ISREG(mode):
            raise fail("a pipe or device", "a GGUF file is mapped into memory, so it has to be an ordinary file")
        with path.open("rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise fail("an empty file", "download the file again")
            return memoryview(how(f))
    except FileNotFoundError:
        raise fail("no such file", "check the path") from None
    except PermissionError:
        raise fail("no permission to read it", f"chmod +r {path}") from None
    except (OSError, ValueError) as e:  # ValueError: a path with a NUL in it
        raise fail(f"cannot be mapped: {e}", "check the path and the disk") from None


def read_version(cursor: Cursor) -> int:
    """Magic and version. Sets the cursor's byte order: a version whose low half is zero was written the other way."""
    begin = bytes(cursor.data[:24])
    if begin[:4] != b"GGUF"[: len(begin)]:
        found, hint = recognize(begin)
        raise cursor.fail("magic", found, 0, hint)
    cursor.take(4, "magic")
    word = bytes(cursor.take(4, "version"))
    little, big = int.from_bytes(word, "little"), int.from_bytes(word, "big")
    cursor.byteorder = ">" if little and not little & 0xFFFF else "<"
    version = big if cursor.byteorder == ">" else little
    if version not in VERSIONS:
        old = "convert the original model again; llama.cpp dropped version 1 as well"
        hint = old if version <= 1 else "a newer file than this version of refembed knows, or a damaged one"
        raise cursor.fail("version", f"{version}, not 2 or 3", 4, hint)
    return version


def recognize(begin: bytes) -> tuple[str, str]:
    """What a file that is not GGUF is, by its first 24 bytes, and what to do about it."""
    for magic, kind, hint in OTHER_MAGICS:
        if begin.startswith(magic):
            return f"{begin[:4]!r}, not b'GGUF': {kind}", hint
    if begin[8:9] == b"{":
        return f"{begin[:4]!r}, not b'GGUF': a safetensors file", "convert the model to GGUF first"
    return f"{begin[:4]!r}, not b'GGUF'", "is this a GGUF file? safetensors and PyTorch files must be converted first"


def read_alignment(metadata: Metadata, cursor: Cursor) -> int:
    """GGUF `general.alignment`: a UINT32 and a power of two; 32 where absent."""
    key = "general.alignment"
    if key not in metadata:
        return DEFAULT_ALIGNMENT
    alignment = metadata.integer(key)
    if metadata.type_name(key) != "UINT32" or alignment & (alignment - 1) or not alignment:
        found = f"{metadata.type_name(key)} {alignment}, not a UINT32 that is a power of two"
        raise cursor.fail(key, found, metadata.offset(key))
    return alignment
