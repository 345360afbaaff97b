"""Weights in a device's memory: small tensors and matrices in float32, decoded there from the file's blocks.

Matrices are decoded once and kept while that costs less than the memory budget; others stay on the device as the file
has them and are decoded some rows at a time, each time they are used. Either way the bits are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np

from refembed.arrays import I64
from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.kernels.cuda.array import DeviceArray
from refembed.kernels.cuda.device import Device
from refembed.kernels.cuda.launch import Memory
from refembed.kernels.quant.dequant import CODEBOOKS, FAMILY, PLAIN
from refembed.kernels.quant.row_blocks import Budget, in_bytes, row_blocks

SHARE_OF_MEMORY = 0.75  # of what is free: what decoded matrices may take unless a budget is named


class DeviceWeights:
    """Tensors on a device, each for as long as it is in use.

    budget  bytes of decoded matrices to keep, or "mapped" for none; None: three quarters of the device's free memory
    """

    def __init__(self, device: Device, budget: int | str | None = None) -> None:
        self.device = device
        self.budget = Budget(int(device.free_bytes() * SHARE_OF_MEMORY) if budget is None else in_bytes(budget))
        self.raw: WeakKeyDictionary[Tensor, Memory] = WeakKeyDictionary()  # blocks as the file has them, little-endian
        self.decoded: WeakKeyDictionary[Tensor, Memory] = WeakKeyDictionary()  # float32
        self.codebooks: dict[str, Memory] = {}
        self.lock = threading.RLock()  # a server's threads share an embedder

    def whole(self, w: Tensor) -> DeviceArray:
        """A small tensor, decoded once and kept."""
        with self.lock:
            if w not in self.decoded:
                self.decoded[w] = self.decode_all(w)
        return DeviceArray(self.device, self.decoded[w], w.shape)

    def rows(self, w: Tensor, ids: I64) -> DeviceArray:
        """Some rows of w, decoded alone: (N, ...)."""
        return self.decode(w, self.blocks(w), self.device.upload(ids), len(ids))

    def matrix(self, w: Tensor) -> Memory | None:
        """W (N, C), kept; None where there is no room."""
        with self.lock:
            if w not in self.decoded:
                if not self.budget.reserve(w, 4 * w.shape[0] * w.shape[1]):
                    return None
                self.decoded[w] = self.decode_all(w)
            return self.decoded[w]

    def parts(self, w: Tensor) -> Iterator[tuple[int, int, Memory]]:
        """begin, end and rows begin:end of W (N, C), one part after the other, all at once where it is kept."""
        if (whole := self.matrix(w)) is not None:
            yield 0, w.shape[0], whole
            return
        raw, step = self.blocks(w), w.nbytes // w.shape[0]
        for begin, end in row_blocks(*w.shape):
            yield begin, end, self.decode(w, raw.at(begin * step), None, end - begin).memory

    def blocks(self, w: Tensor) -> Memory:
        """The blocks of w on the device, kept there."""
        with self.lock:
            if w not in self.raw:
                self.raw[w] = self.upload_blocks(w)
            return self.raw[w]

    def upload_blocks(self, w: Tensor) -> Memory:
        """The blocks of w on the device, little-endian."""
        stored = np.ascontiguousarray(w.raw).reshape(-1).view(w.type.block.newbyteorder(w.byteorder))
        return self.device.upload(stored.astype(w.type.block, copy=False).view(np.uint8))

    def decode_all(self, w: Tensor) -> Memory:
        """All of w in float32; its blocks are not kept."""
        if w.type.name == "F32":
            return self.upload_blocks(w)._replace(dtype=np.dtype(np.float32))
        raw = self.raw.get(w) or self.upload_blocks(w)
        return self.decode(w, raw, None, w.shape[0] if len(w.shape) > 1 else 1).memory

    def decode(self, w: Tensor, raw: Memory, ids: Memory | None, rows: int) -> DeviceArray:
        """Rows of blocks in float32: those at `ids`, or the first so many."""
        if w.type.name not in FAMILY and w.type.name not in PLAIN:
            raise ModelError(f"tensor type {w.type.name} (id {w.type.id}) has no decoder")
        shape = w.shape if len(w.shape) > 1 else (1, *w.shape)
        inner, stored = shape[1:], int(np.prod(shape[1:]))
        out = DeviceArray(self.device, self.device.allocate(rows * stored, np.float32), (rows, *inner))
        name = w.type.name.lower()
        codebook = (self.codebook(w.type.name),) if w.type.name in CODEBOOKS else ()
        blocks = stored // w.type.weights
        self.device.for_each(name, rows * stored, raw, ids, *codebook, rows, blocks, out.memory)
        return out

    def codebook(self, name: str) -> Memory:
        """The grid of a type on the device."""
        with self.lock:
            if name not in self.codebooks:
                from refembed.kernels.quant.dequant_iquants import codebook

                self.codebooks[name] = self.device.upload(codebook(name).reshape(-1))
            return self.codebooks[name]
