"""What `Gpu` uses of CuPy, without a GPU: memory of this process, and kernels that g++ compiles (on_cpu.py).

It stands in for CuPy's interface, as its documentation has it, and records what it is asked; it proves nothing about a
GPU.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import numpy as np

from refembed.kernels.cuda.launch import SOURCES, Memory, kernel_of, source_text
from tests.kernels.cuda.on_cpu import OnCpu

PROPERTIES = {"name": b"no GPU", "totalGlobalMem": 1 << 30, "major": 9, "minor": 0}


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class CompileException(Exception):  # noqa: N818  # CuPy's name
    """cupy.cuda.compiler.CompileException."""


class FakeCupy:
    """The module `cupy`.

    gpus   how many there are; a text: what asking for their number fails with
    total  bytes of memory
    """

    def __init__(self, device: OnCpu, gpus: int | str = 1, total: int = 1 << 30) -> None:
        self.device, self.gpus, self.total, self.allocated = device, gpus, total, 0
        self.__spec__, self.__version__ = ModuleSpec("cupy", None), "0"
        self.compiled: list[str] = []  # sources
        self.used: list[int] = []  # GPUs that threads were bound to
        self.cuda = SimpleNamespace(
            alloc=self.alloc, Device=lambda n: SimpleNamespace(use=lambda: self.used.append(n)),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            compiler=SimpleNamespace(CompileException=CompileException),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError, getDeviceCount=self.count, memcpy=self.memcpy,
                memset=self.memset,
                memGetInfo=lambda: (self.total - self.allocated, self.total), driverGetVersion=lambda: 0,
                runtimeGetVersion=lambda: 0, getDeviceProperties=lambda index: PROPERTIES,
            ),
        )  # fmt: skip

    def count(self) -> int:
        if isinstance(self.gpus, str):
            raise CUDARuntimeError(self.gpus)
        return self.gpus

    def alloc(self, nbytes: int) -> Any:
        if self.allocated + nbytes > self.total:
            raise OutOfMemoryError(nbytes)
        memory = self.device.allocate(nbytes, np.uint8)
        self.allocated += nbytes
        return SimpleNamespace(ptr=memory.pointer, owner=memory.owner)

    def memcpy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        assert kind in (1, 2)
        other = np.empty(nbytes, np.uint8)
        self.device.read(Memory(source, other.dtype, None), other)
        self.device.write(Memory(to, other.dtype, None), other)

    def memset(self, to: int, value: int, nbytes: int) -> None:
        assert value == 0
        self.device.clear(Memory(to, np.dtype(np.uint8), None), nbytes)

    def RawModule(self, *, code: str, options: tuple[str, ...], backend: str) -> Any:  # noqa: N802  # CuPy's name
        assert (backend, all(isinstance(o, str) for o in options)) == ("nvrtc", True)
        (source,) = (s for s in SOURCES if source_text(s) == code)
        self.compiled.append(source)
        return SimpleNamespace(get_function=lambda name: lambda *launch: self.launch(name, *launch))

    def launch(self, name: str, grid: Any, block: Any, arguments: Any) -> None:
        """As cupy.RawKernel is called: three numbers, three numbers, a tuple of NumPy scalars."""
        assert (len(grid), len(block), type(arguments)) == (3, 3, tuple)
        assert all(isinstance(n, int) for n in (*grid, *block))
        self.device.run(kernel_of(name), grid, block, list(arguments))

    def get_default_memory_pool(self) -> Any:
        return SimpleNamespace(free_bytes=lambda: 0)
