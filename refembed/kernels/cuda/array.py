"""`DeviceArray`: float32 numbers in a device's memory, in rows, as operations give and take them.

What models do to arrays between operations of `Ops`, they do with NumPy: `x + y`, `x[:, 2:]`, `np.argsort(-p)`. So a
DeviceArray is an operand of NumPy's functions: sums, products, slices, shapes and the order of axes, and what stands in
FUNCTIONS, stay on the device where shapes allow; anything else copies the numbers to the host, and goes on there until
an operation of `Ops` takes them back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.kernels.cuda import device as devices
from refembed.kernels.cuda.launch import Memory

if TYPE_CHECKING:
    from refembed.kernels.cuda.device import Device

F4 = np.dtype(np.float32)
MAX_AXES = 5  # that the kernel `transpose` knows


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

    @property
    def T(self) -> Any:  # noqa: N802  # NumPy's name
        """All axes in reverse order."""
        return self.transpose()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<DeviceArray {self.shape} on {self.device.name}>"

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """A copy on the host."""
        if (capture := devices.own.capture) is not None:
            capture.read(self.memory)
        out: F32 = np.empty(self.shape, np.float32)
        if out.size:
            self.device.read(self.memory, out)
        return out if dtype is None else out.astype(dtype, copy=False)

    def astype(self, dtype: npt.DTypeLike, **options: Any) -> Any:
        """These very numbers where they are asked for as float32; else a copy on the host."""
        return self if np.dtype(dtype) == F4 else np.asarray(self).astype(dtype, **options)

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same numbers in another shape; -1 stands for what is left."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        known = math.prod(n for n in wanted if n != -1)
        full = tuple(self.size // max(known, 1) if n == -1 else int(n) for n in wanted)
        if math.prod(full) != self.size:
            raise ValueError(f"{self.size} numbers do not fit into the shape {wanted}")
        return DeviceArray(self.device, self.memory, full)

    def transpose(self, *axes: Any) -> Any:
        """The axes in that order, or in reverse."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(range(self.ndim))[::-1] if not order else tuple(a + self.ndim * (a < 0) for a in order)
        if sorted(order) != list(range(self.ndim)) or self.ndim > MAX_AXES:
            return np.asarray(self).transpose(*axes)
        shape, more = tuple(self.shape[a] for a in order), MAX_AXES - self.ndim
        sizes = [1] * more + list(shape)
        steps = [0] * more + [math.prod(self.shape[a + 1 :]) for a in order]
        out = empty(self.device, shape)
        self.device.for_each("transpose", out.size, self.memory, out.size, *sizes[1:], *steps, out.memory)
        return out

    def __getitem__(self, index: Any) -> Any:
        """Rows from one to another, or one of them, without copying; part of another axis; anything else on the host.

        A part of an axis is a piece of it, or one place in it, where all other axes are whole.
        """
        row = math.prod(self.shape[1:])
        if isinstance(index, slice) and index.step in (None, 1):
            begin, end, _ = index.indices(len(self))
            return DeviceArray(self.device, self.memory.at(begin * row), (max(end - begin, 0), *self.shape[1:]))
        if isinstance(index, (int, np.integer)) and self.ndim > 1 and -len(self) <= index < len(self):
            return DeviceArray(self.device, self.memory.at(int(index) % len(self) * row), self.shape[1:])
        if isinstance(index, tuple) and (found := part_of_axis(index, self.shape)) is not None:
            return part(self, *found)
        return np.asarray(self)[index]

    def __getattr__(self, name: str) -> Any:
        """What an array on the host has and this one has not: `swapaxes`, `mean`, `repeat` ... of a copy there."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Sums, differences and products on the device, the rest on the host."""
        own = method == "__call__" and not options and ufunc in (np.add, np.subtract, np.multiply, np.negative)
        if own and (result := on_device(ufunc, *inputs)) is not None:
            return result
        return getattr(ufunc, method)(*on_host(inputs), **options)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """The functions in FUNCTIONS on the device, the rest on the host."""
        own = FUNCTIONS.get(function) if options.keys() <= {"axis"} else None
        if own is not None and (result := own(*arguments, **options)) is not None:
            return result
        return function(*on_host(arguments), **on_host(options))


def empty(device: Device, shape: tuple[int, ...]) -> DeviceArray:
    """An array with anything in it."""
    return DeviceArray(device, device.activations(math.prod(shape)), shape)


def uploaded(device: Device, x: Any) -> DeviceArray:
    """x, or a copy of it on the device."""
    if isinstance(x, DeviceArray):
        return x
    array = np.asarray(x, np.float32)
    return DeviceArray(device, device.upload(array), array.shape)


def on_host(x: Any) -> Any:
    """Arguments of a function with copies on the host of all arrays of a device, also within lists."""
    if isinstance(x, DeviceArray):
        return np.asarray(x)
    if isinstance(x, dict):
        return {name: on_host(value) for name, value in x.items()}
    return type(x)(map(on_host, x)) if type(x) in (list, tuple) else x


