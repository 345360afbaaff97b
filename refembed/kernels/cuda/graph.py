"""Capture and replay on a GPU: all launches of a short text's layers as one (a CUDA graph).

A kernel of a short text takes microseconds, and Python takes ten times as long to launch it. But texts of the same
lengths differ in their embeddings alone: the same kernels run on the same weights, and can run in the same memory. So
the second time that a shape comes, its launches are recorded while they are made; the device makes one graph of them,
and for later texts of that shape the first array is filled, the graph launched, and the last array copied.

What is launched must depend on nothing but that first array. Memory of activations comes from an `Arena`, which no
graph gives back; all other memory that a launch reads is kept for as long as the graph. Where a pass reads an
activation to the host, looks up other rows of an embedding, or decodes a weight that is not kept, there is no graph:
texts of that shape are computed as ever. And a graph is not believed: until it has had the bits of the pass itself for
two texts, the pass is computed too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refembed.arrays import I64, Float
from refembed.errors import RequestError
from refembed.kernels.cuda import device as devices
from refembed.kernels.cuda.array import DeviceArray, uploaded
from refembed.kernels.cuda.device import Device, Launch
from refembed.kernels.cuda.launch import Memory
from refembed.kernels.recurring import Recurring
from refembed.kernels.threads import renew_after_fork

MAX_TOKENS = 512  # of texts that share a pass: longer ones keep the GPU busy while Python launches

log = logging.getLogger("refembed.cuda")


class Arena:
    """Memory for the activations of all graphs of one device, of which one is captured or replayed at a time.

    Blocks are of 2^k numbers, and may be half empty besides, so that texts of similar lengths share them.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.free: dict[int, list[Memory]] = {}  # by their size

    def take(self, size: int) -> Memory:
        """A block that nothing uses, for as long as what is returned is kept."""
        room = 1 << (max(size, 1) - 1).bit_length()
        exact, larger = (self.free.setdefault(n, []) for n in (room, 2 * room))
        free = larger if larger and not exact else exact
        block = free.pop() if free else self.device.allocate(room, np.float32)
        return block._replace(owner=Lease(free, block))


class Lease:
    """What keeps a block of an arena in use; its end gives the block back."""

    varies = False  # whether its numbers follow from the first array of a pass, and not from weights alone

    def __init__(self, free: list[Memory], block: Memory) -> None:
        self.free, self.block = free, block

    def __del__(self) -> None:
        self.free.append(self.block)


class Capture:
    """The launches of one pass, while it is computed; `devices.own.capture` of the thread that computes it."""

    def __init__(self, arena: Arena) -> None:
        self.arena, self.valid = arena, True
        self.launches: list[Launch] = []
        self.kept: dict[int, Any] = {}  # owners of memory that is not the arena's, by their ids

    def record(self, launch: Launch, arguments: Sequence[Any]) -> None:
        """Note a launch that is about to be made, and keep what it reads."""
        self.launches.append(launch)
        owners = [x.owner for x in arguments if isinstance(x, Memory)]
        self.kept |= {id(owner): owner for owner in owners if not isinstance(owner, Lease)}
        leases = [owner for owner in owners if isinstance(owner, Lease)]
        if any(lease.varies for lease in leases):
            for lease in leases:  # of what is written, and of what is read too, which is more than needs be
                lease.varies = True

    def read(self, memory: Memory) -> None:
        """Memory is copied to the host: what follows from an activation there would not be launched again."""
        self.valid = self.valid and not (isinstance(memory.owner, Lease) and memory.owner.varies)

    def invalidate(self) -> None:
        """What is launched depends on more than the first array."""
        self.valid = False


class CapturedGraph:
    """Launches that compute one activation from another."""

    def __init__(self, capture: Capture, launch: Callable[[], None], x: DeviceArray, y: DeviceArray) -> None:
        self.arena, self.kept, self.launch = capture.arena, capture.kept, launch
        self.first, self.last = x.memory._replace(owner=None), y.memory._replace(owner=None)  # the arena keeps them
        self.shape = y.shape
        self.proven: bytes | None = bits(x)  # the one text whose bits it has had; None: it is trusted

    def replay(self, x: DeviceArray) -> DeviceArray:
        """The last activation for x, which has the shape of the captured one."""
        copy(x, self.first)
        self.launch()
        return copied(DeviceArray(x.device, self.last, self.shape))


def copy(x: DeviceArray, to: Memory) -> None:
    """Copy an array, in the order of launches."""
    x.device.for_each("columns", x.size, x.memory, 1, x.size, 0, x.size, to)


