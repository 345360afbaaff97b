"""Weights in a device's memory: small tensors in float32, matrices as products read them, decoded there from blocks.

Matrices are decoded, and rounded where the precision says so, once and kept while that costs less than the memory
budget; others stay on the device as the file has them and are decoded some rows at a time, each time they are used.
Either way the bits are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from refembed.arrays import I64
from refembed.errors import ModelError
from refembed.gguf import Tensor
from refembed.kernels.cuda import device as devices
from refembed.kernels.cuda.array import DeviceArray
from refembed.kernels.cuda.device import Device
from refembed.kernels.cuda.launch import Memory
from refembed.kernels.cuda.precision import FLOAT32, Precision
from refembed.kernels.quant.dequant import CODEBOOKS, FAMILY, PLAIN
from refembed.kernels.quant.row_blocks import Budget, in_bytes, row_blocks
from refembed.kernels.threads import renew_after_fork

SHARE_OF_MEMORY = 0.75  # of what is free: what decoded matrices may take unless a budget is named


class DeviceWeights:
    """Tensors on a device, each for as long as it is in use.

    budget     bytes of matrices to keep, or "mapped" for none; None: three quarters of the device's free memory
    precision  how matrices are kept
    """

    def __init__(self, device: Device, budget: int | str | None = None, precision: Precision = FLOAT32) -> None:
        self.device, self.precision = device, precision
        self.budget = Budget(int(device.free_bytes() * SHARE_OF_MEMORY) if budget is None else in_bytes(budget))
        self.raw: WeakKeyDictionary[Tensor, Memory] = WeakKeyDictionary()  # blocks as the file has them, little-endian
        self.decoded: WeakKeyDictionary[Tensor, Memory] = WeakKeyDictionary()  # float32
        self.rounded: WeakKeyDictionary[Tensor, Memory] = WeakKeyDictionary()  # matrices of another precision, in words
        self.in_range: WeakSet[Tensor] = WeakSet()  # whose numbers that precision has
        self.beyond = device.upload(np.zeros(1, np.int32)) if precision.numbers else None  # 1: some number it has not
        self.codebooks: dict[str, Memory] = {}
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, which must not wait for its parent's threads to be refused (`Gpu`)."""
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
        """W (N, C) in the precision, kept; None where there is no room."""
        kept, made = (self.rounded, self.round_all) if self.precision.numbers else (self.decoded, self.decode_all)
        with self.lock:
            if w not in kept:
                nbytes = 4 * w.shape[0] * self.precision.words(w.shape[1])
                if nbytes > self.budget.room:
                    return None
                kept[w] = made(w)
                self.budget.reserve(w, nbytes)
            return kept[w]

    def parts(self, w: Tensor) -> Iterator[tuple[int, int, Memory]]:
        """begin, end and rows begin:end of W (N, C), one part after the other, all at once where it is kept."""
        if (whole := self.matrix(w)) is not None:
            yield 0, w.shape[0], whole
            return
        if devices.own.capture is not None:
            devices.own.capture.invalidate()  # a graph would keep every part
        raw, rounds = self.blocks(w), self.precision.numbers > 0
        with self.lock:
            if rounds and w not in self.in_range:
                for _, _, part in self.decoded_parts(w, raw):
                    self.round(part)
                self.check_range(w)
        for begin, end, part in self.decoded_parts(w, raw):
            yield begin, end, self.round(part) if rounds else part.memory

    def decoded_parts(self, w: Tensor, raw: Memory) -> Iterator[tuple[int, int, DeviceArray]]:
        """begin, end and rows begin:end of W (N, C) in float32."""
        step = w.nbytes // w.shape[0]
        for begin, end in row_blocks(*w.shape):
            yield begin, end, self.decode(w, raw.at(begin * step), None, end - begin)

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

    def round_all(self, w: Tensor) -> Memory:
        """All of W in words, some rows at a time, so that only so many are in float32; its blocks are not kept."""
        words = self.precision.words(w.shape[1])
        out = self.device.allocate(w.shape[0] * words, np.uint32)
        for begin, _, part in self.decoded_parts(w, self.raw.get(w) or self.upload_blocks(w)):
            self.round(part, out.at(begin * words))
        self.check_range(w)
        return out

    def round(self, part: DeviceArray, out: Memory | None = None) -> Memory:
        """Some rows of a matrix (rows, C) in words; `beyond` becomes 1 where the precision has no such number."""
        rows, C = part.shape
        n = rows * self.precision.words(C)
        out = out or self.device.allocate(n, np.uint32)
        self.device.for_each(f"round_{self.precision.name}", n, part.memory, rows, C, self.beyond, out)
        return out

    def check_range(self, w: Tensor) -> None:
        """ModelError where W, which was rounded just now, has numbers that the precision has not; waits for that."""
        found = np.zeros(1, np.int32)
        if self.beyond is not None:
            self.device.read(self.beyond, found)
            self.device.write(self.beyond, np.zeros_like(found))
        if found[0]:
            message = f"{w.name}: precision {self.precision.name} ends at {self.precision.largest}, a weight is beyond"
            raise ModelError(message, hint=self.precision.wider)
        self.in_range.add(w)

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
