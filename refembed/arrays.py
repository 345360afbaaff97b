"""Names for the arrays that pass between files. Shapes are in the docstrings, in these letters:

T tokens, S sequences, C channels (`{arch}.embedding_length`), H heads, K kv heads, D head width, F ffn width, V words.
The NumPy shape of a GGUF tensor is its `ne` reversed: `ne {in, out}` is `(out, in)`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
Float: TypeAlias = npt.NDArray[np.floating[Any]]  # float32 under `fast`, float64 under `exact`
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
U8: TypeAlias = npt.NDArray[np.uint8]
