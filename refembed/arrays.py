"""Names for the arrays that pass between files. Shapes are in the docstrings, in these letters:

T tokens, S sequences, C channels (`{arch}.embedding_length`), H heads, K kv heads, D head width, F ffn width, V words.
The NumPy shape of a GGUF tensor is its `ne` reversed: `ne {in, out}` is `(out, in)`.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
Float: TypeAlias = npt.NDArray[np.floating[Any]]  # float32 under `fast`, float64 under `exact`
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
U8: TypeAlias = npt.NDArray[np.uint8]

LINE = 64  # bytes that memory hands out at a time


def contiguous(x: Float) -> Float:
    """x with its numbers in a row, as arrays on a GPU always have them; a copy where they are not."""
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x


def aligned(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """An array with anything in it that begins with a cache line, so that no vector in it need lie in two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype).reshape(shape)
