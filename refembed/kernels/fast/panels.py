"""A model's matrices as a kernel reads them: packed into panels, once, and kept while the memory budget lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from refembed.arrays import aligned
from refembed.gguf import Tensor
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.quant.row_blocks import Store, row_blocks
from refembed.kernels.threads import parallel_map, renew_after_fork

DECODED = 1 << 18  # numbers that are decoded at a time, to be packed while they are in the cache


class Panels:
    """Panels of P outputs each, made from the rows of W.

    store     decodes, and has the budget
    dtype     of a panel's numbers
    shape_of  of the panels of so many rows of W: (panels, ..., P)
    pack      rows top:bottom of W into panels begin:end of an array: pack(w, top, bottom, panels, begin, end)
    """

    def __init__(
        self,
        store: Store,
        dtype: type[np.generic],
        shape_of: Callable[[int, Tensor], tuple[int, int, int]],
        pack: Callable[[Tensor, int, int, Any, int, int], None],
    ) -> None:
        self.store, self.dtype, self.shape_of, self.pack = store, dtype, shape_of, pack
        self.kept: WeakKeyDictionary[Tensor, Any] = WeakKeyDictionary()
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, whose parent may have been packing (`threads.renew_after_fork`)."""
        self.packing = threading.Lock()  # texts may run side by side

    def parts(self, w: Tensor) -> Iterator[tuple[int, Any]]:
        """The first of W's rows and panels from there on: all where they are kept; else some, valid until the next."""
        if (whole := self.whole(w)) is not None:
            yield 0, whole
            return
        if spinning_pool.own.graph is not None:  # what it would read will soon be overwritten
            spinning_pool.own.graph.invalidate()
        for begin, end in row_blocks(*w.shape):
            shape = self.shape_of(end - begin, w)
            name = f"panels of {np.dtype(self.dtype)}"
            some: Any = self.store.workspace(name, int(np.prod(shape)), self.dtype).reshape(shape)
            self.fill(w, begin, some)
            yield begin, some

    def whole(self, w: Tensor) -> Any:
        """All panels of W, kept; None where there is no room."""
        if (kept := self.kept.get(w)) is not None:
            return kept
        with self.packing:
            whole = self.kept.get(w)
            shape = self.shape_of(w.shape[0], w)
            if whole is None and self.store.reserve(w, np.dtype(self.dtype).itemsize * int(np.prod(shape))):
                whole = aligned(shape, self.dtype)
                self.fill(w, 0, whole)
                self.kept[w] = whole
        return whole

    def fill(self, w: Tensor, first: int, panels: Any) -> None:
        """Rows of W from `first` on into panels, decoded a few at a time, by all cores."""
        (n, k), P = w.shape, panels.shape[-1]
        step = max(DECODED // (k * P), 1)

        def some(begin: int) -> None:
            end = min(begin + step, len(panels))
            self.pack(w, first + begin * P, min(first + end * P, n), panels, begin, end)

        parallel_map([partial(some, begin) for begin in range(0, len(panels), step)])
