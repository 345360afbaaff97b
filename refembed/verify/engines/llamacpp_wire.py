"""Frames between `LlamaCpp` and its worker: one pickled object each, arrays behind it as they lie in memory.

    u64 number of parts | u64 bytes of each part | the parts

Part 0 is the pickle, the others are the arrays' memory (pickle protocol 5, PEP 574), so nothing is copied twice. Both
ends are this package, on one machine, over a pipe that no other process holds: that is what makes pickle right here.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO


def send(out: BinaryIO, message: Any) -> None:
    """Write one frame."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(b.raw() for b in buffers)]
    out.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *(p.nbytes for p in parts)))
    for part in parts:
        out.write(part)
    out.flush()


def receive(source: BinaryIO) -> Any:
    """Read one frame. EOFError when the other end is gone, also in the middle of a frame."""
    (n,) = struct.unpack("<Q", take(source, 8))
    sizes = struct.unpack(f"<{n}Q", take(source, 8 * n))
    head, *buffers = [take(source, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def take(source: BinaryIO, n: int) -> bytearray:
    """Exactly n bytes; in memory of their own, so arrays over them can be written to."""
    data = bytearray(n)
    view, done = memoryview(data), 0
    while done < n:
        got = source.readinto(view[done:])  # type: ignore[attr-defined]  # every buffered reader has it
        if not got:
            raise EOFError(f"the other end closed after {done} of {n} bytes")
        done += got
    return data