def copied(x: DeviceArray) -> DeviceArray:
    """A copy in memory of its own."""
    out = DeviceArray(x.device, x.device.allocate(x.size, np.float32), x.shape)
    copy(x, out.memory)
    return out


class GraphCache(Recurring[tuple[CapturedGraph | None, Any]]):
    """The captured graphs of one `Cupy`, or None where there can be none, and what was given (so its ids stay its own).

    Those that came first stay, unless one lies unused for long.
    """

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device, self.arena, self.enabled = device, Arena(device), device.has_graphs
        self.renew_locks()
        renew_after_fork(self)

    def renew_locks(self) -> None:
        """Also in a fork, which must not wait for its parent's threads to be refused (`Gpu`)."""
        self.lock = threading.RLock()  # one pass at a time; the same thread again after an interruption

    def run(
        self, given: tuple[Any, ...], layers: Callable[[Float], Float], x: Float, offsets: I64 | None = None
    ) -> Any:
        """`layers(x)`, as `Ops.capture_or_replay` has it. Texts that come while another is captured go without."""
        if not self.enabled or len(x) > MAX_TOKENS or devices.own.capture or not self.lock.acquire(blocking=False):
            return layers(x)
        try:
            lengths = None if offsets is None or len(offsets) == 2 else offsets.tobytes()
            return self.look_up((*map(id, given), x.shape, lengths), given, layers, x)
        finally:
            self.lock.release()

    def look_up(self, key: Any, given: Any, layers: Callable[[Float], Float], x: Float) -> Any:
        """`layers(x)`: replayed where it was captured, captured where it comes for the second time."""
        if (found := self.find(key)) is not None:
            graph = found[0]
            return layers(x) if graph is None else self.replay(key, graph, layers, x)
        return self.capture(key, given, layers, x) if self.worth_keeping(key) else layers(x)

    def capture(self, key: Any, given: Any, layers: Callable[[Float], Float], x: Float) -> Any:
        """`layers(x)`, captured; from here on its shape is known."""
        graph, result = None, None
        try:
            graph, result = self.captured(layers, x)
        except RequestError:  # such as too little memory, where a pass without a graph may have enough
            if not any(graph for graph, *_ in self.known.values()):
                self.arena = Arena(self.device)
        self.keep(key, (graph, given))
        return layers(x) if result is None else result

    def captured(self, layers: Callable[[Float], Float], x: Float) -> tuple[CapturedGraph | None, Any]:
        """The graph of `layers`, or None where there can be none; and `layers(x)`."""
        capture, first = Capture(self.arena), self.first_array(x)
        first.memory.owner.varies = True
        try:
            devices.own.capture = capture
            y: Any = layers(first)  # type: ignore[arg-type]  # an array, as operations take it
        finally:
            devices.own.capture = None
        if not isinstance(y, DeviceArray):
            return None, y
        result = copied(y)
        whole = capture.valid and isinstance(y.memory.owner, Lease)
        return self.graph_of(capture, first, y, result) if whole else None, result

    def first_array(self, x: Any) -> DeviceArray:
        """A copy of x in the arena, where a graph finds it."""
        out = DeviceArray(self.device, self.arena.take(x.size), x.shape)
        copy(uploaded(self.device, x), out.memory)
        return out

    def graph_of(self, capture: Capture, x: DeviceArray, y: DeviceArray, result: DeviceArray) -> CapturedGraph | None:
        """The graph of a pass from x to y; None where the device makes none, or one that gives another result."""
        try:
            graph = CapturedGraph(capture, self.device.graph(capture.launches), x, y)
            same = bits(graph.replay(x)) == bits(result)
        except RuntimeError as e:  # CuPy's: a sentence once, and no graphs from here on
            log.warning("%s: no CUDA graphs: %s", self.device.name, e)
            self.enabled = False
            return None
        if not same:
            log.warning("%s: a CUDA graph gave other bits than the pass that was captured in it", self.device.name)
        return graph if same else None

    def replay(self, key: Any, graph: CapturedGraph, layers: Callable[[Float], Float], x: Float) -> Any:
        """`layers(x)` by a graph; and by the pass itself, unless the graph has shown that it has the same bits."""
        given = uploaded(self.device, x)
        found = graph.replay(given)
        if graph.proven is None or bits(given) == graph.proven:
            return found
        result = layers(x)
        if bits(found) == bits(result):
            graph.proven = None
        else:
            log.warning("%s: a CUDA graph gave other bits than the pass itself", self.device.name)
            self.known[key] = None, self.known[key][1]
        return result


def bits(x: Any) -> bytes:
    """The bits of an array, on whichever side it is."""
    return np.asarray(x).tobytes()
