"""Hypotheses about the weights: the other side may have them in fewer bits, as llama-quantize would write them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, U8
from refembed.convert.quantize import plan_tensors
from refembed.errors import RefembedError
from refembed.gguf import BY_NAME, GGUFFile, Tensor
from refembed.gguf.tensor import decode
from refembed.kernels.quant.quantize import quantize
from refembed.verify.hypothesis import Change, Hypothesis
from refembed.verify.reference import Reference

FILE_TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL",
              "IQ4_XS", "Q3_K_M", "Q2_K")  # fmt: skip
ROWS_AT_ONCE = 4096  # a taller matrix is a table of tokens: only the rows asked for are stored anew


def weight_hypotheses(reference: Reference) -> list[Hypothesis]:
    """Each of FILE_TYPES that would store any tensor otherwise than the model's file does."""
    found = []
    for name in FILE_TYPES:
        plan = plan_of(reference.file, name)
        if any(reference.file.tensors[t].type.name != type_name for t, type_name in plan.items()):
            says = f"has its weights as {name}"
            found.append(Hypothesis(f"weights-{name}", "weights", says, stored_as(plan), "weights"))
    return found


def plan_of(file: GGUFFile, name: str) -> dict[str, str]:
    """Tensor -> the type that a file of that kind stores it in. Empty where such a file cannot be made of this one."""
    try:
        return {p.tensor.name: p.type for p in plan_tensors(file, name, (), False, True)}
    except RefembedError:
        return {}


def stored_as(plan: dict[str, str]) -> Change:
    """Every weight decoded, stored as the plan says, and read from there."""

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            return requantized(value, plan.get(value.name, value.type.name))
        if isinstance(value, tuple):
            parts = [walk(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: walk(getattr(value, f.name)) for f in fields(value)})
        return value

    last: list[Any] = []  # weights, and what became of them: pooling and the like leave them alone

    def change(r: Reference) -> Reference:
        if not last or last[0] is not r.model.weights:
            last[:] = r.model.weights, replace(r.model, weights=walk(r.model.weights))
        return replace(
            r, model=last[1] if last[1].hparams is r.model.hparams else replace(last[1], hparams=r.model.hparams)
        )

    return change


def requantized(t: Tensor, type_name: str) -> Tensor:
    """The tensor in another type, under a name of its own."""
    if type_name == t.type.name:
        return t
    kind = BY_NAME[type_name]
    name = f"{t.name} as {type_name}"
    if len(t.shape) == 2 and t.shape[0] > ROWS_AT_ONCE:
        return Rows(name, t.shape, t.type, t.raw, t.offset, t.byteorder, type_name)
    raw: U8 = np.ascontiguousarray(quantize(t.dequantize(), type_name)).view(np.uint8).reshape(-1)
    return Tensor(name, t.shape, kind, raw, 0, "<")


class Rows(Tensor):
    """A table of tokens whose rows are stored anew as they are asked for: every row is whole blocks of its own."""

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts[:-1])
        object.__setattr__(self, "other", facts[-1])

    def rows(self, indices: npt.ArrayLike) -> F32:
        """Rows (N, C), through the other type and back."""
        x = super().rows(indices)
        name: str = self.other  # type: ignore[attr-defined]
        raw = np.ascontiguousarray(quantize(x, name)).view(np.uint8).reshape(-1)
        return decode(raw, BY_NAME[name], "<").reshape(x.shape)
