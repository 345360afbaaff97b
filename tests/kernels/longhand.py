"""What the tests of operations share: stored tensors, random numbers, and how near is near."""

from __future__ import annotations

from typing import Any

import numpy as np

from refembed.gguf import BY_NAME, Tensor
from refembed.kernels.ops import Ops

# worst error of one operation, relative to its largest result: measured over the cases of these tests, times about 2
BOUND = {"exact": 4e-15, "fast": 4e-7}


def stored(x: Any, name: str = "w") -> Tensor:
    """x as a float32 tensor of a file."""
    x = np.asarray(x, np.float32)
    return Tensor(name, x.shape, BY_NAME["F32"], np.ascontiguousarray(x).reshape(-1).view(np.uint8), 0, "<")


def close(got: Any, want: Any, ops: Ops, times: float = 1) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= times * BOUND[ops.name] * np.abs(want).max()


def random(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)
