"""How a hypothesis changes a reference: other operations, hyperparameters, batches. Tables are in the other files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from refembed.arrays import Float
from refembed.gguf import Tensor
from refembed.kernels.ops import AttentionSpec, Ops
from refembed.kernels.wrapper import PatchedOps
from refembed.model.batch import Batch
from refembed.verify.hypothesis import Change

Row: TypeAlias = "tuple[str, str, Change, str]"  # id, what the engine does, the change, family


def replaced(**functions: Callable[..., Any]) -> Change:
    """Operations replaced by functions that are given the true operations first. One object, so that runs are kept."""

    def change(ops: Ops) -> Ops:
        return PatchedOps(ops, functions)

    return lambda reference: reference.add(ops=change)


def remembering(make: Callable[[], dict[str, Callable[..., Any]]]) -> Change:
    """Operations that remember what came before: made anew for every run."""

    def change(ops: Ops) -> Ops:
        return PatchedOps(ops, make())

    return lambda reference: reference.add(ops=change)


def attending(other: Callable[[AttentionSpec], AttentionSpec]) -> Callable[..., Float]:
    """Attention with other parameters."""

    def attention(true: Ops, q: Float, k: Float, v: Float, spec: AttentionSpec, *rest: Any, **more: Any) -> Float:
        return true.attention(q, k, v, other(spec), *rest, **more)

    return attention


def scaled(factor: float) -> Callable[..., Float]:
    """Scores times a factor."""
    return attending(lambda spec: replace(spec, scale=spec.scale * factor))


def hparams(**values: Any) -> Change:
    """Other hyperparameters."""
    return lambda r: replace(r, model=replace(r.model, hparams=replace(r.model.hparams, **values)))


def batch(function: Callable[[Batch], Batch]) -> Change:
    """Something else in the batch."""
    return lambda reference: reference.add(batch=function)


def named(w: Tensor | None, *names: str) -> bool:
    """Whether the tensor is one of these, in any layer."""
    return w is not None and re.sub(r"^blk\.\d+\.| as \w+$", "", w.name).removesuffix(".weight") in names
