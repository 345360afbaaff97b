"""What the tests of operations share: stored tensors, random numbers, and how near is near."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from refembed.gguf import BY_NAME, Tensor
from refembed.kernels.ops import AttentionMask, Ops

# worst error of one operation, relative to its largest result: measured over the cases of these tests, times about 2
BOUND = {"exact": 4e-15, "fast": 4e-7, "cupy": 4e-7}


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


def chain(x: Any, w: Any, *, fused: bool) -> Any:
    """x (T, K) times w (K, N), each element one sum in order of k: T N chains of multiply-adds in x's dtype.

    fused  a multiply-add rounds once
    """
    y = np.zeros((len(x), w.shape[1]), x.dtype)
    for k in range(len(w)):
        a, b = x[:, k : k + 1], w[k]
        if not fused:
            y = a * b + y
        elif x.dtype == np.float32:  # a product of two has 48 bits
            y = (a.astype(np.float64) * b + y).astype(np.float32)
        else:
            y = np.vectorize(lambda p, q, r: float(Fraction(p) * Fraction(q) + Fraction(r)))(a, b, y)
    return y


def sees(i: int, j: int, mask: AttentionMask) -> bool:
    """Whether query i sees key j, one rule after the other (enum llama_swa_type)."""
    if any(first <= i < j < last for first, last in mask.spans):  # of an image, what stands behind the query too
        return True
    if mask.causal and j > i:
        return False
    if mask.window == 0:
        return True
    if mask.kind == "standard":
        return i - j < mask.window
    if mask.kind == "chunked":
        return j >= i // mask.window * mask.window
    return abs(i - j) <= mask.window // 2


def slope(h: int, H: int, max_bias: float) -> float:
    """The paper's: a power of two many heads share a geometric sequence, further heads take every other of the next."""
    n = 2 ** math.floor(math.log2(H))
    return float(2 ** (-max_bias / n * (h + 1)) if h < n else 2 ** (-max_bias / (2 * n) * (2 * (h - n) + 1)))
