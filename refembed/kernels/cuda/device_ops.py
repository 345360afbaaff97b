"""What every part of the `cupy` numerics stands on: a device, and arrays on it."""

from __future__ import annotations

from typing import Any

from refembed.kernels.cuda.array import empty, uploaded
from refembed.kernels.cuda.device import Device
from refembed.kernels.ops import Ops


class DeviceOps(Ops):
    """Operations whose activations are on a device."""

    device: Device

    def empty(self, shape: tuple[int, ...]) -> Any:
        """An array with anything in it."""
        return empty(self.device, shape)

    def on_device(self, x: Any) -> Any:
        """x, or a copy of it, on the device."""
        return uploaded(self.device, x)
