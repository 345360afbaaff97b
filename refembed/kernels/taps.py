"""What a forward pass shows its tensors to: `Tap`, and the one that does nothing."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from refembed.arrays import Float


class Tap(Protocol):
    """A tap: `x = tap("kq", x)` records x, in layer 3 as `kq-3`, and returns what to go on with
    (docs/decisions/003).
    """

    active: bool  # False: an operation may skip its inner tensors and fuse

    def __call__(self, name: str, x: Float) -> Float:
        """Show x under llama.cpp's name for it, less the layer number."""
        ...


class NoTap:
    """The tap of a run that is not traced: nothing is recorded."""

    active = False

    def __call__(self, name: str, x: Float) -> Float:
        """Return x."""
        return x


NO_TAP = NoTap()


def with_state(name: str, y: Float, state: Float, tap: Tap, width: int = 0) -> Float:
    """Show y of one text and the state behind its last token as the one tensor that ggml has them in; y.

    width  of that tensor's rows; 0: it is one row
    """
    if not tap.active or len(state) != 1:
        return y
    both = np.concatenate([y.reshape(-1), state.reshape(-1)])
    both = tap(name, both.reshape(-1, width) if width else both)
    return both.reshape(-1)[: y.size].reshape(y.shape)