def on_device(ufunc: np.ufunc, x: Any, y: Any = None) -> DeviceArray | None:
    """x + y, x - y, x * y or -x; None where one does not fill the other's shape by being repeated."""
    if ufunc is np.negative:
        return scaled(x, -1.0)
    if ufunc is np.subtract:
        if isinstance(y, DeviceArray):
            return on_device(np.add, x, scaled(y, -1.0))
        y = -np.asarray(y, np.float32)
    for one, other in ((x, y), (y, x)):
        if isinstance(one, DeviceArray) and repeats(other, one.shape):
            if ufunc is np.multiply and not isinstance(other, DeviceArray) and np.ndim(other) == 0:
                return scaled(one, other)
            return with_repeated("multiply" if ufunc is np.multiply else "add", one, other)
    return None


def repeats(y: Any, shape: tuple[int, ...]) -> bool:
    """Whether y fills a shape by being repeated as a whole: a number, a row for all rows, or an array of that shape.

    >>> repeats(np.ones((1, 3)), (2, 3)), repeats(np.ones((2, 1)), (2, 3)), repeats(2.0, (2, 3))
    (True, False, True)
    >>> repeats(np.ones((1, 3)), (3,))  # the result would have two axes
    False
    """
    sizes = list(y.shape) if isinstance(y, DeviceArray) else list(np.shape(y))
    if len(sizes) > len(shape):
        return False
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return sizes == list(shape)[len(shape) - len(sizes) :]


def with_repeated(kernel: str, x: DeviceArray, y: Any) -> DeviceArray:
    """A kernel of x and y, which `repeats`: `add` or `multiply`."""
    device = x.device
    other = y.memory if isinstance(y, DeviceArray) else device.upload(np.asarray(y, np.float32).reshape(-1))
    size = y.size if isinstance(y, DeviceArray) else int(np.size(y))
    out = empty(device, x.shape)
    device.for_each(kernel, x.size, x.memory, other, x.size, size, out.memory)
    return out


def scaled(x: DeviceArray, factor: Any) -> DeviceArray:
    """factor x."""
    out = empty(x.device, x.shape)
    x.device.for_each("scale", out.size, x.memory, factor, out.size, out.memory)
    return out


def part_of_axis(index: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, int, int, bool] | None:
    """The axis, begin and end that an index takes a part of, and whether the axis stays; None for any other index.

    >>> part_of_axis((slice(None), slice(2, None)), (3, 5)), part_of_axis((slice(None), -1), (3, 5))
    ((1, 2, 5, True), (1, 4, 5, False))
    >>> part_of_axis((slice(1), slice(2)), (3, 5))
    """
    parts = [a for a, i in enumerate(index) if not (isinstance(i, slice) and i == slice(None))]
    if len(parts) != 1 or len(index) > len(shape):
        return None
    (axis,) = parts
    chosen, n = index[axis], shape[axis]
    if isinstance(chosen, slice) and chosen.step in (None, 1):
        begin, end, _ = chosen.indices(n)
        return axis, begin, max(begin, end), True
    if isinstance(chosen, (int, np.integer)) and -n <= chosen < n:
        begin = int(chosen) % n
        return axis, begin, begin + 1, False
    return None


def part(x: DeviceArray, axis: int, begin: int, end: int, stays: bool) -> DeviceArray:
    """What stands at begin:end of an axis; without the axis, where it does not stay."""
    rows, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    kept = (end - begin,) if stays else ()
    out = empty(x.device, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))
    n, first, width = x.shape[axis] * inner, begin * inner, (end - begin) * inner
    x.device.for_each("columns", out.size, x.memory, rows, n, first, width, out.memory)
    return out


def concatenated(parts: Sequence[Any], axis: int = 0) -> DeviceArray | None:
    """np.concatenate of arrays of a device; None where some are not, or do not fit."""
    if not all(isinstance(x, DeviceArray) for x in parts) or not -parts[0].ndim <= axis < parts[0].ndim:
        return None
    shape, axis = parts[0].shape, axis % parts[0].ndim
    before, behind = shape[:axis], shape[axis + 1 :]
    if any((x.shape[:axis], x.shape[axis + 1 :], x.ndim) != (before, behind, len(shape)) for x in parts):
        return None
    out = empty(parts[0].device, (*before, sum(x.shape[axis] for x in parts), *behind))
    rows, n, first = math.prod(before), math.prod(out.shape[axis:]), 0
    for x in parts:
        width = math.prod(x.shape[axis:])
        x.device.for_each("set_columns", x.size, x.memory, rows, n, first, width, out.memory)
        first += width
    return out


def stacked(parts: Sequence[Any], axis: int = 0) -> DeviceArray | None:
    """np.stack, likewise."""
    if not all(isinstance(x, DeviceArray) for x in parts) or not -parts[0].ndim - 1 <= axis <= parts[0].ndim:
        return None
    axis %= parts[0].ndim + 1
    return concatenated([x.reshape((*x.shape[:axis], 1, *x.shape[axis:])) for x in parts], axis)


def clipped(x: Any, low: Any, high: Any) -> DeviceArray | None:
    """np.clip between two numbers; None for anything else."""
    if not isinstance(x, DeviceArray) or not (np.isscalar(low) and np.isscalar(high)):
        return None
    out = empty(x.device, x.shape)
    x.device.for_each("clip", out.size, x.memory, low, high, out.size, out.memory)
    return out


FUNCTIONS: dict[Callable[..., Any], Callable[..., DeviceArray | None]] = {
    np.concatenate: concatenated, np.stack: stacked, np.clip: clipped,
}  # fmt: skip
