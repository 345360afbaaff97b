"""A traced run that also remembers which operation made each tensor, from which tensors, weights and numbers.

So a formula can be written with the operands that were really used: `watch` runs a model with `WatchedOps` in the place
of its operations, and keeps a `Call` for each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from refembed.arrays import Float
from refembed.embedder import Embedder
from refembed.kernels.ops import Ops
from refembed.kernels.wrapper import OpsWrapper
from refembed.model.trace import Recorder, Trace
from refembed.pipeline.inputs import Input

Key: TypeAlias = tuple[int, int]  # an array's address and size: the same for an array and for its reshaped views

OPERATIONS = (
    "get_rows", "linear", "layer_norm", "add_layer_norm", "rms_norm", "gelu", "gelu_erf", "silu", "relu", "geglu",
    "swiglu", "swiglu_oai", "rope", "attention", "softmax", "tanh", "experts", "short_conv", "mean",
    "sigmoid", "exp", "log_decay", "gated_delta_rule", "selective_scan", "add_scaled", "wkv7",
)  # fmt: skip


@dataclass
class Call:
    """One operation of the run. `call["x"]` is its argument x, or the default of that argument."""

    op: str  # one of OPERATIONS
    arguments: dict[str, Any]
    result: Any = None  # kept alive, so that its address stays its own

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass
class Shown:
    """One tensor of the trace."""

    call: Call | None  # the operation that made it; None for a sum, a product or a part that has no operation
    inner: bool  # whether the operation was not finished: one of its own steps
    n_calls: int  # how many operations had begun before


@dataclass
class Run:
    """A trace with what made each tensor."""

    embedder: Embedder
    trace: Trace
    shown: list[Shown] = field(default_factory=list)  # one for each tap of the trace
    calls: list[Call] = field(default_factory=list)
    places: dict[Key, int] = field(default_factory=dict)  # array -> its last tap


def key(x: Any) -> Key:
    """The same for x and for its reshaped views."""
    return x.__array_interface__["data"][0], x.nbytes


class WatchedOps(OpsWrapper):
    """Operations, with a `Call` kept for each; the results are the base's own."""

    def __init__(self, base: Ops, run: Run) -> None:
        super().__init__(base)
        self.run = run
        self.open: Call | None = None  # the operation that is running
        self.made: dict[Key, Call] = {}
        for name in OPERATIONS:
            setattr(self, name, self.watched(name, getattr(base, name)))

    def watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """An operation that keeps its arguments and its result."""
        signature = inspect.signature(function)

        def operation(*args: Any, **more: Any) -> Any:
            bound = signature.bind(*args, **more)
            bound.apply_defaults()
            call = Call(name, bound.arguments)
            self.run.calls.append(call)
            self.open = call
            try:
                call.result = function(*args, **more)
            finally:
                self.open = None
            self.made[key(call.result)] = call
            return call.result

        return operation


class Watch(Recorder):
    """A recorder that asks which operation made each tensor."""

    def __init__(self, ops: WatchedOps) -> None:
        super().__init__()
        self.ops = ops
        self.kept: list[Float] = []  # arrays as they were shown, so that no other gets their address

    def __call__(self, name: str, x: Float) -> Float:
        """Keep a copy of x under `name`, and what made it; return x."""
        run, made = self.ops.run, self.ops.made.get(key(x))
        run.shown.append(Shown(self.ops.open or made, self.ops.open is not None, len(run.calls)))
        if x.flags.c_contiguous:  # a transposed view has the address of what it shows in another order
            run.places[key(x)] = len(self.trace.tensors)
        self.kept.append(x)
        return super().__call__(name, x)


def watch(embedder: Embedder, text: Input, *, pooling: str = "native", truncate: bool = False) -> Run:
    """`Embedder.trace` with what made each tensor. Arguments and errors are the same."""
    run = Run(embedder, Trace())
    ops = WatchedOps(embedder.ops, run)
    recorder = Watch(ops)
    meta = embedder.trace(text, pooling=pooling, truncate=truncate, tap=recorder, ops=ops).meta
    run.trace = Trace(recorder.trace.tensors, meta)
    for call in run.calls:  # results that were never shown are of no more use
        call.result = None
    return run


def same_numbers(x: Float, part: Float) -> bool:
    """Whether two arrays hold the same bits, NaN included."""
    return bool(np.array_equal(x, part, equal_nan=True))
