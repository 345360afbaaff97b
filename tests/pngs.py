"""PNG files written by hand, of any depth and kind."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG file of these rows, each with its filter byte."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
