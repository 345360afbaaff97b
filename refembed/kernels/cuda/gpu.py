"""`Gpu`: an NVIDIA GPU, by CuPy: memory of its pool, kernels that its compiler (NVRTC) makes of our sources.

Nothing else of CuPy is used: no arrays, no library of products. What cannot be had is one RequestError.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.errors import RequestError
from refembed.kernels.cuda.device import Device, Three
from refembed.kernels.cuda.launch import Kernel, Memory, source_text

INSTALL = "pip install 'refembed[cuda]' brings cupy-cuda13x[ctk]; for an older driver pip install 'cupy-cuda12x[ctk]'"
OPTIONS = ("-std=c++17", "--fmad=false")  # a product and a sum are one operation only where the source says fmaf


def import_cupy() -> Any:
    """CuPy, or the RequestError that says what to install."""
    try:
        import cupy
    except ImportError as e:
        why = "is not installed" if (e.name or "").split(".")[0] == "cupy" else f"cannot be loaded: {first_line(e)}"
        raise RequestError(f"numerics 'cupy' needs CuPy, which {why}", hint=INSTALL) from None
    return cupy


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Gpu(Device):
    """GPU number `index`, as nvidia-smi and CUDA_VISIBLE_DEVICES count them.

    Raises RequestError where there is no CuPy, no driver, no such GPU, or no compiler for it.
    """

    def __init__(self, index: int = 0) -> None:
        self.cupy, self.index = import_cupy(), index
        runtime = self.cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as e:
            hint = "nvidia-smi lists the GPUs; install NVIDIA's driver, or compute on the CPU with numerics fast"
            raise RequestError(f"numerics 'cupy': no NVIDIA GPU to be had: {first_line(e)}", hint=hint) from None
        if not 0 <= index < count:
            there = "GPU 0 is the only one" if count == 1 else f"there are {count}, 0 to {count - 1}"
            raise RequestError(f"device {index}: there is no such GPU", hint=there)
        try:
            self.cupy.cuda.nvrtc.getVersion()
        except Exception as e:  # of whatever kind CuPy's loader of libraries has
            message = f"numerics 'cupy' needs NVRTC, NVIDIA's compiler, which cannot be loaded: {first_line(e)}"
            raise RequestError(message, hint=INSTALL) from None
        self.name = f"GPU {index}"
        self.functions: dict[str, Any] = {}
        self.modules: dict[str, Any] = {}
        self.compiling = threading.Lock()
        self.own = threading.local()

    def here(self) -> None:
        """Make this GPU the calling thread's, once."""
        if getattr(self.own, "using", None) is None:
            self.cupy.cuda.Device(self.index).use()
            self.own.using = True

    def allocate(self, size: int, dtype: npt.DTypeLike) -> Memory:
        """Memory of CuPy's pool, which goes back there with its last owner."""
        self.here()
        number = np.dtype(dtype)
        try:
            owner = self.cupy.cuda.alloc(max(size, 1) * number.itemsize)
        except self.cupy.cuda.memory.OutOfMemoryError:
            hint = "memory_budget 0 keeps weights as the file has them; shorter batches need less, too"
            message = f"{self.name}: no memory for {size * number.itemsize >> 20:,} MiB more"
            raise RequestError(f"{message}, {self.free_bytes() >> 20:,} MiB are free", hint=hint) from None
        return Memory(int(owner.ptr), number, owner)

    def write(self, memory: Memory, array: npt.NDArray[Any]) -> None:
        """Copy a contiguous array into memory; done when this returns."""
        self.here()
        self.cupy.cuda.runtime.memcpy(memory.pointer, array.ctypes.data, array.nbytes, HOST_TO_DEVICE)

    def read(self, memory: Memory, out: npt.NDArray[Any]) -> None:
        """Copy memory into a contiguous array; waits for what was launched before."""
        self.here()
        self.cupy.cuda.runtime.memcpy(out.ctypes.data, memory.pointer, out.nbytes, DEVICE_TO_HOST)

    def clear(self, memory: Memory, size: int) -> None:
        """Zeros, in the order of launches; nothing waits."""
        self.here()
        self.cupy.cuda.runtime.memset(memory.pointer, 0, size * memory.dtype.itemsize)

    def run(self, kernel: Kernel, grid: Three, block: Three, values: list[np.generic]) -> None:
        """Launch a kernel on the default stream. RequestError where its source does not compile for this GPU."""
        self.here()
        try:
            self.function(kernel)(grid, block, tuple(values))
        except self.cupy.cuda.compiler.CompileException as e:
            hint = "a GPU of compute capability 7.5 or later, and a CuPy for the driver's CUDA, are needed"
            message = f"{self.name}: {kernel.source}.cu does not compile: {first_line(e)}"
            raise RequestError(message, hint=hint) from None

    def function(self, kernel: Kernel) -> Any:
        """A kernel of a module. Its file is compiled when first needed; CuPy keeps the result on disk."""
        if kernel.name not in self.functions:
            with self.compiling:
                if kernel.source not in self.modules:
                    code = source_text(kernel.source)
                    self.modules[kernel.source] = self.cupy.RawModule(code=code, options=OPTIONS, backend="nvrtc")
                self.functions[kernel.name] = self.modules[kernel.source].get_function(kernel.name)
        return self.functions[kernel.name]

    def free_bytes(self) -> int:
        """What the driver has free, and what CuPy's pool holds unused."""
        self.here()
        free, _ = self.cupy.cuda.runtime.memGetInfo()
        return int(free) + int(self.cupy.get_default_memory_pool().free_bytes())

    def capability(self) -> tuple[int, int]:
        """As the driver has it."""
        found = self.cupy.cuda.runtime.getDeviceProperties(self.index)
        return int(found["major"]), int(found["minor"])


HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
