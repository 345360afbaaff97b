"""`DeviceArray`: float32 numbers in a device's memory, in rows, as operations give and take them.

What models do to arrays between operations of `Ops`, they do with NumPy: `x + y`, `np.argsort(-p)`, `np.stack`. So a
DeviceArray is an operand of NumPy's functions: sums and products stay on the device where shapes allow; anything else
copies the numbers to the host, and goes on there until an operation of `Ops` takes them back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.kernels.cuda.launch import Memory

if TYPE_CHECKING:
    from refembed.kernels.cuda.device import Device

F4 = np.dtype(np.float32)


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of float32, contiguous. It is not written to after an operation has returned it."""

    dtype = F4

    def __init__(self, device: Device, memory: Memory, shape: tuple[int, ...]) -> None:
        self.device, self.memory, self.shape = device, memory, shape

    @property
    def ndim(self) -> int:
        """How many axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<DeviceArray {self.shape} on {self.device.name}>"

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """A copy on the host."""
        out: F32 = np.empty(self.shape, np.float32)
        if out.size:
            self.device.read(self.memory, out)
        return out if dtype is None else out.astype(dtype, copy=False)

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same numbers in another shape; -1 stands for what is left."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        known = math.prod(n for n in wanted if n != -1)
        full = tuple(self.size // max(known, 1) if n == -1 else int(n) for n in wanted)
        if math.prod(full) != self.size:
            raise ValueError(f"{self.size} numbers do not fit into the shape {wanted}")
        return DeviceArray(self.device, self.memory, full)

    def __getitem__(self, index: Any) -> Any:
        """Rows from one to another, or one of them, without copying; anything else on the host."""
        row = math.prod(self.shape[1:])
        if isinstance(index, slice) and index.step in (None, 1):
            begin, end, _ = index.indices(len(self))
            return DeviceArray(self.device, self.memory.at(begin * row), (max(end - begin, 0), *self.shape[1:]))
        if isinstance(index, (int, np.integer)) and self.ndim > 1 and -len(self) <= index < len(self):
            return DeviceArray(self.device, self.memory.at(int(index) % len(self) * row), self.shape[1:])
        return np.asarray(self)[index]

    def __getattr__(self, name: str) -> Any:
        """What an array on the host has and this one has not: `transpose`, `astype`, `mean` ... of a copy there."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Sums and products on the device, the rest on the host."""
        if method == "__call__" and not options and ufunc in (np.add, np.multiply):
            for x, y in (inputs, inputs[::-1]):
                if isinstance(x, DeviceArray) and repeats(y, x.shape):
                    return with_repeated("add" if ufunc is np.add else "multiply", x, y)
        on_host = [np.asarray(x) if isinstance(x, DeviceArray) else x for x in inputs]
        return getattr(ufunc, method)(*on_host, **options)


def repeats(y: Any, shape: tuple[int, ...]) -> bool:
    """Whether y fills a shape by being repeated as a whole: a number, a row for all rows, or an array of that shape.

    >>> repeats(np.ones((1, 3)), (2, 3)), repeats(np.ones((2, 1)), (2, 3)), repeats(2.0, (2, 3))
    (True, False, True)
    >>> repeats(np.ones((1, 3)), (3,))  # the result would have two axes
    False
    """
    own = list(y.shape) if isinstance(y, DeviceArray) else list(np.shape(y))
    if len(own) > len(shape):
        return False
    while own and own[0] == 1:
        own.pop(0)
    return own == list(shape)[len(shape) - len(own) :]


def with_repeated(kernel: str, x: DeviceArray, y: Any) -> DeviceArray:
    """A kernel of x and y, which `repeats`: `add` or `multiply`."""
    device = x.device
    other = y.memory if isinstance(y, DeviceArray) else device.upload(np.asarray(y, np.float32).reshape(-1))
    size = y.size if isinstance(y, DeviceArray) else int(np.size(y))
    out = DeviceArray(device, device.allocate(x.size, np.float32), x.shape)
    device.for_each(kernel, x.size, x.memory, other, x.size, size, out.memory)
    return out
