"""Float functions of the C library: ggml calls them, so bits recorded with one library are not those of every other.

expf, tanhf, powf ... are not rounded correctly, and libraries differ in last bits: glibc 2.41 has another tanhf and
erff than 2.36, musl and macOS have their own. refembed calls the library that live llama.cpp calls, so the two agree
everywhere; recorded bits are held only where this machine's functions are those of the recording.
"""

from __future__ import annotations

import ctypes
import sys
import zlib
from functools import cache

import numpy as np
import pytest

from refembed.arrays import F32

# CRC-32 of each function at `points`, glibc 2.36: the library that every recording in these tests was made with
RECORDED: dict[str, int] = {
    "expf": 0xA8EB9325,
    "tanhf": 0xAEE4A995,
    "erff": 0xFCE246FF,
    "powf": 0x2558C3BB,
    "logf": 0x926BFCB1,
    "cosf": 0x702C459E,
    "sinf": 0x198F2510,
}


@cache
def checksum(name: str) -> int:
    """CRC-32 of a function's values, as this process finds it; 0 where it does not."""
    try:
        function = getattr(ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None), name)
    except (OSError, AttributeError):
        return 0
    x, y = points(name)
    both = name == "powf"
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float] * (1 + both)
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return zlib.crc32(np.array([function(a, b) if both else function(a) for a, b in pairs], np.float32).tobytes())


def points(name: str) -> tuple[F32, F32]:
    """Where a function is asked; y is powf's exponent."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(0, 4, 5000).astype(np.float32) for _ in range(2))
    return (np.abs(x) if name in ("powf", "logf") else x), y


def others(*names: str) -> list[str]:
    """Those of the functions that round otherwise here than where bits were recorded."""
    return [name for name in names if checksum(name) != RECORDED[name]]


def need(*names: str) -> None:
    """Skip a test of recorded bits that these functions decide, where they round otherwise."""
    if found := others(*names):
        pytest.skip(f"recorded with glibc 2.36, whose last bits of {', '.join(found)} are not this C library's")
