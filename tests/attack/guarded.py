"""Compiled kernels on arrays that touch a page which must not be touched: one number too far ends this process.

`python -m tests.attack.guarded` runs every kernel of the thread pool and every decoder twice: with each array directly
before such a page, and directly behind one. It prints how many runs there were.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.gguf.quants import QUANT_TYPES
from refembed.kernels.fast.tasks import KERNELS
from refembed.kernels.quant.dequant import dequantize
from tests.kernels.fast.test_thread_pool import jobs

PAGE = mmap.PAGESIZE
kept: list[mmap.mmap] = []


def guarded(x: npt.NDArray[Any], at_end: bool) -> npt.NDArray[Any]:
    """A copy of an array whose last byte is the last before a page without access, or whose first is the first behind.

    Arrays stay aligned to their items.
    """
    room = -(-max(x.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    kept.append(memory)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (begin, begin + PAGE + room):
        assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0, ctypes.get_errno()
    offset = PAGE + (room - x.nbytes if at_end else 0)
    copy = np.frombuffer(memory, x.dtype, x.size, offset).reshape(x.shape)
    copy[...] = x
    return copy


def run_kernels(at_end: bool) -> int:
    """Every kernel that the thread pool shares, on sizes that are no multiples of anything."""
    runs = 0
    for T in (1, 3, 7, 33):
        for kernel, (arguments, out, rows) in jobs(T, seed=T).items():
            out[:] = 0
            kernel(*arguments, 0, rows)
            copies = [guarded(a, at_end) if isinstance(a, np.ndarray) else a for a in arguments]
            results = [i for i, a in enumerate(arguments) if isinstance(a, np.ndarray) and np.shares_memory(a, out)]
            want = [np.array(arguments[i]) for i in results]
            for i in results:
                copies[i][...] = 0
            kernel(*copies, 0, rows)
            for i, expected in zip(results, want, strict=True):
                assert copies[i].tobytes() == expected.tobytes(), (kernel.__name__, T)
            runs += 1
    assert runs >= 4 * (len(KERNELS) - 2)
    return runs


def run_decoders(at_end: bool) -> int:
    """Every decoder, on one block and on some."""
    rng, runs = np.random.default_rng(3), 0
    for kind in QUANT_TYPES:
        for blocks in (1, 5):
            raw = rng.integers(0, 256, blocks * kind.nbytes, np.uint8)
            want = dequantize(raw, kind, "<")
            found = dequantize(guarded(raw, at_end), kind, "<")
            assert found.tobytes() == want.tobytes(), kind.name
            runs += 1
    return runs


def main() -> None:
    """Both ends."""
    runs = sum(run_kernels(at_end) + run_decoders(at_end) for at_end in (False, True))
    print(runs)
    beyond = guarded(np.zeros(4, np.float32), at_end=True)
    print("guarded" if ctypes.string_at(beyond.ctypes.data, 16) else "", flush=True)
    ctypes.string_at(beyond.ctypes.data, 17)  # ends this process: so the guard is one
    print("not guarded")


if __name__ == "__main__":
    main()
