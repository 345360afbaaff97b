"""Messages between processes: a pickle (protocol 5) and its buffers (arrays, bytes), which are not copied."""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any

import numpy as np

HEAD = struct.Struct("<QI")  # bytes of the pickle, number of buffers
SIZE = struct.Struct("<Q")  # bytes of a buffer


def send(stream: IO[bytes], value: Any) -> None:
    """Write one message."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=buffers.append)
    stream.write(HEAD.pack(len(head), len(buffers)) + head)
    for buffer in buffers:
        with buffer.raw() as view:
            stream.write(SIZE.pack(len(view)))
            stream.write(view)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message. EOFError at the end."""
    size, n = HEAD.unpack(read(stream, HEAD.size))
    head = read(stream, size)
    buffers = [read(stream, SIZE.unpack(read(stream, SIZE.size))[0]) for _ in range(n)]
    return pickle.loads(head, buffers=buffers)


def read(stream: IO[bytes], n: int) -> memoryview:
    """n bytes. EOFError where there are fewer."""
    view = np.empty(n, np.uint8).data  # not zeroed first
    done = 0
    while done < n:
        got = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        done += got
    return view
