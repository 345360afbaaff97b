"""`Device`: where kernels run. `gpu.Gpu` is an NVIDIA GPU; the tests have one that a C++ compiler makes of this CPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.kernels.cuda.launch import Kernel, Memory, kernel_of, packed

THREADS = 256  # of a block, where a thread has one number
MAX_GRID = (2**31 - 1, 65_535, 65_535)  # blocks, by CUDA's programming guide, appendix "Compute Capabilities"
MAX_THREADS = 1024  # of a block, likewise

Three = tuple[int, int, int]


class Device(ABC):
    """Memory, copies and launches, one after the other in the order in which they are asked for."""

    name: str  # for messages

    @abstractmethod
    def allocate(self, size: int, dtype: npt.DTypeLike) -> Memory:
        """Memory for so many numbers, with anything in it. RequestError where there is too little."""

    @abstractmethod
    def write(self, memory: Memory, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array into memory."""

    @abstractmethod
    def read(self, memory: Memory, out: npt.NDArray[Any]) -> None:
        """Copy memory into a contiguous array, when what was launched before is done."""

    @abstractmethod
    def clear(self, memory: Memory, size: int) -> None:
        """Fill memory for so many numbers with zeros, after what was launched before."""

    @abstractmethod
    def run(self, kernel: Kernel, grid: Three, block: Three, values: list[np.generic]) -> None:
        """Launch a kernel; `values` as `packed` makes them."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory that is not in use."""

    @abstractmethod
    def capability(self) -> tuple[int, int]:
        """Compute capability, as NVIDIA counts generations of GPUs: (9, 0) is Hopper's."""

    def upload(self, array: npt.NDArray[Any]) -> Memory:
        """A copy of an array on the device."""
        array = np.ascontiguousarray(array)
        memory = self.allocate(array.size, array.dtype)
        if array.size:
            self.write(memory, array)
        return memory

    def launch(self, name: str, grid: Three, block: Three, *arguments: Any) -> None:
        """Check the arguments and the sizes of a launch, and run it; nothing where the grid is empty."""
        kernel = kernel_of(name)
        values = packed(kernel, arguments)
        if 0 in grid:
            return
        if any(n > most for n, most in zip(grid, MAX_GRID, strict=True)) or np.prod(block) > MAX_THREADS:
            raise ValueError(f"kernel {name}: {grid} blocks of {block} threads are more than CUDA launches")
        self.run(kernel, (int(grid[0]), int(grid[1]), int(grid[2])), block, values)

    def for_each(self, name: str, n: int, *arguments: Any) -> None:
        """Launch a thread for each of n numbers."""
        self.launch(name, (-(-n // THREADS), 1, 1), (THREADS, 1, 1), *arguments)

    def for_each_row(self, name: str, rows: int, *arguments: Any) -> None:
        """Launch a warp for each row."""
        self.for_each(name, 32 * rows, *arguments)
