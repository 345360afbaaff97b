"""Operations of vision towers, which have no CUDA kernels yet: refused, never moved to the CPU unasked."""

from __future__ import annotations

from typing import NoReturn

from refembed.arrays import Float
from refembed.errors import RequestError
from refembed.gguf import Tensor
from refembed.kernels.ops import Ops


def refuse_images() -> NoReturn:
    """RequestError."""
    raise RequestError("images are not computed on a GPU yet", hint="numerics fast, exact or ggml computes them")


class CudaImageOps(Ops):
    """`ImageOps` that say so."""

    images = False

    def conv_2d(self, x: Float, w: Tensor) -> Float:
        """Refused."""
        refuse_images()

    def interpolate(self, x: Float, height: int, width: int) -> Float:
        """Refused."""
        refuse_images()

    def gelu_quick(self, x: Float) -> Float:
        """Refused."""
        refuse_images()

    def pool_2d(self, x: Float, k: int) -> Float:
        """Refused."""
        refuse_images()
