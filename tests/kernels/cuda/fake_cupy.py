"""What `Gpu` uses of CuPy, without a GPU: memory of this process, and kernels that g++ compiles (on_cpu.py).

It stands in for CuPy's interface, as its documentation has it, and records what it is asked; it proves nothing about a
GPU. Memory goes back to a pool with its last owner, is filled with NaN there, and is given to whom asks next, as CuPy's
pool does it: what is read or written through a pointer that nothing keeps shows. While a stream captures, launches
are noted with the pointers they have, and not run; a graph runs them with those pointers.
"""

from __future__ import annotations

import threading
import weakref
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import numpy as np

from refembed.kernels.cuda.launch import SOURCES, Memory, kernel_of, source_text
from tests.kernels.cuda.on_cpu import UNWRITTEN, OnCpu

PROPERTIES = {"name": b"no GPU", "totalGlobalMem": 1 << 30, "major": 9, "minor": 0}


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""

    status = 100  # cudaErrorNoDevice


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class CompileException(Exception):  # noqa: N818  # CuPy's name
    """cupy.cuda.compiler.CompileException."""


class MemoryPointer:
    """cupy.cuda.MemoryPointer."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class FakePool:
    """CuPy's memory pool."""

    def __init__(self, device: OnCpu) -> None:
        self.device, self.lock = device, threading.RLock()  # an owner may end while a list grows
        self.unused: list[tuple[int, Memory]] = []  # sizes, and what they are of
        self.used = 0  # bytes that something owns

    def free_bytes(self) -> int:
        return sum(nbytes for nbytes, _ in self.unused)

    def take(self, nbytes: int) -> Any:
        """Memory of that very size: what was given back last, or new."""
        with self.lock:
            at = next((i for i, (n, _) in reversed(list(enumerate(self.unused))) if n == nbytes), None)
            known = None if at is None else self.unused.pop(at)[1]
            self.used += nbytes
        memory = known or self.device.allocate(nbytes, np.uint8)
        owner = MemoryPointer(memory.pointer)
        weakref.finalize(owner, self.give_back, nbytes, memory).atexit = False
        return owner

    def give_back(self, nbytes: int, memory: Memory) -> None:
        with self.lock:
            self.device.write(memory, np.full(nbytes, UNWRITTEN, np.uint8))
            self.unused.append((nbytes, memory))
            self.used -= nbytes


class FakeStream:
    """cupy.cuda.Stream: `with` makes it the thread's."""

    current = threading.local()

    def __init__(self, cupy: FakeCupy, *, non_blocking: bool = False, null: bool = False) -> None:
        self.cupy, self.null = cupy, null
        self.noted: list[Any] | None = None  # launches, while it captures
        assert non_blocking or null, "the default stream waits for other streams, and may not while one captures"

    def __enter__(self) -> FakeStream:
        assert getattr(self.current, "stream", None) is None
        self.current.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        self.current.stream = None

    def begin_capture(self) -> None:
        if self.null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.cupy.no_capture:
            raise CUDARuntimeError(self.cupy.no_capture)
        assert self.noted is None
        self.noted = []

    def end_capture(self) -> FakeGraph:
        assert self.noted is not None
        noted, self.noted = self.noted, None
        self.cupy.captured.append(graph := FakeGraph(self.cupy, noted))
        return graph


class FakeGraph:
    """cupy.cuda.Graph."""

    def __init__(self, cupy: FakeCupy, launches: list[Any]) -> None:
        self.cupy, self.launches, self.launched = cupy, launches, 0

    def launch(self, stream: FakeStream) -> None:
        assert stream.null, "what comes before and behind is on the default stream"
        assert self.cupy.capturing() is None
        self.launched += 1
        for name, *launch in self.launches:
            self.cupy.device.run(kernel_of(name), *launch)


class FakeCupy:
    """The module `cupy`.

    gpus   how many there are; a text: what asking for their number fails with
    total  bytes of memory
    """

    def __init__(self, device: OnCpu, gpus: int | str = 1, total: int = 1 << 30) -> None:
        self.device, self.gpus, self.total, self.pool = device, gpus, total, FakePool(device)
        self.__spec__, self.__version__ = ModuleSpec("cupy", None), "0"
        self.compiled: list[str] = []  # sources
        self.used: list[int] = []  # GPUs that threads were bound to
        self.captured: list[FakeGraph] = []
        self.no_capture = ""  # what beginning a capture fails with
        stream: Any = lambda **options: FakeStream(self, **options)  # noqa: E731
        stream.null = FakeStream(self, null=True)
        self.cuda = SimpleNamespace(
            alloc=self.alloc, Device=lambda n: SimpleNamespace(use=lambda: self.used.append(n)), Stream=stream,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            compiler=SimpleNamespace(CompileException=CompileException),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError, getDeviceCount=self.count, memcpy=self.memcpy,
                memGetInfo=lambda: (self.total - self.allocated, self.total), driverGetVersion=lambda: 0,
                runtimeGetVersion=lambda: 0, getDeviceProperties=lambda index: PROPERTIES,
            ),
        )  # fmt: skip

    @property
    def allocated(self) -> int:
        """Bytes that the driver has given away."""
        return self.pool.used + self.pool.free_bytes()

    def count(self) -> int:
        if isinstance(self.gpus, str):
            raise CUDARuntimeError(self.gpus)
        return self.gpus

    def capturing(self) -> list[Any] | None:
        """What the thread's stream has noted; None where it does not capture."""
        stream = getattr(FakeStream.current, "stream", None)
        return None if stream is None else stream.noted

    def alloc(self, nbytes: int) -> Any:
        assert self.capturing() is None, "memory is allocated while a stream captures"
        if self.pool.used + nbytes > self.total:
            raise OutOfMemoryError(nbytes)
        return self.pool.take(nbytes)

    def memcpy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        assert kind in (1, 2)
        assert self.capturing() is None, "a copy waits while a stream captures"
        other = np.empty(nbytes, np.uint8)
        self.device.read(Memory(source, other.dtype, None), other)
        self.device.write(Memory(to, other.dtype, None), other)

    def RawModule(self, *, code: str, options: tuple[str, ...], backend: str) -> Any:  # noqa: N802  # CuPy's name
        assert (backend, all(isinstance(o, str) for o in options)) == ("nvrtc", True)
        assert self.capturing() is None, "a module is loaded while a stream captures"
        (source,) = (s for s in SOURCES if source_text(s) == code)
        self.compiled.append(source)
        return SimpleNamespace(get_function=lambda name: lambda *launch: self.launch(name, *launch))

    def launch(self, name: str, grid: Any, block: Any, arguments: Any) -> None:
        """As cupy.RawKernel is called: three numbers, three numbers, a tuple of NumPy scalars."""
        assert (len(grid), len(block), type(arguments)) == (3, 3, tuple)
        assert all(isinstance(n, int) for n in (*grid, *block))
        if (noted := self.capturing()) is not None:
            noted.append((name, grid, block, list(arguments)))
        else:
            self.device.run(kernel_of(name), grid, block, list(arguments))

    def get_default_memory_pool(self) -> Any:
        return self.pool
