"""What a forward pass may ask for. Architectures are written against `Ops`; `load_ops` picks how to compute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from refembed.arrays import I64, Float
from refembed.errors import RequestError
from refembed.gguf import Tensor

NUMERICS = ("exact", "fast")  # `auto` is fast; `ggml` and `cupy` are not there yet


class See(Protocol):
    """A tap: `x = see("kq", x)` shows x, in layer 3 as `kq-3`, and returns what to go on with (docs/decisions/003)."""

    listening: bool  # False: an operation may skip its inner tensors and fuse

    def __call__(self, name: str, x: Float) -> Float:
        """Show x under llama.cpp's name for it, less the layer number."""
        ...


class Nobody:
    """Nobody looks."""

    listening = False

    def __call__(self, name: str, x: Float) -> Float:
        """Return x."""
        return x


NOBODY = Nobody()


class Ops(Protocol):
    """The operations, in one numerics. x is (T, C), row-major: the tokens of all sequences, end to end.

    Every operation treats a row (attention: a sequence) in the same way whatever stands beside it, so the bits of a
    text's embedding do not depend on its batch.
    """

    name: str  # "exact", "fast"
    dtype: type[np.floating[Any]]  # of every activation

    def get_rows(self, w: Tensor, ids: Sequence[int] | I64) -> Float:
        """Rows `ids` (T) of w (V, C), decoded alone: (T, C)."""
        ...

    def linear(self, x: Float, w: Tensor, b: Tensor | None = None, see: See = NOBODY, product: str = "") -> Float:
        """x (T, C) times w (N, C) transposed, plus b (N): (T, N). `see` is shown the product before a bias."""
        ...

    def layer_norm(self, x: Float, w: Tensor, b: Tensor | None, eps: float, see: See = NOBODY) -> Float:
        """Mean 0, variance 1, times w (C), plus b (C). `see` is shown `norm`, and `norm_w` where there is a bias."""
        ...

    def gelu(self, x: Float) -> Float:
        """The tanh form of GELU, any shape."""
        ...

    def attention(
        self, q: Float, k: Float, v: Float, n_head: int, offsets: I64, scale: float, see: See = NOBODY
    ) -> Float:
        """Scaled dot-product attention, each sequence on its own: q, k, v (T, H D), offsets (S+1) -> (T, H D)."""
        ...


def load_ops(numerics: str, *, batch_invariant: bool = True) -> Ops:
    """Operations of the numerics of that name; `auto` is `fast`.

    batch_invariant  False lets BLAS choose its kernel by the height of the batch (`fast` only): where this machine's
                     BLAS keeps rows apart anyway it changes nothing, elsewhere it is quicker and costs the promise
                     above.
    Raises RequestError for an unknown name.
    """
    if numerics == "exact":
        from refembed.kernels.exact import Exact

        return Exact()
    if numerics in ("fast", "auto"):
        from refembed.kernels.fast import Fast  # imports Numba: 0.3 s that only this numerics pays

        return Fast(batch_invariant=batch_invariant)
    raise RequestError(f"numerics {numerics!r}: there is no such numerics", hint=f"one of auto, {', '.join(NUMERICS)}")
