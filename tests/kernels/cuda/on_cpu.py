"""`OnCpu`: a `Device` without a GPU. The kernels' own source, compiled by g++ with cuda_on_cpu.h in front of it, and
mma_on_cpu.h where it has tensor cores.

Slow, as threads take turns, but the same source, the same arguments and the same launches as on a GPU. What is
allocated is filled with NaN and stands between guards, so that a kernel that reads what nothing wrote, or writes
where it must not, is noticed.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.kernels.cuda.device import Device, Three
from refembed.kernels.cuda.launch import Kernel, Memory, kernels_of, source_text

COMPILER = shutil.which("g++")
HEADER, TENSOR_CORES = (Path(__file__).with_name(f"{name}_on_cpu.h") for name in ("cuda", "mma"))
FLAGS = ("-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-w")
GUARD = 1024  # bytes on either side of what is allocated
UNWRITTEN = 0xFF  # as floats they are NaN
C_TYPES: dict[type[np.generic], str] = {
    np.float32: "float", np.int32: "int", np.int64: "long long", np.uint8: "unsigned char", np.int8: "signed char",
    np.uint32: "unsigned int",
}  # fmt: skip


class OnCpu(Device):
    """Kernels on this CPU.

    built       folder of compiled kernels
    descending  threads of a block take turns from the last to the first
    changed     replaces a source's text, to plant a fault
    """

    name = "CPU"

    def __init__(self, built: Path, *, descending: bool = False, changed: dict[str, str] | None = None) -> None:
        self.built, self.descending, self.changed = built, descending, changed or {}
        self.libraries: dict[str, ctypes.CDLL] = {}
        self.allocated: weakref.WeakSet[Any] = weakref.WeakSet()
        self.launched: list[str] = []  # kernels, in order
        self.lock = threading.Lock()

    def allocate(self, size: int, dtype: npt.DTypeLike) -> Memory:
        number = np.dtype(dtype)
        owner = Guarded(size * number.itemsize)
        self.allocated.add(owner)
        return Memory(owner.bytes.ctypes.data + GUARD, number, owner)

    def write(self, memory: Memory, array: npt.NDArray[Any]) -> None:
        ctypes.memmove(memory.pointer, array.ctypes.data, array.nbytes)

    def read(self, memory: Memory, out: npt.NDArray[Any]) -> None:
        self.check_guards()
        ctypes.memmove(out.ctypes.data, memory.pointer, out.nbytes)

    def clear(self, memory: Memory, size: int) -> None:
        ctypes.memset(memory.pointer, 0, size * memory.dtype.itemsize)

    def check_guards(self) -> None:
        """AssertionError where a kernel wrote next to what was allocated."""
        assert all(owner.intact() for owner in self.allocated), "a kernel wrote outside of its arrays"

    def run(self, kernel: Kernel, grid: Three, block: Three, values: list[np.generic]) -> None:
        with self.lock:
            self.launched.append(kernel.name)
            function = getattr(self.library(kernel.source), f"launch_{kernel.name}")
            boxes = [np.array(value) for value in values]
            pointers = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
            sizes = [(ctypes.c_uint * 3)(*three) for three in (grid, block)]
            if function(*sizes, int(self.descending), pointers):
                raise RuntimeError(f"kernel {kernel.name}: threads of a block do not meet")

    def free_bytes(self) -> int:
        return 1 << 30

    def capability(self) -> tuple[int, int]:
        return 9, 0

    def library(self, source: str) -> ctypes.CDLL:
        """The kernels of a file, compiled once."""
        if source not in self.libraries:
            text = self.changed.get(source) or source_text(source)
            self.libraries[source] = ctypes.CDLL(str(compiled(source, text, self.built)))
        return self.libraries[source]


class Guarded:
    """Bytes between guards."""

    def __init__(self, size: int) -> None:
        self.bytes = np.full(size + 2 * GUARD, UNWRITTEN, np.uint8)

    def intact(self) -> bool:
        return bool((self.bytes[:GUARD] == UNWRITTEN).all() and (self.bytes[-GUARD:] == UNWRITTEN).all())


def compiled(source: str, text: str, built: Path) -> Path:
    """A library with a function launch_NAME(grid, block, descending, arguments) for each kernel of a file."""
    headers = [HEADER.read_text(), *([TENSOR_CORES.read_text()] if source == "tensor_cores" else [])]
    whole = "\n".join([*headers, text, *(launcher(kernel) for kernel in kernels_of(source).values())])
    library = built / f"{source}-{hashlib.sha256((whole + repr(FLAGS)).encode()).hexdigest()[:16]}.so"
    if not library.exists():
        code, new = library.with_suffix(".cpp"), library.with_suffix(".new")
        code.write_text(whole)
        assert COMPILER is not None
        done = subprocess.run([COMPILER, *FLAGS, "-o", new, code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        new.replace(library)
    return library


def launcher(kernel: Kernel) -> str:
    """C++ that takes a kernel's arguments from an array of pointers, as cuLaunchKernel does."""
    arguments = ", ".join(
        f"*({C_TYPES[p.type]}{'*' if p.pointer else ''}*)given[{i}]" for i, p in enumerate(kernel.parameters)
    )
    return (
        f'extern "C" int launch_{kernel.name}(const unsigned* grid, const unsigned* block, int descending, '
        f"void** given) {{ return on_cpu::launch(grid, block, descending, [=] {{ {kernel.name}({arguments}); }}); }}"
    )
