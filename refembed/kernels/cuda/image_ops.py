"""The `cupy` numerics of vision towers: what cuda/ops.py has of `ImageOps`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.cuda.device_ops import DeviceOps
from refembed.kernels.exact.conv import as_matrix, neighbors


class CudaImageOps(DeviceOps):
    """`ImageOps` on a device."""

    @abstractmethod
    def of_one(self, kernel: str, x: Float) -> Any:
        """A kernel of each number of x."""

    def conv_2d(self, x: Float, w: Tensor) -> Any:
        """y[:, n] = W patch_n."""
        given, size = self.on_device(x), w.shape[-1]
        planes, height, width = given.shape
        rows = self.empty(((height // size) * (width // size), planes * size * size))
        self.device.for_each("patches", rows.size, given.memory, planes, height, width, size, rows.memory)
        return self.linear(rows, as_matrix(w)).T

    def interpolate(self, x: Float, height: int, width: int) -> Any:
        """y = a (1 - dx) (1 - dy) + b dx (1 - dy) + c (1 - dx) dy + d dx dy."""
        given = self.on_device(x)
        planes, high, wide = given.shape
        out = self.empty((planes, height, width))
        above_below = [self.device.upload(places) for places in neighbors(high, height, np.float32)]
        left_right = [self.device.upload(places) for places in neighbors(wide, width, np.float32)]
        self.device.for_each(
            "interpolate", out.size, given.memory, planes, high, wide, *above_below, *left_right, height, width,
            out.memory,
        )  # fmt: skip
        return out

    def gelu_quick(self, x: Float) -> Any:
        """y = x / (1 + e^(-1.702 x))."""
        return self.of_one("gelu_quick", x)

    def pool_2d(self, x: Float, k: int) -> Any:
        """The mean of each k x k square of each plane."""
        given = self.on_device(x)
        planes, height, width = given.shape
        out = self.empty((planes, height // k, width // k))
        self.device.for_each("pool_2d", out.size, given.memory, planes, height, width, k, out.memory)
        return out
