"""ggml's own block decoders: `to_float` of the pinned wheel's tensor types, called in a process of its own.

    with Ggml() as ggml:
        ggml.types[12]             # Traits(id=12, name="q4_K", weights=256, nbytes=144, decodes=True)
        ggml.decode(12, raw)       # float32, by ggml
        ggml.seconds(12, 5)        # how long five more decodings of those bytes took

What it says is an expectation; nothing here imports refembed's decoders. The process reads requests from its standard
input: a line of JSON, then bytes; and answers likewise.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from refembed.arrays import F32, U8
from refembed.errors import EngineError
from refembed.verify.engines.llamacpp_lib import INSTALL

TYPE_COUNT = 43  # GGML_TYPE_COUNT of the pinned build; ids from there on are read out of bounds
Q8_K = 15  # has a decoder, but no to_float


class Traits(NamedTuple):
    """What ggml_get_type_traits says about a type."""

    id: int
    name: str
    weights: int  # weights per block; 0 for a type that was removed
    nbytes: int  # bytes per block
    decodes: bool  # whether ggml has a decoder


class TypeTraits(ctypes.Structure):
    """struct ggml_type_traits."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


class Ggml:
    """The process that holds ggml."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "conformance.to_float"]
        where = Path(__file__).parent.parent
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=where)
        self.types = {t[0]: Traits(*t) for t in self.ask({"do": "types"})["types"]}

    def ask(self, request: dict[str, Any], data: bytes = b"") -> dict[str, Any]:
        """Send a request, return the answer's first line. EngineError if the process died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request | {"bytes": len(data)}).encode() + b"\n" + data)
            self.process.stdin.flush()
        except OSError:
            raise EngineError("ggml's process ended") from None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "null") or {}
        if not answer:
            raise EngineError("ggml's process ended", hint=f"is the wheel xllamacpp installed? {INSTALL}")
        return answer

    def decode(self, id: int, raw: U8) -> F32:
        """Whole blocks to float32, by ggml. Only for types that decode."""
        n = self.ask({"do": "decode", "type": id}, raw.tobytes())["bytes"]
        assert self.process.stdout is not None
        return np.frombuffer(self.process.stdout.read(n), np.float32)

    def seconds(self, id: int, times: int) -> list[float]:
        """Seconds that each of so many decodings took, of the bytes that `decode` had last for the type."""
        seconds: list[float] = self.ask({"do": "time", "type": id, "times": times})["seconds"]
        return seconds

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Ggml:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# The process's side


def load() -> ctypes.CDLL:
    """The wheel's extension file, which exports the C API of ggml."""
    import xllamacpp

    library = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    library.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    return library


def decoder(library: ctypes.CDLL, id: int) -> Any:
    """The C function (blocks, out, number of weights) of a type; None where there is none."""
    found = library.ggml_get_type_traits(id).contents.to_float
    if id == Q8_K:
        found = ctypes.cast(library.dequantize_row_q8_K, ctypes.c_void_p).value
    return found and ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(found)


def traits(library: ctypes.CDLL, id: int) -> Traits:
    """One row of `Ggml.types`."""
    t = library.ggml_get_type_traits(id).contents
    return Traits(id, t.type_name.decode(), t.blck_size, t.type_size, bool(decoder(library, id)))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more requests."""
    library = load()
    held: dict[int, tuple[U8, F32]] = {}
    for line in requests:
        request = json.loads(line)
        data, result = requests.read(request["bytes"]), b""
        answer: dict[str, Any]
        if request["do"] == "types":
            answer = {"types": [traits(library, id) for id in range(TYPE_COUNT)]}
        else:
            id, t = request["type"], traits(library, request["type"])
            run = decoder(library, id)
            if request["do"] == "decode":
                raw = np.frombuffer(data, np.uint8)
                held[id] = raw, np.empty(raw.size // t.nbytes * t.weights, np.float32)
            raw, out = held[id]
            seconds = []
            for _ in range(request.get("times", 1)):
                start = time.perf_counter()
                run(raw.ctypes.data, out.ctypes.data, out.size)
                seconds.append(time.perf_counter() - start)
            answer = {"seconds": seconds}
            if request["do"] == "decode":
                result, answer = out.tobytes(), {"bytes": out.nbytes}
        answers.write(json.dumps(answer).encode() + b"\n" + result)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
